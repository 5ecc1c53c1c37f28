"""The chat-completions dialect: what is not touched keeps its bytes, what means the same has one digest."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
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


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[1]",
        b'{"messages": []}',
        b'{"messages": "hi"}',
        b'{"messages": [{"content": "no role"}]}',
        b'{"messages": ["hi"]}',
        b'{"messages": [{"role": 1}]}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "hi"}], "\\udfff": 1}',
        b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
        b'{"messages": [{"role": "user", "content": "hi"}',
        b"\x28\xb5\x2f\xfd zstd",
    ],
    ids=lambda body: repr(body[:60]),
)
def test_what_is_no_request_is_left_to_the_model_server(body: bytes) -> None:
    """Whoever sends something odd gets the provider's own error, not one of memproxy's."""
    assert chat.read_request(body) is None


ODD_VALUES = (
    b"1.0", b"-0.0", b"1E2", b"1e-400", b"123456789012345678901234567890", b"0.1000000000000000000001",
    b'"\\u00e9\\ud83d\\ude00\\/"', '"é\u2028\u0085"'.encode(), b"{ }", b"[ 1 ,2]", b'{"b":1,"a":{"z":[],"y":null}}',
)  # fmt: skip


fields = st.dictionaries(
    st.sampled_from(["model", "temperature", "x-unknown", "é", "stream", "tools", "a"]),
    st.sampled_from(ODD_VALUES) | json_values.map(lambda value: json.dumps(value).encode()),
    max_size=4,
)


def spelled(values: dict[str, bytes], *, before: Sequence[str], messages: Sequence[bytes]) -> bytes:
    """A body in which each value stands as given, `messages` after the fields that `before` names."""
    items = {name: values[name] for name in before if name in values}
    items["messages"] = b"[" + b", ".join(messages) + b" ]"
    items |= {name: raw for name, raw in values.items() if name not in items}
    return (
        b"{"
        + b" , ".join(json.dumps(name, ensure_ascii=False).encode() + b" : " + raw for name, raw in items.items())
        + b"}"
    )


@quick
@given(
    fields,
    st.sampled_from([None, b"null", b'""', b'"h\\u00e9 \\n"']),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=3),
)
def test_a_block_goes_before_words_and_everything_else_stays(
    values: dict[str, bytes], content: bytes | None, blocks: list[str]
) -> None:
    """Memory is added to what the user wrote, never in place of it."""
    message = {"role": b'"user"', **values, **({"content": content} if content else {})}
    raw = b"{" + b", ".join(json.dumps(name).encode() + b": " + value for name, value in message.items()) + b"}"
    told = msgspec.json.decode(chat.with_blocks(raw, blocks), type=dict[str, msgspec.Raw])
    said = msgspec.json.decode(content) if content else None
    assert msgspec.json.decode(told.pop("content")) == "\n\n".join([*blocks, *([said] if said else [])])
    assert {name: bytes(value) for name, value in told.items()} == {n: v for n, v in message.items() if n != "content"}


@pytest.mark.parametrize(
    "inner",
    [
        b"",
        b" ",
        b'{"type":"text","text":"a"}',
        b'{"type":"image_url","image_url":{"url":"data:,x"}, "n":1.0 } , {"type":"text","text":"\\u00e9"}',
    ],
)
def test_a_block_before_parts_leaves_the_parts_as_they_are(inner: bytes) -> None:
    """Images and files in a message arrive byte for byte behind the memory."""
    raw = b'{"content":[' + inner + b'],"role":"user"}'
    told = msgspec.json.decode(chat.with_blocks(raw, ["one", "two"]), type=dict[str, msgspec.Raw])
    added = b'[{"type":"text","text":"one"},{"type":"text","text":"two"}'
    assert bytes(told["content"]) == added + (b"," + inner.strip() if inner.strip() else b"") + b"]"
    assert bytes(told["role"]) == b'"user"'


def test_a_message_is_always_written_alike() -> None:
    """A restored message has the same bytes on every request, so the provider's prompt cache keeps hitting."""
    message = {"role": "user", "content": "é\u2028", "b": 1.0, "a": None}
    assert chat.encode_message(message) == chat.encode_message(json.loads(json.dumps(message)))
    assert json.loads(chat.encode_message(message)) == message


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


def request(body: bytes) -> chat.ChatRequest:
    read = chat.read_request(body)
    assert read is not None
    return read


@quick
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: f'{{"messages":[{text}]}}'.encode()))
def test_no_body_is_too_odd_to_be_looked_at(body: bytes) -> None:
    """A broken client can't break the proxy."""
    read = chat.read_request(body)
    assert read is None or chat.raw_messages(read)


def test_what_a_request_asks_is_read_from_its_fields() -> None:
    """Model, stream, reply limit and instructions decide the budget; values of another type count as absent."""
    told = request(b'{"model":"m","stream":true,"max_tokens":7,"messages":[{"role":"user","content":"hi"}]}')
    assert (told.model, told.is_stream, told.reply_tokens, told.instructions) == ("m", True, 7, 0)
    odd = request(b'{"model":1,"stream":"true","max_tokens":true,"max_completion_tokens":-1,"messages":[{"role":"x"}]}')
    assert (odd.model, odd.is_stream, odd.reply_tokens, odd.instructions) == ("", False, None, 0)
    both = request(b'{"max_tokens":7,"max_completion_tokens":9,"messages":[{"role":"user"}]}')
    assert both.reply_tokens == 9


def test_only_leading_instructions_are_instructions() -> None:
    """A system message in mid-conversation belongs to the conversation, and stays where it is."""
    roles = ["system", "developer", "user", "system", "user"]
    told = request(json.dumps({"messages": [{"role": role, "content": role} for role in roles]}).encode())
    assert told.instructions == 2
    assert request(b'{"messages":[{"role":"system","content":"only"}]}').instructions == 1


@quick
@given(fields, st.lists(st.sampled_from(["model", "tools", "a"])), st.lists(fields, min_size=1, max_size=3))
def test_fields_that_are_not_messages_keep_their_bytes(
    values: dict[str, bytes], before: list[str], extras: list[dict[str, bytes]]
) -> None:
    """A number, an escape or a field that memproxy does not know arrives as the client wrote it."""
    bodies = [
        b'{"role":"user"' + b"".join(b"," + json.dumps(n).encode() + b":" + v for n, v in extra.items()) + b"}"
        for extra in extras
    ]
    read = request(spelled(values, before=before, messages=bodies))
    assert chat.raw_messages(read) == bodies
    again = chat.with_messages(read, chat.raw_messages(read))
    told = msgspec.json.decode(again, type=dict[str, msgspec.Raw])
    assert list(told) == list(read.fields), "the order of the fields stays"
    assert {name: bytes(raw) for name, raw in told.items() if name != "messages"} == values
    assert list(map(bytes, msgspec.json.decode(told["messages"], type=list[msgspec.Raw]))) == bodies
    assert msgspec.json.decode(again) == read.fields
    other = request(chat.with_messages(read, [b'{"role":"user","content":"other"}']))
    assert [message["content"] for message in other.messages] == ["other"]
    assert {name: value for name, value in other.fields.items() if name != "messages"} == {
        name: value for name, value in read.fields.items() if name != "messages"
    }


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (b"", b"[T]"),
        (b',"tools":null', b"[T]"),
        (b',"tools":[]', b"[T]"),
        (b',"tools": [ {"a":1.0} ]', b'[{"a":1.0},T]'),
    ],
)
def test_more_tools_stand_behind_the_clients_own(own: bytes, expected: bytes) -> None:
    """The agent's own tools keep their bytes and their place, so that the provider's cache keeps hitting."""
    body = b'{"messages":[{"role":"user"}]' + own + b',"seed":1.0}'
    told = msgspec.json.decode(chat.with_tools(body, [b'{"t":2e0}']), type=dict[str, msgspec.Raw])
    assert bytes(told.pop("tools")) == expected.replace(b"T", b'{"t":2e0}')
    assert {name: bytes(raw) for name, raw in told.items()} == {"messages": b'[{"role":"user"}]', "seed": b"1.0"}
