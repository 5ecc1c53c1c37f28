"""The answers of the bench have the sizes that its figures are quoted for."""

import json
from typing import Any

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


def test_a_look_up_comes_before_each_answer() -> None:
    """The bench of repeated tool calls needs the very same call for each question, under an id of its own."""
    find = BenchAnswers().find
    asked: dict[str, Any] = {"model": "bench-lookup", "messages": [{"role": "user", "content": "Where is it?"}]}
    calls = []
    for number in range(3):
        answer = find(json.dumps(asked).encode())
        assert answer is not None
        (call,) = json.loads(answer.pieces[0])["choices"][0]["message"]["tool_calls"]
        calls.append(call)
        asked["messages"] += [{"role": "tool", "tool_call_id": call["id"], "content": "[]"}]
        answer = find(json.dumps(asked).encode())
        assert answer is not None
        assert json.loads(answer.pieces[0])["choices"][0]["finish_reason"] == "stop"
        asked["messages"] += [{"role": "assistant", "content": "There."}, {"role": "user", "content": f"And {number}?"}]
    assert len({call["id"] for call in calls}) == 3
    assert len({json.dumps(call["function"]) for call in calls}) == 1


def test_a_look_up_is_streamed_too() -> None:
    """Agents that stream are answered inside as well."""
    answer = BenchAnswers().find(b'{"model":"bench-lookup","stream":true,"messages":[{"role":"user"}]}')
    assert answer is not None
    events = parse_stream(answer.pieces)
    assert b"search_orders" in b"".join(answer.pieces)
    assert len(events) == len(answer.pieces) > 3
