"""Read an answer of the chat-completions dialect: a whole object, or the pieces of a stream put together again.

Source of the shapes: OpenAI's API reference, "Create chat completion" and its streaming chunks, and what compatible
servers add to them or leave out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from memproxy.records import JsonObject, ToolCall
from memproxy.wire.dialect import NO_ANSWER, Answer
from memproxy.wire.recorded import read_recorded


def read_answer(chunks: Sequence[bytes], *, content_type: str, content_encoding: str) -> Answer:
    """The answer in a response's recorded bytes; `NO_ANSWER` where it can't be read. Never raises."""
    recorded = read_recorded(chunks, content_type=content_type, content_encoding=content_encoding)
    if recorded is None:
        return NO_ANSWER
    if not recorded.is_stream:
        return _read_object(recorded.objects[0])
    reader = AnswerReader()
    for value in recorded.objects:
        reader.add(value)
    return reader.answer()


def _read_object(value: JsonObject) -> Answer:
    choice = _first_choice(value)
    message = choice.get("message") if choice else None
    if not isinstance(message, dict):
        return Answer((), finished=False, error="error" in value)
    finished = choice.get("finish_reason") is not None if choice else False
    return Answer((_as_assistant(message),), finished=finished, usage=_usage(value))


def _as_assistant(message: JsonObject) -> JsonObject:
    """An answer is the assistant's, also where the server names no role or null."""
    return {"role": "assistant", **{name: value for name, value in message.items() if name != "role"}}


def _first_choice(value: Mapping[str, Any]) -> JsonObject | None:
    choices = value.get("choices")
    if not isinstance(choices, list):
        return None
    for choice in choices:
        if isinstance(choice, dict) and choice.get("index", 0) == 0:
            return choice
    return None


def _usage(value: Mapping[str, Any]) -> JsonObject | None:
    usage = value.get("usage")
    return usage if isinstance(usage, dict) else None


class AnswerReader:
    """Puts an answer together from the objects of its stream."""

    def __init__(self) -> None:
        self._message: JsonObject = {}
        self.finished = False
        self.error = False
        self.usage: JsonObject | None = None
        self.is_unusual = False
        """The stream has more than one choice, or another one than the first."""

    def add(self, value: JsonObject) -> None:
        """One object of the stream."""
        self.error = self.error or value.get("error") is not None
        self.usage = _usage(value) or self.usage
        choices = value.get("choices")
        if isinstance(choices, list) and any(isinstance(each, dict) and each.get("index", 0) != 0 for each in choices):
            self.is_unusual = True
        choice = _first_choice(value)
        if choice is None:
            return
        self.finished = self.finished or choice.get("finish_reason") is not None
        delta = choice.get("delta")
        if isinstance(delta, dict):
            _merge_delta(self._message, delta)

    @property
    def words(self) -> str:
        """The content so far."""
        content = self._message.get("content")
        return content if isinstance(content, str) else ""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls so far, in order; the last may still grow."""
        return calls_of(_closed(self._message))

    def answer(self) -> Answer:
        """What was read so far."""
        whole = (_as_assistant(_closed(self._message)),) if self._message else ()
        return Answer(whole, finished=self.finished, usage=self.usage, error=self.error)


def calls_of(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls of functions in an assistant message."""
    calls = message.get("tool_calls")
    return tuple(
        ToolCall(str(call.get("id") or ""), str(function.get("name") or ""), str(function.get("arguments") or ""))
        for call in (calls if isinstance(calls, list) else ())
        if isinstance(call, dict) and isinstance(function := call.get("function"), dict)
    )


def _merge_delta(message: JsonObject, delta: JsonObject) -> None:
    """Add a delta to the message: text grows, fragments of calls join, anything else is taken as it comes."""
    for name, value in delta.items():
        if name != "tool_calls":
            _merge_value(message, name, value)
        elif isinstance(value, list):  # null on every chunk is common, too
            calls = message.setdefault(name, [])
            for fragment in value:
                if isinstance(fragment, dict):
                    _merge_call(_call_of(fragment, calls), fragment)


def _call_of(fragment: JsonObject, calls: list[JsonObject]) -> JsonObject:
    """The call that a fragment continues, or a new one: index and id tell, and some servers send only one of them."""
    index, name = fragment.get("index"), fragment.get("id")
    for call in reversed(calls):
        if call["index"] == index and (not name or call.get("id", name) == name):
            return call
    calls.append({"index": index})
    return calls[-1]


def _merge_call(call: JsonObject, fragment: JsonObject) -> None:
    for name, value in fragment.items():
        if name in {"id", "type"}:
            if value:
                call[name] = value
        elif name != "index":
            _merge_value(call, name, value)


def _merge_value(target: JsonObject, name: str, value: Any) -> None:
    before = target.get(name)
    if value is None:
        target.setdefault(name, None)
    elif before is None:
        target[name] = dict(value) if isinstance(value, dict) else value
    elif isinstance(before, str) and isinstance(value, str):
        target[name] = before + value
    elif isinstance(before, list) and isinstance(value, list):
        target[name] = [*before, *value]
    elif isinstance(before, dict) and isinstance(value, dict):
        for inner, inner_value in value.items():
            _merge_value(before, inner, inner_value)
    else:
        target[name] = value


def _closed(message: JsonObject) -> JsonObject:
    """The message with its calls in their order and form; without any, the field goes."""
    closed = dict(message)
    calls = closed.pop("tool_calls", [])
    ordered = sorted(calls, key=lambda call: call["index"] if isinstance(call["index"], int) else 0)
    if ordered:
        whole = [{name: value for name, value in call.items() if name != "index"} for call in ordered]
        closed["tool_calls"] = [{"type": "function", **call} for call in whole]
    return closed
