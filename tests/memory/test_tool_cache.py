"""Which calls are the same, what may be answered, and what a conversation teaches about results."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from memproxy.memory.tool_cache import Distrust, Lookup, lessons, result_key, tool_calls
from memproxy.memory.tool_kinds import ToolKind
from memproxy.memory.tool_policy import ToolPolicy, parse_policy
from memproxy.records import JsonObject, ToolCall
from memproxy.storage.tool_results import CacheScope, Clear, Drop, Keep, Lessons, Operation

NOON = datetime(2024, 5, 15, 12, 0, tzinfo=UTC)
POLICY = ToolPolicy()


# ---- keys ------------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(max_size=6), VALUES, max_size=4)


def rewritten(value: Any) -> Any:
    """Equal JSON with the keys of objects in the opposite order."""
    match value:
        case dict():
            return {key: rewritten(value[key]) for key in reversed(value)}
        case list():
            return [rewritten(item) for item in value]
        case _:
            return value


def typed(value: Any) -> Any:
    """The value with what Python holds equal and JSON does not told apart: True and 1; and -0.0, which is 0."""
    match value:
        case dict():
            return {key: typed(inner) for key, inner in value.items()}
        case list():
            return [typed(inner) for inner in value]
        case bool():
            return ("bool", value)
        case _:
            return value


@given(ARGUMENTS)
def test_the_way_arguments_are_written_makes_no_difference(arguments: JsonObject) -> None:
    """Models write the same call with other blanks, escapes and order of keys."""
    key = result_key("get", json.dumps(arguments), None)
    assert key is not None
    assert key == result_key("get", json.dumps(rewritten(arguments), indent=2, ensure_ascii=False), None)
    assert key == result_key("get", json.dumps(arguments, separators=(",", ":")) + "\n", None)


@given(ARGUMENTS, ARGUMENTS)
def test_other_arguments_are_another_call(one: JsonObject, other: JsonObject) -> None:
    """The answer to one question must not be given to another."""
    same = result_key("get", json.dumps(one), None) == result_key("get", json.dumps(other), None)
    assert same is (typed(one) == typed(other))


@given(ARGUMENTS, st.text(min_size=1, max_size=6), VALUES)
def test_one_changed_value_is_another_call(arguments: JsonObject, name: str, value: Any) -> None:
    """However small the difference."""
    changed = {**arguments, name: value}
    assume(typed(changed) != typed(arguments))
    assert result_key("get", json.dumps(changed), None) != result_key("get", json.dumps(arguments), None)


@pytest.mark.parametrize(
    "same",
    [
        ("1", "1.0", "1e0", "10e-1", "0.1E+1", "1.00"),
        ("100", "1e2", "100.0"),
        ("0", "0.0", "-0", "0e9"),
        ("-2.5", "-25e-1"),
        ("1e400", "10e399"),
        ('"a"', '"\\u0061"'),
    ],
)
def test_numbers_are_equal_however_they_are_written(same: Sequence[str]) -> None:
    """JavaScript writes 1 where Python writes 1.0."""
    assert len({result_key("get", f'{{"x": {text}}}', None) for text in same}) == 1


@pytest.mark.parametrize(
    "different",
    [
        ("1", "true", '"1"', "[1]", "null", '"1e0"', "-1"),
        ("12345678901234567890", "12345678901234567891", "12345678901234567890.1"),
        ("1e400", "1e401", "1e-400", "0"),
        ("0.1", "0.10000000000000001"),
        ('"a"', '"A"', '"a "', '"á"', '"a\\u0301"'),
        ("[1,2]", "[2,1]", "[[1,2]]"),
    ],
)
def test_values_that_merely_look_alike_differ(different: Sequence[str]) -> None:
    """Nothing is rounded: long numbers are identifiers."""
    assert len({result_key("get", f'{{"x": {text}}}', None) for text in different}) == len(different)


@pytest.mark.parametrize(
    "arguments",
    [
        *("{", '{"a":1}{"a":1}', '{"a":1,"a":2}', '{"a":NaN}', '{"a":-Infinity}', "id=5", "{'a':1}", "[" * 100_000),
        '{"a":1e' + "9" * 5_000 + "}",
    ],
)
def test_arguments_that_cant_be_compared_have_no_key(arguments: str) -> None:
    """The tool may make something of them; nobody knows what."""
    assert result_key("get", arguments, None) is None


def test_no_arguments_are_an_empty_object() -> None:
    """Servers differ in what they send for a tool without parameters."""
    assert result_key("get", "", None) == result_key("get", " {} ", None) != result_key("get", "null", None)


def test_another_tool_is_another_call() -> None:
    """Name and definition are part of the question; how the definition is written is not."""
    definition = {"type": "function", "function": {"name": "get", "parameters": {"a": 1, "b": 2}}}
    turned = {"function": {"parameters": {"b": 2, "a": 1.0}, "name": "get"}, "type": "function"}
    changed = {"type": "function", "function": {"name": "get", "parameters": {"a": 1, "b": 3}}}
    keys = [result_key("get", "{}", one) for one in (None, {}, definition, changed)]
    assert len({*keys, result_key("get2", "{}", definition)}) == 5
    assert result_key("get", "{}", turned) == keys[2]
    assert result_key("get", "{}", {"a": float("nan")}) is None


def test_a_key_is_no_longer_than_it_needs_to_be() -> None:
    """And can be read by nobody."""
    key = result_key("get_user", '{"name": "alice"}', None) or ""
    assert len(key) == 32
    assert set(key) <= set("0123456789abcdef")


# ---- what may be answered --------------------------------------------------------------------------------------------


def tool(name: str, **more: Any) -> JsonObject:
    return {"type": "function", "function": {"name": name, "parameters": {}}, **more}


TOOLS = [
    tool("get_user"),
    tool("weather", annotations={"readOnlyHint": True}),
    {"type": "custom", "custom": {"name": "search_code"}},
    {"type": "function", "name": "list_files", "parameters": {}},
    {"name": "get_old", "parameters": {}},
    "no tool",
    {"type": "web_search"},
]


def test_tools_of_every_form_are_known() -> None:
    """Chat completions, responses, and the functions of old; what is not understood is passed over."""
    lookup = Lookup(TOOLS, POLICY)
    kinds = [lookup.kind_of(name) for name in ("get_user", "weather", "list_files", "get_old", "pay", "nothing")]
    assert kinds == [ToolKind.READ] * 4 + [ToolKind.WRITE, ToolKind.UNKNOWN]


def test_only_reads_may_be_answered() -> None:
    """What can't be answered is not held back for a moment."""
    lookup = Lookup(TOOLS, POLICY)
    names = ["get_user", "weather", "list_files", "search_code", "pay", "calculate", "bash"]
    assert [name for name in names if lookup.may_answer(name)] == ["get_user", "weather", "list_files"]


def test_a_tool_whose_results_are_not_kept_is_not_answered() -> None:
    """A time to live of 0 switches a tool off."""
    policy = parse_policy("ttl_s = 0\n[[rules]]\ntools = ['get_user']\nttl_s = 5", source="")
    lookup = Lookup(TOOLS, policy)
    assert [lookup.may_answer(name) for name in ("get_user", "weather")] == [True, False]


def test_a_call_is_looked_for_where_its_results_are_shared() -> None:
    """The scope comes from the policy, the key from the call."""
    lookup = Lookup(TOOLS, parse_policy("[[rules]]\ntools = ['get_*']\nscope = 'user'", source=""))
    wanted = lookup.wanted(ToolCall("1", "get_user", '{"id": 1}'))
    assert wanted is not None
    assert (wanted.name, wanted.scope) == ("get_user", CacheScope.USER)
    assert wanted.key == result_key("get_user", '{"id":1}', TOOLS[0])  # type: ignore[arg-type]  # a dict
    assert lookup.wanted(ToolCall("1", "get_user", "{")) is None
    assert lookup.wanted(ToolCall("1", "pay", "{}")) is None


def test_calls_of_every_form_are_read() -> None:
    """Arguments as an object, free text, a call of old, and what is no call."""
    message = {
        "role": "assistant",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "a", "arguments": '{"x":1}'}},
            {"id": "2", "type": "function", "function": {"name": "b", "arguments": {"x": 1}}},
            {"id": "3", "type": "function", "function": {"name": "c"}},
            {"id": "4", "type": "custom", "custom": {"name": "d", "input": "1"}},
            "no call",
            {"id": "5"},
        ],
        "function_call": {"name": "e", "arguments": "{}"},
    }
    calls = tool_calls(message)
    assert [(call.id, call.name) for call in calls] == list(
        zip(["1", "2", "3", "4", "5", "None"], ["a", "b", "c", "d", "None", "e"], strict=True)
    )
    keys = [result_key("x", call.arguments, None) for call in calls]
    assert keys[0] == keys[1] != keys[2]
    assert keys[3] is None
    assert tool_calls({"role": "assistant", "tool_calls": None}) == tool_calls({"role": "user"}) == ()


# ---- lessons ---------------------------------------------------------------------------------------------------------

USER: JsonObject = {"role": "user", "content": "hi"}
SAID: JsonObject = {"role": "assistant", "content": "there"}


def asks(*calls: tuple[str, str] | tuple[str, str, str]) -> JsonObject:
    """An answer that calls tools: id, name and perhaps arguments of each."""
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": call[0], "type": "function", "function": {"name": call[1], "arguments": "".join(call[2:]) or "{}"}}
            for call in calls
        ],
    }


def result(call_id: str, content: Any = "fine") -> JsonObject:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def learned(*conversation: JsonObject, new_from: int = 0, policy: ToolPolicy = POLICY) -> Lessons:
    return lessons(conversation, new_from=new_from, tools=(), policy=policy, at=NOON)


def operations(*conversation: JsonObject, new_from: int = 0, policy: ToolPolicy = POLICY) -> tuple[Operation, ...]:
    return learned(*conversation, new_from=new_from, policy=policy).operations


def keep(name: str, content: Any = "fine", arguments: str = "{}") -> Keep:
    return Keep(result_key(name, arguments, None) or "", name, content, NOON, POLICY.ttl_s)


def test_a_delivered_result_is_kept() -> None:
    """This is what a repeated call is answered with."""
    assert operations(USER, asks(("1", "get_user", '{"id": 5}')), result("1")) == (
        keep("get_user", arguments='{"id":5}'),
    )


def test_results_are_kept_as_the_policy_says() -> None:
    """Time to live, scope and groups go with the result."""
    policy = parse_policy(
        "[[rules]]\ntools = ['get_*']\nttl_s = 5\nscope = 'tenant'\n[groups]\npeople = ['get_user']", source=""
    )
    taught = learned(USER, asks(("1", "get_user")), result("1"), policy=policy)
    (kept,) = taught.operations
    assert isinstance(kept, Keep)
    assert kept.ttl_s == 5
    assert kept.scope is CacheScope.TENANT
    assert kept.groups == {"people"}
    assert taught.scopes == {CacheScope.SESSION, CacheScope.TENANT}


@pytest.mark.parametrize("content", ["  with blanks\n", [{"type": "text", "text": "part"}, {"type": "image_url"}]])
def test_content_is_kept_as_it_was(content: Any) -> None:
    """The model is shown exactly what the agent said."""
    assert operations(USER, asks(("1", "get_user")), result("1", content)) == (keep("get_user", content),)


@pytest.mark.parametrize("name", ["cancel_order", "mystery"])
def test_a_call_that_may_change_something_clears(name: str) -> None:
    """When it is asked, since nobody sees when it runs, and again when it is done."""
    assert operations(USER, asks(("1", name))) == (Clear(),)
    assert operations(USER, asks(("1", name)), result("1"), new_from=2) == (Clear(),)
    assert operations(USER, asks(("1", name)), result("1")) == (Clear(),)


def test_a_helper_neither_clears_nor_is_kept() -> None:
    """An agent that calculates has changed nothing."""
    assert operations(USER, asks(("1", "calculate")), result("1")) == ()


def test_nothing_of_a_turn_with_a_write_is_kept() -> None:
    """Nobody knows whether the read ran before the write or behind it."""
    both = asks(("1", "get_user"), ("2", "pay"))
    assert operations(USER, both, result("1"), result("2")) == (Clear(),)
    assert operations(USER, both, result("1"), new_from=2) == ()


def test_reads_and_helpers_of_a_turn_are_kept_each_for_itself() -> None:
    """Parallel reads don't disturb each other."""
    calls = asks(("1", "get_user"), ("2", "think"), ("3", "get_order"))
    assert operations(USER, calls, result("3"), result("1", "ann"), result("2"), new_from=2) == (
        keep("get_order"),
        keep("get_user", "ann"),
    )


def test_a_result_belongs_to_the_nearest_call_with_its_id() -> None:
    """Some servers count ids anew in every answer."""
    conversation = [asks(("1", "get_order")), result("1", "old"), USER, asks(("1", "get_user")), result("1", "ann")]
    assert operations(*conversation, new_from=4) == (keep("get_user", "ann"),)


def test_calls_that_share_an_id_are_answered_in_order() -> None:
    """Some servers give every call the same id."""
    calls = asks(("x", "get_user"), ("x", "get_order"))
    assert operations(calls, result("x", "ann"), result("x", "book"), new_from=1) == (
        keep("get_user", "ann"),
        keep("get_order", "book"),
    )
    again = operations(calls, result("x", "ann"), result("x", "book"), result("x", "pen"), new_from=3)
    assert again == (keep("get_order", "pen"),)


@pytest.mark.parametrize("orphan", [result("9"), {"role": "tool", "content": "x"}, {"role": "function", "name": "get"}])
def test_a_result_without_a_call_clears(orphan: JsonObject) -> None:
    """It may be a write's whose call the client no longer sends."""
    assert operations(USER, asks(("1", "get_user")), result("1"), orphan) == (Clear(),)


@pytest.mark.parametrize("content", ["Error: no", "", None, [], {"a": 1}, "x" * 70_000, "\ud800"])
def test_what_is_not_kept_drops_what_was(content: Any) -> None:
    """The tool says something else by now, be it an error."""
    key = result_key("get_user", "{}", None) or ""
    assert operations(USER, asks(("1", "get_user")), result("1", content)) == (Drop(key),)


def test_broken_arguments_teach_nothing() -> None:
    """There is no call that they would be the same as."""
    assert operations(USER, asks(("1", "get_user", "{")), result("1")) == ()


def test_results_from_further_back_are_not_kept() -> None:
    """A conversation that is new here may be days old; what stands at its end was delivered just now."""
    long_ago = [USER, asks(("1", "get_user")), result("1"), SAID, USER]
    dropped = Drop(result_key("get_user", "{}", None) or "")
    assert operations(*long_ago, asks(("2", "get_order")), result("2")) == (dropped, keep("get_order"))


def test_the_answer_that_followed_may_be_there_already() -> None:
    """After an exchange, its results are still the newest; what the answer asks for counts."""
    delivered = [USER, asks(("1", "get_user")), result("1")]
    assert operations(*delivered, SAID, new_from=2) == (keep("get_user"),)
    assert operations(*delivered, asks(("2", "pay")), new_from=2) == (Clear(),)


def test_what_comes_before_everything_is_cleared_does_not_count() -> None:
    """And what comes behind it does."""
    conversation = [asks(("1", "get_user")), result("1"), asks(("2", "pay")), result("2"), asks(("3", "get_user"))]
    assert operations(*conversation, result("3", "new")) == (Clear(), keep("get_user", "new"))


def test_a_described_write_clears_its_groups_only() -> None:
    """Then what was learned before it stays in the list."""
    policy = parse_policy(
        "[groups]\norders = ['get_order']\n[[clears]]\ntools = ['cancel_order']\ngroups = ['orders']", source=""
    )
    conversation = [asks(("1", "cancel_order"), ("2", "cancel_order")), result("1"), result("2")]
    assert operations(*conversation, policy=policy) == (Clear(frozenset({"orders"})),)


def test_a_conversation_without_tools_teaches_nothing() -> None:
    """Most requests cost no round trip."""
    assert operations() == operations(USER) == operations(USER, SAID, USER) == operations(SAID) == ()


MESSAGES = st.one_of(
    st.just(USER),
    st.just(SAID),
    st.lists(
        st.tuples(st.sampled_from("123"), st.sampled_from(["get_user", "get_order", "pay", "think", "mystery"])),
        min_size=1,
        max_size=3,
    ).map(lambda calls: asks(*calls)),
    st.builds(result, st.sampled_from("1234"), st.sampled_from(["a", "b", "Error: c"])),
    st.dictionaries(
        st.sampled_from(["role", "content", "tool_calls", "tool_call_id", "function_call"]),
        st.none() | st.sampled_from(["tool", "assistant", "1"]) | st.lists(st.none() | st.dictionaries(
            st.sampled_from(["id", "function", "custom"]), st.none() | st.dictionaries(
                st.sampled_from(["name", "arguments", "input"]), st.none() | st.integers())))
    ),
)  # fmt: skip


@given(st.lists(MESSAGES, max_size=12), st.integers(0, 12))
def test_any_conversation_is_read(conversation: list[JsonObject], new_from: int) -> None:
    """Broken ones too; and nothing is kept that was asked together with a write."""
    for operation in operations(*conversation, new_from=new_from):
        assert not isinstance(operation, Keep) or operation.name in {"get_user", "get_order"}


# ---- distrust --------------------------------------------------------------------------------------------------------


def test_a_call_that_was_just_answered_goes_through() -> None:
    """The model wants to know whether it is still so: asking the cache again would tell it nothing."""
    lookup = Lookup(TOOLS, POLICY)
    user, order = (lookup.wanted(ToolCall("1", name, "{}")) for name in ("get_user", "get_order"))
    assert user is not None
    assert order is not None
    distrust = Distrust()
    assert distrust.trusts(user)
    later = distrust.having_answered([user])
    assert [later.trusts(user), later.trusts(order), distrust.trusts(user)] == [False, True, True]


def test_distrust_is_read_from_what_was_answered_here() -> None:
    """A turn may take several requests; each begins with what the earlier ones answered."""
    lookup = Lookup(TOOLS, POLICY)
    wanted = lookup.wanted(ToolCall("7", "get_user", '{"id": 1}'))
    distrust = Distrust.of([asks(("1", "get_user", '{"id":1}'), ("2", "pay"))], lookup)
    assert wanted is not None
    assert distrust.answered == {wanted.key}
