"""Answers that cost the scripted model nothing, chosen by the name of the model: the upstream of the bench.

| model | JSON | stream |
|---|---|---|
| `bench-1kb` | about 1.2 KB | 50 events |
| `bench-60kb` | about 60 KB | 50 events, about 60 KB of text in all |
| `bench-slow-stream` | about 1.2 KB | 50 events, 10 ms apart |

They are made once, so every answer of a model has the same id, and requests are not checked.
"""

from dataclasses import dataclass, replace

import msgspec

from memproxy.demo.deliver import Delivery, streamed, whole
from memproxy.demo.provider_answers import completion_body, completion_events, usage
from memproxy.demo.script import Reply

STREAM_EVENTS = 50
"""Role chunk, words, finish chunk and `[DONE]` together; a usage chunk that was asked for comes on top."""
_WORDS = STREAM_EVENTS - 3
_MARK = b'"bench-'
_CREATED = 1_700_000_000


@dataclass(frozen=True, slots=True)
class _Bench:
    model: str
    text_bytes: int
    event_delay_s: float = 0.0


_BENCHES = (
    _Bench("bench-1kb", 700),
    _Bench("bench-60kb", 60_000),
    _Bench("bench-slow-stream", 700, event_delay_s=0.010),
)
BENCH_MODELS = tuple(bench.model for bench in _BENCHES)


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Asked(msgspec.Struct):
    """What of a request decides about the answer; everything else is skipped undecoded."""

    model: str
    stream: bool | None = False
    stream_options: _StreamOptions | None = None


class BenchAnswers:
    """The prepared answers. Cost of one: a search of the body, and its decoding without building the messages."""

    def __init__(self) -> None:
        self._asked = msgspec.json.Decoder(_Asked)
        self._answers: dict[tuple[str, bool, bool], Delivery] = {}
        for bench in _BENCHES:
            reply = Reply(_text(bench.text_bytes))
            counts = usage(reply, 300, cached_tokens=0, choices=1)
            body = completion_body(reply, {"model": bench.model}, created=_CREATED, usage=counts)
            for include_usage in (False, True):
                asked = {"model": bench.model, "stream_options": {"include_usage": include_usage}}
                events = completion_events(reply, asked, created=_CREATED, usage=counts)
                self._answers[bench.model, False, include_usage] = whole(body)
                self._answers[bench.model, True, include_usage] = replace(
                    streamed(events), event_delay_s=bench.event_delay_s
                )

    def find(self, raw_body: bytes) -> Delivery | None:
        """The answer to a request of one of the bench models; None to every other request."""
        if _MARK not in raw_body:
            return None
        try:
            asked = self._asked.decode(raw_body)
        except msgspec.DecodeError:
            return None
        include_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return self._answers.get((asked.model, bool(asked.stream), include_usage))


def _text(size_bytes: int) -> str:
    """A text of `_WORDS` words and about that many bytes."""
    letters = size_bytes // _WORDS - 1
    return " ".join("abcdefghijklmnopqrstuvwxyz"[index % 26] * letters for index in range(_WORDS))
