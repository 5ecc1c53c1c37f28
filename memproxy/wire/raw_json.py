"""Rewrite JSON by splicing: whatever is not touched keeps its bytes (number formats, key order, unknown fields). Pure.

Bodies are decoded once to be read. To be changed, they are taken apart into raw fields and raw list items, and only
what changes is written anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from memproxy.records import JsonObject

_DECODER = msgspec.json.Decoder()
_RAW_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_ENCODER = msgspec.json.Encoder()


def decoded(body: bytes) -> JsonObject | None:
    """The JSON object in `body`, or None."""
    try:
        value = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def raw_field(body: bytes, name: str) -> bytes | None:
    """The bytes of one of an object's fields."""
    value = _RAW_OBJECT.decode(body).get(name)
    return None if value is None else bytes(value)


def raw_items(raw: bytes) -> list[bytes]:
    """The bytes of each item of a list."""
    return [bytes(item) for item in _RAW_LIST.decode(raw)]


def list_of(items: Sequence[bytes]) -> bytes:
    """A list of these items."""
    return b"[" + b",".join(items) + b"]"


def with_fields(body: bytes, changed: Mapping[str, bytes]) -> bytes:
    """An object's bytes with these fields in their places, new ones behind the others."""
    fields: dict[str, bytes | msgspec.Raw] = {**_RAW_OBJECT.decode(body), **changed}
    return b"{" + b",".join(_ENCODER.encode(name) + b":" + bytes(value) for name, value in fields.items()) + b"}"


def with_more(body: bytes, name: str, items: Sequence[bytes]) -> bytes:
    """An object's bytes with more items behind those of a list field, which may be missing."""
    raw = raw_field(body, name)
    own = raw_items(raw) if raw is not None and isinstance(_DECODER.decode(raw), list) else []
    return with_fields(body, {name: list_of([*own, *items])})


def encode(value: Any) -> bytes:
    """A value as JSON: the same value always gives the same bytes."""
    return _ENCODER.encode(value)


def with_text_before(
    raw: bytes, blocks: Sequence[str], *, part_type: str, behind: frozenset[str] = frozenset()
) -> bytes:
    """A message's bytes with blocks of text before its content; its other fields keep their bytes.

    A string stays a string. Parts stay parts: the blocks become parts of `part_type`, before the first part whose type
    is not in `behind`.
    """
    raw_content = raw_field(raw, "content")
    content = None if raw_content is None else _DECODER.decode(raw_content)
    if isinstance(content, list) and raw_content is not None:
        at = 0
        while at < len(content) and isinstance(content[at], dict) and content[at].get("type") in behind:
            at += 1
        added = [encode({"type": part_type, "text": block}) for block in blocks]
        rest = raw_content.strip()[1:-1].strip() if at == 0 else b",".join(raw_items(raw_content)[at:])
        before = raw_items(raw_content)[:at]
        return with_fields(raw, {"content": list_of([*before, *added, *([rest] if rest else [])])})
    texts = [*blocks, content] if isinstance(content, str) and content else list(blocks)
    return with_fields(raw, {"content": encode("\n\n".join(texts))})
