"""Items of the Responses API: what means the same has one digest, and pairs stay together."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.records import JsonObject, ToolAnswer, ToolCall
from memproxy.wire import response_items as items_of
from tests.fakes.chat_messages import json_values
from tests.fakes.response_streams import call, message, reasoning, search

quick = settings(max_examples=120, deadline=None)


def user(content: Any) -> JsonObject:
    return {"role": "user", "content": content}


def result(call_id: str, output: Any = "found") -> JsonObject:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def parts(*texts: str, kind: str = "input_text") -> list[JsonObject]:
    return [{"type": kind, "text": text} for text in texts]


EQUAL: dict[str, tuple[JsonObject, JsonObject]] = {
    "a string or one part": (user("hi"), user(parts("hi"))),
    "a type or none": (user("hi"), {"type": "message", "role": "user", "content": "hi"}),
    "an answer as it came or as words": (message("hi"), {"role": "assistant", "content": "hi"}),
    "another id": (message("hi", 1), message("hi", 2)),
    "another state": (message("hi"), {**message("hi"), "status": "incomplete"}),
    "another id of a call": (call("f", "{}", "a"), call("f", "{}", "b")),
    "spaces and order in arguments": (call("f", '{"a":1,"b":2}'), call("f", '{ "b": 2.0, "a": 1 }')),
    "a call without an id": (call("f", "{}", "a"), {"type": "function_call", "name": "f", "arguments": "{}"}),
    "another id of a result": (result("a"), result("b")),
    "a result in parts": (result("a", "x"), result("a", parts("x"))),
    "a search under another id": (search(1), search(2)),
}

DIFFERENT: dict[str, tuple[JsonObject, JsonObject]] = {
    "words": (user("hi"), user("ho")),
    "role": (user("hi"), message("hi")),
    "a picture": (user("hi"), user([*parts("hi"), {"type": "input_image", "image_url": "x"}])),
    "arguments": (call("f", '{"a":1}'), call("f", '{"a":2}')),
    "the called tool": (call("f", "{}"), call("g", "{}")),
    "free text for a tool": (
        call("f", "a", kind="custom_tool_call"),
        call("f", "b", kind="custom_tool_call"),
    ),
    "a refusal": (
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "never"}]},
    ),
    "a call and its text": (call("f", "{}"), message("f {}")),
    "a result": (result("a", "x"), result("a", "y")),
    "a compaction": (
        {"type": "compaction", "encrypted_content": "a"},
        {"type": "compaction", "encrypted_content": "b"},
    ),
}


@pytest.mark.parametrize("case", EQUAL)
def test_items_that_mean_the_same_have_the_same_digest(case: str) -> None:
    """Clients send an item back in another form; the conversation must be recognised all the same."""
    one, other = EQUAL[case]
    assert items_of.digest(one) == items_of.digest(other)
    assert len(items_of.digest(one)) == 16


@pytest.mark.parametrize("case", DIFFERENT)
def test_items_that_mean_something_else_have_another_digest(case: str) -> None:
    """A changed item is an edit."""
    one, other = DIFFERENT[case]
    assert items_of.digest(one) != items_of.digest(other)


@quick
@given(
    st.dictionaries(
        st.sampled_from(["type", "role", "content", "name", "call_id", "arguments", "output", "summary", "input"]),
        json_values | st.sampled_from(["message", "function_call", "function_call_output", "reasoning"]),
    )
)
def test_every_item_can_be_looked_at(item: JsonObject) -> None:
    """Fields of an unexpected type are no reason to fail."""
    assert items_of.digest(item) == items_of.digest(json.loads(json.dumps(item)))
    items_of.countable_text(item)
    items_of.complete_pairs([item])
    items_of.restorable(item)
    items_of.as_chat([item, item])


def test_roles_tell_who_speaks() -> None:
    """What a client gives back is a result, whatever tool it is of; what is unknown is the model's."""
    told = [user("x"), message("x"), call("f", "{}"), result("a"), reasoning("x"), search()]
    told += [{"type": "computer_call_output", "call_id": "a"}, {"type": "mcp_approval_response"}, {"type": "new_thing"}]
    assert [items_of.role_of(item) for item in told] == [
        *("user", "assistant", "assistant", "tool", "assistant", "assistant"),
        *("tool", "tool", "assistant"),
    ]
    assert [items_of.is_silent(item) for item in told[:6]] == [False, False, False, False, True, True]


def test_the_words_of_an_item_are_its_text() -> None:
    """What is searched, counted and learned from is what was said."""
    assert items_of.text_of(user([*parts("a", "b"), {"type": "input_image", "image_url": "c"}])) == "a\nb"
    assert items_of.text_of(result("a", parts("x"))) == "x"
    assert items_of.text_of(reasoning("hm")) == items_of.text_of(call("f", "{}")) == ""
    assert items_of.countable_text(reasoning("hm")) == "hm"
    assert items_of.countable_text(call("f", '{"a":1}')) == 'f {"a":1}'


def test_other_words_keep_what_is_beside_them() -> None:
    """A picture stays with the message that it came with."""
    picture = {"type": "input_image", "image_url": "c"}
    assert items_of.with_text(user([*parts("a"), picture]), "b") == user([*parts("b"), picture])
    assert items_of.with_text(user("a"), "b") == items_of.with_text(user(parts("a")), "b") == user("b")


def test_calls_and_results_stay_together_with_the_thoughts_that_led_to_them() -> None:
    """A provider refuses the whole request when half of a pair, or what reasoning led to, is missing."""
    hm, ask, found = reasoning("hm"), call("f", "{}", "a"), result("a")
    assert items_of.complete_pairs([user("x"), hm, ask, found]) == [user("x"), hm, ask, found]
    assert items_of.complete_pairs([user("x"), hm, ask]) == [user("x")]
    assert items_of.complete_pairs([user("x"), hm, ask], [found]) == [user("x"), hm, ask]
    assert items_of.complete_pairs([found, user("x")]) == [user("x")]
    assert items_of.complete_pairs([hm, user("x")]) == [user("x")]
    assert items_of.complete_pairs([hm, message("y"), call("g", "{}", "b")]) == [hm, message("y")]


def test_a_stored_item_is_sent_later_by_itself() -> None:
    """Ids would make the provider look for the rest of an answer; reasoning is taken back only encrypted."""
    sealed = reasoning("hm", is_encrypted=True)
    assert items_of.restorable(reasoning("hm")) is None
    assert items_of.restorable(search()) is None
    assert items_of.restorable(sealed) is sealed
    assert items_of.restorable(message("x")) == {
        "type": "message",
        "role": "assistant",
        "content": message("x")["content"],
    }
    shell = {"type": "local_shell_call", "id": "ls_1", "call_id": "a", "action": {}}
    assert items_of.restorable(shell) is shell


@pytest.mark.parametrize(
    ("role", "sent"), [("developer", "developer"), ("tool", "assistant"), ("narrator", "assistant")]
)
def test_a_role_that_code_made_up_is_sent_as_the_assistants(role: str, sent: str) -> None:
    """Servers refuse a role that they don't know, and code may write any into a session."""
    assert items_of.restorable({"role": role, "content": "x"}) == {"role": sent, "content": "x"}


def test_only_words_are_kept_of_a_broken_off_answer() -> None:
    """A call cut in the middle must never be replayed or answered."""
    assert items_of.without_calls(message("so far")) == message("so far")
    assert items_of.without_calls(call("f", '{"a')) is None
    assert items_of.without_calls(reasoning("hm")) is None


def test_results_carry_what_the_tool_gave() -> None:
    """Parts of another format become parts of this one."""
    one = ToolAnswer(ToolCall("a", "f", "{}"), "x", "cache")
    other = ToolAnswer(ToolCall("b", "f", "{}"), [{"type": "text", "text": "x"}, {"type": "input_image"}], "cache")
    assert items_of.results([one, other]) == [result("a", "x"), result("b", [*parts("x"), {"type": "input_image"}])]


def test_items_read_as_messages() -> None:
    """Whatever decides about calls and results reads every format as one."""
    shell = {"type": "local_shell_call", "call_id": "s"}
    told = [user("hi"), reasoning("hm"), call("f", "{}", "a"), shell, result("a"), message("x"), message("y")]
    asked = {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "a", "function": {"name": "f", "arguments": "{}"}},
            {"id": "s", "function": {"name": "local_shell_call", "arguments": ""}},
        ],
    }
    assert items_of.as_chat(told) == [
        (0, user("hi")),
        (1, asked),
        (4, {"role": "tool", "tool_call_id": "a", "content": "found"}),
        (5, {"role": "assistant", "content": "x\ny", "tool_calls": []}),
    ]
