"""Anthropic's Messages API as a provider serves it, without a model; pure.

Shapes follow Anthropic's API reference, "Messages" and "Streaming messages". It refuses what the provider refuses:
calls whose results do not follow at once, results without a call, thinking with another signature than it was given.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from memproxy.demo.provider_answers import usage as chat_usage
from memproxy.demo.provider_checks import ErrorObject
from memproxy.demo.provider_responses import RefusedError
from memproxy.demo.script import Reply, text_of, words_of
from memproxy.wire.sse import encode_event

Block = dict[str, Any]

_FRAGMENT_CHARS = 8


def signature_of(thinking: str) -> str:
    """What the provider signs thinking with."""
    return "sig" + hashlib.sha256(thinking.encode()).hexdigest()


def refused(message: str) -> RefusedError:
    """A request that the provider would refuse."""
    return RefusedError({"type": "invalid_request_error", "message": message})


def error_body(error: ErrorObject) -> bytes:
    """The whole body of an error answer."""
    kind = error.get("type") or "api_error"
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": error["message"]}})


def conversation_of(body: dict[str, Any]) -> list[Block]:
    """All that the model is shown, in the form of chat completions. Raises RefusedError."""
    if not isinstance(body.get("model"), str) or not isinstance(body.get("max_tokens"), int):
        raise refused("model, max_tokens: Field required")
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise refused("messages: at least one message is required")
    turns = _turns(given)
    if turns[0]["role"] != "user":
        raise refused('messages: first message must use the "user" role')
    _check_pairs(turns)
    system = body.get("system")
    own = [{"role": "system", "content": text_of({"content": system})}] if system else []
    return own + [message for turn in turns for message in _messages(turn)]


def _turns(given: Sequence[Block]) -> list[Block]:
    """Neighbouring messages of one role are one turn."""
    turns: list[Block] = []
    for message in given:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if turns and turns[-1]["role"] == message["role"]:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": message["role"], "content": list(blocks)})
    return turns


def _check_pairs(turns: Sequence[Block]) -> None:
    asked: list[str] = []
    for turn in turns:
        results = [block["tool_use_id"] for block in turn["content"] if block["type"] == "tool_result"]
        if sorted(results) != sorted(asked):
            raise refused(
                f"messages: `tool_use` ids {asked} need `tool_result` blocks immediately after, not {results}"
            )
        if any(block["type"] != "tool_result" for block in turn["content"][: len(results)]):
            raise refused("messages: `tool_result` blocks must come first")
        asked = [block["id"] for block in turn["content"] if block["type"] == "tool_use"]
        for block in turn["content"]:
            if block["type"] == "thinking" and block.get("signature") != signature_of(block["thinking"]):
                raise refused("messages: Invalid `signature` in `thinking` block")
    if asked:
        raise refused(f"messages: `tool_use` ids {asked} were found without `tool_result` blocks")


def _messages(turn: Block) -> Iterator[Block]:
    """A turn as messages of chat completions."""
    blocks, words = turn["content"], text_of(turn)
    if turn["role"] == "assistant":
        calls = [
            {
                "id": block["id"],
                "type": "function",
                "function": {"name": block["name"], "arguments": msgspec.json.encode(block["input"]).decode()},
            }
            for block in blocks
            if block["type"] == "tool_use"
        ]
        yield {"role": "assistant", "content": words or None, **({"tool_calls": calls} if calls else {})}
        return
    for block in blocks:
        if block["type"] == "tool_result":
            yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text_of(block)}
    if words or not any(block["type"] == "tool_result" for block in blocks):
        yield {"role": turn["role"], "content": words}


def message_body(reply: Reply, body: dict[str, Any], *, prompt_tokens: int, cached_tokens: int) -> Block:
    """The whole message."""
    counts = chat_usage(reply, prompt_tokens, cached_tokens=cached_tokens, choices=1)
    return {
        "id": _new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": _content(reply),
        "stop_reason": reply.finish_reason or ("tool_use" if reply.tool_calls else "end_turn"),
        "stop_sequence": None,
        "usage": {
            "input_tokens": prompt_tokens - cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached_tokens,
            "output_tokens": counts["completion_tokens"],
            "service_tier": "standard",
        },
    }


def _content(reply: Reply) -> list[Block]:
    blocks: list[Block] = []
    if reply.reasoning:
        blocks.append({"type": "thinking", "thinking": reply.reasoning, "signature": signature_of(reply.reasoning)})
    if reply.text:
        blocks.append({"type": "text", "text": reply.text})
    for call in reply.tool_calls:
        given = msgspec.json.decode(call.arguments_json or "{}")
        blocks.append({"type": "tool_use", "id": call.id or _new_id("toolu_"), "name": call.name, "input": given})
    return blocks


def message_events(message: Block) -> tuple[bytes, ...]:
    """The message as a stream, event by event."""
    begun = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    told: list[Block] = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(message["content"]):
        told += [{"type": f"content_block_{kind}", "index": index, **more} for kind, more in _block_events(block)]
        told += [{"type": "ping"}] * (index == 0)
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    told.append(
        {"type": "message_delta", "delta": ended, "usage": {"output_tokens": message["usage"]["output_tokens"]}}
    )
    told.append({"type": "message_stop"})
    return tuple(encode_event(msgspec.json.encode(event), event["type"]) for event in told)


def _block_events(block: Block) -> Iterator[tuple[str, Block]]:
    match block["type"]:
        case "text":
            yield "start", {"content_block": {"type": "text", "text": ""}}
            for word in words_of(block["text"]):
                yield "delta", {"delta": {"type": "text_delta", "text": word}}
        case "thinking":
            yield "start", {"content_block": {"type": "thinking", "thinking": "", "signature": ""}}
            for word in words_of(block["thinking"]):
                yield "delta", {"delta": {"type": "thinking_delta", "thinking": word}}
            yield "delta", {"delta": {"type": "signature_delta", "signature": block["signature"]}}
        case _:
            yield "start", {"content_block": {**block, "input": {}}}
            text = msgspec.json.encode(block["input"]).decode()
            for place in range(0, len(text), _FRAGMENT_CHARS):
                piece = text[place : place + _FRAGMENT_CHARS]
                yield "delta", {"delta": {"type": "input_json_delta", "partial_json": piece}}
    yield "stop", {}


def _new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)
