"""Answers that cost the scripted model nothing, chosen by the name of the model: the upstream of the bench.

| model | JSON | stream |
|---|---|---|
| `bench-1kb` | about 1.2 KB | 50 events |
| `bench-60kb` | about 60 KB | 50 events, about 60 KB of text in all |
| `bench-slow-stream` | about 1.2 KB | 50 events, 10 ms apart |
| `bench-lookup` | asks for `search_orders` first, the same each time, then about 1.2 KB | the same as 50 events |

They are made once, so every answer of a model has the same id, and requests are not checked. Only calls differ in their
ids: as many as there are results in the request are taken.
"""

from dataclasses import dataclass, replace

import msgspec

from memproxy.demo.deliver import Delivery, streamed, whole
from memproxy.demo.provider_answers import completion_body, completion_events, usage
from memproxy.demo.script import Reply, ToolCallReply

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


LOOKUP_MODEL = "bench-lookup"
_BENCHES = (
    _Bench("bench-1kb", 700),
    _Bench("bench-60kb", 60_000),
    _Bench("bench-slow-stream", 700, event_delay_s=0.010),
    _Bench(LOOKUP_MODEL, 700),
)
BENCH_MODELS = tuple(bench.model for bench in _BENCHES)
_LOOKUPS = 64
"""Different ids of calls; a longer conversation begins with the first again."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Asked(msgspec.Struct):
    """What of a request decides about the answer; everything else is skipped undecoded."""

    model: str
    stream: bool | None = False
    stream_options: _StreamOptions | None = None


class _Message(msgspec.Struct):
    role: str


class _Told(msgspec.Struct):
    """What decides whether a look-up comes first."""

    messages: list[_Message]


class BenchAnswers:
    """The prepared answers. Cost of one: a search of the body, and its decoding without building the messages."""

    def __init__(self) -> None:
        self._asked = msgspec.json.Decoder(_Asked)
        self._told = msgspec.json.Decoder(_Told)
        self._answers: dict[_Key, Delivery] = {}
        for bench in _BENCHES:
            self._answers |= _prepared(bench, Reply(_text(bench.text_bytes)))
        lookup = _Bench(LOOKUP_MODEL, 0)
        self._lookups = [_prepared(lookup, _lookup(number)) for number in range(_LOOKUPS)]

    def find(self, raw_body: bytes) -> Delivery | None:
        """The answer to a request of one of the bench models; None to every other request."""
        if _MARK not in raw_body:
            return None
        try:
            asked = self._asked.decode(raw_body)
        except msgspec.DecodeError:
            return None
        include_usage = asked.stream_options is not None and asked.stream_options.include_usage
        key = (asked.model, bool(asked.stream), include_usage)
        if asked.model == LOOKUP_MODEL and (number := self._lookup_due(raw_body)) is not None:
            return self._lookups[number % _LOOKUPS][key]
        return self._answers.get(key)

    def _lookup_due(self, raw_body: bytes) -> int | None:
        """How many look-ups came before, when it is time for one; None when its result has just come."""
        try:
            roles = [message.role for message in self._told.decode(raw_body).messages]
        except msgspec.DecodeError:
            return None
        return None if roles[-1:] == ["tool"] else roles.count("tool")


_Key = tuple[str, bool, bool]
"""Model, whether it is a stream, whether it tells its usage."""


def _prepared(bench: _Bench, reply: Reply) -> dict[_Key, Delivery]:
    counts = usage(reply, 300, cached_tokens=0, choices=1)
    body = completion_body(reply, {"model": bench.model}, created=_CREATED, usage=counts)
    answers = {}
    for include_usage in (False, True):
        asked = {"model": bench.model, "stream_options": {"include_usage": include_usage}}
        events = completion_events(reply, asked, created=_CREATED, usage=counts)
        answers[bench.model, False, include_usage] = whole(body)
        answers[bench.model, True, include_usage] = replace(streamed(events), event_delay_s=bench.event_delay_s)
    return answers


def _lookup(number: int) -> Reply:
    return Reply(tool_calls=(ToolCallReply("search_orders", {"query": "laptop"}, id=f"call_lookup_{number}"),))


def _text(size_bytes: int) -> str:
    """A text of `_WORDS` words and about that many bytes."""
    letters = size_bytes // _WORDS - 1
    return " ".join("abcdefghijklmnopqrstuvwxyz"[index % 26] * letters for index in range(_WORDS))
