"""Take the calls of memory tools out of an answer of the Responses API before the agent sees it. Pure.

The items that are left, and the events about them, are numbered without gaps. An answer without such calls passes byte
for byte.
"""

import msgspec

from memproxy.records import JsonObject
from memproxy.wire.dialect import IsOurs
from memproxy.wire.joined import event_object, object_of
from memproxy.wire.response_items import type_of
from memproxy.wire.sse import encode_event, parse_stream


class ResponsesStrainer:
    """Strains one stream, event by event."""

    def __init__(self, is_ours: IsOurs) -> None:
        self._is_ours = is_ours
        self._taken: set[int] = set()
        """Output indexes of items that the client does not get."""
        self._dropped = 0
        """Events that it did not get."""

    def feed(self, raw: bytes) -> list[bytes]:
        """What the client gets of one event: the event itself, another one, or nothing."""
        if not self._taken and b"function_call" not in raw:
            return [raw]
        value = event_object(raw)
        if value is None:
            return [raw]
        index, item = value.get("output_index"), value.get("item")
        if isinstance(index, int) and isinstance(item, dict) and self._is_taken(item):
            self._taken.add(index)
        if index in self._taken:
            self._dropped += 1
            return []
        changed = self._renumbered(value, index)
        if isinstance(value.get("response"), dict):
            changed["response"] = self._strained(value["response"])
        if changed == value:
            return [raw]
        (event,) = parse_stream([raw])
        return [encode_event(msgspec.json.encode(changed), event.event if event.event != "message" else None)]

    def _renumbered(self, value: JsonObject, index: object) -> JsonObject:
        changed = dict(value)
        if isinstance(index, int):
            changed["output_index"] = index - sum(taken < index for taken in self._taken)
        if isinstance(value.get("sequence_number"), int):
            changed["sequence_number"] = value["sequence_number"] - self._dropped
        return changed

    def _strained(self, response: JsonObject) -> JsonObject:
        output = response.get("output")
        if not isinstance(output, list):
            return response
        return {**response, "output": [item for item in output if not self._is_taken(item)]}

    def _is_taken(self, item: object) -> bool:
        return isinstance(item, dict) and type_of(item) == "function_call" and self._is_ours(str(item.get("name")))


def strained_object(body: bytes, is_ours: IsOurs) -> bytes:
    """A whole (not streamed) answer without calls of ours; the same bytes when it has none."""
    value = object_of(body) if b"function_call" in body else None
    if value is None:
        return body
    strained = ResponsesStrainer(is_ours)._strained(value)
    return body if strained == value else msgspec.json.encode(strained)
