"""Messages of chat completions: what they say, what tells them apart, how they may be sent again. Pure.

Other dialects borrow from here what is the same in theirs: words in a string or in parts, arguments of calls. Source of
the shapes: OpenAI's API reference, "Create chat completion", and what compatible servers add to it.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from memproxy.records import JsonObject

INSTRUCTION_ROLES = frozenset({"system", "developer"})
"""Roles whose leading messages are the agent's instructions, not part of the conversation."""

ROLES = INSTRUCTION_ROLES | {"user", "assistant", "tool"}
"""Roles that every server takes, as long as a tool's result says which call it answers."""

_ENCODER = msgspec.json.Encoder()
_CANONICAL = msgspec.json.Encoder(order="sorted")


def is_message(value: object) -> bool:
    """The value is a message of some role."""
    return isinstance(value, dict) and isinstance(value.get("role"), str)


def leading_instructions(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many leading messages are the agent's instructions."""
    count = 0
    for message in messages:
        if message.get("role") not in INSTRUCTION_ROLES:
            break
        count += 1
    return count


def message_text(message: Mapping[str, Any]) -> str:
    """The words of a message: its string content or its text parts joined by line ends; nothing else."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(text for part in content if (text := _part_text(part)))


def _part_text(part: object) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else ""


def _is_words(part: object) -> bool:
    """The part is text, be it empty."""
    return isinstance(part.get("text") if isinstance(part, dict) else part, str)


def with_text(message: JsonObject, text: str) -> JsonObject:
    """The message with other words; parts that are not text stay behind them."""
    content = message.get("content")
    if not isinstance(content, list):
        return {**message, "content": text}
    others = [part for part in content if not _is_words(part)]
    return {**message, "content": [{"type": "text", "text": text}, *others] if others else text}


def digest(message: Mapping[str, Any]) -> bytes:
    """16 bytes that are equal for messages which mean the same on the wire.

    Clients send a message back in another form than they received it in: content as a string or as parts, null or
    empty or absent, other white space around it or inside of arguments, new call ids, output-only fields dropped. None
    of that counts. Role, words, other parts, calls with their arguments, and a user's name do.
    """
    role, name, content = str(message.get("role")), message.get("name"), message.get("content")
    pieces = [b"system" if role in INSTRUCTION_ROLES else _utf8(role), _utf8(_canonical_text(message))]
    if role == "user" and isinstance(name, str):
        pieces += [b"name", _utf8(name)]
    for part in content if isinstance(content, list) else ():
        if not _is_words(part):
            pieces += [b"part", _CANONICAL.encode(part)]
    for called, arguments in _calls(message):
        pieces += [b"call", _utf8(called), _canonical_arguments(arguments)]
    return framed_digest(pieces)


def framed_digest(pieces: Iterable[bytes]) -> bytes:
    """16 bytes that stand for these pieces in this order."""
    framed = b"".join(b"%d:" % len(piece) + piece for piece in pieces)
    return hashlib.blake2b(framed, digest_size=16).digest()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _canonical_text(message: Mapping[str, Any]) -> str:
    text = message_text(message).strip()
    refusal = message.get("refusal")
    return text or (refusal.strip() if isinstance(refusal, str) else "")


def _calls(message: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            function = call.get("function") or call.get("custom")
            if isinstance(function, dict):
                yield str(function.get("name")), _arguments(function.get("arguments", function.get("input")))
    legacy = message.get("function_call")
    if isinstance(legacy, dict):
        yield str(legacy.get("name")), _arguments(legacy.get("arguments"))


def _arguments(value: object) -> str:
    """Arguments as text; some servers and clients send them as an object, or none."""
    if isinstance(value, str):
        return value
    return "" if value is None else _ENCODER.encode(value).decode()


def _canonical_arguments(text: str) -> bytes:
    """Equal for equal arguments: none is an empty object, and 1.0 is 1, as clients in JavaScript write it."""
    try:
        return _CANONICAL.encode(_ARGUMENTS.decode(text.strip() or "{}"))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _utf8(text.strip())


def _number(text: str) -> int | float | str:
    value = float(text)
    if math.isinf(value):
        return text
    return int(value) if value.is_integer() else value


_ARGUMENTS = msgspec.json.Decoder(float_hook=_number)


def countable_text(message: Mapping[str, Any]) -> str:
    """All text of a message that costs tokens: its words and the names and arguments of its calls."""
    return "\n".join([message_text(message), *(f"{name} {arguments}" for name, arguments in _calls(message))])


def call_ids(message: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids of the tools that an assistant message calls."""
    calls = message.get("tool_calls")
    return tuple(str(call.get("id")) for call in calls if isinstance(call, dict)) if isinstance(calls, list) else ()


def replayable(message: JsonObject) -> JsonObject:
    """A stored message as it may be sent again: without fields that servers only send, in a role that they know.

    Code may have written any role into a session: it is sent as the assistant's. (`function` was `tool` once.)
    """
    kept = {name: value for name, value in message.items() if value is not None or name == "content"}
    kept.pop("annotations", None)
    audio = kept.get("audio")
    if isinstance(audio, dict):
        kept["audio"] = {"id": audio.get("id")}
    if not kept.get("tool_calls", True):
        del kept["tool_calls"]
    role = str(kept.get("role"))
    if role not in ROLES and not (role == "function" and "name" in kept):
        kept["role"] = "assistant"
    role = str(kept.get("role"))
    if role not in ROLES and not (role == "function" and "name" in kept):
        kept["role"] = "assistant"
    return kept


def complete_pairs(messages: Sequence[JsonObject], following: Sequence[JsonObject] = ()) -> list[JsonObject]:
    """These messages without tool calls that have no results and without results that have no call.

    `following` are the messages that will stand behind them: results there answer calls here. Servers reject a
    conversation in which either half is missing.
    """
    kept: list[JsonObject] = []
    everything = [*messages, *following]
    open_calls: Counter[str] = Counter()
    for position, message in enumerate(messages):
        role = message.get("role")
        if role == "tool":
            answered = str(message.get("tool_call_id"))
            if open_calls[answered] > 0:
                open_calls[answered] -= 1
                kept.append(message)
            continue
        open_calls = Counter()
        wanted = call_ids(message)
        if role == "assistant" and wanted:
            if set(wanted) <= _results_after(everything, position):
                open_calls = Counter(wanted)
                kept.append(message)
            elif message_text(message).strip():
                kept.append({name: value for name, value in message.items() if name != "tool_calls"})
            continue
        kept.append(message)
    return kept


def _results_after(messages: Sequence[Mapping[str, Any]], position: int) -> set[str]:
    found = set()
    for message in messages[position + 1 :]:
        if message.get("role") != "tool":
            break
        found.add(str(message.get("tool_call_id")))
    return found


def without_calls(message: JsonObject) -> JsonObject:
    """The words of a broken-off answer: its calls may be cut in the middle and are dropped."""
    return {name: value for name, value in message.items() if name not in {"tool_calls", "function_call"}}
