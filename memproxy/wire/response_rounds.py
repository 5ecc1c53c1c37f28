"""Rounds of the Responses API: its items are the parts of an answer, its events are numbered. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from typing_extensions import override

from memproxy.errors import UpstreamBrokenError
from memproxy.records import JsonObject, ToolCall
from memproxy.wire import response_items as items_of
from memproxy.wire.joined import Joined, object_of, summed
from memproxy.wire.parts import Kind, PartsReading
from memproxy.wire.response_answers import ENDS, ResponseReader


class ResponsesReading(PartsReading):
    """One round's answer, event by event."""

    index = "output_index"
    number = "sequence_number"
    opens = frozenset({"response.created", "response.queued", "response.in_progress"})

    def __init__(self, joined: Joined, may_answer: Callable[[str], bool]) -> None:
        super().__init__(joined, may_answer)
        self._reader = ResponseReader()
        self._status = ""

    @property
    def has_error(self) -> bool:
        """The model server reported an error."""
        return self._reader.has_error

    @property
    def id(self) -> str:
        """This round's own id."""
        return self._reader.id

    @property
    @override
    def shown_id(self) -> tuple[str, Any]:
        return self.id, self._reader.response.get("created_at")

    @property
    @override
    def parts(self) -> tuple[JsonObject, ...]:
        return self._reader.items

    @property
    def messages(self) -> tuple[JsonObject, ...]:
        """The model's items. Reasoning that nobody has kept is not among them: it could not be sent again."""
        is_kept = self._reader.response.get("store") is not False
        return tuple(
            item
            for item in self.parts
            if is_kept or items_of.type_of(item) != "reasoning" or item.get("encrypted_content")
        )

    @property
    @override
    def calls(self) -> tuple[ToolCall, ...]:
        return items_of.calls_of(self.parts)

    @property
    @override
    def usage(self) -> JsonObject | None:
        return self._reader.usage

    @property
    def is_finished(self) -> bool:
        """The response is complete."""
        return self._reader.is_finished

    @property
    @override
    def is_whole(self) -> bool:
        return self._status == "completed"

    @override
    def kind_of(self, part: Mapping[str, Any]) -> Kind:
        kind = items_of.type_of(part)
        if kind == "function_call":
            return Kind.CALL
        return Kind.THOUGHT if kind == "reasoning" else Kind.SPOKEN if kind in items_of.SERVER_TYPES else Kind.OTHER

    @override
    def text_of(self, part: Mapping[str, Any]) -> str:
        return items_of.text_of(part)

    def read(self, value: JsonObject) -> None:
        """Take in an event."""
        self._reader.add(value)
        self.count(value)
        kind, item = str(value.get("type")), value.get("item")
        if kind == "response.output_item.added" and isinstance(item, dict):
            self.begin(value.get(self.index), item)
        elif kind == "response.output_item.done" and isinstance(item, dict):
            self.look(item)
        if kind in ENDS:
            self._ended(str(self._reader.response.get("status") or kind.removeprefix("response.")))
        self.is_clients = self.is_clients or self.has_error

    def read_whole(self, value: JsonObject) -> None:
        """Take in an answer that is not streamed. Raises UpstreamBrokenError for one that can't follow other rounds."""
        self._reader.end(value)
        if self._joined.rounds and not isinstance(value.get("output"), list):
            raise UpstreamBrokenError("The model server's answer has no output.")
        self._ended(str(value.get("status") or "completed"))

    def _ended(self, status: str) -> None:
        self._status = status
        for each in self.parts:
            self.look(each)
        self.is_clients = self.is_clients or self.has_error or not self.is_whole

    @override
    def changed(self, value: JsonObject) -> JsonObject:
        response = value.get("response")
        if str(value.get("type")) not in ENDS or not isinstance(response, dict):
            return value
        return {**value, "response": _joined_response(response, self._joined)}


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
