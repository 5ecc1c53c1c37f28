"""Join the answers of several rounds into the one that the client sees; hold tool calls back meanwhile. Pure.

A round's events flow on as they came until its first tool call. From there they are held, but only while every call so
far could be answered inside. Then either the round is *released* (all that was held goes out, and the rest flows) or
*answered* (its calls go nowhere, and the next round takes its place). Words that were held together with calls are said
before the next round's.

What makes one well-formed stream of several (each learned from what breaks clients): one role chunk, one id, one
`created`, one finish, one usage object with the sum and only if the model server sent one. A round that is the first
and is not answered passes byte for byte.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from memproxy.errors import UpstreamBrokenError
from memproxy.records import JsonObject, ToolCall
from memproxy.wire.chat_answers import AnswerReader
from memproxy.wire.sse import RawEvents, SseTooLargeError, encode_event, parse_stream

JOINT = "\n\n"
"""Between the words before a tool call and those after its result."""

MAX_READ_BYTES = 16 * 1024 * 1024
"""A round beyond this is not held, and passes on as it comes."""

ENDS_IN_CALLS = frozenset({"tool_calls", "stop"})
"""Finish reasons of a round whose calls are whole; some servers send the second. After `length` they may be cut."""


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


@dataclass(frozen=True, slots=True)
class Joined:
    """What the client has seen of the rounds before, which were all answered."""

    id: Any = None
    created: Any = None
    has_role: bool = False
    words: str = ""
    usage: JsonObject | None = None
    rounds: int = 0
    unsaid: tuple[bytes, ...] = ()
    """Events with words that were held together with calls: they go out before the next round's first."""


class Round:
    """One round's answer. Feed it; what comes back is to be written to the client."""

    def __init__(self, joined: Joined, may_answer: Callable[[str], bool], *, reads_on: bool = False) -> None:
        """`may_answer`: whether a tool of this name could be answered at all. `reads_on`: the first round is read to
        its end and given event by event also after its release."""
        self._joined = joined
        self._may_answer = may_answer
        self._reads_on = reads_on or joined.rounds > 0
        self._events = RawEvents(MAX_READ_BYTES)
        self._reader = AnswerReader()
        self._size = 0
        self._opening: list[bytes] = list(joined.unsaid)
        """Events before the first that says anything: they wait for it."""
        self._held: list[bytes] = []
        """Events from the first call on, as they are to be written."""
        self._id: Any = None
        self._created: Any = None
        self._finish_reason: Any = None
        self._names_role = False
        self._has_role = joined.has_role
        self._has_spoken = False
        self.is_holding = False
        self.is_released = False
        self.has_begun = False
        """The client gets something of this round: from here on, it is this round's answer."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """A piece of the stream, cut anywhere.

        Raises:
            UpstreamBrokenError: a later round begins with an error; the client got nothing of it.
        """
        if self.is_released and not self._reads_on:
            return [chunk]
        pieces = [piece for raw in self._events.feed(chunk) for piece in self._feed_event(raw)]
        if self.is_released and not self._reads_on:
            pieces += self._events.close()
        return pieces

    def close(self) -> list[bytes]:
        """The stream has ended; its last event may lack its blank line. Raises as `feed` does."""
        return [piece for raw in self._events.close() for piece in self._feed_event(raw)]

    def release(self) -> list[bytes]:
        """The round can't be answered: all that was held, and from now on what comes."""
        self.is_released = True
        return self._flushed()

    def break_off(self) -> list[bytes]:
        """The stream broke: all that was held, and of the first round the beginning of its next event."""
        return [*self.release(), *(() if self._joined.rounds else self._events.close())]

    def read_whole(self, body: bytes) -> None:
        """Take in an answer that is not streamed. Raises UpstreamBrokenError for one that can't follow other rounds."""
        value = _object(body) or {}
        choices = value.get("choices")
        given = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        self._read({**value, "choices": [{**each, "delta": _as_delta(each.get("message"))} for each in given]})
        if self._joined.rounds and self.message is None:
            raise UpstreamBrokenError("The model server's answer has no message.")

    @property
    def message(self) -> JsonObject | None:
        """The model's own message, as far as it was read."""
        return self._reader.answer().message

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Its calls of functions."""
        return self._reader.calls

    @property
    def is_finished(self) -> bool:
        return self._reader.finished

    @property
    def is_answerable(self) -> bool:
        """The round ended in nothing but whole calls that may be answered."""
        calls = self.calls
        return (
            self.is_holding
            and not self.is_released
            and self._finish_reason in ENDS_IN_CALLS
            and len(calls) == len(self._asked)
            and all(call.id for call in calls)
            and len({call.id for call in calls}) == len(calls)
        )

    @property
    def held_back(self) -> tuple[bytes, ...]:
        """All that waits: what the client gets of the round if the next one fails."""
        return (*self._opening, *self._held)

    def after(self) -> Joined:
        """What the client has seen once this round was answered inside."""
        before, words = self._joined, self._reader.words
        asides = [event for raw in self._held if (event := self._aside(raw)) is not None]
        return Joined(
            id=self._id if before.id is None else before.id,
            created=self._created if before.created is None else before.created,
            has_role=self._has_role,
            words=before.words + (JOINT if before.words and words else "") + words,
            usage=summed(before.usage, self._reader.usage),
            rounds=before.rounds + 1,
            unsaid=(*(() if self.has_begun else before.unsaid), *asides),
        )

    def _aside(self, raw: bytes) -> bytes | None:
        """What a held event says beside its calls, without any sign of an end."""
        value = _json_of(raw)
        choice = _first_choice(value)
        if value is None or choice is None or not isinstance(choice.get("delta"), dict):
            return None
        delta = {name: piece for name, piece in choice["delta"].items() if name not in {"role", "tool_calls"}}
        if not any(delta.values()):
            return None
        if self._names_role and not self._has_role:
            delta, self._has_role = {"role": "assistant", **delta}, True
        kept = {name: piece for name, piece in value.items() if name != "usage" or piece is None}
        return _encoded({**kept, "choices": [{**choice, "delta": delta, "finish_reason": None}]})

    def _feed_event(self, raw: bytes) -> list[bytes]:
        data = _data_of(raw)
        if data is None and self._joined.rounds:
            return [raw]  # a comment keeps the connection alive, and changes nothing
        value = _object(data) if data else None
        self._bound(len(raw))
        if value is not None:
            self._read(value)
        elif data not in {None, b"", b"[DONE]"}:
            self.is_released = True  # nobody knows what it says
        written = self._rewritten(raw, value)
        if written is None:
            return []
        if self.is_holding and not self.is_released:
            self._held.append(written)
            return []
        if self._may_wait(value):
            self._opening.append(written)
            return []
        return self._flushed(written)

    def _bound(self, size: int) -> None:
        self._size += size
        if self._size > MAX_READ_BYTES:
            self.is_released = True

    def _may_wait(self, value: JsonObject | None) -> bool:
        """The event only opens the answer, or stands where nothing of a later round was said yet."""
        if self.has_begun or self.is_released:
            return False
        return bool(self._joined.rounds) if value is None else not _says_something(value)

    def _flushed(self, *more: bytes) -> list[bytes]:
        out = [*self._opening, *self._held, *more]
        self._opening, self._held = [], []
        if out:
            self.has_begun = True
            self._has_role = self._has_role or self._names_role
        return out

    def _read(self, value: JsonObject) -> None:
        """Take in what an object of the stream says, and what it means for holding."""
        if value.get("error") is not None:
            if self._joined.rounds and not self.has_begun:
                raise UpstreamBrokenError("The model server answered with an error.")
            self.is_released = True
        self._reader.add(value)
        self._id = self._id or value.get("id")
        self._created = self._created or value.get("created")
        choice = _first_choice(value)
        if self._reader.is_unusual or len(value.get("choices") or ()) > 1:
            self.is_released = True
        if choice is None:
            return
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._look(delta)

    def _look(self, delta: JsonObject) -> None:
        self._names_role = self._names_role or bool(delta.get("role"))
        if delta.get("function_call") or delta.get("refusal"):
            self.is_released = True
        if delta.get("tool_calls"):
            self.is_holding = True
            self.is_released = self.is_released or not all(map(self._could_answer, self._asked))

    @property
    def _asked(self) -> list[JsonObject]:
        """The calls of any kind, as far as they were read."""
        asked = (self.message or {}).get("tool_calls")
        return asked if isinstance(asked, list) else []

    def _could_answer(self, call: JsonObject) -> bool:
        """Whether nothing speaks against it yet: the name of a call may come after its id."""
        function = call.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        is_function = call.get("type") == "function" and "custom" not in call
        return is_function and (not name or self._may_answer(str(name)))

    def _rewritten(self, raw: bytes, value: JsonObject | None) -> bytes | None:
        """The event as the client may see it after earlier rounds; None for one that it must not see."""
        before = self._joined
        if not before.rounds or value is None:
            return raw
        value = dict(value)
        for name, seen in (("id", before.id), ("created", before.created)):
            if name in value and seen is not None:
                value[name] = seen
        has_usage = isinstance(value.get("usage"), dict)
        if has_usage:
            value["usage"] = summed(before.usage, value["usage"])
        choice = _first_choice(value)
        if choice is not None and isinstance(choice.get("delta"), dict):
            delta = self._delta_after(choice["delta"])
            is_said_before = delta != choice["delta"] and not any(delta.values())
            if is_said_before and choice.get("finish_reason") is None and not has_usage:
                return None
            value["choices"] = [{**choice, "delta": delta} if each is choice else each for each in value["choices"]]
        return _encoded(value)

    def _delta_after(self, delta: JsonObject) -> JsonObject:
        """A delta of a later round: without a second role, its first words set off from those before."""
        delta = dict(delta)
        if self._joined.has_role:
            delta.pop("role", None)
        words = delta.get("content")
        if isinstance(words, str) and words and not self._has_spoken:
            self._has_spoken = True
            if self._joined.words:
                delta["content"] = JOINT + words
        return delta


def joined_object(body: bytes, joined: Joined) -> bytes:
    """A whole (not streamed) answer after earlier rounds: their words before its own, their usage added to its."""
    value = _object(body)
    choice = _first_choice(value)
    if not joined.rounds or value is None or choice is None:
        return body
    message = choice["message"]
    words = message.get("content")
    if joined.words and isinstance(words, list):
        message["content"] = [{"type": "text", "text": joined.words + (JOINT if words else "")}, *words]
    elif joined.words:
        message["content"] = joined.words + (JOINT + words if words else "")
    usage = summed(joined.usage, value.get("usage"))
    if usage is not None:
        value["usage"] = usage
    return msgspec.json.encode(value)


def _says_something(value: JsonObject) -> bool:
    """Anything but a first chunk that only opens the answer; such a chunk can wait for the next."""
    choice = _first_choice(value)
    if choice is None:
        return bool(value.get("usage") or value.get("choices")) or "error" in value
    delta = choice.get("delta")
    if choice.get("finish_reason") is not None or not isinstance(delta, dict):
        return True
    return any(piece for name, piece in delta.items() if name != "role")


def _first_choice(value: JsonObject | None) -> JsonObject | None:
    choices = value.get("choices") if value is not None else None
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("index", 0) == 0:
            return choice
    return None


def _as_delta(message: object) -> JsonObject:
    """A whole message as the one delta of a stream: its calls get the indexes that a stream's have."""
    if not isinstance(message, dict):
        return {}
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [{**call, "index": at} for at, call in enumerate(calls) if isinstance(call, dict)]}


def _data_of(raw: bytes) -> bytes | None:
    """The data of an event, or what there is of one that is too large; None for a comment."""
    try:
        events = parse_stream([raw], MAX_READ_BYTES)
    except SseTooLargeError:
        return raw
    return events[0].data if events else None


def _json_of(raw: bytes) -> JsonObject | None:
    data = _data_of(raw)
    return _object(data) if data else None


def _object(data: bytes) -> JsonObject | None:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _encoded(value: JsonObject) -> bytes:
    return encode_event(msgspec.json.encode(value))
