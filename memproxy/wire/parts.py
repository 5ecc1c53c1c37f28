"""Answers that are lists of parts (items, content blocks): what joins several and what strains one. Pure.

A joined answer has the parts of each round in their order, without the calls that were answered inside and the thoughts
that led to them. Thoughts are therefore held until it is known what they lead to. What is one for the client: the first
id that it saw, the numbers of events and parts, and usage. As long as nothing of the earlier rounds was shown, the last
one keeps its own.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from memproxy.records import JsonObject, ToolCall
from memproxy.wire.joined import JOINT, Joined, event_object, summed
from memproxy.wire.sse import encode_event, parse_stream


class Kind(enum.Enum):
    """What a part is to whoever joins rounds."""

    SPOKEN = "spoken"
    """The client gets it, and need do nothing."""
    THOUGHT = "thought"
    CALL = "call"
    """Of a function."""
    OTHER = "other"
    """It asks something of the client that nobody else can do."""


def spoken_parts(parts: Sequence[JsonObject], kind_of: Callable[[Mapping[str, Any]], Kind]) -> list[JsonObject]:
    """The parts of an answered round that the client gets: no calls, and no thoughts that led to one."""
    spoken: list[JsonObject] = []
    thoughts: list[JsonObject] = []
    asks = False
    for part in parts:
        kind = kind_of(part)
        if kind is Kind.CALL:
            asks, thoughts = True, []
        elif kind is Kind.THOUGHT:
            thoughts += [] if asks else [part]
        else:
            spoken += [*thoughts, part]
            thoughts = []
    return spoken


class PartsReading(ABC):
    """One round's answer, event by event."""

    index: ClassVar[str]
    """The field of an event that tells which part it is about."""
    number: ClassVar[str] = ""
    """The field that numbers events, in formats that do."""
    opens: ClassVar[frozenset[str]]
    """Types of events that say no more than that the answer has begun."""

    def __init__(self, joined: Joined, may_answer: Callable[[str], bool]) -> None:
        self._joined = joined
        self._may_answer = may_answer
        self._number = joined.events
        """Of the next event."""
        self._shown_number = joined.events
        self._begun: list[int] = []
        """The indexes of the parts that have begun, in their order."""
        self._shown_parts = 0
        """So many of them the client has seen."""
        self._asks = False
        self.holds = False
        self.is_clients = False

    @property
    @abstractmethod
    def parts(self) -> tuple[JsonObject, ...]:
        """The parts so far."""

    @property
    @abstractmethod
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls of functions among them."""

    @property
    @abstractmethod
    def usage(self) -> JsonObject | None:
        """What the round cost."""

    @property
    @abstractmethod
    def shown_id(self) -> tuple[str, Any]:
        """The id and the time by which a client knows this round's answer."""

    @property
    @abstractmethod
    def is_whole(self) -> bool:
        """The answer has ended as one ends that waits for results, or for nothing."""

    @abstractmethod
    def kind_of(self, part: Mapping[str, Any]) -> Kind:
        """What a part is."""

    @abstractmethod
    def text_of(self, part: Mapping[str, Any]) -> str:
        """The words of a part."""

    @abstractmethod
    def changed(self, value: JsonObject) -> JsonObject:
        """An event of a later round with what it tells of the whole answer, such as usage."""

    @property
    def ends_in_calls(self) -> bool:
        """The answer is whole, and all that it waits for are functions."""
        return self._asks and not self.is_clients and self.is_whole and bool(self.calls)

    def begin(self, index: object, part: Mapping[str, Any]) -> None:
        """A part has begun; without an index nobody can tell its events from those of others."""
        if isinstance(index, int):
            self._begun.append(index)
        else:
            self.is_clients = True
        self.look(part)

    def look(self, part: Mapping[str, Any]) -> None:
        """What a part means: calls are held, and thoughts until it is known what they lead to."""
        kind = self.kind_of(part)
        if kind is Kind.CALL:
            self._asks = True
            self.is_clients = self.is_clients or not self._may_answer(str(part.get("name") or ""))
        elif kind is Kind.OTHER:
            self.is_clients = True
        self.holds = self._asks or kind is Kind.THOUGHT

    def count(self, value: JsonObject) -> None:
        """Note the number of an event that keeps its own: of earlier rounds, nothing was shown."""
        number = value.get(self.number)
        if self._joined.id is None and isinstance(number, int):
            self._number = number + 1

    def says(self, value: JsonObject) -> bool:
        """Anything but an event that only opens the answer."""
        return str(value.get("type")) not in self.opens

    def shown(self) -> None:
        """The client has seen all events so far."""
        self._shown_number = self._number
        self._shown_parts = len(self._begun)

    def rewritten(self, raw: bytes, value: JsonObject) -> bytes | None:
        """The event with the numbers that go on from what the client has seen; None for a second opening."""
        before = self._joined
        if not before.rounds:
            return raw
        if before.id is None:
            changed = self.changed(value)
            return raw if changed == value else encoded_like(raw, changed)
        if str(value.get("type")) in self.opens:
            return None
        changed = self.changed(value)
        if self.number in value:
            changed = {**changed, self.number: self._number}
        self._number += 1
        if isinstance(value.get(self.index), int):
            changed = {**changed, self.index: value[self.index] + len(before.parts)}
        return encoded_like(raw, changed)

    def after(self, opening: Sequence[bytes], held: Sequence[bytes], *, has_begun: bool) -> Joined:
        """What the client has seen: words said beside calls are shown before the next round."""
        before, spoken = self._joined, spoken_parts(self.parts, self.kind_of)
        number = self._shown_number if has_begun else self._opened(opening)
        asides = self._asides(held, spoken, number)
        is_seen = before.id is not None or has_begun or bool(asides)
        answer_id, created = self.shown_id if before.id is None else (before.id, before.created)
        words = [self.text_of(part) for part in spoken]
        return Joined(
            id=answer_id if is_seen else None,
            created=created if is_seen else None,
            words=JOINT.join(text for text in (before.words, *words) if text),
            usage=summed(before.usage, self.usage),
            rounds=before.rounds + 1,
            unsaid=(*opening, *asides) if is_seen else (),
            parts=(*before.parts, *spoken),
            events=number + len(asides),
        )

    def _opened(self, opening: Sequence[bytes]) -> int:
        """The number of the event behind those that wait."""
        if self._joined.id is not None:
            return self._joined.events
        last = event_object(opening[-1]) if opening else None
        number = last.get(self.number) if last else None
        return number + 1 if isinstance(number, int) else self._joined.events

    def _asides(self, held: Sequence[bytes], spoken: Sequence[JsonObject], number: int) -> list[bytes]:
        """The held events of parts that say something, numbered from `number` on."""
        before = len(self._joined.parts)
        offset = before if self._joined.id is not None else 0
        order = [id(part) for part in spoken]
        began = list(zip(self._begun, self.parts, strict=False))[self._shown_parts :]
        places = {index + offset: before + order.index(id(part)) for index, part in began if id(part) in order}
        asides: list[bytes] = []
        for raw in held:
            value = event_object(raw)
            index = value.get(self.index) if value is not None else None
            if value is None or not isinstance(index, int) or index not in places:
                continue
            changed = {**value, self.index: places[index]}
            if self.number in value:
                changed[self.number] = number + len(asides)
            asides.append(encoded_like(raw, changed))
        return asides


class PartsStrainer(ABC):
    """Strains one stream, event by event: parts that the client must not see are taken out, the others renumbered."""

    index: ClassVar[str]
    number: ClassVar[str] = ""
    mark: ClassVar[bytes]
    """Stands in every event that could bring such a part."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        """Indexes of parts that the client does not get."""
        self._dropped = 0
        """Events that it did not get."""

    @abstractmethod
    def begins(self, value: JsonObject) -> bool:
        """The event brings a part that the client must not see."""

    @abstractmethod
    def strained(self, value: JsonObject) -> JsonObject:
        """What else the event tells, without such parts."""

    def feed(self, raw: bytes) -> list[bytes]:
        """What the client gets of one event: the event itself, another one, or nothing."""
        value = event_object(raw) if self.taken or self.mark in raw else None
        if value is None:
            return [raw]
        index = value.get(self.index)
        if isinstance(index, int) and self.begins(value):
            self.taken.add(index)
        if isinstance(index, int) and index in self.taken:
            self._dropped += 1
            return []
        changed = dict(self.strained(value))
        if isinstance(index, int):
            changed[self.index] = index - sum(taken < index for taken in self.taken)
        if isinstance(value.get(self.number), int):
            changed[self.number] = value[self.number] - self._dropped
        return [raw] if changed == value else [encoded_like(raw, changed)]


def encoded_like(raw: bytes, value: JsonObject) -> bytes:
    """The object as an event; its name stands before it where the model server writes names."""
    (event,) = parse_stream([raw])
    return encode_event(msgspec.json.encode(value), event.event if event.event != "message" else None)
