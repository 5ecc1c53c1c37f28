"""Messages of Anthropic's Messages API: what they say, what tells them apart, how they may be sent again. Pure.

A message's content is a string or blocks. Calls are `tool_use` blocks of the assistant's, their results `tool_result`
blocks at the beginning of the user's next message. Thinking carries a signature and is never changed. Source of the
shapes: Anthropic's API reference, "Messages", and its guides on tool use and extended thinking.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from memproxy.records import JsonObject, ToolAnswer, ToolCall
from memproxy.wire import chat_completions as chat

_CANONICAL = msgspec.json.Encoder(order="sorted")

RESULT = "tool_result"
CALL = "tool_use"
THOUGHTS = frozenset({"thinking", "redacted_thinking"})
"""Blocks that say nothing to the user, and that a client may leave out of earlier turns."""


def is_message(value: object) -> bool:
    """The value is a message of some role."""
    return (
        isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str | list)
    )


def blocks_of(message: Mapping[str, Any]) -> list[JsonObject]:
    """The blocks of a message; a string is one of text."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def type_of(block: Mapping[str, Any]) -> str:
    """What kind of block it is."""
    return str(block.get("type"))


def role_of(message: Mapping[str, Any]) -> str:
    """A user's message that brings results is a tool's: it belongs to the turn that asked for them."""
    brings_results = any(type_of(block) == RESULT for block in blocks_of(message))
    return "tool" if brings_results else str(message.get("role"))


def digest(message: Mapping[str, Any]) -> bytes:
    """16 bytes that are equal for messages which mean the same on the wire.

    Content as a string or as blocks, ids, cache marks, thinking and citations make no difference. Role, words, other
    blocks, calls with their arguments and results do.
    """
    pieces = [str(message.get("role")).encode("utf-8", "surrogatepass")]
    pieces.append(chat.message_text(message).strip().encode("utf-8", "surrogatepass"))
    for block in blocks_of(message):
        kind = type_of(block)
        if kind == CALL:
            call = {"function": {"name": block.get("name"), "arguments": block.get("input")}}
            pieces += [b"call", chat.digest({"role": "assistant", "tool_calls": [call]})]
        elif kind == RESULT:
            pieces += [b"result", chat.digest({"role": "tool", "content": block.get("content")})]
        elif kind != "text" and kind not in THOUGHTS:
            told = {name: value for name, value in block.items() if name not in {"cache_control", "id"}}
            pieces += [b"block", _CANONICAL.encode(told)]
    return chat.framed_digest(pieces)


def text_of(message: Mapping[str, Any]) -> str:
    """The words of a message, or what its results say; nothing else."""
    texts = [chat.message_text(message)]
    texts += [chat.message_text(block) for block in blocks_of(message) if type_of(block) == RESULT]
    return "\n".join(text for text in texts if text)


def with_text(message: JsonObject, text: str) -> JsonObject:
    """The message with other words; results stay before them, other blocks behind."""
    if not isinstance(message.get("content"), list):
        return {**message, "content": text}
    blocks = [block for block in blocks_of(message) if type_of(block) != "text"]
    first = [block for block in blocks if type_of(block) == RESULT]
    rest = [block for block in blocks if type_of(block) != RESULT]
    return {**message, "content": [*first, {"type": "text", "text": text}, *rest] if blocks else text}


def countable_text(message: Mapping[str, Any]) -> str:
    """All text of a message that costs tokens."""
    texts = [text_of(message)]
    for block in blocks_of(message):
        if type_of(block) == CALL:
            texts.append(f"{block.get('name')} {_encoded(block.get('input'))}")
        elif type_of(block) == "thinking":
            texts.append(str(block.get("thinking")))
    return "\n".join(text for text in texts if text)


def _encoded(value: object) -> str:
    return msgspec.json.encode(value).decode()


def replayable(message: JsonObject) -> JsonObject:
    """A message as it may be sent again: role and blocks, which are not touched.

    Code may have written any role into a session. Servers take two: instructions are the user's, all else the model's.
    """
    role = str(message.get("role"))
    if role not in {"user", "assistant"}:
        role = "user" if role in {"system", "developer"} else "assistant"
    return {"role": role, "content": message.get("content")}


def restorable(message: JsonObject) -> JsonObject:
    """A stored message as it may be sent again later: without marks for the provider's cache.

    A request may carry four of them. The client's own newest one is enough to find what was cached before it.
    """
    sent = replayable(message)
    if not any("cache_control" in block for block in blocks_of(sent)):
        return sent
    marked = sent["content"]
    return {**sent, "content": [_unmarked(block) if isinstance(block, dict) else block for block in marked]}


def _unmarked(block: JsonObject) -> JsonObject:
    return {name: value for name, value in block.items() if name != "cache_control"}


def without_calls(message: JsonObject) -> JsonObject | None:
    """The words of a broken-off answer: anything else of it may be cut in the middle."""
    words = [block for block in blocks_of(message) if type_of(block) == "text"]
    return {**message, "content": words} if words else None


def complete_pairs(messages: Sequence[JsonObject], following: Sequence[JsonObject] = ()) -> list[JsonObject]:
    """These messages without calls that have no results and results that have no call.

    Results may come in several messages of the user's, which the server takes for one.
    """
    everything, kept = [*messages, *following], list[JsonObject]()
    asked: set[str] = set()
    for position, message in enumerate(messages):
        blocks = blocks_of(message)
        if message.get("role") == "assistant":
            asked = {str(block.get("id")) for block in blocks if type_of(block) == CALL}
            whole = asked <= _results_after(everything, position)
            asked = asked if whole else set()
            rest = message if whole else without_calls(message)
        else:
            left = [block for block in blocks if type_of(block) != RESULT or str(block.get("tool_use_id")) in asked]
            asked -= {str(block.get("tool_use_id")) for block in left}
            rest = message if len(left) == len(blocks) else {**message, "content": left} if left else None
        kept += [rest] if rest is not None else []
    return kept


def _results_after(messages: Sequence[Mapping[str, Any]], position: int) -> set[str]:
    found = set[str]()
    for message in messages[position + 1 :]:
        if message.get("role") == "assistant":
            break
        found |= {str(block.get("tool_use_id")) for block in blocks_of(message) if type_of(block) == RESULT}
    return found


def results(answers: Sequence[ToolAnswer]) -> list[JsonObject]:
    """The one message that carries these results to the model."""
    blocks = [
        {"type": RESULT, "tool_use_id": answer.call.id, "content": _content(answer.content)} for answer in answers
    ]
    return [{"role": "user", "content": blocks}] if blocks else []


def _content(content: str | list[Any]) -> str | list[Any]:
    """A result that another format's client gave may have parts of that format."""
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part.get("text")}
        if isinstance(part, dict) and part.get("type") in {"input_text", "output_text"}
        else part
        for part in content
    ]


def calls_of(blocks: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    """The calls of functions among these blocks."""
    return tuple(
        ToolCall(str(block.get("id") or ""), str(block.get("name") or ""), _encoded(block.get("input") or {}))
        for block in blocks
        if type_of(block) == CALL
    )


def as_chat(messages: Sequence[JsonObject]) -> list[tuple[int, JsonObject]]:
    """The messages as chat completions have them: each result is a message there."""
    read: list[tuple[int, JsonObject]] = []
    for at, message in enumerate(messages):
        blocks, text = blocks_of(message), chat.message_text(message)
        if message.get("role") == "assistant":
            calls = [
                {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls_of(blocks)
            ]
            read.append((at, {"role": "assistant", "content": text, "tool_calls": calls}))
            continue
        for block in blocks:
            if type_of(block) == RESULT:
                result = {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": _given(block)}
                read.append((at, result))
        if text or role_of(message) != "tool":
            read.append((at, {"role": message.get("role"), "content": text}))
    return read


def _given(block: Mapping[str, Any]) -> object:
    """What a result says; one that is an error is of no form that could be kept."""
    return None if block.get("is_error") else block.get("content")
