"""The answers of the bench have the sizes that its figures are quoted for."""

import json

import pytest

from memproxy.demo.bench_answers import BENCH_MODELS, STREAM_EVENTS, BenchAnswers
from memproxy.wire.sse import parse_stream


@pytest.mark.parametrize(("model", "size"), [("bench-1kb", 1200), ("bench-60kb", 60_000), ("bench-slow-stream", 1200)])
def test_a_json_answer_has_its_size(model: str, size: int) -> None:
    """Figures of different runs are only comparable when the bytes are the same."""
    answer = BenchAnswers().find(b'{"messages": [], "model": "%s", "stream": null}' % model.encode())
    assert answer is not None
    assert abs(len(answer.pieces[0]) - size) < 0.1 * size
    assert json.loads(answer.pieces[0])["model"] == model
    assert (b"content-length", b"%d" % len(answer.pieces[0])) in answer.headers


@pytest.mark.parametrize("model", BENCH_MODELS)
def test_a_stream_has_fifty_events(model: str) -> None:
    """Of a stream the number of events is the cost."""
    find = BenchAnswers().find
    answer = find(b'{"model":"%s","stream":true}' % model.encode())
    with_usage = find(b'{"model":"%s","stream":true,"stream_options":{"include_usage":true}}' % model.encode())
    assert answer is not None
    assert with_usage is not None
    assert len(parse_stream(answer.pieces)) == len(answer.pieces) == STREAM_EVENTS
    assert len(with_usage.pieces) == STREAM_EVENTS + 1
    assert answer.event_delay_s == (0.010 if model == "bench-slow-stream" else 0.0)


@pytest.mark.parametrize(
    "raw_body",
    [b"", b'{"model":"gpt-4o"}', b'{"model":"bench-', b'{"model":"bench-none"}', b'{"model":1,"a":"bench-1kb"}'],
)
def test_other_requests_are_left_to_the_script(raw_body: bytes) -> None:
    """A word in the prompt does not make a bench."""
    assert BenchAnswers().find(raw_body) is None
