"""Which values of a tool call's arguments the model could have read in what it was sent. Pure.

A call needs a value when the value stands in the conversation before the call: the agent could not have known it
otherwise. It is kept when it stands in the prompt as well, wherever that is.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from memproxy.records import JsonObject

MIN_CHARS = 3
"""What is shorter stands in every prompt by chance."""

_WORD_END = r"(?![0-9A-Za-z])"
_WORD_BEGIN = r"(?<![0-9A-Za-z])"


@dataclass(frozen=True, slots=True)
class Need:
    """One value that a call needed."""

    value: str
    is_kept: bool


def needs_of(answer: JsonObject, *, told: Sequence[JsonObject], sent: Sequence[JsonObject]) -> list[Need]:
    """The values that this answer's calls needed of the conversation that was `told`, and which of them were `sent`."""
    values = dict.fromkeys(value for call in answer.get("tool_calls") or () for value in _values_of(call))
    history, prompt = text_of(told), text_of(sent)
    return [Need(value, _stands_in(value, prompt)) for value in values if _stands_in(value, history)]


def _values_of(call: JsonObject) -> Iterator[str]:
    try:
        arguments = msgspec.json.decode(call["function"]["arguments"] or "{}")
    except msgspec.DecodeError:
        return
    for leaf in _leaves(arguments):
        if len(leaf) >= MIN_CHARS:
            yield leaf


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _stands_in(value: str, text: str) -> bool:
    """The value as a whole, in any case: `12` does not stand in `123`."""
    if value not in text and value.lower() not in text.lower():
        return False
    return re.search(_WORD_BEGIN + re.escape(value) + _WORD_END, text, re.IGNORECASE) is not None


def text_of(messages: Sequence[JsonObject]) -> str:
    """All words that a model reads in these messages, those of calls included."""
    return "\n".join(_texts(messages))


def _texts(messages: Sequence[JsonObject]) -> Iterator[str]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
        for call in message.get("tool_calls") or ():
            yield str(call["function"]["arguments"])
