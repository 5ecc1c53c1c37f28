"""Read an answer of Anthropic's Messages API: a whole message, or the events of a stream put together again. Pure.

Source of the shapes: Anthropic's API reference, "Messages" and "Streaming messages".
"""

from collections.abc import Mapping, Sequence

from memproxy.records import JsonObject
from memproxy.wire.dialect import NO_ANSWER, Answer
from memproxy.wire.joined import object_of
from memproxy.wire.recorded import read_recorded


def read_answer(chunks: Sequence[bytes], *, content_type: str, content_encoding: str) -> Answer:
    """The answer in a response's recorded bytes; `NO_ANSWER` where it can't be read. Never raises."""
    recorded = read_recorded(chunks, content_type=content_type, content_encoding=content_encoding)
    if recorded is None:
        return NO_ANSWER
    reader = MessageReader()
    for value in recorded.objects:
        if recorded.is_stream:
            reader.add(value)
        else:
            reader.take(value)
    return reader.answer()


class MessageReader:
    """Puts a message together from the events of its stream."""

    def __init__(self) -> None:
        self._blocks: dict[int, JsonObject] = {}
        """By index."""
        self._inputs: dict[int, str] = {}
        """The arguments of calls as far as they came, as JSON."""
        self.id = ""
        self.stop_reason: str | None = None
        self.usage: JsonObject | None = None
        self.has_error = False

    @property
    def blocks(self) -> tuple[JsonObject, ...]:
        """The blocks so far, in their order; the last may still grow."""
        return tuple(self._blocks[index] for index in sorted(self._blocks))

    def add(self, value: JsonObject) -> None:
        """One event."""
        kind, index = value.get("type"), value.get("index")
        message, block, delta = value.get("message"), value.get("content_block"), value.get("delta")
        if kind == "message_start" and isinstance(message, dict):
            self.take(message)
        elif kind == "message_delta" and isinstance(delta, dict):
            self.stop_reason = _text(delta.get("stop_reason")) or self.stop_reason
            self._spent(value.get("usage"))
        elif kind == "error" or (value.get("error") is not None and "type" not in value):
            self.has_error = True
        elif not isinstance(index, int):
            return
        elif kind == "content_block_start" and isinstance(block, dict):
            self._blocks[index] = dict(block)
        elif kind == "content_block_delta" and isinstance(delta, dict) and index in self._blocks:
            self._grow(index, delta)

    def take(self, message: JsonObject) -> None:
        """A message, as it begins or whole."""
        self.has_error = self.has_error or message.get("type") == "error"
        self.id = str(message.get("id") or "")
        self.stop_reason = _text(message.get("stop_reason"))
        self._spent(message.get("usage"))
        content = message.get("content")
        given = content if isinstance(content, list) else []
        self._blocks = {at: block for at, block in enumerate(given) if isinstance(block, dict)}

    def _spent(self, usage: object) -> None:
        """Counts that come later are of all so far."""
        if isinstance(usage, dict):
            self.usage = {**(self.usage or {}), **{name: value for name, value in usage.items() if value is not None}}

    def _grow(self, index: int, delta: Mapping[str, object]) -> None:
        block, kind = self._blocks[index], delta.get("type")
        if kind == "input_json_delta":
            self._inputs[index] = self._inputs.get(index, "") + _joined(delta.get("partial_json"))
            block["input"] = object_of(self._inputs[index].encode("utf-8", "replace")) or {}
        elif kind == "citations_delta":
            cited = block.get("citations")
            block["citations"] = [*(cited if isinstance(cited, list) else ()), delta.get("citation")]
        else:
            for name in ("text", "thinking", "signature"):
                if name in delta:
                    block[name] = _joined(block.get(name)) + _joined(delta[name])

    def answer(self) -> Answer:
        """What was read so far."""
        message = {"role": "assistant", "content": list(self.blocks)}
        return Answer(
            (message,) if self._blocks else (),
            finished=self.stop_reason is not None,
            usage=self.usage,
            error=self.has_error,
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _joined(value: object) -> str:
    return value if isinstance(value, str) else ""
