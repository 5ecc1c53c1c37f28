"""Reading answers of the Responses API: whole objects and streams, as servers really send them."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.records import JsonObject
from memproxy.wire.dialect import NO_ANSWER, Answer
from memproxy.wire.response_answers import ResponseReader, read_answer
from memproxy.wire.response_items import calls_of, text_of
from tests.fakes.chat_messages import json_values
from tests.fakes.response_streams import Round, Style, message, render, whole

CORPUS = Path(__file__).parent.parent / "corpus" / "responses"
STREAMS = sorted(CORPUS.glob("*.sse"))
EXPECTED = json.loads((CORPUS / "expected.json").read_text())

quick = settings(max_examples=120, deadline=None)
streams = pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)


def read(body: bytes, *, content_type: str = "text/event-stream", encoding: str = "") -> Answer:
    return read_answer([body], content_type=content_type, content_encoding=encoding)


@streams
def test_a_recorded_stream_is_read(path: Path) -> None:
    """What is remembered of an answer does not depend on how the server spells its stream."""
    expected, answer = EXPECTED[path.stem], read(path.read_bytes())
    assert [text_of(item) for item in answer.messages if item["type"] == "message"] == expected["text"]
    assert [[call.name, call.arguments] for call in calls_of(answer.messages)] == expected["calls"]
    assert [item["type"] for item in answer.messages] == expected["types"]
    assert (answer.finished, answer.error, answer.usage) == (expected["finished"], expected["error"], expected["usage"])
    assert answer.id.startswith("resp_68")
    if expected["usage"]:
        assert answer.prompt_tokens == 36


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
    words = [text_of(item) for item in read(body).messages]
    for cut in range(0, len(body), 11):
        found = [text_of(item) for item in read(body[:cut]).messages]
        assert len(found) <= len(words)
        assert all(whole_text.startswith(text) for text, whole_text in zip(found, words, strict=False))


def test_a_whole_response_is_the_stream_of_it() -> None:
    """Streamed or not, the same is remembered."""
    said = Round((message("Hello."),), usage={"input_tokens": 3, "total_tokens": 4})
    assert read(whole(said), content_type="application/json") == read(render(said, Style()))
    failed = {"object": "response", "id": "r", "status": "failed", "error": {"code": "x"}, "output": []}
    answer = read(json.dumps(failed).encode(), content_type="application/json")
    assert (answer.messages, answer.finished, answer.error) == ((), False, True)


def test_a_response_in_the_background_is_not_finished() -> None:
    """Its answer is fetched later; the id is known at once."""
    queued = {"object": "response", "id": "resp_1", "status": "queued", "output": []}
    answer = read(json.dumps(queued).encode(), content_type="application/json")
    assert (answer.messages, answer.finished, answer.error, answer.id) == ((), False, False, "resp_1")


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff"])
def test_what_can_not_be_read_is_no_answer(body: bytes) -> None:
    """Never a failure."""
    assert read(body, content_type="application/json") == NO_ANSWER


@quick
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["type", "response", "item", "output_index", "delta", "part", "content_index", "error"]),
            json_values | st.sampled_from(["response.output_item.added", "response.completed"]),
        ),
        max_size=4,
    )
)
def test_no_event_is_too_odd_to_be_read(events: list[JsonObject]) -> None:
    """Whatever a compatible server makes of the format, memproxy goes on."""
    reader = ResponseReader()
    for event in events:
        reader.add(event)
    assert isinstance(reader.answer().messages, tuple)
