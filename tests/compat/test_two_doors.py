"""Code writes into a session while an agent talks through the proxy: neither may break the other's conversation."""

from typing import Any

import pytest
from openai import AsyncOpenAI

from memproxy.demo.script import in_order
from memproxy.demo.scripted_model import Reply, ToolCallReply
from tests.fakes.memory_client import memory_client
from tests.fakes.serving import Serve, Served

pytestmark = pytest.mark.filterwarnings("ignore:get_working_memory is deprecated:DeprecationWarning")

CALL = Reply(tool_calls=(ToolCallReply("look_up", {"id": 7}),))
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
]


async def write(served: Served, *words: str) -> None:
    """Append messages of the user's, as code does: read the session, write it back with more."""
    async with memory_client(served) as code:
        messages: list[Any] = [{"role": "user", "content": each} for each in words]
        await code.append_messages_to_working_memory("chat-1", messages, user_id="alice")


def agent(served: Served) -> AsyncOpenAI:
    return served.openai("/u/alice/s/chat-1/v1")


async def test_what_code_writes_while_a_tool_runs_stands_behind_its_result(serve: Serve) -> None:
    """Providers refuse a message between a call and its result, and the agent can't know that there is one."""
    async with serve(in_order(CALL, Reply(text="Found it."), Reply(text="Yes."))) as served, agent(served) as client:
        asked: Any = [{"role": "user", "content": "Where is order 7?"}]
        answer = await client.chat.completions.create(model="m", messages=asked, tools=TOOLS)
        [call] = answer.choices[0].message.tool_calls or []
        await write(served, "A note from code.")
        result: Any = [{"role": "tool", "tool_call_id": call.id, "content": "In Lisbon."}]
        await client.chat.completions.create(model="m", messages=result, tools=TOOLS)
        assert [message["role"] for message in served.model.requests[-1].messages] == ["user", "assistant", "tool"]
        more: Any = [{"role": "user", "content": "Sure?"}]
        await client.chat.completions.create(model="m", messages=more, tools=TOOLS)
        sent = [(message["role"], message.get("content")) for message in served.model.requests[-1].messages]
    assert [role for role, _ in sent] == ["user", "assistant", "tool", "user", "assistant", "user"]
    assert "A note from code." in str(sent[3][1])


async def test_a_session_that_code_began_is_taken_up_in_any_format(serve: Serve) -> None:
    """Code writes plain words, which every format takes."""
    async with serve() as served, agent(served) as client:
        await write(served, "My cat is called Tom.")
        await client.responses.create(model="m", input="What is its name?")
        assert "Tom" in str(served.model.requests[-1].body)
        async with memory_client(served) as code:
            _, session = await code.get_or_create_working_memory("chat-1", user_id="alice")
    assert [message.role for message in session.messages] == ["user", "user", "assistant"]


async def test_what_code_writes_stays_when_the_history_lies_at_the_provider(serve: Serve) -> None:
    """The model can't be told of it there, but nobody has taken it back."""
    async with serve() as served, agent(served) as client:
        first = await client.responses.create(model="m", input="one")
        await write(served, "A note from code.")
        await client.responses.create(model="m", input="two", previous_response_id=first.id)
        async with memory_client(served) as code:
            _, session = await code.get_or_create_working_memory("chat-1", user_id="alice")
    words = [message.content for message in session.messages]
    assert (words[0], words[2], words[3]) == ("one", "A note from code.", "two")


@pytest.mark.parametrize("question", ["Where is order 7?"])
async def test_code_may_write_into_a_session_of_items(serve: Serve, question: str) -> None:
    """Calls and results of the Responses API are no messages with a role, and come back as they were."""
    tool: Any = {"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}}
    async with serve(in_order(CALL, Reply(text="Found it."), Reply(text="Yes."))) as served, agent(served) as client:
        answer = await client.responses.create(model="m", input=question, tools=[tool])
        [call] = [item for item in answer.output if item.type == "function_call"]
        result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "In Lisbon."}]
        await client.responses.create(model="m", input=result, tools=[tool])
        await write(served, "A note from code.")
        async with memory_client(served) as code:
            _, session = await code.get_or_create_working_memory("chat-1", user_id="alice")
        shown = [(message.role, message.content) for message in session.messages]
        assert [role for role, _ in shown] == ["user", "assistant", "tool", "assistant", "user"]
        assert "look_up" in shown[1][1]
        assert "Lisbon" in shown[2][1]
        await client.responses.create(model="m", input="Sure?", tools=[tool])
        sent = served.model.requests[-1].body["input"]
    assert [item.get("type", "message") for item in sent][:3] == ["message", "function_call", "function_call_output"]
