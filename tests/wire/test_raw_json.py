"""Rewriting JSON by splicing."""

import json

import pytest

from memproxy.wire import raw_json


def test_changed_fields_keep_their_places_and_new_ones_come_last() -> None:
    """A provider that reads fields in order, or caches by bytes, sees what the client sent."""
    body = b'{"b": 1.0,"a":[ 1 , {"x":1e3}],"c":null}'
    assert raw_json.with_fields(body, {"a": b"7", "d": b"8"}) == b'{"b":1.0,"a":7,"c":null,"d":8}'
    assert raw_json.with_more(body, "a", [b"2"]) == b'{"b":1.0,"a":[1,{"x":1e3},2],"c":null}'
    assert raw_json.with_more(body, "c", [b"2"]) == b'{"b":1.0,"a":[ 1 , {"x":1e3}],"c":[2]}'
    assert raw_json.raw_field(body, "b") == b"1.0"
    assert raw_json.raw_field(body, "z") is None


@pytest.mark.parametrize("body", [b"", b"[1]", b"\xff", b'{"a":', b"[" * 100_000])
def test_what_is_no_object_is_none(body: bytes) -> None:
    """Whatever a client sends, reading it does not fail."""
    assert raw_json.decoded(body) is None


def test_text_goes_behind_the_parts_that_must_come_first() -> None:
    """Some servers want a tool's results at the beginning of a message."""
    raw = b'{"role":"user","content":[{"type":"result","n":1.0} , {"type":"text","text":"a"}]}'
    told = raw_json.with_text_before(raw, ["B"], part_type="text", behind=frozenset({"result"}))
    assert b'{"type":"result","n":1.0}' in told
    assert [part.get("text") for part in json.loads(told)["content"]] == [None, "B", "a"]
    assert json.loads(raw_json.with_text_before(raw, ["B"], part_type="text"))["content"][0]["text"] == "B"
