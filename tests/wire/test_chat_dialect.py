"""Requests of chat completions: what is not touched keeps its bytes."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.records import JsonObject
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from memproxy.wire.dialect import Request
from tests.fakes.chat_messages import json_values

quick = settings(max_examples=120, deadline=None)


def user(content: Any, **fields: Any) -> JsonObject:
    return {"role": "user", "content": content, **fields}


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
    assert CHAT_COMPLETIONS.read(body) is None


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
    told = msgspec.json.decode(CHAT_COMPLETIONS.with_blocks(raw, blocks), type=dict[str, msgspec.Raw])
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
    told = msgspec.json.decode(CHAT_COMPLETIONS.with_blocks(raw, ["one", "two"]), type=dict[str, msgspec.Raw])
    added = b'[{"type":"text","text":"one"},{"type":"text","text":"two"}'
    assert bytes(told["content"]) == added + (b"," + inner.strip() if inner.strip() else b"") + b"]"
    assert bytes(told["role"]) == b'"user"'


def test_a_message_is_always_written_alike() -> None:
    """A restored message has the same bytes on every request, so the provider's prompt cache keeps hitting."""
    message = {"role": "user", "content": "é\u2028", "b": 1.0, "a": None}
    assert CHAT_COMPLETIONS.encode(message) == CHAT_COMPLETIONS.encode(json.loads(json.dumps(message)))
    assert json.loads(CHAT_COMPLETIONS.encode(message)) == message


def request(body: bytes) -> Request:
    read = CHAT_COMPLETIONS.read(body)
    assert read is not None
    return read


@quick
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: f'{{"messages":[{text}]}}'.encode()))
def test_no_body_is_too_odd_to_be_looked_at(body: bytes) -> None:
    """A broken client can't break the proxy."""
    read = CHAT_COMPLETIONS.read(body)
    assert read is None or CHAT_COMPLETIONS.raw_messages(read)


def test_what_a_request_asks_is_read_from_its_fields() -> None:
    """Model, stream, reply limit and instructions decide the budget; values of another type count as absent."""
    told = request(b'{"model":"m","stream":true,"max_tokens":7,"messages":[{"role":"user","content":"hi"}]}')
    assert (told.model, told.is_stream, told.reply_tokens, told.lead) == ("m", True, 7, 0)
    odd = request(b'{"model":1,"stream":"true","max_tokens":true,"max_completion_tokens":-1,"messages":[{"role":"x"}]}')
    assert (odd.model, odd.is_stream, odd.reply_tokens, odd.lead) == ("", False, None, 0)
    both = request(b'{"max_tokens":7,"max_completion_tokens":9,"messages":[{"role":"user"}]}')
    assert both.reply_tokens == 9


def test_only_leading_instructions_are_instructions() -> None:
    """A system message in mid-conversation belongs to the conversation, and stays where it is."""
    roles = ["system", "developer", "user", "system", "user"]
    told = request(json.dumps({"messages": [{"role": role, "content": role} for role in roles]}).encode())
    assert told.lead == 2
    assert told.instructions == told.messages[:2]
    assert request(b'{"messages":[{"role":"system","content":"only"}]}').lead == 1


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
    assert CHAT_COMPLETIONS.raw_messages(read) == bodies
    again = CHAT_COMPLETIONS.with_messages(read, CHAT_COMPLETIONS.raw_messages(read))
    told = msgspec.json.decode(again, type=dict[str, msgspec.Raw])
    assert list(told) == list(read.fields), "the order of the fields stays"
    assert {name: bytes(raw) for name, raw in told.items() if name != "messages"} == values
    assert list(map(bytes, msgspec.json.decode(told["messages"], type=list[msgspec.Raw]))) == bodies
    assert msgspec.json.decode(again) == read.fields
    other = request(CHAT_COMPLETIONS.with_messages(read, [b'{"role":"user","content":"other"}']))
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
    told = msgspec.json.decode(CHAT_COMPLETIONS.with_tools(body, [{"t": 2.5}]), type=dict[str, msgspec.Raw])
    assert bytes(told.pop("tools")) == expected.replace(b"T", b'{"t":2.5}')
    assert {name: bytes(raw) for name, raw in told.items()} == {"messages": b'[{"role":"user"}]', "seed": b"1.0"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"n": None, "tool_choice": None, "functions": None, "logprobs": None}, True),
        ({"n": 1, "tool_choice": "auto", "functions": [], "logprobs": False}, True),
        ({"n": 2}, False),
        ({"n": "1"}, False),
        ({"tool_choice": "required"}, False),
        ({"tool_choice": "none"}, False),
        ({"tool_choice": {"type": "function", "function": {"name": "get_order"}}}, False),
        ({"functions": [{"name": "get_order"}]}, False),
        ({"modalities": ["text", "audio"], "audio": {"voice": "ash"}}, False),
        ({"logprobs": True}, False),
    ],
)
def test_the_unusual_passes_through(fields: JsonObject, expected: bool) -> None:
    """Rounds are joined only where it is known what the joined answer looks like."""
    assert CHAT_COMPLETIONS.is_ordinary(request(json.dumps({**fields, "messages": [user("hi")]}).encode())) is expected
