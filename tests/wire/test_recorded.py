"""Recorded bytes as JSON objects."""

import gzip

from memproxy.wire.recorded import read_recorded


def test_a_stream_is_read_up_to_its_end_marker() -> None:
    """What comes behind it is no part of the answer; what is no object says nothing."""
    body = b'data: {"a":1}\n\ndata: 7\n\ndata: {"b":\n\ndata: [DONE]\n\ndata: {"c":1}\n\n'
    found = read_recorded([body], content_type="text/event-stream", content_encoding="")
    assert found is not None
    assert (found.objects, found.is_stream) == (({"a": 1},), True)


def test_a_whole_body_is_one_object() -> None:
    """Compressed or not; anything else can't be read."""
    for body, encoding in ((b'{"a":1}', ""), (gzip.compress(b'{"a":1}'), "gzip")):
        found = read_recorded([body[:3], body[3:]], content_type="application/json", content_encoding=encoding)
        assert found is not None
        assert (found.objects, found.is_stream) == (({"a": 1},), False)
    assert read_recorded([b"[1]"], content_type="application/json", content_encoding="") is None
    assert read_recorded([b"{"], content_type="application/json", content_encoding="") is None
