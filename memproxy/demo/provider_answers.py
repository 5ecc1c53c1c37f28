"""The JSON that an OpenAI-compatible server answers with; pure.

Shapes follow https://platform.openai.com/docs/api-reference: chat completions and their chunks, models, embeddings,
files, errors.
"""

import base64
import hashlib
import math
import secrets
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from memproxy.demo.counting import text_tokens
from memproxy.demo.provider_checks import ErrorObject, error_object
from memproxy.demo.script import Reply, words_of
from memproxy.wire.sse import encode_event

FINGERPRINT = "fp_5c1b7ed0a1"
EMBEDDING_DIMS = 1536
DONE = encode_event(b"[DONE]")
_FRAGMENT_CHARS = 8
"""Length of a fragment of tool-call arguments; real fragments are tokens, so of about this length."""

_ERRORS_BY_STATUS: dict[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}
"""Type and code that OpenAI gives with a status; any other status is a `server_error`."""


def error_body(error: ErrorObject) -> bytes:
    """The whole body of an error answer."""
    return msgspec.json.encode({"error": error})


def scripted_error(reply: Reply) -> ErrorObject:
    """The error object of a reply with an error status."""
    if isinstance(reply.error, Mapping):
        return dict(reply.error)
    kind, code = _ERRORS_BY_STATUS.get(reply.status, ("server_error", None))
    return error_object(reply.error or f"The script answers with status {reply.status}.", kind, code=code)


def usage(reply: Reply, prompt_tokens: int, *, cached_tokens: int, choices: int) -> dict[str, Any]:
    """What the request cost, in tokens."""
    texts = [reply.text or "", *(text for call in reply.tool_calls for text in (call.name, call.arguments_json))]
    completion_tokens = choices * sum(map(text_tokens, texts))
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def completion_body(reply: Reply, body: dict[str, Any], *, created: int, usage: dict[str, Any]) -> bytes:
    """The answer to a request that did not ask for a stream."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.tool_calls:
        message["tool_calls"] = _tool_calls(reply)
    message |= {"refusal": None, "annotations": []}
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": _finish_reason(reply)}
        for index in range(body.get("n") or 1)
    ]
    head = {"id": _new_id("chatcmpl-"), "object": "chat.completion", "created": created, "model": body["model"]}
    tail = {"usage": usage, "service_tier": "default", "system_fingerprint": FINGERPRINT}
    return msgspec.json.encode({**head, "choices": choices, **tail})


def completion_events(reply: Reply, body: dict[str, Any], *, created: int, usage: dict[str, Any]) -> tuple[bytes, ...]:
    """The answer to a request that asked for a stream, event by event, `[DONE]` included.

    Role chunk, text word by word, tool calls in fragments, finish chunk; only when `stream_options.include_usage` asked
    for it a usage chunk, and `usage: null` in the others.
    """
    asked_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    head = {
        "id": _new_id("chatcmpl-"),
        "object": "chat.completion.chunk",
        "created": created,
        "model": body["model"],
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }
    chunks = [
        {**head, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]}
        for delta, finish_reason in _deltas(reply)
        for index in range(body.get("n") or 1)
    ]
    if asked_usage:
        chunks = [{**chunk, "usage": None} for chunk in chunks] + [{**head, "choices": [], "usage": usage}]
    return (*(encode_event(msgspec.json.encode(chunk)) for chunk in chunks), DONE)


def _deltas(reply: Reply) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Each delta of a streamed choice with its finish reason."""
    yield {"role": "assistant", "content": None if reply.text is None else "", "refusal": None}, None
    for word in words_of(reply.text or ""):
        yield {"content": word}, None
    for index, call in enumerate(_tool_calls(reply)):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        start = {"index": index, "id": call["id"], "type": "function", "function": {"name": name, "arguments": ""}}
        yield {"tool_calls": [start]}, None
        for place in range(0, len(arguments), _FRAGMENT_CHARS):
            fragment = {"arguments": arguments[place : place + _FRAGMENT_CHARS]}
            yield {"tool_calls": [{"index": index, "function": fragment}]}, None
    yield {}, _finish_reason(reply)


def _finish_reason(reply: Reply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id or _new_id("call_"),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_json},
        }
        for call in reply.tool_calls
    ]


def _new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


def models_body(models: Sequence[str]) -> bytes:
    """The list of models."""
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [
                {"id": model, "object": "model", "created": 1_700_000_000, "owned_by": "memproxy"} for model in models
            ],
        }
    )


def embeddings_body(body: dict[str, Any]) -> bytes:
    """The vectors of a checked embeddings request, as floats or as base64 of little-endian float32."""
    given = body["input"]
    inputs = given if isinstance(given, list) and not all(isinstance(each, int) for each in given) else [given]
    as_base64 = body.get("encoding_format") == "base64"
    data = []
    for index, each in enumerate(inputs):
        vector = embed(_embedded_text(each), body.get("dimensions") or EMBEDDING_DIMS)
        embedding = base64.b64encode(vector.tobytes()).decode() if as_base64 else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    tokens = sum(text_tokens(_embedded_text(each)) for each in inputs)
    return msgspec.json.encode(
        {
            "object": "list",
            "data": data,
            "model": body["model"],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _embedded_text(each: str | list[int]) -> str:
    """A text, or the token numbers that may stand in its place."""
    return each if isinstance(each, str) else " ".join(map(str, each))


def embed(text: str, dims: int) -> "array[float]":  # 3.11 cannot subscript it at run time
    """A unit vector of `dims` float32 that depends on the words alone: texts that share words are close."""
    total = [0.0] * dims
    for word in text.lower().split() or [""]:
        digest = hashlib.shake_128(word.encode()).digest(2 * dims)
        total = [each + number for each, number in zip(total, array("h", digest), strict=True)]
    length = math.sqrt(sum(each * each for each in total)) or 1.0
    return array("f", (each / length for each in total))


def file_body(raw_body: bytes, *, created: int) -> bytes:
    """The answer to an upload: size and SHA-256 are those of the whole body, multipart frame included."""
    digest = hashlib.sha256(raw_body).hexdigest()
    return msgspec.json.encode(
        {
            "id": f"file-{digest[:12]}-{len(raw_body)}",
            "object": "file",
            "bytes": len(raw_body),
            "created_at": created,
            "filename": "upload",
            "purpose": "user_data",
            "status": "processed",
            "sha256": digest,
        }
    )


def file_content(size_bytes: int) -> bytes:
    """Bytes that no text codec survives, always the same."""
    return (bytes(range(256)) * (size_bytes // 256 + 1))[:size_bytes]
