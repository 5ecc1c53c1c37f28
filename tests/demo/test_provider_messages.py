"""The scripted Messages API refuses what a provider refuses, and streams as one does."""

from typing import Any

import pytest
from anthropic import APIStatusError, AsyncAnthropic

from memproxy.demo.provider_messages import signature_of
from memproxy.demo.scripted_model import ModelRequest, Reply, ScriptedModel, ToolCallReply


def script(request: ModelRequest) -> Reply:
    if request.last_user_text == "look" and request.messages[-1]["role"] == "user":
        return Reply(
            "Let me see.", reasoning="Look it up.", tool_calls=(ToolCallReply("find", {"q": 1}, id="toolu_1"),)
        )
    return Reply(text=f"{[message['role'] for message in request.messages]}")


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


CALL = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "x"}
ASK = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("messages", "more"),
    [
        ([], {}),
        ([assistant({"type": "text", "text": "x"})], {}),
        ([ASK, assistant(CALL)], {}),
        ([ASK, assistant(CALL), ASK], {}),
        ([{"role": "user", "content": [RESULT]}], {}),
        ([ASK, assistant(CALL), {"role": "user", "content": [{"type": "text", "text": "x"}, RESULT]}], {}),
        ([ASK, assistant({"type": "thinking", "thinking": "hm", "signature": "forged"}), ASK], {}),
        ([ASK], {"model": None}),
    ],
)
async def test_it_refuses_what_a_provider_refuses(messages: Any, more: dict[str, Any]) -> None:
    """A proxy that tears a conversation apart must not go unnoticed."""
    async with ScriptedModel(script).serve() as model:
        url = model.base_url.removesuffix("/v1")
        async with AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as client:
            with pytest.raises(APIStatusError):
                await client.messages.create(**{"model": "m", "max_tokens": 9, "messages": messages, **more})


async def test_a_stream_tells_the_same_as_the_whole_answer() -> None:
    """The client's own reader of streams is content with the events; neighbours of one role are one turn."""
    signed = {"type": "thinking", "thinking": "hm", "signature": signature_of("hm")}
    asks: list[Any] = [
        [ASK, ASK],
        [{"role": "user", "content": "look"}],
        [ASK, assistant(signed, CALL), {"role": "user", "content": [RESULT]}, ASK],
    ]
    async with ScriptedModel(script).serve() as model:
        url = model.base_url.removesuffix("/v1")
        async with AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as client:
            for messages in asks:
                given: Any = {"model": "m", "max_tokens": 9, "messages": messages, "system": "Be brief."}
                whole = await client.messages.create(**given)
                async with client.messages.stream(**given) as stream:
                    final = await stream.get_final_message()
                assert [block.type for block in final.content] == [block.type for block in whole.content]
                assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
