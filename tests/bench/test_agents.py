"""The agent of the bench does what an agent does, and what it did is counted."""

import json
from contextlib import AbstractAsyncContextManager

import pytest

from bench.agents import TOOL_S, AgentConversations, AgentLoad
from bench.client import LoadError
from bench.load import whole_words
from bench.scenarios import TARGETS, Host, Scenario, Target
from memproxy.demo.bench_answers import BenchAnswers
from memproxy.demo.scripted_model import Reply, RunningModel, ScriptedModel, ToolCallReply

SCENARIO = Scenario(
    "tools", "tools", 2, "bench-lookup", turns=3, at_once=1, is_running=True, runs_tools=True, slice_s=0.2
)
UPSTREAM = TARGETS[0]


async def _run(served: AbstractAsyncContextManager[RunningModel], words: str, target: Target = UPSTREAM) -> AgentLoad:
    made = AgentConversations(SCENARIO, target, answer=words, users=["ann"], seed="s")
    expected = json.dumps({"choices": [{"message": {"content": words}}]}).encode()
    load = AgentLoad(SCENARIO, target, conversations=made, expected=expected)
    async with served as server:
        try:
            await load.connect(server.port)
            await load.run()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            load.close()
    return load


def _lookup_first(number: int) -> Reply:
    return (
        Reply(tool_calls=(ToolCallReply("search_orders", {"query": "laptop"}),)) if number % 2 else Reply("Thursday.")
    )


async def test_a_turn_is_a_question_a_look_up_and_an_answer() -> None:
    """Times and CPU are told for a turn; a turn that left the tool out would look fast."""
    model = ScriptedModel(lambda request: _lookup_first(request.messages[-1]["role"] == "user"))
    tally = (await _run(model.serve(), "Thursday.")).tally
    assert tally.tools_run == len(tally.latencies_s) > 0
    assert min(tally.latencies_s) >= TOOL_S
    newest = max((request.messages for request in model.chat_requests), key=len)
    assert [message["role"] for message in newest] == ["system", *["user", "assistant", "tool", "assistant"] * 3][:-1]
    assert newest[2]["tool_calls"][0]["id"] == newest[3]["tool_call_id"]
    assert json.loads(newest[3]["content"])[0]["item"] == "laptop"
    assert model.chat_requests[-1].body["tools"][0]["function"]["name"] == "search_orders"


async def test_the_bench_model_asks_for_the_same_look_up_once_a_question() -> None:
    """The scenario is about repeated calls: another question, the very same call, another id."""
    answer = BenchAnswers().find(b'{"model":"bench-lookup","messages":[{"role":"user"},{"role":"tool"}]}')
    assert answer is not None
    tally = (await _run(ScriptedModel().serve(), str(whole_words(answer.pieces[0])))).tally
    assert tally.tools_run == len(tally.latencies_s) > 0


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [(Reply("Another answer."), "answered 200"), (_lookup_first(True), "without end")],
    ids=["wrong words", "calls for ever"],
)
async def test_a_target_that_does_otherwise_is_not_measured(reply: Reply, complaint: str) -> None:
    """A wrong answer is a fault of the target, however fast it is."""
    with pytest.raises(LoadError, match=complaint):
        await _run(ScriptedModel(lambda _: reply).serve(), "Thursday.")


async def test_answers_of_memory_must_carry_its_signs() -> None:
    """A memproxy that fell back to relaying must not be measured as memory."""
    target = Target("memory", "memory", Host.MEMPROXY, remembers=True)
    with pytest.raises(LoadError, match="without memory"):
        await _run(ScriptedModel(lambda _: Reply("Thursday.")).serve(), "Thursday.", target)
