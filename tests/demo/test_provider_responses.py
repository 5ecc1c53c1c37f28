"""The scripted Responses API refuses what a provider refuses, and remembers what a provider remembers."""

from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI

from memproxy.demo.scripted_model import ModelRequest, Reply, ScriptedModel, ToolCallReply


def script(request: ModelRequest) -> Reply:
    if request.last_user_text == "look" and request.messages[-1]["role"] == "user":
        return Reply(reasoning="Look it up.", tool_calls=(ToolCallReply("find", {"q": 1}, id="call_1"),))
    return Reply(text=f"{len(request.messages)} messages, last from {request.messages[-1]['role']}")


async def ask(client: AsyncOpenAI, given: Any, **more: Any) -> Any:
    return await client.responses.create(model="m", input=given, **more)


async def test_it_keeps_what_it_is_told_to_keep() -> None:
    """Chains, conversations and stored responses are state that tests rely on."""
    async with ScriptedModel(script).serve() as model, AsyncOpenAI(base_url=model.base_url, api_key="x") as client:
        first = await ask(client, "one", instructions="Be brief.")
        second = await ask(client, "two", previous_response_id=first.id)
        assert second.output_text == "3 messages, last from user"
        assert (await client.responses.retrieve(first.id)).output_text == "2 messages, last from user"
        assert (await client.responses.input_items.list(second.id)).data[0].content == "two"  # type: ignore[union-attr]  # a message
        await client.responses.delete(first.id)
        with pytest.raises(APIStatusError):
            await client.responses.retrieve(first.id)
        held = await client.conversations.create()
        await ask(client, "one", conversation=held.id)
        assert (await ask(client, "two", conversation=held.id)).output_text == "3 messages, last from user"


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ("hi", {"previous_response_id": "resp_unknown"}),
        ("hi", {"conversation": "conv_unknown"}),
        ("hi", {"conversation": "a", "previous_response_id": "b"}),
        ([{"type": "function_call_output", "call_id": "a", "output": "x"}], {}),
        ([{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}], {}),
        ([{"type": "reasoning", "id": "rs_1", "summary": []}, {"role": "user", "content": "hi"}], {}),
        ([{"type": "reasoning", "id": "rs_1", "summary": []}, {"role": "assistant", "content": "x"}], {"store": False}),
        ([], {}),
    ],
)
async def test_it_refuses_what_a_provider_refuses(given: Any, more: dict[str, Any]) -> None:
    """A proxy that tears a conversation apart must not go unnoticed."""
    async with ScriptedModel(script).serve() as model, AsyncOpenAI(base_url=model.base_url, api_key="x") as client:
        with pytest.raises(APIStatusError):
            await ask(client, given, **more)


async def test_a_stream_tells_the_same_as_the_whole_answer() -> None:
    """The client's own reader of streams is content with the events."""
    async with ScriptedModel(script).serve() as model, AsyncOpenAI(base_url=model.base_url, api_key="x") as client:
        for given in ("hello", "look"):
            whole = await ask(client, given, include=["reasoning.encrypted_content"])
            async with client.responses.stream(model="m", input=given) as stream:
                final = await stream.get_final_response()
            assert final.output_text == whole.output_text
            assert [item.type for item in final.output] == [item.type for item in whole.output]
            assert given == "hello" or whole.output[0].encrypted_content
