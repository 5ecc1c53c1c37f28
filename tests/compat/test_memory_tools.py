"""Memory tools offered to the model, through a running memproxy: their calls never reach the agent."""

import json
from typing import Any

import pytest

from memproxy.demo.scripted_model import ModelRequest, Reply, ToolCallReply
from tests.fakes.serving import Serve

TOOLS: Any = [{"type": "function", "function": {"name": "cancel_order", "parameters": {"type": "object"}}}]


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def remembers(request: ModelRequest) -> Reply:
    """Notes what it is told to, and searches when it is asked."""
    last = request.messages[-1]
    if last["role"] == "tool":
        return Reply(text=f"Done: {last['content']}")
    if "note" in last["content"]:
        memory = {"text": "Alice plays the cello.", "memory_type": "semantic"}
        return Reply(tool_calls=(ToolCallReply("memproxy_create_memories", {"memories": [memory]}),))
    if "search" in last["content"]:
        return Reply(text="Let me see.", tool_calls=(ToolCallReply("memproxy_search_memory", {"query": "cello"}),))
    if "both" in last["content"]:
        return Reply(
            tool_calls=(
                ToolCallReply("memproxy_search_memory", {"query": "cello"}, id="ours"),
                ToolCallReply("cancel_order", {"id": "LX-7"}, id="theirs"),
            )
        )
    return Reply(text="Hello.")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_model_notes_and_finds_without_the_agent(serve: Serve, stream: bool) -> None:
    """The agent has no tools at all; what the model noted in one session it finds in another."""
    async with serve(remembers, tools="on") as served:
        for session, text, expected in (("one", "Please note it.", "is_new"), ("two", "Please search.", "cello")):
            message: Any
            async with served.openai(f"/u/alice/s/{session}/v1") as client:
                if stream:
                    async with client.chat.completions.stream(model="m", messages=[user(text)]) as events:
                        message = (await events.get_final_completion()).choices[0].message
                else:
                    answer = await client.chat.completions.create(model="m", messages=[user(text)])
                    message = answer.choices[0].message
            assert not message.tool_calls
            assert expected in str(message.content)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_mixed_turn_gives_the_agent_only_its_own_call(serve: Serve, stream: bool) -> None:
    """Memory tools are resolved, the agent runs its own tool, and the model gets the whole turn back."""
    async with serve(remembers, tools="on") as served, served.openai("/u/alice/s/one/v1") as client:
        history: list[Any] = [user("Do both.")]
        message: Any
        if stream:
            async with client.chat.completions.stream(model="m", messages=history, tools=TOOLS) as events:
                message = (await events.get_final_completion()).choices[0].message
        else:
            answer = await client.chat.completions.create(model="m", messages=history, tools=TOOLS)
            message = answer.choices[0].message
        calls = [call.model_dump(exclude={"function": {"parsed_arguments"}}) for call in message.tool_calls]
        assert [call["function"]["name"] for call in calls] == ["cancel_order"]
        sent: Any = {"role": "assistant", "tool_calls": calls}
        history += [sent, {"role": "tool", "tool_call_id": "theirs", "content": "cancelled"}]
        final = await client.chat.completions.create(model="m", messages=history, tools=TOOLS)
        assert final.choices[0].message.content == "Done: cancelled"
        whole = served.model.requests[-1].messages
    assert [each["role"] for each in whole] == ["user", "assistant", "tool", "tool"]
    assert [call["id"] for call in whole[1]["tool_calls"]] == ["ours", "theirs"]
    assert whole[2]["tool_call_id"] == "ours"
    assert "memories" in json.loads(whole[2]["content"])


async def test_the_offered_tools_are_the_same_on_every_request(serve: Serve) -> None:
    """The tools stand at the prompt's beginning: another set would empty the provider's cache."""
    async with serve(remembers, tools="on") as served, served.openai("/u/alice/s/one/v1") as client:
        for text in ("Hello.", "Please note it.", "Please search."):
            await client.chat.completions.create(model="m", messages=[user(text)], tools=TOOLS)
        offered = {json.dumps(request.body["tools"]) for request in served.model.requests}
    assert len(offered) == 1
    assert len(json.loads(offered.pop())) == 7


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [("/u/alice/v1", {"X-Memproxy-Tools": "on"}, 6), ("/u/alice/v1", {}, 0), ("/v1", {"X-Memproxy-Tools": "on"}, 0)],
)
async def test_who_is_offered_tools(serve: Serve, path: str, headers: dict[str, str], expected: int) -> None:
    """Off unless asked for; and only where it is known whose memory it would be."""
    async with serve(remembers) as served, served.openai(path, **headers) as client:
        await client.chat.completions.create(model="m", messages=[user("Hello.")])
        assert len(served.model.requests[-1].body.get("tools", ())) == expected


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_round_after_a_memory_call_still_ends_well(serve: Serve, stream: bool) -> None:
    """The agent never gets a call that it can't run, not even when the provider fails in between."""

    def script(request: ModelRequest) -> Reply:
        if request.messages[-1]["role"] == "tool":
            return Reply(status=500, error={"message": "busy"})
        return remembers(request)

    async with serve(script, tools="on") as served, served.openai("/u/alice/s/one/v1") as client:
        if stream:
            async with client.chat.completions.stream(model="m", messages=[user("Please search.")]) as events:
                choice: Any = (await events.get_final_completion()).choices[0]
        else:
            choice = (await client.chat.completions.create(model="m", messages=[user("Please search.")])).choices[0]
    assert not choice.message.tool_calls
    assert choice.finish_reason == "stop"
    assert choice.message.content == "Let me see."
