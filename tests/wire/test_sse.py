"""Events do not depend on how the network cut the stream, and rare but legal forms are read as the standard says."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.wire.sse import RawEvents, SseEvent, SseParser, SseTooLargeError, encode_event, parse_stream

CORPUS = Path(__file__).parent.parent / "corpus" / "chat_completions"
STREAMS = sorted(CORPUS.glob("*.sse"))
EXPECTED = json.loads((CORPUS / "expected.json").read_text())

PIECES = [
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n"),
    *(
        b"data:",
        b"data: ",
        b"data",
        b"event: ",
        b"event",
        b"id: ",
        b"id",
        b"retry: 10",
        b":",
        b" ",
        b"\0",
        b"x",
        b"[DONE]",
    ),
    *(
        "\u2028".encode(),
        "\u0085".encode(),
        b"\x0b",
        b"\x0c",
        b"\x1c",
        b"\xef\xbb\xbf",
        b"\xef",
        "é👩‍👧".encode(),
        b"\xff",
    ),
]
streams = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join),
    st.sampled_from(STREAMS).map(Path.read_bytes),
    st.binary(max_size=80),
)


def read_as_the_standard_says(stream: bytes) -> list[SseEvent]:
    """A second reader, slow and literal: decode nothing, take every line in turn, and end as `close` does."""
    lines = [*re.split(rb"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf")), b""]
    events, data, event, last_id = [], b"", b"", b""
    for line in lines:
        if not line:
            if data:
                events.append(
                    SseEvent(event.decode(errors="replace") or "message", data[:-1], last_id.decode(errors="replace"))
                )
            data, event = b"", b""
            continue
        match = re.fullmatch(rb"([^:]*)(?:: ?(.*))?", line, re.DOTALL)
        assert match is not None
        field, value = match[1], match[2] or b""
        if field == b"data":
            data += value + b"\n"
        elif field == b"event":
            event = value
        elif field == b"id" and b"\0" not in value:
            last_id = value
    return events


def feed(chunks: list[bytes], max_event_bytes: int = 1 << 20) -> tuple[list[SseEvent], bool]:
    """The events of the chunks, and whether the stream was too large."""
    parser = SseParser(max_event_bytes)
    events: list[SseEvent] = []
    try:
        for chunk in chunks:
            events += parser.feed(chunk)
        return events + parser.close(), False
    except SseTooLargeError as error:
        return [*events, *error.events], True


def feed_all(parser: SseParser, chunks: list[bytes]) -> list[SseEvent]:
    return [event for chunk in chunks for event in parser.feed(chunk)]


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(place % (len(stream) + 1) for place in at)})
    return [stream[start:end] for start, end in pairwise(places)]


@given(streams)
def test_reads_any_bytes_as_the_standard_says(stream: bytes) -> None:
    """A model server may send anything; what we keep of it must be what every other reader sees."""
    assert parse_stream([stream]) == read_as_the_standard_says(stream)


@given(streams, st.lists(st.integers(min_value=0), max_size=30))
def test_random_cuts_do_not_change_the_events(stream: bytes, at: list[int]) -> None:
    """TCP delivers any split; a remembered answer may not depend on it."""
    chunks = cut(stream, at)
    assert feed(chunks)[0] == parse_stream(chunks) == parse_stream([stream])


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_cut_at_every_byte_does_not_change_the_events(path: Path) -> None:
    """The one split that hurts is the one nobody thought of: so all of them are tried."""
    stream = path.read_bytes()
    whole = parse_stream([stream])
    assert len(whole) == EXPECTED[path.stem]["events"]
    assert feed([bytes([byte]) for byte in stream])[0] == whole
    for place in range(len(stream) + 1):
        assert feed([stream[:place], stream[place:]])[0] == whole


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_recorded_stream_gives_the_text_that_a_client_sees(path: Path) -> None:
    """If the payloads were split or joined wrongly, the stored answer would differ from the one that was shown."""
    texts: dict[str, str] = {}
    for event in parse_stream([path.read_bytes()]):
        try:
            choices = json.loads(event.data).get("choices", [])
        except ValueError:
            assert event.data == b"[DONE]" or EXPECTED[path.stem]["broken_last_event"]
            continue
        for choice in choices:
            texts[str(choice["index"])] = texts.get(str(choice["index"]), "") + (choice["delta"].get("content") or "")
    assert texts == {index: choice.get("content", "") for index, choice in EXPECTED[path.stem]["choices"].items()}


@given(
    st.lists(
        st.tuples(
            st.binary(max_size=60).map(lambda data: data.replace(b"\r", b"")),
            st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=12),
        ),
        max_size=6,
    )
)
def test_what_was_encoded_is_read_back(events: list[tuple[bytes, str | None]]) -> None:
    """Joined streams and our own error events are encoded here; a client must get exactly what was meant."""
    stream = b"".join(encode_event(data, event) for data, event in events)
    assert parse_stream([stream]) == [SseEvent(event or "message", data) for data, event in events]


def test_an_event_is_encoded_as_model_servers_write_it() -> None:
    """Clients that look at the raw lines expect the usual form."""
    assert encode_event(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert encode_event(b"a\nb\r\nc\rd", "error") == b"event: error\ndata: a\ndata: b\ndata: c\ndata: d\n\n"
    assert encode_event(b"", "") == b"data: \n\n"


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\n"])
def test_a_line_end_in_an_event_name_is_refused(name: str) -> None:
    """It would forge other fields."""
    with pytest.raises(ValueError, match="cannot contain a line end"):
        encode_event(b"x", name)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\n", [b"a", b"b", b"c"]),
        (b"data:a\ndata: b\ndata:  c\n\n", [b"a\nb\n c"]),
        (b"data\n\n", [b""]),
        (b"data\ndata\n\n", [b"\n"]),
        (b"data:\n\n", [b""]),
        (b": only a comment\n\n\n", []),
        (b"event: x\n\ndata: a\n\n", [b"a"]),
        (b" data: a\n\nDATA: b\n\ndatas: c\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        (b"\xef\xbb", []),
        (b"", []),
        (b"data: no blank line\n", [b"no blank line"]),
        (b"data: no line end", [b"no line end"]),
        (b"event: without data", []),
        ("data: a\u2028b\u0085c\x0bd\x0ce\x1cf\n\n".encode(), ["a\u2028b\u0085c\x0bd\x0ce\x1cf".encode()]),
    ],
)
def test_legal_but_rare_forms(stream: bytes, events: list[bytes]) -> None:
    """Each of these is sent by some server or some network in front of it."""
    assert [event.data for event in parse_stream([stream])] == events
    assert feed([bytes([byte]) for byte in stream])[0] == parse_stream([stream])


def test_a_carriage_return_ends_its_line_at_once() -> None:
    """Waiting for a possible LF would hold back the last event of a stream of bare CRs."""
    parser = SseParser()
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"\r") == [SseEvent("message", b"a")]
    assert parser.feed(b"") == []
    assert parser.feed(b"\ndata: b\r\n\r\n") == [SseEvent("message", b"b")]
    assert parser.close() == []


def test_event_names_do_not_stay_and_ids_do() -> None:
    """The Responses format tells its events apart by name; an old name on a new event would misread it."""
    stream = b"event: first\nid: 1\ndata: a\n\ndata: b\n\nid: bad\0\ndata: c\n\nid\nevent:\ndata: d\n\n"
    assert parse_stream([stream]) == [
        SseEvent("first", b"a", "1"),
        SseEvent("message", b"b", "1"),
        SseEvent("message", b"c", "1"),
        SseEvent("message", b"d", ""),
    ]


@given(streams, st.integers(min_value=1, max_value=300), st.lists(st.integers(min_value=0), max_size=30))
def test_the_bound_does_not_depend_on_cuts(stream: bytes, max_event_bytes: int, at: list[int]) -> None:
    """Otherwise the same answer would be remembered on one network and not on another."""
    assert feed(cut(stream, at), max_event_bytes) == feed([stream], max_event_bytes)


@pytest.mark.parametrize("endless", [b"data: ", b"x", b": ", b"data:\n", b"data: abc\n", b"event: "])
def test_an_endless_event_is_refused(endless: bytes) -> None:
    """A server that never ends its event may not fill the memory of everybody else's proxy."""
    parser = SseParser(max_event_bytes=1000)
    complete = parser.feed(b"data: first\n\n")
    with pytest.raises(SseTooLargeError, match="larger than 1000 bytes"):
        feed_all(parser, [endless] * 2000)
    assert complete == [SseEvent("message", b"first")]


def test_a_whole_stream_that_is_too_large_still_gives_what_came_before() -> None:
    """The part of an answer that was readable is still worth keeping."""
    with pytest.raises(SseTooLargeError) as caught:
        parse_stream([b"data: a\n\n", b"data: " + b"x" * 100 + b"\n\n"], max_event_bytes=50)
    assert caught.value.events == (SseEvent("message", b"a"),)
    assert caught.value.limit_bytes == 50


def test_many_events_of_the_largest_size_pass() -> None:
    """The bound is for one event, not for the stream."""
    event = encode_event(b"x" * 94)
    assert len(parse_stream([event] * 50, max_event_bytes=100)) == 50


# Cutting at blank lines


@pytest.mark.parametrize("stream", STREAMS, ids=lambda path: path.stem)
def test_raw_events_are_the_stream_cut_into_its_events(stream: Path) -> None:
    """Holding some events back changes no byte of the others."""
    body = stream.read_bytes()
    cutter = RawEvents()
    pieces = [*cutter.feed(body), *cutter.close()]
    assert b"".join(pieces) == body
    read = [event for each in pieces for event in parse_stream([each])]
    assert [(event.event, event.data) for event in read] == [
        (event.event, event.data) for event in parse_stream([body])
    ]


@settings(max_examples=150, deadline=None)
@given(streams, st.lists(st.integers(min_value=1, max_value=9), max_size=40), st.sampled_from([8, 1 << 20]))
def test_raw_events_do_not_depend_on_how_the_network_cut_the_stream(
    stream: bytes, sizes: list[int], max_event_bytes: int
) -> None:
    """Nothing is lost, doubled or moved; within the bound, events are whole."""
    cutter, pieces, at = RawEvents(max_event_bytes), list[bytes](), 0
    for size in sizes:
        pieces += cutter.feed(stream[at : at + size])
        at += size
    pieces += [*cutter.feed(stream[at:]), *cutter.close()]
    assert b"".join(pieces) == stream
    assert all(pieces)
    if max_event_bytes > len(stream):
        whole = RawEvents()
        assert pieces == [*whole.feed(stream), *whole.close()]


def test_an_endless_event_is_passed_on_in_pieces() -> None:
    """Memory is bounded, whatever a server sends."""
    cutter = RawEvents(100)
    pieces = [piece for _ in range(50) for piece in cutter.feed(b"data: " + b"x" * 34)]
    assert max(map(len, pieces)) <= 140
    assert b"".join([*pieces, *cutter.close()]) == (b"data: " + b"x" * 34) * 50


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\n\n", b"\n\r\n"])
def test_a_raw_event_is_given_with_its_last_byte(end: bytes) -> None:
    """Waiting for the next one would hold every word back by one event."""
    event = b"data: {}" + end
    for at in range(1, len(event)):
        cutter = RawEvents()
        assert cutter.feed(event[:at]) == []
        assert cutter.feed(event[at:]) == [event]
        assert cutter.close() == []


def test_a_raw_event_that_ends_in_a_carriage_return_waits_for_a_byte() -> None:
    """A line feed may belong to it."""
    for after in (b"\n", b"d"):
        cutter = RawEvents()
        assert cutter.feed(b"data: a\r\r") == []
        given, left = (b"data: a\r\r\n", []) if after == b"\n" else (b"data: a\r\r", [b"d"])
        assert cutter.feed(after) == [given]
        assert cutter.close() == left
