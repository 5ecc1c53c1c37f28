"""Rounds of the Responses API: what the events of one say, and how they look behind those of earlier rounds. Pure.

An answer is a list of items, and so is a joined one: the messages of each round in their order, without the calls that
were answered inside and the reasoning that led to them. What is one for the client: the first id that it saw, the
numbers of events and items, and usage. As long as nothing of the earlier rounds was shown, the last one keeps its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from memproxy.errors import UpstreamBrokenError
from memproxy.records import JsonObject, ToolCall
from memproxy.wire import response_items as items_of
from memproxy.wire.joined import JOINT, Joined, event_object, object_of, summed
from memproxy.wire.response_answers import ENDS, ResponseReader
from memproxy.wire.sse import encode_event, parse_stream

OPENS = frozenset({"response.created", "response.queued", "response.in_progress"})
"""Events that say no more than that the answer has begun."""


class ResponsesReading:
    """One round's answer, event by event."""

    def __init__(self, joined: Joined, may_answer: Callable[[str], bool]) -> None:
        self._joined = joined
        self._may_answer = may_answer
        self._reader = ResponseReader()
        self._number = joined.events
        """Of the next event."""
        self._shown_number = joined.events
        self._begun: list[int] = []
        """The output indexes of the items that have begun, in their order."""
        self._shown_items = 0
        """So many of them the client has seen."""
        self._asks = False
        self._status = ""
        self._shows_all = False
        self.holds = False
        self.is_clients = False

    @property
    def has_error(self) -> bool:
        """The model server reported an error."""
        return self._reader.has_error

    @property
    def id(self) -> str:
        """This round's own id."""
        return self._reader.id

    @property
    def messages(self) -> tuple[JsonObject, ...]:
        """The model's items. Reasoning that nobody has kept is not among them: it could not be sent again."""
        is_kept = self._reader.response.get("store") is not False
        return tuple(
            item
            for item in self._reader.items
            if is_kept or items_of.type_of(item) != "reasoning" or item.get("encrypted_content")
        )

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Its calls of functions."""
        return items_of.calls_of(self._reader.items)

    @property
    def is_finished(self) -> bool:
        """The response is complete."""
        return self._reader.is_finished

    @property
    def ends_in_calls(self) -> bool:
        """The response is complete, and all that it waits for are functions."""
        return self._asks and not self.is_clients and self._status == "completed" and bool(self.calls)

    def read(self, value: JsonObject) -> None:
        """Take in an event."""
        self._reader.add(value)
        kind, item, number = str(value.get("type")), value.get("item"), value.get("sequence_number")
        if not self._joined.rounds and isinstance(number, int):
            self._number = number + 1
        if kind == "response.output_item.added" and isinstance(item, dict):
            self._begun.append(value.get("output_index", len(self._begun)))
        if kind.startswith("response.output_item.") and isinstance(item, dict):
            self._look(item)
        if kind in ENDS:
            self._status = str(self._reader.response.get("status") or kind.removeprefix("response."))
            for each in self._reader.items:
                self._look(each)
        self.is_clients = self.is_clients or self.has_error or self._status not in {"", "completed"}

    def read_whole(self, value: JsonObject) -> None:
        """Take in an answer that is not streamed. Raises UpstreamBrokenError for one that can't follow other rounds."""
        self._reader.end(value)
        if self._joined.rounds and not isinstance(value.get("output"), list):
            raise UpstreamBrokenError("The model server's answer has no output.")
        self._status = str(value.get("status") or "completed")
        for each in self._reader.items:
            self._look(each)
        self.is_clients = self.is_clients or self.has_error or self._status != "completed"

    def _look(self, item: JsonObject) -> None:
        """What an item means: calls are held, and reasoning until it is known what it leads to."""
        kind = items_of.type_of(item)
        if kind == "function_call":
            self._asks = True
            self.is_clients = self.is_clients or not self._may_answer(str(item.get("name") or ""))
        elif kind not in items_of.SERVER_TYPES:
            self.is_clients = True
        self.holds = self._asks or kind == "reasoning"

    def says(self, value: JsonObject) -> bool:
        """Anything but an event that only opens the answer."""
        return value.get("type") not in OPENS

    def shown(self) -> None:
        """The client has seen all events so far."""
        self._shown_number = self._number
        self._shown_items = len(self._begun)

    def rewritten(self, raw: bytes, value: JsonObject) -> bytes | None:
        """The event with the id and the numbers that go on from what the client has seen; None for a second opening."""
        before, kind = self._joined, value.get("type")
        if not before.rounds or (before.id is None and kind not in ENDS):
            return raw
        if before.id is not None and kind in OPENS:
            return None
        changed = dict(value)
        if before.id is not None:
            if "sequence_number" in value:
                changed["sequence_number"] = self._number
            self._number += 1
            if isinstance(value.get("output_index"), int):
                changed["output_index"] = value["output_index"] + len(before.parts)
        if isinstance(value.get("response"), dict):
            changed["response"] = _joined_response(value["response"], before)
        return _encoded_like(raw, changed)

    def after(self, opening: Sequence[bytes], held: Sequence[bytes], *, has_begun: bool) -> Joined:
        """What the client has seen: messages said beside calls are shown before the next round."""
        before, spoken = self._joined, spoken_items(self._reader.items)
        number = self._shown_number if has_begun else self._opened(opening)
        asides = self._asides(held, number)
        is_seen = before.id is not None or has_begun or bool(asides)
        response, words = self._reader.response, [items_of.text_of(item) for item in spoken]
        return Joined(
            id=(self.id if before.id is None else before.id) if is_seen else None,
            created=(response.get("created_at") if before.created is None else before.created) if is_seen else None,
            words=JOINT.join(text for text in (before.words, *words) if text),
            usage=summed(before.usage, self._reader.usage),
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
        number = last.get("sequence_number") if last else None
        return number + 1 if isinstance(number, int) else self._joined.events

    def _asides(self, held: Sequence[bytes], number: int) -> list[bytes]:
        """The held events of items that say something, numbered from `number` on."""
        began = dict(zip(self._begun, self._reader.items, strict=False))
        spoken = [id(item) for item in spoken_items(self._reader.items)]
        places = {
            index + (len(self._joined.parts) if self._joined.id is not None else 0): place
            for index, item in list(began.items())[self._shown_items :]
            if id(item) in spoken
            for place in [len(self._joined.parts) + spoken.index(id(item))]
        }
        asides = []
        for raw in held:
            value = event_object(raw)
            if value is None or value.get("output_index") not in places:
                continue
            changed = {**value, "output_index": places[value["output_index"]]}
            if "sequence_number" in value:
                changed["sequence_number"] = number
            number += 1
            asides.append(_encoded_like(raw, changed))
        return asides


def spoken_items(items: Sequence[JsonObject]) -> list[JsonObject]:
    """The items of an answered round that the client gets: no calls, and no reasoning that led to one."""
    spoken: list[JsonObject] = []
    thoughts: list[JsonObject] = []
    asks = False
    for item in items:
        kind = items_of.type_of(item)
        if kind == "function_call":
            asks, thoughts = True, []
        elif kind == "reasoning":
            thoughts += [] if asks else [item]
        else:
            spoken += [*thoughts, item]
            thoughts = []
    return spoken


def _joined_response(response: JsonObject, before: Joined) -> JsonObject:
    changed: JsonObject = dict(response)
    if before.id is not None:
        changed |= {"id": before.id} if "id" in response else {}
        changed |= {"created_at": before.created} if "created_at" in response else {}
    output = response.get("output")
    if isinstance(output, list) and before.parts:
        changed["output"] = [*before.parts, *output]
    usage = response.get("usage")
    if isinstance(usage, dict):
        changed["usage"] = summed(before.usage, usage)
    return changed


def joined_object(body: bytes, joined: Joined) -> bytes:
    """A whole (not streamed) answer after earlier rounds: their items before its own, their usage added to its."""
    value = object_of(body)
    if not joined.rounds or value is None or not isinstance(value.get("output"), list):
        return body
    return msgspec.json.encode(_joined_response(value, joined))


def _encoded_like(raw: bytes, value: JsonObject) -> bytes:
    """The object as an event; its name stands before it where the model server writes names."""
    (event,) = parse_stream([raw])
    name: Any = event.event if event.event != "message" else None
    return encode_event(msgspec.json.encode(value), name)
