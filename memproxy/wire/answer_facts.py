"""What a trace tells of an answer besides its words: who gave it, why it ended, what it cost; in any format. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memproxy.records import JsonObject
from memproxy.wire.recorded import read_recorded


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What was told; empty where nothing was."""

    id: str = ""
    model: str = ""
    finish_reasons: tuple[str, ...] = ()


def answer_facts(chunks: Sequence[bytes], *, content_type: str, content_encoding: str) -> AnswerFacts:
    """The facts in a response's recorded bytes. Never raises. Cost: every event is decoded."""
    recorded = read_recorded(chunks, content_type=content_type, content_encoding=content_encoding)
    told = [part for value in (recorded.objects if recorded else ()) for part in _parts(value)]
    return AnswerFacts(
        id=next(filter(None, (_text(part.get("id")) for part in told)), ""),
        model=next(filter(None, (_text(part.get("model")) for part in told)), ""),
        finish_reasons=tuple(dict.fromkeys(reason for part in told for reason in _reasons(part))),
    )


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What an answer cost, as its provider reports it; None where it does not."""

    prompt: int | None = None
    """All that was read, what came from the prompt cache included."""
    completion: int | None = None
    cached: int | None = None


def token_counts(usage: Mapping[str, Any] | None) -> TokenCounts:
    """The counts in `usage` as one of the three formats gives it."""
    usage = usage or {}
    details = next((each for name in _DETAILS if isinstance(each := usage.get(name), dict)), {})
    cached = _first(details, "cached_tokens")
    prompt = _first(usage, "prompt_tokens", "input_tokens")
    beside = [count for name in _BESIDE if (count := _first(usage, name)) is not None]
    if beside:  # Anthropic's input_tokens are those that the cache had nothing to do with
        prompt, cached = (prompt or 0) + sum(beside), _first(usage, _BESIDE[0]) or 0
    return TokenCounts(prompt, _first(usage, "completion_tokens", "output_tokens"), cached)


_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_BESIDE = ("cache_read_input_tokens", "cache_creation_input_tokens")


def _first(counts: Mapping[str, Any], *names: str) -> int | None:
    return next((count for name in names if isinstance(count := counts.get(name), int)), None)


def _parts(value: JsonObject) -> Iterator[JsonObject]:
    """Where formats tell it: the object itself, and below `response` (responses) and `message` (messages)."""
    inner = [value.get(name) for name in ("response", "message")]
    below = [each for each in inner if isinstance(each, dict)]
    yield from below
    if not below:
        yield value


def _reasons(part: JsonObject) -> Iterator[str]:
    choices = part.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            yield from filter(None, [_text(choice.get("finish_reason"))])
    delta = part.get("delta")
    yield from filter(None, [_text(part.get("stop_reason"))])
    yield from filter(None, [_text(delta.get("stop_reason"))] if isinstance(delta, dict) else [])
    status = _text(part.get("status"))
    if part.get("object") == "response" and status not in {"", "in_progress", "queued"}:
        details = part.get("incomplete_details")
        yield (_text(details.get("reason")) if isinstance(details, dict) else "") or status


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
