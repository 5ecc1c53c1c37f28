"""The chat-completions dialect: what is not touched keeps its bytes, what means the same has one digest."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.records import JsonObject
from memproxy.wire import chat_completions as chat
from tests.fakes.chat_messages import assistant, calling, json_values
from tests.fakes.shared_data import trajectories

quick = settings(max_examples=120, deadline=None)


def user(content: Any, **fields: Any) -> JsonObject:
    return {"role": "user", "content": content, **fields}


def calls(*ids: str, content: Any = None) -> JsonObject:
    return assistant(content, tool_calls=[calling("look_up", "{}", id=id_) for id_ in ids])


def result(id_: str, content: str = "found") -> JsonObject:
    return {"role": "tool", "tool_call_id": id_, "content": content}


def test_the_words_of_a_message_are_its_text_and_nothing_else() -> None:
    """What is searched, counted and learned from is what was said."""
    parts = [{"type": "text", "text": "a"}, "b", {"type": "image_url", "image_url": {"url": "c"}}, 7, {"text": None}]
    assert chat.message_text(user(parts)) == "a\nb"
    odd: list[Any] = ["x", None, 7, [], {}]
    assert [chat.message_text(user(content)) for content in odd] == ["x", "", "", "", ""]
    assert chat.message_text({"role": "user"}) == ""


def test_other_words_leave_other_parts_in_place() -> None:
    """A picture is not lost when the text beside it changes."""
    image = {"type": "image_url", "image_url": {"url": "c"}}
    assert chat.with_text(user("a", name="ann"), "b") == user("b", name="ann")
    assert chat.with_text(user([{"type": "text", "text": "a"}, image, {"type": "text", "text": ""}]), "b") == user(
        [{"type": "text", "text": "b"}, image]
    )
    assert chat.with_text(user([{"type": "text", "text": "a"}]), "b") == user("b")


def test_calls_cost_tokens_like_words() -> None:
    """An agent that writes long arguments fills the window with them."""
    message = assistant(
        "so", tool_calls=[calling("look_up", '{"id":1}')], function_call={"name": "old", "arguments": "{}"}
    )
    assert chat.countable_text(message) == 'so\nlook_up {"id":1}\nold {}'
    custom = assistant(
        tool_calls=[{"type": "custom", "custom": {"name": "shell", "input": "ls"}}, "?", {"function": 1}]
    )
    assert chat.countable_text(custom) == "\nshell ls"


ONE = assistant(tool_calls=[calling("f", '{"a":1,"b":[2,"é"]}')])

EQUAL: dict[str, tuple[JsonObject, JsonObject]] = {
    "a string or one part": (user("hi"), user([{"type": "text", "text": "hi"}])),
    "lines or parts": (user("a\nb"), user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])),
    "a cache mark": (user("hi"), user([{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}])),
    "null or absent": (ONE, {name: value for name, value in ONE.items() if name != "content"}),
    "null or empty": (assistant(None), assistant("")),
    "no parts": (assistant(""), assistant([])),
    "an empty part": (assistant(""), assistant([{"type": "text", "text": ""}])),
    "white space around": (assistant(" hi\n"), assistant("hi")),
    "system or developer": ({"role": "system", "content": "x"}, {"role": "developer", "content": "x"}),
    "no calls": (assistant("x"), assistant("x", tool_calls=[])),
    "calls are null": (assistant("x"), assistant("x", tool_calls=None, function_call=None)),
    "another id of a call": (ONE, assistant("", tool_calls=[calling("f", '{"a":1,"b":[2,"é"]}', id="other")])),
    "spaces in arguments": (ONE, assistant(tool_calls=[calling("f", '{ "a": 1, "b": [2, "é"] }')])),
    "escapes in arguments": (ONE, assistant(tool_calls=[calling("f", '{"a":1,"b":[2,"\\u00e9"]}')])),
    "order in arguments": (ONE, assistant(tool_calls=[calling("f", '{"b":[2,"é"],"a":1}')])),
    "numbers of JavaScript": (ONE, assistant(tool_calls=[calling("f", '{"a":1.0,"b":[2e0,"é"]}')])),
    "arguments as an object": (ONE, assistant(tool_calls=[calling("f", {"a": 1, "b": [2, "é"]})])),
    "no arguments": (assistant(tool_calls=[calling("f", "")]), assistant(tool_calls=[calling("f", "{}")])),
    "null arguments": (assistant(tool_calls=[calling("f", None)]), assistant(tool_calls=[calling("f", " { } ")])),
    "another id of a result": (result("a"), result("b")),
    "fields of the answer": (assistant("x"), assistant("x", refusal=None, annotations=[], audio=None)),
    "a refusal as content": (assistant(None, refusal="no"), assistant("no")),
    "an assistant's name": (assistant("x", name="bot"), assistant("x")),
}  # fmt: skip


DIFFERENT: dict[str, tuple[JsonObject, JsonObject]] = {
    "words": (user("hi"), user("ho")),
    "case": (user("hi"), user("Hi")),
    "role": (user("hi"), assistant("hi")),
    "roles outside the list": ({"role": "critic", "content": "x"}, {"role": "tool", "content": "x"}),
    "a user's name": (user("hi", name="ann"), user("hi", name="bob")),
    "a name in the words": (user("a\0name\0b"), user("a", name="b")),
    "a picture": (user("hi"), user([{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "x"}}])),
    "another picture": (user([{"type": "file", "id": "1"}]), user([{"type": "file", "id": "2"}])),
    "a call": (assistant("x"), assistant("x", tool_calls=[calling("f", "{}")])),
    "arguments": (ONE, assistant(tool_calls=[calling("f", '{"a":2,"b":[2,"é"]}')])),
    "a number and its text": (ONE, assistant(tool_calls=[calling("f", '{"a":"1","b":[2,"é"]}')])),
    "the called tool": (ONE, assistant(tool_calls=[calling("g", '{"a":1,"b":[2,"é"]}')])),
    "the order of calls": (
        assistant(tool_calls=[calling("f", "{}"), calling("g", "{}")]),
        assistant(tool_calls=[calling("g", "{}"), calling("f", "{}")]),
    ),
    "broken arguments": (assistant(tool_calls=[calling("f", '{"a')]), assistant(tool_calls=[calling("f", '{"b')])),
    "huge numbers": (assistant(tool_calls=[calling("f", "1e400")]), assistant(tool_calls=[calling("f", "1e401")])),
    "a call and its text": (assistant("f {}"), assistant(tool_calls=[calling("f", "{}")])),
}  # fmt: skip


@pytest.mark.parametrize("case", EQUAL)
def test_messages_that_mean_the_same_have_the_same_digest(case: str) -> None:
    """Clients send a message back in another form; the conversation must be recognised all the same."""
    one, other = EQUAL[case]
    assert chat.digest(one) == chat.digest(other)
    assert len(chat.digest(one)) == 16


@pytest.mark.parametrize("case", DIFFERENT)
def test_messages_that_mean_something_else_have_another_digest(case: str) -> None:
    """A changed message is an edit; taking it for the old one would bring back what the user took back."""
    one, other = DIFFERENT[case]
    assert chat.digest(one) != chat.digest(other)


@quick
@given(
    st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls", "refusal", "function_call"]), json_values)
)
def test_every_message_has_a_digest(message: JsonObject) -> None:
    """Fields of an unexpected type are no reason to fail."""
    assert len(chat.digest(message)) == 16
    assert chat.digest(message) == chat.digest(json.loads(json.dumps(message)))
    chat.countable_text(message)
    chat.replayable(message)
    chat.complete_pairs([message])


def test_a_stored_answer_is_sent_without_what_only_servers_send() -> None:
    """Providers refuse some fields of their own answers when they come back."""
    answer = assistant(
        "x", refusal=None, annotations=[], tool_calls=[], audio={"id": "a", "data": "...", "expires_at": 1}
    )
    assert chat.replayable(answer) == assistant("x", audio={"id": "a"})
    assert chat.replayable(assistant(None, tool_calls=[calling("f", "{}")], audio=None)) == assistant(
        None, tool_calls=[calling("f", "{}")]
    )
    assert chat.replayable(user("x", own=1)) == user("x", own=1)


@pytest.mark.parametrize(
    ("role", "sent"),
    [
        ("user", "user"), ("system", "system"), ("developer", "developer"), ("tool", "tool"),
        ("narrator", "assistant"), ("function", "assistant"), ("", "assistant"), (None, "assistant"),
    ],
)  # fmt: skip
def test_a_role_that_code_made_up_is_sent_as_the_assistants(role: str | None, sent: str) -> None:
    """Servers refuse a request with a role that they don't know, and code may write any into a session."""
    assert chat.replayable({"role": role, "content": "x"}) == {"role": sent, "content": "x"}
    named = {"role": "function", "name": "f", "content": "x"}
    assert chat.replayable(named) == named


def test_calls_without_results_and_results_without_calls_are_left_out() -> None:
    """A provider refuses the whole request when half of a pair is missing."""
    assert chat.complete_pairs([result("a"), user("x")]) == [user("x")]
    assert chat.complete_pairs([user("x"), calls("a", "b"), result("a"), user("y")]) == [user("x"), user("y")]
    assert chat.complete_pairs([calls("a", content="words"), user("y")]) == [assistant("words"), user("y")]
    assert chat.complete_pairs([calls("a"), user("between"), result("a")]) == [user("between")]
    assert chat.complete_pairs([calls("a"), result("a"), result("a"), result("b")]) == [calls("a"), result("a")]


def test_results_that_are_still_to_come_complete_a_call() -> None:
    """The client sends the result of a call that only memproxy still has."""
    assert chat.complete_pairs([user("x"), calls("a", "b")], [result("b"), result("a")]) == [user("x"), calls("a", "b")]
    assert chat.complete_pairs([calls("a", "b"), result("a")], [result("b")]) == [calls("a", "b"), result("a")]
    assert chat.complete_pairs([user("x"), calls("a", "b")], [result("b")]) == [user("x")]


def test_calls_with_one_id_keep_all_their_results() -> None:
    """Some servers number the calls of each answer anew, or give two of them one id."""
    twice = [calls("a"), result("a", "1"), calls("a"), result("a", "2")]
    assert chat.complete_pairs(twice) == twice
    same = [calls("a", "a"), result("a", "1"), result("a", "2")]
    assert chat.complete_pairs(same) == same


def unanswered(messages: Sequence[JsonObject]) -> list[str]:
    """What a provider would complain about."""
    faults, open_ids = [], list[str]()
    for message in [*messages, user("end")]:
        if message["role"] == "tool":
            if message["tool_call_id"] in open_ids:
                open_ids.remove(message["tool_call_id"])
            else:
                faults.append(f"no call for {message}")
        else:
            faults += [f"no result for {id_}" for id_ in open_ids]
            open_ids = list(chat.call_ids(message))
    return faults


def test_real_trajectories_cut_anywhere_stay_well_formed_and_whole() -> None:
    """Wherever a long agent run is cut, what is sent is accepted, and no complete exchange is missing from it."""
    for messages in [trajectory["messages"] for trajectory in trajectories()[:12]]:
        assert chat.complete_pairs(messages) == messages
        for cut in range(len(messages)):
            head, tail = messages[:cut], messages[cut:]
            assert unanswered(chat.complete_pairs(head)) == []
            assert unanswered([*chat.complete_pairs(head, tail), *tail]) == [] or unanswered(tail)
            assert chat.complete_pairs(head, tail) == head, "the rest of the results comes with the tail"
            kept = chat.complete_pairs(tail)
            assert unanswered(kept) == []
            orphans = next((at for at, message in enumerate(tail) if message["role"] != "tool"), len(tail))
            assert kept == tail[orphans:]


def test_only_words_are_kept_of_a_broken_off_answer() -> None:
    """A call cut in the middle must never be replayed or answered."""
    message = assistant("so far", tool_calls=[calling("f", '{"a')], function_call={"name": "f"})
    assert chat.without_calls(message) == assistant("so far")
