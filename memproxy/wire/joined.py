"""What several rounds have in common once they are one answer, in whatever format. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from memproxy.records import JsonObject
from memproxy.wire.sse import SseTooLargeError, encode_event, parse_stream

JOINT = "\n\n"
"""Between the words before a tool call and those after its result, where a format knows one text only."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What the client has seen of the rounds before, which were all answered."""

    id: Any = None
    """The id that the client knows the answer by, as soon as it has seen one."""
    created: Any = None
    has_role: bool = False
    """The role was said, in formats whose stream says it."""
    words: str = ""
    usage: JsonObject | None = None
    rounds: int = 0
    unsaid: tuple[bytes, ...] = ()
    """Events with words that were held together with calls: they go out before the next round's first."""
    parts: tuple[JsonObject, ...] = ()
    """Whole parts of the answer, in formats whose answer is a list of them."""
    events: int = 0
    """The number of the next event, in formats that count them."""


def summed(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> JsonObject | None:
    """Two usage objects as one: numbers added, nested objects too; anything else is the second's if it has it."""
    if first is None or second is None:
        return dict(second or first or {}) or None
    total: JsonObject = dict(first)
    for name, value in second.items():
        before = total.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            total[name] = summed(before, value)
        elif _is_number(value) and _is_number(before):
            total[name] = before + value
        elif value is not None:
            total[name] = value
        else:
            total.setdefault(name, None)
    return total


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def object_of(data: bytes) -> JsonObject | None:
    """The JSON object in `data`, if it is one."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def event_object(raw: bytes) -> JsonObject | None:
    """The JSON object that one raw event carries."""
    try:
        events = parse_stream([raw])
    except SseTooLargeError:
        return None
    return object_of(events[0].data) if events else None


def encoded(value: JsonObject, *, event: str | None = None) -> bytes:
    """An object as one event."""
    return encode_event(msgspec.json.encode(value), event)
