"""Items of the Responses API: what they say, what tells them apart, how they may be sent again. Pure.

A request's input and an answer's output are lists of items: messages, calls, results of calls, reasoning, and whatever
the provider's own tools leave behind. An item is kept as it came; here is what the proxy has to know about it. Source
of the shapes: OpenAI's API reference, "Create a model response", and its guides on reasoning and conversation state.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from memproxy.records import JsonObject, ToolAnswer, ToolCall
from memproxy.wire import chat_completions as chat

_CANONICAL = msgspec.json.Encoder(order="sorted")

SILENT_TYPES = frozenset(
    {
        "reasoning", "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call",
        "mcp_list_tools", "mcp_call",
    }
)  # fmt: skip
"""What the model thought and what the provider did for it: clients that send their history again often leave it out."""

ROLES = chat.INSTRUCTION_ROLES | {"user", "assistant"}
"""Of messages that servers take. Code may have written any into a session: it is sent as the assistant's."""

COMPACTION_TYPES = frozenset({"compaction", "compaction_summary", "context_compaction"})
"""Stand for all that came before them."""

SERVER_TYPES = SILENT_TYPES | COMPACTION_TYPES | {"message"}
"""Items of an answer that ask nothing of the client."""

_SENT_AGAIN_BARE = frozenset(
    {"message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"}
)
"""Items that stand for themselves: without their ids no server looks for the rest of the answer that they were in."""

_PASSING_FIELDS = frozenset({"id", "status", "call_id", "phase", "created_by"})
"""Fields that differ between an item as it was received and as it is sent again."""


def type_of(item: Mapping[str, Any]) -> str:
    """An item with a role and no type is a message."""
    return str(item.get("type") or ("message" if "role" in item else ""))


def is_item(value: object) -> bool:
    """The value is an item of some type."""
    if not isinstance(value, dict):
        return False
    kind = value.get("type")
    return isinstance(kind, str) or (kind is None and any(isinstance(value.get(name), str) for name in ("role", "id")))


def role_of(item: Mapping[str, Any]) -> str:
    """`user`, `assistant` or `system` for messages, `tool` for what a client gives back, `assistant` for the rest."""
    kind = type_of(item)
    if kind == "message":
        return str(item.get("role"))
    return "tool" if kind.endswith(("_output", "_response")) else "assistant"


def is_silent(item: Mapping[str, Any]) -> bool:
    """The item may be left out by clients."""
    return type_of(item) in SILENT_TYPES


def reference_of(item: Mapping[str, Any]) -> str:
    """The id of the item that this one stands for; empty for an item that stands for itself."""
    is_reference = item.get("type") == "item_reference" or (item.get("type") is None and "role" not in item)
    return str(item.get("id") or "") if is_reference else ""


def digest(item: Mapping[str, Any]) -> bytes:
    """16 bytes that are equal for items which mean the same on the wire.

    Content as a string or as parts, ids, states and annotations make no difference. Role, words, other parts, names and
    arguments of calls do.
    """
    match type_of(item):
        case "message":
            return chat.digest(_as_message(item))
        case "function_call":
            return chat.digest({"role": "assistant", "tool_calls": [{"function": item}]})
        case "custom_tool_call":
            return chat.digest({"role": "assistant", "tool_calls": [{"custom": item}]})
        case "function_call_output" | "custom_tool_call_output":
            return chat.digest({"role": "tool", "content": item.get("output")})
        case kind:
            told = {name: value for name, value in item.items() if name not in _PASSING_FIELDS}
            return chat.framed_digest([kind.encode("utf-8", "replace"), _CANONICAL.encode(told)])


def _as_message(item: Mapping[str, Any]) -> JsonObject:
    """A message with its refusal where chat completions have it."""
    content = item.get("content")
    if not isinstance(content, list):
        return {**item, "name": None}
    refusals = [part for part in content if isinstance(part, dict) and part.get("type") == "refusal"]
    others = [part for part in content if part not in refusals]
    refusal = "\n".join(str(part.get("refusal")) for part in refusals)
    return {"role": item.get("role"), "content": others, "refusal": refusal}


def text_of(item: Mapping[str, Any]) -> str:
    """The words of a message or of a tool's result; nothing else."""
    if role_of(item) == "tool":
        return chat.message_text({"content": item.get("output")})
    return chat.message_text(item) if type_of(item) == "message" else ""


def with_text(item: JsonObject, text: str) -> JsonObject:
    """The message with other words; parts that are not text stay behind them."""
    if not isinstance(item.get("content"), list):
        return {**item, "content": text}
    changed = chat.with_text(item, text)
    if isinstance(changed["content"], str):
        return changed
    kind = "output_text" if item.get("role") == "assistant" else "input_text"
    return {**changed, "content": [{"type": kind, "text": text}, *changed["content"][1:]]}


def countable_text(item: Mapping[str, Any]) -> str:
    """All text of an item that costs tokens. What is encrypted costs something, too, but nobody knows how much."""
    match type_of(item):
        case "function_call" | "custom_tool_call":
            return f"{item.get('name')} {item.get('arguments', item.get('input'))}"
        case "reasoning":
            texts = (chat.message_text({"content": item.get(name)}) for name in ("summary", "content"))
            return "\n".join(text for text in texts if text)
        case _:
            return text_of(item)


def restorable(item: JsonObject) -> JsonObject | None:
    """A stored item as it may be sent again later: by itself, whatever became of the answer that it was in."""
    if is_silent(item):
        return item if type_of(item) == "reasoning" and item.get("encrypted_content") else None
    if type_of(item) == "message" and str(item.get("role")) not in ROLES:
        item = {**item, "role": "assistant"}
    if type_of(item) not in _SENT_AGAIN_BARE:
        return item
    return {name: value for name, value in item.items() if name not in {"id", "status"}}


def without_calls(item: JsonObject) -> JsonObject | None:
    """The words of a broken-off answer; anything else of it may be cut in the middle."""
    return item if type_of(item) == "message" else None


def complete_pairs(items: Sequence[JsonObject], following: Sequence[JsonObject] = ()) -> list[JsonObject]:
    """These items without calls that have no results, results that have no call, and reasoning that led to neither."""
    answered = {str(item.get("call_id")) for item in (*items, *following) if role_of(item) == "tool"}
    asked: set[str] = set()
    kept: list[JsonObject] = []
    thoughts: list[JsonObject] = []
    for item in items:
        call = str(item.get("call_id"))
        if type_of(item) == "reasoning":
            thoughts.append(item)
        elif _is_call(item) and call not in answered:
            thoughts = []
        elif role_of(item) != "tool" or call in asked or "call_id" not in item:
            asked |= {call} if _is_call(item) else set()
            kept += [*(thoughts if role_of(item) == "assistant" else ()), item]
            thoughts = []
    return kept


def _is_call(item: Mapping[str, Any]) -> bool:
    """The item waits for a result from the client."""
    return "call_id" in item and role_of(item) == "assistant"


def results(answers: Sequence[ToolAnswer]) -> list[JsonObject]:
    """The items that carry these results to the model."""
    return [
        {"type": "function_call_output", "call_id": answer.call.id, "output": _output(answer.content)}
        for answer in answers
    ]


def _output(content: str | list[Any]) -> str | list[Any]:
    """A result that another format's client gave may have parts of that format."""
    if isinstance(content, str):
        return content
    return [
        {**part, "type": "input_text"} if isinstance(part, dict) and part.get("type") == "text" else part
        for part in content
    ]


def calls_of(items: Sequence[JsonObject]) -> tuple[ToolCall, ...]:
    """The calls of functions among these items."""
    return tuple(
        ToolCall(str(item.get("call_id") or ""), str(item.get("name") or ""), str(item.get("arguments") or ""))
        for item in items
        if type_of(item) == "function_call"
    )


def as_chat(items: Sequence[JsonObject]) -> list[tuple[int, JsonObject]]:
    """The items as messages of chat completions: neighbouring items of an answer are one message there."""
    read: list[tuple[int, JsonObject]] = []
    for at, item in enumerate(items):
        role = role_of(item)
        if role == "tool":
            read.append((at, {"role": role, "tool_call_id": item.get("call_id"), "content": item.get("output")}))
        elif role != "assistant":
            read.append((at, item))
        else:
            if not read or read[-1][1].get("role") != role or role_of(items[at - 1]) != role:
                read.append((at, {"role": role, "content": "", "tool_calls": []}))
            _add_to_message(read[-1][1], item)
    return read


def _add_to_message(message: JsonObject, item: JsonObject) -> None:
    kind = type_of(item)
    if kind == "message":
        message["content"] = "\n".join(text for text in (message["content"], text_of(item)) if text)
    elif kind not in SERVER_TYPES or kind == "mcp_call":
        called = {"name": str(item.get("name") or kind), "arguments": item.get("arguments") or ""}
        if kind == "custom_tool_call":
            called = {"name": called["name"], "input": item.get("input")}
        message["tool_calls"].append({"id": item.get("call_id"), "function": called})
