"""Rounds of Anthropic's Messages API: its content blocks are the parts of an answer. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from typing_extensions import override

from memproxy.errors import UpstreamBrokenError
from memproxy.records import JsonObject, ToolCall
from memproxy.wire.anthropic_answers import MessageReader
from memproxy.wire.anthropic_messages import CALL, THOUGHTS, calls_of, type_of
from memproxy.wire.dialect import IsOurs
from memproxy.wire.joined import Joined, object_of, summed
from memproxy.wire.parts import Kind, PartsReading, PartsStrainer

ENDS_TURN, ENDS_IN_CALLS = "end_turn", "tool_use"


class MessagesReading(PartsReading):
    """One round's answer, event by event."""

    index = "index"
    opens = frozenset({"message_start", "ping"})

    id = ""
    """A next request never refers to an answer."""

    def __init__(self, joined: Joined, may_answer: Callable[[str], bool]) -> None:
        super().__init__(joined, may_answer)
        self._reader = MessageReader()

    @property
    def has_error(self) -> bool:
        """The model server reported an error."""
        return self._reader.has_error

    @property
    @override
    def shown_id(self) -> tuple[str, Any]:
        return self._reader.id, None

    @property
    @override
    def parts(self) -> tuple[JsonObject, ...]:
        return self._reader.blocks

    @property
    def messages(self) -> tuple[JsonObject, ...]:
        """The model's one message, as far as it was read."""
        return self._reader.answer().messages

    @property
    @override
    def calls(self) -> tuple[ToolCall, ...]:
        return calls_of(self.parts)

    @property
    @override
    def usage(self) -> JsonObject | None:
        return self._reader.usage

    @property
    def is_finished(self) -> bool:
        """There was a reason to stop."""
        return self._reader.stop_reason is not None

    @property
    @override
    def is_whole(self) -> bool:
        return self._reader.stop_reason == ENDS_IN_CALLS

    @override
    def kind_of(self, part: Mapping[str, Any]) -> Kind:
        kind = type_of(part)
        return Kind.CALL if kind == CALL else Kind.THOUGHT if kind in THOUGHTS else Kind.SPOKEN

    @override
    def text_of(self, part: Mapping[str, Any]) -> str:
        return str(part.get("text") or "")

    def read(self, value: JsonObject) -> None:
        """Take in an event."""
        self._reader.add(value)
        block = value.get("content_block")
        if value.get("type") == "content_block_start" and isinstance(block, dict):
            self.begin(value.get(self.index), block)
        self.is_clients = self.is_clients or self.has_error

    def read_whole(self, value: JsonObject) -> None:
        """Take in an answer that is not streamed. Raises UpstreamBrokenError for one that can't follow other rounds."""
        self._reader.take(value)
        if self._joined.rounds and not isinstance(value.get("content"), list):
            raise UpstreamBrokenError("The model server's answer has no content.")
        for block in self.parts:
            self.look(block)
        self.is_clients = self.is_clients or self.has_error

    @override
    def changed(self, value: JsonObject) -> JsonObject:
        """Usage is told twice: what was read at the beginning, what was written at the end."""
        before, message, usage = self._joined, value.get("message"), value.get("usage")
        if isinstance(message, dict) and isinstance(message.get("usage"), dict):
            return {**value, "message": {**message, "usage": summed(before.usage, message["usage"])}}
        if not isinstance(usage, dict):
            return value
        total = summed(before.usage, self.usage) or {}
        if before.id is None:
            total = {name: total.get(name) for name in usage}
        return {**value, "usage": total}


def joined_object(body: bytes, joined: Joined) -> bytes:
    """A whole (not streamed) answer after earlier rounds: their blocks before its own, their usage added to its."""
    value = object_of(body)
    content = value.get("content") if value else None
    if not joined.rounds or value is None or not isinstance(content, list):
        return body
    value["content"] = [*joined.parts, *content]
    usage = summed(joined.usage, value.get("usage"))
    if usage is not None:
        value["usage"] = usage
    return msgspec.json.encode(value)


class MessagesStrainer(PartsStrainer):
    """Takes the calls of memory tools out of one stream. A turn that asked for nothing else has simply ended."""

    index = "index"
    mark = b"content_block"

    def __init__(self, is_ours: IsOurs) -> None:
        super().__init__()
        self._is_ours = is_ours
        self._has_theirs = False

    @override
    def begins(self, value: JsonObject) -> bool:
        block = value.get("content_block")
        if not isinstance(block, dict) or type_of(block) != CALL:
            return False
        is_taken = self._is_ours(str(block.get("name")))
        self._has_theirs = self._has_theirs or not is_taken
        return is_taken

    @override
    def strained(self, value: JsonObject) -> JsonObject:
        delta = value.get("delta")
        if self._has_theirs or not self.taken or not isinstance(delta, dict):
            return value
        if delta.get("stop_reason") != ENDS_IN_CALLS:
            return value
        return {**value, "delta": {**delta, "stop_reason": ENDS_TURN}}


def strained_object(body: bytes, is_ours: IsOurs) -> bytes:
    """A whole (not streamed) answer without calls of ours; the same bytes when it has none."""
    value = object_of(body)
    content = value.get("content") if value else None
    if value is None or not isinstance(content, list):
        return body
    calls = [block for block in content if isinstance(block, dict) and type_of(block) == CALL]
    ours = [block for block in calls if is_ours(str(block.get("name")))]
    if not ours:
        return body
    value["content"] = [block for block in content if block not in ours]
    if len(ours) == len(calls) and value.get("stop_reason") == ENDS_IN_CALLS:
        value["stop_reason"] = ENDS_TURN
    return msgspec.json.encode(value)
