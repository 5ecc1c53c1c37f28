"""Changes to one user's memories, as the script takes them that makes all or none. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from memproxy.errors import StoreError
from memproxy.records import MemoryRecord
from memproxy.storage import schema
from memproxy.storage.memory_documents import FoundMemory, IndexedMemory, document, validity
from memproxy.storage.memory_index import Made

T = TypeVar("T")

MARK_TTL_S = 7 * 86_400
"""How long a mark says that some work is done: longer than any queue tries."""

CONFLICT = -2
"""The script's answer when a memory is no longer as it was read."""


@dataclass(frozen=True, slots=True)
class Put:
    """Store a memory; one with its id is replaced and keeps its first time."""

    memory: IndexedMemory


@dataclass(frozen=True, slots=True)
class Swap:
    """Store a memory in place of what was read under its id, if that is still the same."""

    memory: IndexedMemory
    known: FoundMemory


@dataclass(frozen=True, slots=True)
class Drop:
    """Delete what was read, if it is still the same."""

    known: FoundMemory


@dataclass(frozen=True, slots=True)
class Patch:
    """Say of what was read when it ceased to hold, if it is still the same; nothing is indexed anew but that."""

    record: MemoryRecord
    known: FoundMemory


Change = Put | Swap | Drop | Patch


def changing(changes: Sequence[Change], made: Made, *, mark: str | None = None) -> list[str | bytes | int]:
    """What `write_memories.lua` is called with: the number of keys, keys, arguments.

    Raises `StoreError` for memories of several users: no script may touch two partitions.
    """
    keys: list[str] = []
    arguments: list[str | bytes | int] = ["" if mark is None else MARK_TTL_S * 1000]
    for change in changes:
        what, read, fields = _arguments(change, made)
        record = _record(change)
        keys.append(schema.memory_key(record.scope, record.id))
        arguments += [what, read, len(fields), *fields]
    if mark is not None:
        keys.append(schema.done_key(_record(changes[0]).scope, mark))
    if len(by_partition((key, key) for key in keys)) > 1:
        raise StoreError("Memories of different users can't be changed in one step.")
    return [len(keys), *keys, *arguments]


def by_partition(keyed: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """Values grouped by the partition in which their keys lie."""
    parts: dict[str, list[T]] = defaultdict(list)
    for key, value in keyed:
        parts[key.partition("{")[2].partition("}")[0]].append(value)
    return parts


def _record(change: Change) -> MemoryRecord:
    match change:
        case Put() | Swap():
            return change.memory.record
        case Drop():
            return change.known.record
        case Patch():
            return change.record


def _arguments(change: Change, made: Made) -> tuple[str, bytes, list[str | bytes]]:
    match change:
        case Put():
            return "put", b"", document(change.memory, made)
        case Swap():
            return "swap", change.known.raw, document(change.memory, made)
        case Drop():
            return "drop", change.known.raw, []
        case Patch():
            return "patch", change.known.raw, validity(change.record)
