"""Read a response's recorded bytes as the JSON objects that they hold, in whatever format. Pure."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from memproxy.records import JsonObject
from memproxy.wire.joined import object_of
from memproxy.wire.sse import SseTooLargeError, parse_stream

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""How far a compressed answer is unpacked for reading: a few KB can stand for gigabytes."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A response's objects."""

    objects: tuple[JsonObject, ...]
    is_stream: bool


def read_recorded(chunks: Sequence[bytes], *, content_type: str, content_encoding: str) -> Recorded | None:
    """The objects of a stream up to its end marker, or the one of a whole body; None where it can't be read."""
    body = b"".join(chunks)
    try:
        if content_encoding.lower() in {"gzip", "deflate", "x-gzip"}:
            body = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MAX_ANSWER_BYTES)
        if content_type.lower().startswith("text/event-stream"):
            return Recorded(tuple(_objects(body)), is_stream=True)
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, zlib.error, SseTooLargeError):
        return None
    return Recorded((value,), is_stream=False) if isinstance(value, dict) else None


def _objects(body: bytes) -> list[JsonObject]:
    found = []
    for event in parse_stream([body]):
        if event.data == b"[DONE]":
            break
        value = object_of(event.data)
        if value is not None:
            found.append(value)
    return found
