"""Reading answers of Anthropic's Messages API: whole messages and streams, as servers really send them."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.records import JsonObject
from memproxy.wire.anthropic_answers import MessageReader, read_answer
from memproxy.wire.anthropic_messages import calls_of, text_of
from memproxy.wire.dialect import NO_ANSWER, Answer
from tests.fakes.chat_messages import json_values
from tests.fakes.message_streams import Round, Style, call, render, text, thinking, whole

CORPUS = Path(__file__).parent.parent / "corpus" / "messages"
STREAMS = sorted(CORPUS.glob("*.sse"))
EXPECTED = json.loads((CORPUS / "expected.json").read_text())

streams = pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)


def read(body: bytes, *, content_type: str = "text/event-stream", encoding: str = "") -> Answer:
    return read_answer([body], content_type=content_type, content_encoding=encoding)


def blocks(answer: Answer) -> list[JsonObject]:
    return [block for message in answer.messages for block in message["content"]]


@streams
def test_a_recorded_stream_is_read(path: Path) -> None:
    """What is remembered of an answer does not depend on how it came."""
    expected, answer = EXPECTED[path.stem], read(path.read_bytes())
    assert "".join(map(text_of, answer.messages)) == expected["text"]
    assert [[one.name, one.arguments] for one in calls_of(blocks(answer))] == expected["calls"]
    assert [block["type"] for block in blocks(answer)] == expected["types"]
    assert (answer.finished, answer.error, answer.prompt_tokens) == (expected["finished"], expected["error"], 25)
    signatures = [block["signature"] for block in blocks(answer) if block["type"] == "thinking"]
    assert signatures in ([], ["EqQBCgIYAhIM1gbcDa9GJwZA2b3h"])


@streams
def test_a_stream_reads_the_same_however_it_was_cut_or_packed(path: Path) -> None:
    """Networks cut and servers compress as they like."""
    body = path.read_bytes()
    single = [body[at : at + 1] for at in range(len(body))]
    assert read_answer(single, content_type="text/event-stream", content_encoding="") == read(body)
    assert read(gzip.compress(body), encoding="gzip") == read(body)


@streams
def test_a_stream_cut_short_anywhere_is_read_as_far_as_it_went(path: Path) -> None:
    """A broken connection leaves a beginning of the answer, never a crash and never more than was said."""
    body = path.read_bytes()
    words = "".join(map(text_of, read(body).messages))
    for cut in range(0, len(body), 11):
        assert words.startswith("".join(map(text_of, read(body[:cut]).messages)))


def test_a_whole_message_is_the_stream_of_it() -> None:
    """Streamed or not, the same is remembered."""
    said = Round((thinking("hm"), text("Hello."), call("f", {"a": [1, "é"]}, "toolu_1")))
    assert read(whole(said), content_type="application/json") == read(render(said, Style()))
    error = read(b'{"type":"error","error":{"type":"overloaded_error"}}', content_type="application/json")
    assert (error.messages, error.finished, error.error) == ((), False, True)


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff"])
def test_what_can_not_be_read_is_no_answer(body: bytes) -> None:
    """Never a failure."""
    assert read(body, content_type="application/json") == NO_ANSWER


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["type", "message", "index", "content_block", "delta", "usage", "error"]),
            json_values | st.sampled_from(["message_start", "content_block_delta", "message_delta"]),
        ),
        max_size=4,
    )
)
def test_no_event_is_too_odd_to_be_read(events: list[JsonObject]) -> None:
    """Whatever a compatible server makes of the format, memproxy goes on."""
    reader = MessageReader()
    for event in [{"type": "content_block_start", "index": 0, "content_block": {}}, *events]:
        reader.add(event)
    assert isinstance(reader.answer().messages, tuple)
