"""Agents of every format through a running memproxy, each with its client's own tool loop."""

import itertools
import json
from collections.abc import Callable

import pytest

from memproxy.demo.script import text_of
from memproxy.demo.scripted_model import ModelRequest, Reply, ToolCallReply
from memproxy.records import JsonObject
from tests.fakes.agents import AGENTS, RESENDING, Agent, ChainedAgent, ConversationAgent, direct, through
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


@agents
@streaming
async def test_the_model_keeps_its_evidence_and_its_prompt(
    serve: Serve, make: Callable[..., Agent], stream: bool
) -> None:
    """What was answered inside is shown again on every later request, so the prompt only grows at its end."""
    async with serve(support) as served:
        agent = through(served, make, stream=stream)
        for question in QUESTIONS:
            await agent.ask(question)
        prompts = [request.messages for request in served.model.requests if request.messages]
    roles = [message["role"] for message in prompts[-1]]
    assert roles == ["user", "assistant", "tool", "assistant"] * 2 + ["user", "assistant", "tool"]
    for earlier, later in itertools.pairwise(prompts):
        assert [said(each) for each in later[: len(earlier)]] == [said(each) for each in earlier]


def said(message: JsonObject) -> tuple[str, str, list[str]]:
    calls = [call["function"]["name"] for call in message.get("tool_calls") or ()]
    return message["role"], text_of(message), calls


@agents
async def test_a_write_in_between_makes_the_agent_look_again(serve: Serve, make: Callable[..., Agent]) -> None:
    """After a call that may have changed something, nothing that was known before is given."""
    async with serve(support) as served:
        agent = through(served, make, stream=True)
        for question in (QUESTIONS[0], "Please cancel it.", *QUESTIONS[1:]):
            await agent.ask(question)
    assert agent.executed == ["search_orders", "cancel_order", "search_orders"]


@agents
@streaming
async def test_words_before_a_call_are_kept(serve: Serve, make: Callable[..., Agent], stream: bool) -> None:
    """A preamble that the client has read already stands before the final answer."""
    async with serve(support) as served:
        agent = through(served, make, stream=stream)
        await agent.ask(QUESTIONS[0])
        answer = await agent.ask("Please look again.")
        assert answer.replace("\n", "") == "Let me look.Please look again. Order LX-7."
        assert await agent.ask(QUESTIONS[1]) == f"{QUESTIONS[1]} Order LX-7."
    assert agent.executed == ["search_orders"]


@agents
@streaming
@pytest.mark.parametrize("status", [429, 500])
async def test_a_failing_inner_round_gives_the_client_the_calls(
    serve: Serve, make: Callable[..., Agent], stream: bool, status: int
) -> None:
    """The provider refuses the round inside: the client gets the calls as they came, and runs its tool."""
    failing = {"now": False}

    def script(request: ModelRequest) -> Reply:
        if failing["now"] and request.messages[-1]["role"] == "tool":
            failing["now"] = False
            return Reply(status=status, error={"message": "busy"})
        return support(request)

    async with serve(script) as served:
        agent = through(served, make, stream=stream)
        await agent.ask(QUESTIONS[0])
        failing["now"] = True
        answer = await agent.ask(QUESTIONS[1])
    assert agent.executed == ["search_orders"] * 2
    assert answer == f"{QUESTIONS[1]} Order LX-7."


@agents
async def test_a_model_that_asks_again_reaches_the_tool(serve: Serve, make: Callable[..., Agent]) -> None:
    """Asked twice in one turn, right after a cached answer, the model distrusts it: the tool runs."""
    turns = {"asked": 0}

    def script(request: ModelRequest) -> Reply:
        turns["asked"] = 1 if request.messages[-1]["role"] == "user" else turns["asked"] + 1
        return Reply(tool_calls=(search(),)) if turns["asked"] <= 2 else Reply(text="Now I believe it.")

    async with serve(script) as served:
        agent = through(served, make, stream=True)
        await agent.ask(QUESTIONS[0])
        before = len(agent.executed)
        await agent.ask(QUESTIONS[1])
    assert len(agent.executed) == before + 1


@agents
@pytest.mark.parametrize(
    "headers", [{"Cache-Control": "no-cache"}, {"X-Memproxy-Tool-Cache": "off"}, {"X-Memproxy-Tool-Cache": "observe"}]
)
async def test_the_cache_can_be_passed_by(serve: Serve, make: Callable[..., Agent], headers: dict[str, str]) -> None:
    """A caller that wants the tool to run gets it."""
    async with serve(support) as served:
        agent = through(served, make, stream=True, headers=headers)
        for question in QUESTIONS:
            await agent.ask(question)
    assert agent.executed == ["search_orders"] * 3


@agents
@streaming
async def test_usage_is_summed_over_the_rounds(serve: Serve, make: Callable[..., Agent], stream: bool) -> None:
    """The client pays for what ran inside, and sees it."""
    async with serve(support) as served:
        agent = through(served, make, stream=stream)
        await agent.ask(QUESTIONS[0])
        before, asked = agent.usage, len(served.model.requests)
        await agent.ask(QUESTIONS[1])
        assert len(served.model.requests) == asked + 2
        assert agent.usage - before > before / 2


@pytest.mark.parametrize("make", RESENDING, ids=lambda make: make.__name__)
async def test_a_resent_conversation_is_one_session_without_any_name(serve: Serve, make: Callable[..., Agent]) -> None:
    """Sessions are recognised from the conversation itself: each message is stored once."""
    async with serve(support) as served:
        agent = through(served, make, "/u/alice/v1", stream=True)
        for question in QUESTIONS:
            await agent.ask(question)
        await served.settled()
        logs = await served.instance.services.session_data._redis.keys("mp:log:*")
        facts = await served.instance.services.session_data._redis.keys("mp:s:*")
    assert (len(logs), len(facts)) == (1, 1)
    assert agent.executed == ["search_orders"]


@pytest.mark.parametrize("make", [ChainedAgent, ConversationAgent], ids=lambda make: make.__name__)
async def test_a_chained_conversation_is_one_session_without_any_name(serve: Serve, make: Callable[..., Agent]) -> None:
    """The id of the answer before, or of the conversation, tells which."""
    async with serve(support) as served:
        agent = through(served, make, "/u/alice/v1", stream=True)
        for question in QUESTIONS:
            await agent.ask(question)
        await served.settled()
        logs = await served.instance.services.session_data._redis.keys("mp:log:*")
    assert len(logs) == 1
    assert agent.executed == ["search_orders"]
