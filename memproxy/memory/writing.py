"""Store memories: as they were learned, as code gives them, changed, or in the place of others."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from msgspec.structs import replace

from memproxy.errors import StoreError
from memproxy.memory.indexing import Indexer
from memproxy.records import MemoryRecord, Scope
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.memory_changes import Change, Patch, Put
from memproxy.storage.memory_documents import FoundMemory, memory_hash
from memproxy.storage.memory_filter import EVERYTHING, TagField
from memproxy.storage.schema import memory_key

ATTEMPTS = 5
"""How often a change begins anew because somebody else was faster."""

Says = tuple[str, str]
"""A tenant, and the hash of what a memory says."""


@dataclass(frozen=True, slots=True)
class Created:
    """What became of one record that was to be created."""

    id: str
    """Under which the memory is stored: the record's own, or that of an equal memory that is known."""
    is_new: bool
    """False for one that took the place of its predecessor, or was known."""


class Writer:
    """Writes memories."""

    def __init__(self, store: LongTermStore, indexer: Indexer) -> None:
        self._store = store
        self._indexer = indexer

    async def remember(self, records: Sequence[MemoryRecord], *, done: str | None) -> int:
        """Store memories and say how many are new; see `LongTermMemory.remember`."""
        memories = await self._indexer.indexed(records)
        if done is None:
            return await self._store.write(memories)
        new = 0
        for part in _by_user(records):
            puts = [Put(memories[place]) for place in part]
            new += await self._store.change(puts, mark=done) or 0
        return new

    async def create(self, records: Sequence[MemoryRecord], *, deduplicate: bool, now: datetime) -> list[Created]:
        """Store records as they are given; see `LongTermMemory.create`."""
        known = await self._store.fetch([key_of(record) for record in records])
        equal = await self._equal(records) if deduplicate else {}
        stored: dict[str, MemoryRecord] = {}
        told_again: list[str] = []
        created = []
        for record in records:
            key, says = key_of(record), (record.scope.tenant, memory_hash(record))
            earlier = equal.get(says)
            if earlier is not None and earlier.id != record.id and key not in known:
                told_again.append(key_of(earlier))
                created.append(Created(earlier.id, is_new=False))
                continue
            created.append(Created(record.id, is_new=key not in known and key not in stored))
            stored[key] = _persisted_as(known.get(key), record)
            if deduplicate:
                equal.setdefault(says, record)
        await self._store.write(await self._indexer.indexed(list(stored.values())))
        await self._store.touch([key for key in dict.fromkeys(told_again) if key not in stored], now=now)
        return created

    async def edit(
        self, scope: Scope, memory_id: str, change: Callable[[MemoryRecord], MemoryRecord]
    ) -> MemoryRecord | None:
        """Change one memory and give it back as it is then; see `LongTermMemory.edit`."""
        key = memory_key(scope, memory_id)
        for _ in range(ATTEMPTS):
            known = (await self._store.fetch([key], with_vectors=True)).get(key)
            if known is None:
                return None
            fixed = known.record
            edited = replace(change(fixed), id=fixed.id, scope=fixed.scope, created_at=fixed.created_at)
            vector = known.vector if edited.text == fixed.text else None
            (indexed,) = await self._indexer.indexed([edited], vectors=[vector])
            if await self._store.rewrite(indexed, known=known):
                return edited
        raise StoreError("A memory kept changing while it was edited.")

    async def supersede(
        self, new: Sequence[MemoryRecord], old: Mapping[str, Sequence[str]], *, done: str | None
    ) -> int:
        """Store memories, some of which take the place of others; see `LongTermMemory.supersede`."""
        return sum([await self._succeed([new[place] for place in part], old, done=done) for part in _by_user(new)])

    async def _succeed(
        self, records: Sequence[MemoryRecord], old: Mapping[str, Sequence[str]], *, done: str | None
    ) -> int:
        for _ in range(ATTEMPTS):
            successors, patches = await self._succession(records, old)
            puts = [Put(memory) for memory in await self._indexer.indexed(successors)]
            changes: list[Change] = [*puts, *patches]
            if (made := await self._store.change(changes, mark=done)) is not None:
                return made
        raise StoreError("Memories kept changing while others took their place.")

    async def _succession(
        self, records: Sequence[MemoryRecord], old: Mapping[str, Sequence[str]]
    ) -> tuple[list[MemoryRecord], list[Patch]]:
        """The records with what each takes the place of, and what those become; one has one successor, the first."""
        new_keys = {key_of(record) for record in records}
        places = [[memory_key(record.scope, each) for each in old.get(record.id, ())] for record in records]
        found = await self._store.fetch([key for keys in places for key in keys if key not in new_keys])
        patches: dict[str, Patch] = {}
        successors = []
        for record, keys in zip(records, places, strict=True):
            replaced = list(record.supersedes)
            for key, known in ((key, found[key]) for key in keys if key in found):
                if known.record.valid_until is None and key not in patches:
                    patches[key] = Patch(_succeeded(known.record, record), known)
                last = patches[key].record if key in patches else known.record
                if last.superseded_by == record.id:
                    replaced.append(last.id)
            successors.append(replace(record, supersedes=tuple(dict.fromkeys(replaced))))
        return successors, list(patches.values())

    async def _equal(self, records: Sequence[MemoryRecord]) -> dict[Says, MemoryRecord]:
        """Stored memories that say the same as one of these; of several the oldest."""
        hashes: dict[str, list[str]] = defaultdict(list)
        for record in records:
            hashes[record.scope.tenant].append(memory_hash(record))
        equal: dict[Says, MemoryRecord] = {}
        for tenant, wanted in hashes.items():
            keys = await self._store.having(tenant, EVERYTHING, field=TagField.HASH, values=wanted)
            for memory in (await self._store.fetch(keys)).values():
                says = (tenant, memory_hash(memory.record))
                if says not in equal or memory.record.created_at < equal[says].created_at:
                    equal[says] = memory.record
        return equal


def key_of(record: MemoryRecord) -> str:
    """Where a memory is stored."""
    return memory_key(record.scope, record.id)


def _by_user(records: Sequence[MemoryRecord]) -> list[list[int]]:
    """The places of the records of each user."""
    parts: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        parts[record.scope.tenant, record.scope.user].append(place)
    return list(parts.values())


def _persisted_as(known: FoundMemory | None, record: MemoryRecord) -> MemoryRecord:
    """The record, persisted when its predecessor was."""
    if known is None or known.record.persisted_at is None:
        return record
    return replace(record, persisted_at=known.record.persisted_at)


def _succeeded(known: MemoryRecord, successor: MemoryRecord) -> MemoryRecord:
    held_until = max(successor.created_at, known.created_at)
    return replace(known, valid_until=held_until, superseded_by=successor.id)
