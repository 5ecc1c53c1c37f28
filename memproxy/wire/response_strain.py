"""Take the calls of memory tools out of an answer of the Responses API before the agent sees it. Pure."""

import msgspec
from typing_extensions import override

from memproxy.records import JsonObject
from memproxy.wire.dialect import IsOurs
from memproxy.wire.joined import object_of
from memproxy.wire.parts import PartsStrainer
from memproxy.wire.response_items import type_of


class ResponsesStrainer(PartsStrainer):
    """Strains one stream."""

    index = "output_index"
    number = "sequence_number"
    mark = b"function_call"

    def __init__(self, is_ours: IsOurs) -> None:
        super().__init__()
        self._is_ours = is_ours

    @override
    def begins(self, value: JsonObject) -> bool:
        return self._is_taken(value.get("item"))

    @override
    def strained(self, value: JsonObject) -> JsonObject:
        response = value.get("response")
        return {**value, "response": self.strained_response(response)} if isinstance(response, dict) else value

    def strained_response(self, response: JsonObject) -> JsonObject:
        """The response without such items."""
        output = response.get("output")
        if not isinstance(output, list):
            return response
        return {**response, "output": [item for item in output if not self._is_taken(item)]}

    def _is_taken(self, item: object) -> bool:
        return isinstance(item, dict) and type_of(item) == "function_call" and self._is_ours(str(item.get("name")))


def strained_object(body: bytes, is_ours: IsOurs) -> bytes:
    """A whole (not streamed) answer without calls of ours; the same bytes when it has none."""
    value = object_of(body) if ResponsesStrainer.mark in body else None
    if value is None:
        return body
    strained = ResponsesStrainer(is_ours).strained_response(value)
    return body if strained == value else msgspec.json.encode(strained)
