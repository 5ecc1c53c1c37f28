"""Work on memories that nobody waits for: forget by a policy, merge what says the same, bring old documents up to date.

All of it may be broken off at any time and begun again: what was done stays done, and doing it twice changes nothing.
What somebody changes meanwhile is left as it is then.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from msgspec.structs import replace as record_with

from memproxy.memory import compaction
from memproxy.memory.forgetting import ForgetPolicy, Forgotten, given_up
from memproxy.memory.indexing import Indexer
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.memory_changes import Change, Drop, Patch, Swap
from memproxy.storage.memory_documents import FoundMemory
from memproxy.storage.memory_filter import Filter, of_scope
from memproxy.storage.schema import memory_key

log = logging.getLogger(__name__)

PAGE = 500
"""Memories read at a time."""

COMPARED = 5_000
"""Memories of one scope compared with each other: 2 s of one core."""

OTHER_WORKS_S = 2.0
"""How often to look whether another process is done."""

MOST_OF_A_SCOPE = 1_000_000


class Upkeep:
    """Forgets, merges and brings up to date."""

    def __init__(self, store: LongTermStore, indexer: Indexer) -> None:
        self._store = store
        self._indexer = indexer

    async def forget(
        self,
        tenant: str,
        policy: ForgetPolicy,
        *,
        where: Filter,
        pinned_ids: Collection[str],
        limit: int,
        dry_run: bool,
        now: datetime,
    ) -> Forgotten:
        """Delete what the policy gives up of the oldest `limit` memories that pass the filter."""
        every = replace(where, superseded=True)
        _, keys = await self._store.listing(tenant, every, offset=0, limit=limit, newest_first=False)
        found = await self._read(keys)
        records = [memory.record for memory in found]
        doomed = {id(record) for record in given_up(records, policy, pinned_ids=pinned_ids, now=now)}
        going = [memory for memory in found if id(memory.record) in doomed]
        if not dry_run:
            gone = await self._store.change_each([Drop(memory) for memory in going])
            going = [memory for memory, is_gone in zip(going, gone, strict=True) if is_gone]
        return Forgotten(len(found), tuple(memory.record.id for memory in going))

    async def compact(self, tenant: str, *, where: Filter) -> int:
        """Merge memories that say the same, one scope at a time, and say how many are left that pass the filter.

        Of more than `COMPARED` memories of a scope, those that were created one after another are compared.
        """
        for scope in await self._store.scopes(tenant, where):
            _, keys = await self._store.listing(tenant, where.and_(*of_scope(scope)), offset=0, limit=MOST_OF_A_SCOPE)
            for at in range(0, len(keys), COMPARED):
                found = await self._read(keys[at : at + COMPARED], with_vectors=True)
                for merge in await asyncio.to_thread(compaction.merges, found):
                    await self._apply(merge)
        return await self._store.count(tenant, where)

    async def backfill(self, *, batch: int) -> int:
        """Make anew what an earlier version or another embedding model wrote, and say how many documents that were.

        Then the indexes of those are dropped. Of several processes one works, and the others wait until all is done. A
        document that can't be read stays as it is, and is logged. Waits until the index knows all documents.
        """
        await self._store.ensure_index()
        try:
            made = await self._make_all_anew(batch)
        finally:
            await self._store.outdated.give_back()
        await self._store.outdated.drop_other_indexes()
        return made

    async def _make_all_anew(self, batch: int) -> int:
        made = unreadable = 0
        while True:
            waiting, keys = await self._store.outdated.some(limit=batch, offset=unreadable)
            if not keys:
                break
            if not await self._store.outdated.take():
                await asyncio.sleep(OTHER_WORKS_S)
                continue
            if not made:
                log.info("bringing %d memories up to date with this version and embedding model", waiting)
            found = await self._store.fetch(keys, with_vectors=True, only_readable=True)
            made += await self._made_anew(list(found.values()))
            unreadable += len(keys) - len(found)
        if made:
            log.info("brought %d memories up to date; %d can't be read", made, unreadable)
        return made

    async def _made_anew(self, found: Sequence[FoundMemory]) -> int:
        vectors = [memory.vector for memory in found]
        indexed = await self._indexer.indexed([memory.record for memory in found], vectors=vectors)
        swaps = [Swap(new, known) for new, known in zip(indexed, found, strict=True)]
        return sum(await self._store.change_each(swaps))

    async def _apply(self, merge: compaction.Merge) -> None:
        changes: list[Change] = [Drop(memory) for memory in merge.dropped]
        if merge.merged != merge.kept.record:
            (indexed,) = await self._indexer.indexed([merge.merged], vectors=[merge.kept.vector])
            changes.append(Swap(indexed, merge.kept))
        gone = {memory.record.id for memory in merge.dropped}
        past = [memory_key(merge.merged.scope, each) for memory in merge.dropped for each in memory.record.supersedes]
        changes += [
            Patch(record_with(known.record, superseded_by=merge.merged.id), known)
            for known in (await self._store.fetch(past)).values()
            if known.record.superseded_by in gone
        ]
        await self._store.change(changes)

    async def _read(self, keys: Sequence[str], *, with_vectors: bool = False) -> list[FoundMemory]:
        found: list[FoundMemory] = []
        for at in range(0, len(keys), PAGE):
            found += (await self._store.fetch(keys[at : at + PAGE], with_vectors=with_vectors)).values()
        return found
