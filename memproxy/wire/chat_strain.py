"""Take the calls of memory tools out of an answer before the agent sees it. Pure.

A model may ask for memory tools and for the agent's tools in one turn. The agent knows nothing of the former: it gets
only its own calls, with indexes from 0 without gaps. Where none is left, the turn has simply stopped. An answer without
calls of memory tools passes byte for byte.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from memproxy.records import JsonObject
from memproxy.wire.sse import encode_event, parse_stream


class Strainer:
    """Strains one stream, event by event."""

    def __init__(self, is_ours: Callable[[str], bool]) -> None:
        self._is_ours = is_ours
        self._places: dict[str, int | None] = {}
        """The model server's index of a call -> the client's; None for a call of ours."""
        self._newest: str = ""
        """The mark of the call that the last fragment belonged to."""
        self._theirs = 0
        self.has_taken = False
        """A call was taken out."""

    def feed(self, raw: bytes) -> list[bytes]:
        """What the client gets of one event: the event itself, another one, or nothing."""
        if not self.has_taken and b"tool_calls" not in raw:
            return [raw]
        events = parse_stream([raw])
        value = _decoded(events[0].data) if events else None
        choice = _only_choice(value)
        if value is None or choice is None:
            return [raw]
        strained = self._strained(choice)
        if strained is choice:
            return [raw]
        if strained is None:
            if not value.get("usage"):
                return []
            strained = {**choice, "delta": {}}  # usage on every chunk: the chunk stays, its fragment goes
        return [encode_event(msgspec.json.encode({**value, "choices": [strained]}))]

    def _strained(self, choice: JsonObject) -> JsonObject | None:
        delta = choice.get("delta")
        changed = dict(choice)
        if isinstance(delta, dict) and isinstance(delta.get("tool_calls"), list):
            kept = [self._renumbered(part) for part in delta["tool_calls"] if self._place(part) is not None]
            if kept != delta["tool_calls"]:
                changed["delta"] = {name: piece for name, piece in delta.items() if name != "tool_calls"}
                if kept:
                    changed["delta"]["tool_calls"] = kept
        if self.has_taken and not self._theirs and choice.get("finish_reason") == "tool_calls":
            changed["finish_reason"] = "stop"
        if changed == choice:
            return choice
        says = any(piece for name, piece in (changed.get("delta") or {}).items() if name != "role" or piece)
        return changed if says or changed.get("finish_reason") is not None else None

    def _place(self, part: Any) -> int | None:
        """The client's index of the call that a fragment belongs to; its first fragment names the tool."""
        if not isinstance(part, dict):
            return 0
        index = _mark(part) or self._newest
        self._newest = index
        if index not in self._places:
            function = part.get("function")
            name = str(function.get("name") or "") if isinstance(function, dict) else ""
            if self._is_ours(name):
                self._places[index] = None
                self.has_taken = True
            else:
                self._places[index] = self._theirs
                self._theirs += 1
        return self._places[index]

    def _renumbered(self, part: Any) -> Any:
        place = self._place(part)
        if not isinstance(part, dict) or "index" not in part or part["index"] == place:
            return part
        return {**part, "index": place}


def _mark(part: JsonObject) -> str:
    """What tells calls apart: the index, or the id where a server sends none; empty for a fragment with neither."""
    index = part.get("index")
    return f"index {index}" if isinstance(index, int) else f"id {part['id']}" if part.get("id") else ""


def strained_object(body: bytes, is_ours: Callable[[str], bool]) -> bytes:
    """A whole (not streamed) answer without calls of ours; the same bytes when it has none."""
    value = _decoded(body)
    choice = _only_choice(value)
    message = choice.get("message") if choice else None
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    if value is None or choice is None or not isinstance(message, dict) or not isinstance(calls, list):
        return body
    kept = [call for call in calls if not is_ours(_name_of(call))]
    if len(kept) == len(calls):
        return body
    others = {name: piece for name, piece in message.items() if name != "tool_calls"}
    changed = {**choice, "message": {**others, "tool_calls": kept} if kept else others}
    if not kept and choice.get("finish_reason") == "tool_calls":
        changed["finish_reason"] = "stop"
    return msgspec.json.encode({**value, "choices": [changed]})


def _name_of(call: Any) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    return str(function.get("name") or "") if isinstance(function, dict) else ""


def _decoded(data: bytes) -> JsonObject | None:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _only_choice(value: JsonObject | None) -> JsonObject | None:
    choices = value.get("choices") if value else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    return choices[0]
