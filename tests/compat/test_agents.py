"""Agents of every format through a running memproxy, each with its client's own tool loop."""

import json
from collections.abc import Callable

import pytest

from memproxy.demo.scripted_model import ModelRequest, Reply, ToolCallReply
from tests.fakes.agents import AGENTS, Agent, direct, through
from tests.fakes.serving import Serve

QUESTIONS = ("I ordered a laptop last week. Is it on its way?", "When will it arrive?", "Can I change the address?")

agents = pytest.mark.parametrize("make", AGENTS, ids=lambda make: make.__name__)
streaming = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def support(request: ModelRequest) -> Reply:
    """Looks the order up before each answer, and answers only from what the look-up said."""
    last = request.messages[-1]
    if last["role"] == "user":
        if "cancel" in last["content"]:
            return Reply(reasoning="No way back.", tool_calls=(ToolCallReply("cancel_order", {"id": "LX-7"}),))
        return Reply(
            text="Let me look." if "look" in last["content"] else None, reasoning="Look it up.", tool_calls=(search(),)
        )
    asked = request.last_user_text.rpartition("</memproxy-memory>")[2].strip()
    return Reply(text=f"{asked} Order {json.loads(last['content'])['id']}.", reasoning="There it is.")


def search() -> ToolCallReply:
    return ToolCallReply("search_orders", {"query": "laptop"})


@agents
@streaming
async def test_three_questions_make_one_look_up(serve: Serve, make: Callable[..., Agent], stream: bool) -> None:
    """The story to beat: the same order is looked up once, and the answers are the same as without memproxy."""
    async with serve(support) as served:
        without = direct(served, make, stream=stream)
        plain = [await without.ask(question) for question in QUESTIONS]
        agent = through(served, make, "/u/alice/s/one/v1", stream=stream)
        answers = [await agent.ask(question) for question in QUESTIONS]
    assert without.executed == ["search_orders"] * 3 or "Forgetful" in str(make)
    assert agent.executed == ["search_orders"]
    assert answers == plain
