"""Join the streams of several rounds into the one that the client sees; hold tool calls back meanwhile. Pure.

A round's events flow on as they came until its first tool call. From there they are held, but only while every call so
far could be answered inside. Then either the round is *released* (all that was held goes out, and the rest flows) or
*answered* (nothing that was held goes out, and the next round takes its place).

What makes one well-formed stream of several (each learned from what breaks clients): one role chunk, one id, one
`created`, one finish, one usage object with the sum and only if the model server sent one. A round that is the first
and is not answered passes byte for byte.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from memproxy.records import JsonObject, ToolCall
from memproxy.wire.chat_answers import AnswerReader
from memproxy.wire.sse import encode_event, parse_stream

JOINT = "\n\n"
"""Between the words before a tool call and those after its result."""


def summed(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> JsonObject | None:
    """Two usage objects as one: numbers added, nested objects too."""
    if first is None or second is None:
        return dict(second or first or {}) or None
    total: JsonObject = dict(first)
    for name, value in second.items():
        before = total.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            total[name] = summed(before, value)
        elif isinstance(value, int | float) and isinstance(before, int | float):
            total[name] = before + value
        else:
            total[name] = value
    return total


@dataclass(frozen=True, slots=True)
class Joined:
    """What the client has seen of the rounds before."""

    id: Any = None
    created: Any = None
    has_role: bool = False
    words: str = ""
    usage: JsonObject | None = None
    rounds: int = 0


@dataclass(slots=True)
class Round:
    """One round's stream. Feed it event by event; what comes back is to be written to the client."""

    joined: Joined
    may_answer: Callable[[str], bool]
    """Whether a tool of this name could be answered at all."""
    reader: AnswerReader = field(default_factory=AnswerReader)
    held: list[bytes] = field(default_factory=list)
    """Events that wait for the verdict, as they are to be written."""
    leading: list[bytes] = field(default_factory=list)
    """Events before the first that says anything: they wait for it."""
    is_released: bool = False
    is_holding: bool = False
    words: str = ""
    """Of this round, as far as they were written to the client."""
    first_id: Any = None
    first_created: Any = None
    has_role: bool = False

    def feed(self, raw: bytes) -> list[bytes]:
        """One event of the model server."""
        value = _json_of(raw)
        if value is not None:
            self.reader.add(value)
            self._look(value)
        written = self._rewritten(raw, value)
        if written is None:
            return []
        if self.is_released:
            return self._flushed(written)
        if self.is_holding:
            self.held.append(written)
            return []
        if not _says_something(value):
            self.leading.append(written)
            return []
        self.words = self.reader.words
        return self._flushed(written)

    def _look(self, value: JsonObject) -> None:
        """Note what the event means for holding."""
        if self.first_id is None:
            self.first_id, self.first_created = value.get("id"), value.get("created")
        if self.is_released:
            return
        if value.get("error") is not None or self.reader.is_unusual:
            self.is_released = True
            return
        names = [call.name for call in self.reader.calls]
        if names:
            self.is_holding = True
            self.is_released = not all(self.may_answer(name) for name in names)

    def release(self) -> list[bytes]:
        """The round can't be answered: all that was held, and from now on what comes."""
        self.is_released = True
        return self._flushed()

    def _flushed(self, *more: bytes) -> list[bytes]:
        out = [*self.leading, *self.held, *more]
        self.leading, self.held = [], []
        return out

    @property
    def complete_calls(self) -> tuple[ToolCall, ...]:
        """The calls whose arguments are complete: all before the one in progress, and all once the round finished."""
        calls = self.reader.calls
        return calls if self.reader.finished else calls[:-1]

    @property
    def is_answerable(self) -> bool:
        """The round ended in nothing but calls that may be answered."""
        return self.is_holding and not self.is_released and self.reader.finished

    def after(self) -> Joined:
        """What the client has seen once this round was answered inside."""
        before = self.joined
        words = before.words + (JOINT if before.words and self.words else "") + self.words
        return Joined(
            id=before.id if before.rounds else self.first_id,
            created=before.created if before.rounds else self.first_created,
            has_role=before.has_role or bool(self.words),
            words=words,
            usage=summed(before.usage, self.reader.usage),
            rounds=before.rounds + 1,
        )

    def _rewritten(self, raw: bytes, value: JsonObject | None) -> bytes | None:
        """The event as the client may see it after earlier rounds; None for one that it must not see."""
        before = self.joined
        if not before.rounds or value is None:
            return raw
        value = dict(value)
        if "id" in value:
            value["id"] = before.id
        if "created" in value:
            value["created"] = before.created
        if isinstance(value.get("usage"), dict):
            value["usage"] = summed(before.usage, value["usage"])
        choices = value.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            choice = self._choice_after(choices[0])
            if choice is None and not isinstance(value.get("usage"), dict):
                return None
            value["choices"] = [choice] if choice is not None else []
        return encode_event(msgspec.json.encode(value))

    def _choice_after(self, choice: JsonObject) -> JsonObject | None:
        """A choice of a later round: without a second role, its first words set off from those before."""
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return choice
        delta = dict(delta)
        if self.joined.has_role and "role" in delta:
            del delta["role"]
            if not any(delta.values()) and choice.get("finish_reason") is None:
                return None
        if delta.get("content") and not self.has_role and self.joined.words:
            delta["content"] = JOINT + delta["content"]
        self.has_role = self.has_role or bool(delta.get("content"))
        return {**choice, "delta": delta}


def _says_something(value: JsonObject | None) -> bool:
    """Anything but a first chunk that only opens the answer; such a chunk can wait for the next."""
    if value is None:
        return False
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return bool(value.get("usage")) or "error" in value
    delta = choices[0].get("delta")
    if choices[0].get("finish_reason") is not None or not isinstance(delta, dict):
        return True
    return any(piece for name, piece in delta.items() if name != "role")


def _json_of(raw: bytes) -> JsonObject | None:
    events = parse_stream([raw])
    if not events:
        return None
    try:
        value = msgspec.json.decode(events[0].data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def joined_object(body: bytes, joined: Joined) -> bytes:
    """A whole (not streamed) answer after earlier rounds: their words before its own, their usage added to its."""
    if not joined.rounds:
        return body
    value = msgspec.json.decode(body)
    choice = value["choices"][0]
    message = choice["message"]
    if joined.words:
        words = message.get("content") or ""
        message["content"] = joined.words + (JOINT + words if words else "")
    usage = summed(joined.usage, value.get("usage"))
    if usage is not None:
        value["usage"] = usage
    return msgspec.json.encode(value)
