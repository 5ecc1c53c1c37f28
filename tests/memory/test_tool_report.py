"""What the cache would have done, measured on agents that really ran: no answer differs from what the tool said."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from memproxy.memory.tool_kinds import ToolKind
from memproxy.memory.tool_outcome import is_cacheable_result
from memproxy.memory.tool_policy import ToolPolicy, parse_policy
from memproxy.memory.tool_report import ReplayedCall, replay, table
from memproxy.records import JsonObject
from tests.fakes.shared_data import tool_kinds, trajectories

USER: JsonObject = {"role": "user", "content": "hi"}


def step(name: str, said: Any, arguments: str = "{}", call_id: str = "1") -> list[JsonObject]:
    """A call and its result."""
    return steps((name, said, arguments, call_id))


def steps(*calls: tuple[str, Any, str, str]) -> list[JsonObject]:
    """Calls of one answer and their results."""
    asked = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, _, arguments, call_id in calls
    ]
    results = [{"role": "tool", "tool_call_id": call_id, "content": said} for _, said, _, call_id in calls]
    return [{"role": "assistant", "content": None, "tool_calls": asked}, *results]


def replayed(*parts: Sequence[JsonObject], policy: ToolPolicy | None = None) -> list[ReplayedCall]:
    conversation = [message for part in parts for message in part]
    return list(replay(conversation, policy=policy or ToolPolicy()))


def test_a_repeated_read_is_answered_from_what_the_tool_said() -> None:
    """Across turns, too, and however the arguments are written."""
    first, second = replayed(
        [USER], step("get_user", "ann", '{"a":1,"b":2}'), [USER], step("get_user", "ann", '{"b":2,"a":1}')
    )
    assert first == ReplayedCall("get_user", ToolKind.READ, repeats=False, result="ann")
    assert second == ReplayedCall("get_user", ToolKind.READ, repeats=True, answer="ann", result="ann")
    assert second.is_answered
    assert not second.is_wrong


def test_a_read_after_a_write_goes_to_the_tool() -> None:
    """What it said before may be wrong by now."""
    calls = replayed([USER], step("get_user", "ann"), step("rename_user", "done"), step("get_user", "eve"))
    assert [call.answer for call in calls] == [None, None, None]
    assert calls[2].repeats


def test_an_answer_that_differs_is_counted_as_wrong() -> None:
    """A policy that is too trusting is found out."""
    trusting = parse_policy("helpers = ['rename_user']", source="")
    calls = replayed(
        [USER], step("get_user", "ann"), step("rename_user", "done"), step("get_user", "eve"), policy=trusting
    )
    assert [call.is_wrong for call in calls] == [False, False, True]


def test_who_asks_again_is_let_through_until_the_user_speaks() -> None:
    """The second answer would be the same as the first."""
    read = step("get_user", "ann")
    calls = replayed([USER], read, read, read, [USER], read)
    assert [(call.answer, call.is_answered) for call in calls] == list(
        zip([None, "ann", "ann", "ann"], [False, True, False, True], strict=True)
    )


def test_a_call_beside_a_write_is_not_answered() -> None:
    """The turn goes to the agent as a whole."""
    both = steps(("get_user", "ann", "{}", "1"), ("pay", "done", "{}", "2"))
    assert [call.answer for call in replayed([USER], step("get_user", "ann"), both)] == [None, None, None]


def test_groups_and_errors_count_in_a_replay_as_they_do_in_the_store() -> None:
    """What a write does not touch stays; an error takes the place of nothing and drops what was there."""
    policy = parse_policy(
        "[groups]\norders = ['get_order']\nusers = ['get_user']\n[[clears]]\ntools = ['pay']\ngroups = ['orders']",
        source="",
    )
    user, order = step("get_user", "ann"), step("get_order", "pen")
    calls = replayed(
        [USER], user, order, step("pay", "done"), order, user, step("get_user", "Error: x"), user, policy=policy
    )
    assert [call.answer for call in calls] == [None, None, None, None, "ann", "ann", None]


def test_calls_without_results_are_walked_over() -> None:
    """The agent was stopped, or the call made no sense."""
    asked = step("get_user", "ann", "{")[:1]
    assert [call.result for call in replayed([USER], asked, [USER], asked)] == [None, None]
    assert [call.repeats for call in replayed([USER], asked, [USER], asked)] == [False, True]


def test_the_table_adds_up() -> None:
    """Operators read it before they switch answering on."""
    read = step("get_user", "ann")
    rows = table(replayed([USER], read, read, step("get_user", "eve"), step("pay", "done")))
    assert rows == [
        ("tool", "kind", "calls", "repeated", "answered", "wrong", "asked again", "changed by then"),
        ("get_user", "read", "3", "2", "1", "0", "1", "1"),
        ("pay", "write", "1", "0", "0", "0", "0", "0"),
        ("all", "", "4", "2", "1", "0", "1", "1"),
    ]
    assert table([])[1:] == [("all", "", "0", "0", "0", "0", "0", "0")]


# ---- real agents -----------------------------------------------------------------------------------------------------


def exact_policy() -> ToolPolicy:
    """The makers' own marks, as an operator would write them down."""
    kinds = tool_kinds()
    by_mark = {
        mark: tuple(name for name, given in kinds.items() if given == mark) for mark in ("read", "write", "generic")
    }
    return ToolPolicy(allow=by_mark["read"], deny=by_mark["write"], helpers=by_mark["generic"])


def measured(policy: ToolPolicy) -> list[ReplayedCall]:
    """All calls of all trajectories."""
    calls = [call for each in trajectories() for call in replay(each["messages"], policy=policy)]
    for tool, *cells in table(calls):
        print(f"{tool:32}", *(f"{cell:>15}" for cell in cells))  # noqa: T201  the measurement
    return calls


def test_with_exact_marks_no_answer_is_wrong() -> None:
    """The rule of clearing, on 40 agents of 14 models."""
    calls = measured(exact_policy())
    assert len(calls) == 416
    assert sum(call.answer is not None for call in calls) > 0
    assert not [call for call in calls if call.is_wrong]


def test_with_exact_marks_every_possible_answer_is_given() -> None:
    """A read that was made before, with nothing but reads and helpers in between, is answered."""
    answered = [[call.answer for call in replay(each["messages"], policy=exact_policy())] for each in trajectories()]
    assert answered == [list(possible_answers(each["messages"])) for each in trajectories()]


def possible_answers(messages: Sequence[JsonObject]) -> list[object]:
    """For each call what it may be answered with, worked out apart from the code under test."""
    kinds, known, answers = tool_kinds(), dict[tuple[str, str], object](), list[object]()
    for position, message in enumerate(messages):
        calls = message.get("tool_calls") or []
        results = [later["content"] for later in messages[position + 1 : position + 1 + len(calls)]]
        keys = [(call["function"]["name"], _sorted(call["function"]["arguments"])) for call in calls]
        writes = any(kinds[name] == "write" for name, _ in keys)
        answers += [None if writes else known.get(key) for key in keys]
        if writes:
            known.clear()
        for key, said in zip(keys, results, strict=True):
            if kinds[key[0]] == "read" and not writes and is_cacheable_result(said):
                known[key] = said
    return answers


def _sorted(arguments: str) -> str:
    return json.dumps(json.loads(arguments), sort_keys=True)


def test_with_names_alone_hardly_an_answer_is_wrong() -> None:
    """What happens before anybody has written a policy."""
    calls = measured(ToolPolicy())
    answered = [call for call in calls if call.answer is not None]
    assert answered
    assert sum(call.is_wrong for call in answered) <= 0.01 * len(answered)


def test_names_never_make_a_write_a_read() -> None:
    """Of 69 tools of others, none that changes something is answered or taken for a helper."""
    trajectories()  # skips where the marks are absent
    policy = ToolPolicy()
    taken = {name: policy.kind_of(name, None) for name, mark in tool_kinds().items() if mark == "write"}
    assert not [name for name, kind in taken.items() if not kind.clears]


@pytest.mark.parametrize("policy", ["exact", "names"])
def test_without_clearing_answers_would_be_wrong(policy: str) -> None:
    """Why every call that is not known to be harmless clears."""
    given = exact_policy() if policy == "exact" else ToolPolicy()
    writes = tuple(name for name in tool_kinds() if given.kind_of(name, None).clears) if trajectories() else ()
    careless = replace(given, deny=(), helpers=(*given.helpers, *writes))
    answered = [call for call in measured(careless) if call.answer is not None]
    assert sum(call.is_wrong for call in answered) > 0.1 * len(answered)
