"""Requests of Anthropic's Messages API: what is not touched keeps its bytes."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.errors import BodyTooLargeError, NotFoundError, UpstreamConnectError
from memproxy.records import JsonObject
from memproxy.wire.anthropic_dialect import MESSAGES
from memproxy.wire.dialect import Request

THINKING = b'{"type":"thinking","thinking":"h\\u00e9","signature":"EqQ="}'


def request(body: bytes) -> Request:
    read = MESSAGES.read(body)
    assert read is not None
    return read


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"messages":[]}', b'{"messages":["x"]}', b'{"messages":[{"role":"user"}]}', b'{"messages":7}'],
)
def test_what_is_no_request_is_left_to_the_model_server(body: bytes) -> None:
    """Whoever sends something odd gets the provider's own error, not one of memproxy's."""
    assert MESSAGES.read(body) is None


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: f'{{"messages":[{text}]}}'.encode()))
def test_no_body_is_too_odd_to_be_looked_at(body: bytes) -> None:
    """A broken client can't break the proxy."""
    read = MESSAGES.read(body)
    assert read is None or MESSAGES.raw_messages(read)


@pytest.mark.parametrize("system", ["Be brief.", [{"type": "text", "text": "Be brief.", "cache_control": {}}]])
def test_instructions_are_the_system_field(system: object) -> None:
    """A string or blocks; a client that sends only its newest message gets them back as they were."""
    told = request(
        json.dumps({"system": system, "max_tokens": 7, "messages": [{"role": "user", "content": "x"}]}).encode()
    )
    assert told.instructions == ({"role": "system", "content": system},)
    assert (told.lead, told.reply_tokens) == (0, 7)
    assert MESSAGES.text_of(told.instructions[0]) == "Be brief."
    bare = request(b'{"messages":[{"role":"user","content":"x"}]}')
    body = MESSAGES.with_messages(bare, MESSAGES.raw_messages(bare), instructions=told.instructions)
    assert json.loads(body)["system"] == system


def test_messages_keep_their_bytes() -> None:
    """Thinking that was changed by one byte would be refused; cache marks stay where the client has put them."""
    marked = b'{"type":"text","text":"x","cache_control":{ "type":"ephemeral" }}'
    results = b'{"type":"tool_result","tool_use_id":"a","content":"y"}'
    body = b'{"messages":[{"role":"assistant","content":[' + THINKING + b']},{"content":[' + results + b"," + marked
    read = request(body + b'],"role":"user"}],"n":1.0}')
    raws = MESSAGES.raw_messages(read)
    out = MESSAGES.with_messages(read, [raws[0], MESSAGES.with_blocks(raws[1], ["B"])])
    assert THINKING in out
    assert marked in out
    assert b'"n":1.0' in out
    kinds = [block.get("text", block["type"]) for block in json.loads(out)["messages"][1]["content"]]
    assert kinds == ["tool_result", "B", "x"], "results come first"


def test_tools_stand_behind_the_clients_own() -> None:
    """What the client has marked for the cache is still its beginning."""
    own = b'{"name":"x","input_schema":{},"cache_control":{"type":"ephemeral"}}'
    chat = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    body = MESSAGES.with_tools(b'{"tools":[' + own + b"]}", [chat])
    assert own in body
    assert json.loads(body)["tools"][1] == {"name": "f", "description": "d", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"tool_choice": {"type": "auto"}}, True),
        ({"tool_choice": {"type": "any"}}, False),
        ({"tool_choice": {"type": "tool", "name": "f"}}, False),
    ],
)
def test_the_unusual_passes_through(fields: JsonObject, expected: bool) -> None:
    """Rounds are joined only where it is known what the joined answer looks like."""
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], **fields}).encode()
    assert MESSAGES.is_ordinary(request(body)) is expected


def test_errors_have_the_shape_of_anthropic() -> None:
    """Its clients read no other."""
    assert MESSAGES.error_body(NotFoundError("gone")) == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "gone"},
    }
    assert MESSAGES.error_body(BodyTooLargeError("big"))["error"]["type"] == "request_too_large"
    assert MESSAGES.error_body(UpstreamConnectError("off"))["error"]["type"] == "api_error"
