"""Memories as documents of the store, and back.

A document is one hash: the record as JSON, which is what comes back, and beside it what the index reads: tags, times,
terms, vector (`memory_index`). Its first time, its last access and the number of accesses are fields only: they change
by themselves, and are filled into the record when it is read.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from memproxy.errors import StoreError
from memproxy.records import MemoryRecord, MemoryType
from memproxy.storage import memory_index, schema
from memproxy.storage.memory_filter import TagField
from memproxy.storage.memory_index import Made

Vector = npt.NDArray[np.float32]

FIELDS = ("record", "created_at", "last_accessed", "access_count", "text", "ctx")
"""What is read of a document; its vector only where it is needed."""

JUDGED = (*FIELDS, "type", "session")
"""What is read of a document that may turn out not to be wanted."""


@dataclass(frozen=True, slots=True)
class IndexedMemory:
    """A memory with what makes it findable. `vector`: (dims,) float32, unit length, or all zeros."""

    record: MemoryRecord
    text_terms: Sequence[str]
    context_terms: Sequence[str]
    vector: Vector


@dataclass(frozen=True, slots=True)
class FoundMemory:
    """A memory as it is stored, with the terms of its text and context, by which a caller may judge the match."""

    record: MemoryRecord
    indexed: bytes
    """The terms of its text and context, with blanks between: a set of them is made only where it is judged."""
    raw: bytes
    """The record's bytes, by which a change sees whether it is still the same."""
    vector: Vector | None = None
    """None when it was not asked for, or there is none."""

    @property
    def terms(self) -> frozenset[str]:
        """The terms of its text and context."""
        return frozenset(self.indexed.decode().split())


@dataclass(frozen=True, slots=True)
class UnreadMemory:
    """A document as it came: most of what a search finds is dropped for its terms, and need not be decoded."""

    values: Sequence[bytes | None]
    """Of `JUDGED`."""
    made: Made

    @property
    def terms(self) -> frozenset[str]:
        """The terms of its text and context."""
        return frozenset(_indexed(self.values[4], self.values[5]).decode().split())

    @property
    def type(self) -> MemoryType:
        """What kind of memory it is."""
        try:
            return MemoryType((self.values[6] or b"").decode())
        except ValueError:
            return MemoryType.MESSAGE

    @property
    def sitting(self) -> str | None:
        """What stands for the session in which it was said."""
        tag = (self.values[7] or b"").decode()
        return None if tag.endswith(memory_index.NO_VALUE) else tag or None

    def read(self) -> MemoryRecord:
        """The memory itself. Raises `StoreError` for what can't be read."""
        return read_document(self.values[:6], self.made).record


def memory_hash(record: MemoryRecord) -> str:
    """32 hexadecimal digits: equal for memories that say the same in the same scope, session and type."""
    scope = record.scope
    return schema.digest_of("says", record.text, scope.user, scope.namespace, record.session, record.type)


def document(memory: IndexedMemory, made: Made) -> list[str | bytes]:
    """The arguments that write a memory: first time, last access or "", accesses; then field, value, field, value."""
    record = memory.record
    below = memory_index.tenant_tag(record.scope.tenant)
    fields: dict[str, str | bytes] = {
        "record": _as_json(record),
        "tenant": below,
        "type": record.type.value,
        **{field.value: memory_index.tags(below, field, values) for field, values in _tagged(record)},
        "made": made.mark,
        "text": " ".join(memory.text_terms),
        "ctx": " ".join(memory.context_terms),
    }
    packed = packed_vector(memory.vector, made)
    if memory.vector.any():  # nothing is near to a text without known words, and its cosine would be no number
        fields |= {made.vector_field: packed, "made": f"{made.mark},{made.vector_mark}"}
    fields |= {name: value for name, value in _validity(record).items() if value}
    if record.pinned:
        fields["pinned"] = "1"
    for name, at in (("event_date", record.event_date), ("updated_at", record.updated_at)):
        if at is not None:
            fields[name] = memory_index.moment(at)
    accessed = memory_index.moment(record.last_accessed) if record.last_accessed is not None else ""
    times = [memory_index.moment(record.created_at), accessed, str(record.access_count)]
    return [*times, *(part for pair in fields.items() for part in pair)]


def validity(record: MemoryRecord) -> list[str | bytes]:
    """The arguments that change nothing of a document but what says whether it holds: "" for a field that goes."""
    fields: dict[str, str | bytes] = {"record": _as_json(record), **_validity(record)}
    return [part for pair in fields.items() for part in pair]


def _validity(record: MemoryRecord) -> dict[str, str]:
    holds = record.valid_until is None
    return {"scope": memory_index.scope_tag(record.scope) if holds else "", "superseded": "" if holds else "1"}


def _tagged(record: MemoryRecord) -> Iterable[tuple[TagField, Iterable[str]]]:
    single = {
        TagField.USER: record.scope.user,
        TagField.NAMESPACE: record.scope.namespace,
        TagField.SESSION: record.session,
        TagField.STRATEGY: record.strategy,
        TagField.ID: record.id,
        TagField.HASH: memory_hash(record),
    }
    for field, value in single.items():
        yield field, () if value is None else (value,)
    yield TagField.TOPICS, record.topics
    yield TagField.ENTITIES, record.entities


def packed_vector(vector: Vector, made: Made) -> bytes:
    """The vector's bytes, as the index reads them."""
    if vector.shape != (made.dims,):
        raise StoreError(f"A vector of shape {vector.shape} does not fit index {made.index_name}.")
    return vector.astype(np.float32, copy=False).tobytes()


def read_document(values: Sequence[bytes | None], made: Made) -> FoundMemory:
    """The memory of the values of `FIELDS`, with its vector if that was asked for, too.

    Raises `StoreError` for what can't be read. A document of version 1 has no accesses.
    """
    raw, created_at, last_accessed, access_count, text, context, *vectors = values
    try:
        record = _RECORD.decode(raw or b"")
        first = _time_of(created_at or b"0")
        accesses = int(access_count or 0)
        last = _time_of(last_accessed) if last_accessed else first
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        raise StoreError("A stored memory can't be read; was it written by a newer memproxy?") from error
    record = replace(
        record,
        created_at=first,
        last_accessed=last if accesses or last != first else None,
        access_count=accesses,
    )
    return FoundMemory(record, _indexed(text, context), raw or b"", read_vector(vectors[0] if vectors else None, made))


def _indexed(text: bytes | None, context: bytes | None) -> bytes:
    return b"%s %s" % (text or b"", context or b"")


def read_vector(packed: bytes | None, made: Made) -> Vector | None:
    """A stored vector; None when there is none that fits."""
    if packed is None or len(packed) != 4 * made.dims:
        return None
    return np.frombuffer(packed, np.float32)


def _time_of(seconds: bytes) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC)


_RECORD = msgspec.json.Decoder(MemoryRecord)


def _as_json(record: MemoryRecord) -> bytes:
    still = replace(record, last_accessed=None, access_count=0)
    try:
        return msgspec.json.encode(still)
    except UnicodeEncodeError:  # a lone surrogate, which JSON can bring and UTF-8 can't hold
        return json.dumps(msgspec.to_builtins(still), ensure_ascii=False).encode("utf-8", "replace")
