"""Rounds of chat completions: what the chunks of one say, and how they look behind those of earlier rounds. Pure.

What makes one well-formed stream of several (each learned from what breaks clients): one role chunk, one id, one
`created`, one finish, one usage object with the sum and only if the model server sent one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from memproxy.errors import UpstreamBrokenError
from memproxy.records import JsonObject, ToolCall
from memproxy.wire.chat_answers import AnswerReader
from memproxy.wire.joined import JOINT, Joined, encoded, event_object, object_of, summed

ENDS_IN_CALLS = frozenset({"tool_calls", "stop"})
"""Finish reasons of a round whose calls are whole; some servers send the second. After `length` they may be cut."""


class ChatReading:
    """One round's answer, chunk by chunk."""

    id = ""
    """A next request never refers to an answer."""

    def __init__(self, joined: Joined, may_answer: Callable[[str], bool]) -> None:
        self._joined = joined
        self._may_answer = may_answer
        self._reader = AnswerReader()
        self._id: Any = None
        self._created: Any = None
        self._finish_reason: Any = None
        self._names_role = False
        self._has_role = joined.has_role
        self._has_spoken = False
        self.holds = False
        self.is_clients = False
        self.has_error = False

    @property
    def messages(self) -> tuple[JsonObject, ...]:
        """The model's one message."""
        return self._reader.answer().messages

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Its calls of functions."""
        return self._reader.calls

    @property
    def is_finished(self) -> bool:
        """There was a finish reason."""
        return self._reader.finished

    @property
    def ends_in_calls(self) -> bool:
        """The round ended in nothing but whole calls of functions."""
        calls = self.calls
        return self.holds and self._finish_reason in ENDS_IN_CALLS and len(calls) == len(self._asked)

    def read(self, value: JsonObject) -> None:
        """Take in a chunk."""
        if value.get("error") is not None:
            self.has_error = self.is_clients = True
        self._reader.add(value)
        self._id = self._id or value.get("id")
        self._created = self._created or value.get("created")
        choice = _first_choice(value)
        if self._reader.is_unusual or len(value.get("choices") or ()) > 1:
            self.is_clients = True
        if choice is None:
            return
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._look(delta)

    def read_whole(self, value: JsonObject) -> None:
        """Take in an answer that is not streamed. Raises UpstreamBrokenError for one that can't follow other rounds."""
        choices = value.get("choices")
        given = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        self.read({**value, "choices": [{**each, "delta": _as_delta(each.get("message"))} for each in given]})
        if self._joined.rounds and not self.messages:
            raise UpstreamBrokenError("The model server's answer has no message.")

    def _look(self, delta: JsonObject) -> None:
        self._names_role = self._names_role or bool(delta.get("role"))
        if delta.get("function_call") or delta.get("refusal"):
            self.is_clients = True
        if delta.get("tool_calls"):
            self.holds = True
            self.is_clients = self.is_clients or not all(map(self._could_answer, self._asked))

    @property
    def _asked(self) -> list[JsonObject]:
        """The calls of any kind, as far as they were read."""
        messages = self.messages
        asked = messages[0].get("tool_calls") if messages else None
        return asked if isinstance(asked, list) else []

    def _could_answer(self, call: JsonObject) -> bool:
        """Whether nothing speaks against it yet: the name of a call may come after its id."""
        function = call.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        is_function = call.get("type") == "function" and "custom" not in call
        return is_function and (not name or self._may_answer(str(name)))

    def says(self, value: JsonObject) -> bool:
        """Anything but a first chunk that only opens the answer; such a chunk can wait for the next."""
        choice = _first_choice(value)
        if choice is None:
            return bool(value.get("usage") or value.get("choices")) or "error" in value
        delta = choice.get("delta")
        if choice.get("finish_reason") is not None or not isinstance(delta, dict):
            return True
        return any(piece for name, piece in delta.items() if name != "role")

    def shown(self) -> None:
        """The role is among what the client gets, if it was said."""
        self._has_role = self._has_role or self._names_role

    def rewritten(self, raw: bytes, value: JsonObject) -> bytes | None:
        """The chunk with the id of the first round, no second role, and all usage; None for one that adds nothing."""
        before = self._joined
        if not before.rounds:
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
        return encoded(value)

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

    def after(self, opening: Sequence[bytes], held: Sequence[bytes], *, has_begun: bool) -> Joined:
        """What the client has seen: the opening is said again by the next round, what was held beside calls is kept."""
        before, words = self._joined, self._reader.words
        asides = [event for raw in held if (event := self._aside(raw)) is not None]
        return Joined(
            id=self._id if before.id is None else before.id,
            created=self._created if before.created is None else before.created,
            has_role=self._has_role,
            words=before.words + (JOINT if before.words and words else "") + words,
            usage=summed(before.usage, self._reader.usage),
            rounds=before.rounds + 1,
            unsaid=(*(() if has_begun else before.unsaid), *asides),
        )

    def _aside(self, raw: bytes) -> bytes | None:
        """What a held event says beside its calls, without any sign of an end."""
        value = event_object(raw)
        choice = _first_choice(value)
        if value is None or choice is None or not isinstance(choice.get("delta"), dict):
            return None
        delta = {name: piece for name, piece in choice["delta"].items() if name not in {"role", "tool_calls"}}
        if not any(delta.values()):
            return None
        if self._names_role and not self._has_role:
            delta, self._has_role = {"role": "assistant", **delta}, True
        kept = {name: piece for name, piece in value.items() if name != "usage" or piece is None}
        return encoded({**kept, "choices": [{**choice, "delta": delta, "finish_reason": None}]})


def joined_object(body: bytes, joined: Joined) -> bytes:
    """A whole (not streamed) answer after earlier rounds: their words before its own, their usage added to its."""
    value = object_of(body)
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
