"""Requests of the Responses API: what is not touched keeps its bytes."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.errors import NotFoundError
from memproxy.records import JsonObject
from memproxy.wire.dialect import Request
from memproxy.wire.response_dialect import RESPONSES

ITEM = b'{"type":"reasoning","id":"rs_1","summary":[ ],"encrypted_content":"gA\\u0041=","x":1.0}'


def request(body: bytes) -> Request:
    read = RESPONSES.read(body)
    assert read is not None
    return read


def inputs(body: bytes) -> list[JsonObject]:
    found: list[JsonObject] = json.loads(body)["input"]
    return found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b"{}",
        b'{"input":[]}',
        b'{"input":7}',
        b'{"input":["hi"]}',
        b'{"input":[{}]}',
        b'{"input":[{"type":1}]}',
    ],
)
def test_what_is_no_request_is_left_to_the_model_server(body: bytes) -> None:
    """Whoever sends something odd gets the provider's own error, not one of memproxy's."""
    assert RESPONSES.read(body) is None


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: f'{{"input":[{text}]}}'.encode()))
def test_no_body_is_too_odd_to_be_looked_at(body: bytes) -> None:
    """A broken client can't break the proxy."""
    read = RESPONSES.read(body)
    assert read is None or RESPONSES.raw_messages(read)


def test_what_a_request_asks_is_read_from_its_fields() -> None:
    """Instructions are those of the field and of the leading items; the history may lie at the provider."""
    told = request(
        b'{"model":"m","stream":true,"max_output_tokens":9,"instructions":"Be brief.",'
        b'"input":[{"role":"developer","content":"x"},{"role":"user","content":"hi"}]}'
    )
    assert (told.model, told.is_stream, told.reply_tokens, told.lead) == ("m", True, 9, 1)
    assert told.instructions == ({"role": "system", "content": "Be brief."}, {"role": "developer", "content": "x"})
    assert (told.is_chained, told.is_compacted, told.continues) == (False, False, "")
    chained = request(b'{"input":"hi","previous_response_id":"resp_1"}')
    assert (chained.is_chained, chained.continues) == (True, "resp_1")
    for conversation in (b'"conv_1"', b'{"id":"conv_1"}'):
        held = request(b'{"input":"hi","conversation":' + conversation + b"}")
        assert (held.is_chained, held.continues) == (True, "")
    assert request(b'{"input":[{"type":"compaction","encrypted_content":"x"}]}').is_compacted


def test_a_string_stays_a_string() -> None:
    """Memory is added to what the user wrote; the form of the request is the client's."""
    read = request(b'{"n":1.0,"input":"h\\u00e9"}')
    (raw,) = RESPONSES.raw_messages(read)
    body = RESPONSES.with_messages(read, [RESPONSES.with_blocks(raw, ["BLOCK"])])
    assert json.loads(body) == {"n": 1.0, "input": "BLOCK\n\nhé"}
    assert b'"n":1.0' in body
    more = RESPONSES.with_messages(read, [b'{"role":"user","content":"before"}', raw])
    assert inputs(more) == [{"role": "user", "content": "before"}, {"role": "user", "content": "hé"}]
    assert b'"h\\u00e9"' in more


def test_items_keep_their_bytes() -> None:
    """Encrypted reasoning that was changed by one byte would be refused."""
    read = request(b'{"input":[ ' + ITEM + b' , {"role":"user","content":[{"type":"input_image","x":1e0}]}],"z":0.10}')
    raws = RESPONSES.raw_messages(read)
    assert raws[0] == ITEM
    body = RESPONSES.with_messages(read, [raws[0], RESPONSES.with_blocks(raws[1], ["B"])])
    assert ITEM in body
    assert b'{"type":"input_image","x":1e0}' in body
    assert b'"z":0.10' in body
    assert inputs(body)[1]["content"][0] == {"type": "input_text", "text": "B"}


def test_instructions_are_restored_where_there_are_none() -> None:
    """A client that sends only its newest message still has its agent's instructions."""
    told = [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "And kind."}]
    bare = request(b'{"input":"hi"}')
    body = RESPONSES.with_messages(bare, RESPONSES.raw_messages(bare), instructions=told)
    assert json.loads(body) == {"input": "hi", "instructions": "Be brief.\n\nAnd kind."}
    own = request(b'{"input":"hi","instructions":"Mine."}')
    assert (
        json.loads(RESPONSES.with_messages(own, RESPONSES.raw_messages(own), instructions=told))["instructions"]
        == "Mine."
    )


def test_tools_take_this_formats_form() -> None:
    """Names and schemas stand at the top here, and nothing is strict that was not made for it."""
    chat = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    body = RESPONSES.with_tools(b'{"tools":[{"type":"web_search","x":1.0}],"input":"hi"}', [chat])
    assert b'{"type":"web_search","x":1.0}' in body
    assert json.loads(body)["tools"][1] == {
        "type": "function",
        "strict": False,
        "name": "f",
        "description": "d",
        "parameters": {"type": "object"},
    }


def test_a_request_goes_on_behind_a_round() -> None:
    """All of the round follows the input, whatever form that had."""
    round_ = [{"type": "function_call", "call_id": "a"}, {"type": "function_call_output", "call_id": "a"}]
    assert inputs(RESPONSES.with_round(b'{"input":"hi"}', round_)) == [{"role": "user", "content": "hi"}, *round_]
    body = RESPONSES.with_round(b'{"input":[' + ITEM + b'],"previous_response_id":"r"}', round_)
    assert ITEM in body
    assert json.loads(body)["previous_response_id"] == "r"


def test_another_id_can_stand_for_the_clients() -> None:
    """The provider knows the end of an answer by another id, and wants the results that the client never saw."""
    read = request(b'{"previous_response_id":"seen","input":"hi","n":1.0}')
    body = RESPONSES.continued(read, "real", [{"type": "function_call_output", "call_id": "a", "output": "x"}])
    assert b'"n":1.0' in body
    assert json.loads(body)["previous_response_id"] == "real"
    assert [item.get("type", "message") for item in inputs(body)] == ["function_call_output", "message"]
    held = request(b'{"conversation":"c","input":"hi"}')
    assert json.loads(RESPONSES.continued(held, "", [])) == {"conversation": "c", "input": "hi"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"tool_choice": "auto", "background": False, "store": False}, True),
        ({"background": True}, False),
        ({"tool_choice": "required"}, False),
        ({"tool_choice": {"type": "function", "name": "f"}}, False),
    ],
)
def test_the_unusual_passes_through(fields: JsonObject, expected: bool) -> None:
    """Rounds are joined only where it is known what the joined answer looks like."""
    assert RESPONSES.is_ordinary(request(msgspec.json.encode({"input": "hi", **fields}))) is expected


def test_errors_have_the_shape_of_openai() -> None:
    """Clients read them as they read the provider's."""
    assert RESPONSES.error_body(NotFoundError("gone"))["error"]["message"] == "gone"
