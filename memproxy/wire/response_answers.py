"""Read an answer of the Responses API: a whole response, or the events of a stream put together again. Pure.

Source of the shapes: OpenAI's API reference, "The response object" and "Streaming events". The event that ends a stream
repeats all items; where a server leaves that out, or the stream broke off, what the events before told is taken.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from memproxy.records import JsonObject
from memproxy.wire.dialect import NO_ANSWER, Answer
from memproxy.wire.recorded import read_recorded

FINISHED = frozenset({"completed", "incomplete"})
"""States of a response to which nothing will be added."""

ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
"""Events after which nothing follows."""


def read_answer(chunks: Sequence[bytes], *, content_type: str, content_encoding: str) -> Answer:
    """The answer in a response's recorded bytes; `NO_ANSWER` where it can't be read. Never raises."""
    recorded = read_recorded(chunks, content_type=content_type, content_encoding=content_encoding)
    if recorded is None:
        return NO_ANSWER
    reader = ResponseReader()
    for value in recorded.objects:
        if recorded.is_stream:
            reader.add(value)
        else:
            reader.end(value)
    return reader.answer()


class ResponseReader:
    """Puts a response together from the events of its stream."""

    def __init__(self) -> None:
        self._items: dict[int, JsonObject] = {}
        """By output index."""
        self._response: JsonObject = {}
        """As it was told last."""
        self._whole: list[JsonObject] | None = None
        self.has_error = False

    @property
    def id(self) -> str:
        """The response's id."""
        return str(self._response.get("id") or "")

    @property
    def response(self) -> JsonObject:
        """The response without its items, as it was told last."""
        return self._response

    @property
    def usage(self) -> JsonObject | None:
        """What it cost, once that was told."""
        usage = self._response.get("usage")
        return usage if isinstance(usage, dict) else None

    @property
    def is_finished(self) -> bool:
        """Nothing will be added."""
        return self._whole is not None and self._response.get("status", "completed") in FINISHED

    @property
    def items(self) -> tuple[JsonObject, ...]:
        """The items so far, in their order; the last may still grow."""
        if self._whole:
            return tuple(self._whole)
        return tuple(self._items[index] for index in sorted(self._items))

    def add(self, value: JsonObject) -> None:
        """One event."""
        kind, index = str(value.get("type")), value.get("output_index")
        response, item = value.get("response"), value.get("item")
        if kind in ENDS:
            self.end(response if isinstance(response, dict) else {}, is_failure=kind == "response.failed")
        elif isinstance(response, dict):
            self._response = response
        elif kind == "error" or (value.get("error") is not None and "type" not in value):
            self.has_error = True
        elif not isinstance(index, int):
            return
        elif isinstance(item, dict):
            self._items[index] = item
        elif index in self._items:
            self._items[index] = _grown(self._items[index], kind, value)

    def end(self, response: JsonObject, *, is_failure: bool = False) -> None:
        """The whole response, as it ended or as it is so far."""
        self._response = response
        self.has_error = self.has_error or is_failure or response.get("error") is not None
        output = response.get("output")
        known = isinstance(output, list) or response.get("object") == "response" or self._items
        if known and not is_failure:
            given = output if isinstance(output, list) else []
            self._whole = [item for item in given if isinstance(item, dict)]

    def answer(self) -> Answer:
        """What was read so far."""
        return Answer(self.items, finished=self.is_finished, usage=self.usage, error=self.has_error, id=self.id)


def _grown(item: JsonObject, kind: str, value: Mapping[str, Any]) -> JsonObject:
    """The item after one more of its events; only words matter, for the rest comes again when the item is done."""
    part, delta = value.get("part"), value.get("delta")
    parts = list(item.get("content") or ())
    at = value.get("content_index", 0)
    if kind == "response.content_part.added" and isinstance(part, dict):
        return {**item, "content": [*parts, part]}
    if kind != "response.output_text.delta" or not isinstance(delta, str) or not isinstance(at, int):
        return item
    while len(parts) <= at:
        parts.append({"type": "output_text", "text": "", "annotations": []})
    parts[at] = {**parts[at], "text": str(parts[at].get("text") or "") + delta}
    return {**item, "content": parts}
