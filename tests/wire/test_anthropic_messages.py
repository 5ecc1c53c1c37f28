"""Messages of Anthropic's Messages API: what means the same has one digest, and pairs stay together."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.records import JsonObject, ToolAnswer, ToolCall
from memproxy.wire import anthropic_messages as messages_of
from tests.fakes.chat_messages import json_values
from tests.fakes.message_streams import call, text, thinking


def user(content: Any) -> JsonObject:
    return {"role": "user", "content": content}


def said(*blocks: JsonObject) -> JsonObject:
    return {"role": "assistant", "content": list(blocks)}


def result(call_id: str, content: Any = "found", **more: Any) -> JsonObject:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


EQUAL: dict[str, tuple[JsonObject, JsonObject]] = {
    "a string or one block": (user("hi"), user([text("hi")])),
    "a cache mark": (user([text("hi")]), user([{**text("hi"), "cache_control": {"type": "ephemeral"}}])),
    "thinking or none": (said(thinking("hm"), text("x")), said(text("x"))),
    "another id of a call": (said(call("f", {"a": 1}, "a")), said(call("f", {"a": 1.0}, "b"))),
    "another id of a result": (user([result("a")]), user([result("b")])),
    "a result in blocks": (user([result("a", "x")]), user([result("a", [text("x")])])),
}

DIFFERENT: dict[str, tuple[JsonObject, JsonObject]] = {
    "words": (user("hi"), user("ho")),
    "role": (user("hi"), said(text("hi"))),
    "a picture": (user("hi"), user([text("hi"), {"type": "image", "source": {"type": "url", "url": "x"}}])),
    "arguments": (said(call("f", {"a": 1})), said(call("f", {"a": 2}))),
    "a result": (user([result("a", "x")]), user([result("a", "y")])),
    "a result and words": (user([result("a", "x")]), user("x")),
}


@pytest.mark.parametrize("case", EQUAL)
def test_messages_that_mean_the_same_have_the_same_digest(case: str) -> None:
    """Clients send a message back in another form; the conversation must be recognised all the same."""
    one, other = EQUAL[case]
    assert messages_of.digest(one) == messages_of.digest(other)
    assert len(messages_of.digest(one)) == 16


@pytest.mark.parametrize("case", DIFFERENT)
def test_messages_that_mean_something_else_have_another_digest(case: str) -> None:
    """A changed message is an edit."""
    one, other = DIFFERENT[case]
    assert messages_of.digest(one) != messages_of.digest(other)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(["user", "assistant"]),
    st.lists(
        st.dictionaries(
            st.sampled_from(["type", "text", "id", "name", "input", "tool_use_id", "content", "thinking"]),
            json_values | st.sampled_from(["text", "tool_use", "tool_result", "thinking"]),
        ),
        max_size=3,
    ),
)
def test_every_message_can_be_looked_at(role: str, content: list[JsonObject]) -> None:
    """Fields of an unexpected type are no reason to fail."""
    message = {"role": role, "content": content}
    assert messages_of.digest(message) == messages_of.digest(json.loads(json.dumps(message)))
    messages_of.countable_text(message)
    messages_of.complete_pairs([message])
    messages_of.as_chat([message])


def test_a_message_with_results_belongs_to_the_turn_that_asked() -> None:
    """Nothing is put into it as if the user had begun to speak anew, and no cut goes before it."""
    assert messages_of.role_of(user("hi")) == "user"
    assert messages_of.role_of(user([result("a"), text("and")])) == "tool"
    assert messages_of.role_of(said(text("x"))) == "assistant"


def test_the_words_of_a_message_are_its_text_and_its_results() -> None:
    """What is searched and counted is what was said."""
    assert messages_of.text_of(user([text("a"), {"type": "image"}, text("b")])) == "a\nb"
    assert messages_of.text_of(user([result("a", [text("x")])])) == "x"
    assert messages_of.text_of(said(thinking("hm"), text("x"))) == "x"
    assert messages_of.countable_text(said(thinking("hm"), call("f", {"a": 1}))) == 'hm\nf {"a":1}'


def test_other_words_keep_what_is_beside_them() -> None:
    """Results stay first, pictures behind."""
    picture = {"type": "image", "source": {}}
    told = messages_of.with_text(user([result("a"), text("x"), picture]), "y")
    assert told == user([result("a"), text("y"), picture])
    assert messages_of.with_text(user("x"), "y") == messages_of.with_text(user([text("x")]), "y") == user("y")


def test_calls_and_results_stay_together() -> None:
    """A provider refuses the whole request when half of a pair is missing."""
    asks = said(thinking("hm"), text("Let me see."), call("f", {}, "a"), call("g", {}, "b"))
    both, one, other = user([result("a"), result("b")]), user([result("a")]), user([result("b")])
    assert messages_of.complete_pairs([user("x"), asks, both]) == [user("x"), asks, both]
    assert messages_of.complete_pairs([asks, one, other]) == [asks, one, other], "several messages are one turn"
    assert messages_of.complete_pairs([user("x"), asks, one]) == [user("x"), said(text("Let me see."))]
    assert messages_of.complete_pairs([asks], [both]) == [asks]
    assert messages_of.complete_pairs([both, user("x")]) == [user("x")]
    assert messages_of.complete_pairs([said(call("f", {}, "a")), user("x")]) == [user("x")]
    mixed = user([result("z"), text("and")])
    assert messages_of.complete_pairs([mixed]) == [user([text("and")])]


@pytest.mark.parametrize(
    ("role", "sent"),
    [("user", "user"), ("system", "user"), ("developer", "user"), ("tool", "assistant"), ("x", "assistant")],
)
def test_a_role_that_servers_do_not_take_becomes_one_that_they_do(role: str, sent: str) -> None:
    """Code may write any role into a session, and a request must not be refused for it."""
    assert messages_of.replayable({"role": role, "content": "x"}) == {"role": sent, "content": "x"}


def test_only_words_are_kept_of_a_broken_off_answer() -> None:
    """Thinking without its signature and half a call would be refused."""
    assert messages_of.without_calls(said(thinking("hm", ""), text("so far"), call("f", {}))) == said(text("so far"))
    assert messages_of.without_calls(said(call("f", {}))) is None


def test_results_are_one_message() -> None:
    """The provider wants all of them at once; parts of another format become blocks of this one."""
    answers = [
        ToolAnswer(ToolCall("a", "f", "{}"), "x", "cache"),
        ToolAnswer(ToolCall("b", "f", "{}"), [{"type": "input_text", "text": "y"}, {"type": "image"}], "cache"),
    ]
    assert messages_of.results(answers) == [user([result("a", "x"), result("b", [text("y"), {"type": "image"}])])]
    assert messages_of.results([]) == []


def test_messages_read_as_chat_completions() -> None:
    """Whatever decides about calls and results reads every format as one; an error is no result to keep."""
    told = [
        user("hi"),
        said(thinking("hm"), text("x"), call("f", {"a": 1}, "a"), call("g", {}, "b")),
        user([result("a"), result("b", "no", is_error=True), text("and")]),
    ]
    calls = [("a", "f", '{"a":1}'), ("b", "g", "{}")]
    assert messages_of.as_chat(told) == [
        (0, user("hi")),
        (
            1,
            {
                "role": "assistant",
                "content": "x",
                "tool_calls": [{"id": i, "function": {"name": n, "arguments": given}} for i, n, given in calls],
            },
        ),
        (2, {"role": "tool", "tool_call_id": "a", "content": "found"}),
        (2, {"role": "tool", "tool_call_id": "b", "content": None}),
        (2, user("and")),
    ]
