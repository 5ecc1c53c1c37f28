"""Remember statements, and find those that a message is about, or that code asks for.

The proxy's own path asks for one user: a search asks both ways at once, by words and by meaning, blends the answers,
fetches the best, moves up what was said in their sittings, and tells only what is above the floor (`ranking`). Two
round trips to the store. The caller sets the deadline. Without a user it finds nothing.

Code may ask across a tenant's users, by any filter (`finding`), and may keep memories that belong to no user; who calls
`remember` or `create` decides that.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from memproxy.clock import Clock, SystemClock
from memproxy.embedding import Embedder
from memproxy.errors import AmbiguousIdError, StoreError
from memproxy.memory import ranking
from memproxy.memory.finding import QUERY_CHARS, QUERY_TERMS, Finder, ends
from memproxy.memory.forgetting import ForgetPolicy, Forgotten
from memproxy.memory.indexing import Indexer
from memproxy.memory.ranking import Floor, Fused
from memproxy.memory.search import Found, Query
from memproxy.memory.upkeep import Upkeep
from memproxy.memory.writing import Created, Writer, key_of
from memproxy.records import MemoryRecord, MemoryType, Scope, ScoredMemory
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.memory_documents import FoundMemory, UnreadMemory
from memproxy.storage.memory_filter import EVERYTHING, Filter, TagField, of_scope, types
from memproxy.words import Terms

log = logging.getLogger(__name__)

NEIGHBOURS = 10
"""Memories near to one; a duplicate is the nearest or one of the nearest."""


DEFAULT_FLOOR = Floor()


class LongTermMemory:
    """What is known, beyond one session."""

    def __init__(
        self,
        store: LongTermStore,
        embedder: Embedder,
        *,
        floor: Floor = DEFAULT_FLOOR,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._floor = floor
        self._clock = clock or SystemClock()
        self._terms = Terms()
        self._indexer = Indexer(embedder)
        self._finder = Finder(store, embedder, terms=self._terms)
        self._writer = Writer(store, self._indexer)
        self._upkeep = Upkeep(store, self._indexer)

    async def remember(self, records: Sequence[MemoryRecord], *, done: str | None = None) -> int:
        """Store memories and say how many are new; an id that is known is replaced and keeps its first time.

        `done` marks the work as done in the same step, for each user: with a mark that was set before, nothing is
        written.
        """
        return await self._writer.remember(records, done=done)

    async def create(self, records: Sequence[MemoryRecord], *, deduplicate: bool) -> list[Created]:
        """Store records as they are given, and say in their order what became of each.

        An equal id in the same scope is replaced, and keeps its first time and when it was persisted. With
        `deduplicate`, what says the same as another in the same scope, session and type (`memory_hash`) is not stored
        again; that the other was said again counts as an access to it.
        """
        return await self._writer.create(records, deduplicate=deduplicate, now=self._clock.now())

    async def edit(
        self, scope: Scope, memory_id: str, change: Callable[[MemoryRecord], MemoryRecord]
    ) -> MemoryRecord | None:
        """Change one memory and give it back as it is then; None when there is none. Id, scope and first time stay.

        What others change or delete at the same time is not lost: `change` is then asked again, with the newest record.
        What it raises comes through. Raises `StoreError` when others are always faster.
        """
        return await self._writer.edit(scope, memory_id, change)

    async def supersede(
        self, new: Sequence[MemoryRecord], old: Mapping[str, Sequence[str]], *, done: str | None = None
    ) -> int:
        """Store memories, some of which take the place of others, and say how many are new; one step for each user.

        `old`: id of a new memory -> ids of memories in its scope that hold no longer. They stay, and say until when
        they held and what took their place; one that has a successor already keeps it. `done`: see `remember`.
        """
        return await self._writer.supersede(new, old, done=done)

    async def search(
        self,
        scope: Scope,
        query: str,
        *,
        limit: int,
        where: Filter = EVERYTHING,
        excluded_ids: Collection[str] = (),
        relevant_only: bool = True,
    ) -> list[ScoredMemory]:
        """At most `limit` memories that the query is about, best first; without `relevant_only` even bad ones."""
        if scope.user is None:
            return []
        terms = self._terms.of_query(ends(query, QUERY_CHARS), limit=QUERY_TERMS)
        vector = await self._embedder.embed_query(query)
        hits = await self._store.search(
            scope,
            terms,
            vector=vector if vector.any() else None,
            limit=ranking.LIST_LIMIT,
            where=where,
            excluded_ids=excluded_ids,
            counted=self._floor.counted if relevant_only else 0,
        )
        pool = ranking.fuse(hits.text, hits.vector, limit=ranking.POOL * limit)
        found = await self._store.unread([candidate.key for candidate in pool])
        pool = [candidate for candidate in pool if candidate.key in found]
        sittings = {key: memory.sitting for key, memory in found.items()}
        best = ranking.by_sitting(pool, sittings, limit=limit)
        if relevant_only:
            best = self._relevant(best, found, self._weights(query, terms), candidates=hits.candidates)
        return ranking.newer_first(_told(best, found))

    async def find(self, tenant: str, query: Query) -> Found:
        """One page of the tenant's memories that a query finds."""
        return await self._finder.find(tenant, query)

    async def neighbours(self, scope: Scope, records: Sequence[MemoryRecord]) -> list[list[ScoredMemory]]:
        """For each record the nearest semantic and episodic memories that hold, of this scope, nearest first.

        `compaction.says_the_same` tells which of them are the same statement.
        """
        memories = await self._indexer.indexed(records)
        vectors = [memory.vector if memory.vector.any() else None for memory in memories]
        lists = await self._store.near_each(
            scope, vectors, where=Filter((types(MemoryType.SEMANTIC, MemoryType.EPISODIC),)), limit=NEIGHBOURS + 1
        )
        found = await self._store.fetch(list({key: None for near in lists for key in near}))
        return [
            [
                ScoredMemory(found[key].record, score=max(cosine, 0.0), text_score=0.0, vector_score=cosine)
                for key, cosine in near.items()
                if key in found and key != key_of(record)
            ][:NEIGHBOURS]
            for record, near in zip(records, lists, strict=True)
        ]

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[MemoryRecord]:
        """The memories with these ids, in this order; unknown ids are left out."""
        return await self._store.get(scope, ids)

    async def by_id(self, tenant: str, memory_id: str, *, where: Filter = EVERYTHING) -> list[MemoryRecord]:
        """All memories of the tenant with this id, also superseded ones; several scopes may hold one each."""
        found = await self._with_ids(tenant, [memory_id], where)
        return [memory.record for memory in found.values()]

    async def newest(
        self, scope: Scope, *, limit: int, offset: int = 0, where: Filter = EVERYTHING
    ) -> tuple[int, list[MemoryRecord]]:
        """How many of a user's memories pass the filter, and one page of them, newest first."""
        if scope.user is None:
            return 0, []
        within = where.and_(*of_scope(scope))
        total, keys = await self._store.listing(scope.tenant, within, offset=offset, limit=limit)
        return total, [memory.record for memory in (await self._store.fetch(keys)).values()]

    async def touch(self, records: Sequence[MemoryRecord], *, now: datetime) -> int:
        """Note that these memories were looked at, each at most every 15 minutes; how many were noted."""
        return await self._store.touch([key_of(record) for record in records], now=now)

    async def forget(self, scope: Scope, ids: Sequence[str]) -> int:
        """Delete the memories with these ids and say how many there were."""
        return await self._store.delete(scope, ids)

    async def delete_ids(self, tenant: str, ids: Sequence[str], *, where: Filter = EVERYTHING) -> int:
        """Delete the tenant's memories with these ids and say how many there were.

        Raises `AmbiguousIdError`, and deletes nothing, when several scopes hold an id and `where` does not settle it.
        """
        found = await self._with_ids(tenant, list(dict.fromkeys(ids)), where)
        held: set[str] = set()
        for memory in found.values():
            if memory.record.id in held:
                raise AmbiguousIdError(
                    f"Several memories have the id {memory.record.id!r}, of different users or namespaces: say whose."
                )
            held.add(memory.record.id)
        return await self._store.delete_keys(list(found))

    async def forget_user(self, scope: Scope) -> int:
        """Delete every memory of this user, in all namespaces, and say how many there were."""
        return await self._store.delete_user(scope) if scope.user is not None else 0

    async def forget_by_policy(
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
        """Delete what the policy gives up of the oldest `limit` memories that pass the filter, superseded ones, too."""
        return await self._upkeep.forget(
            tenant, policy, where=where, pinned_ids=pinned_ids, limit=limit, dry_run=dry_run, now=now
        )

    async def compact(self, tenant: str, *, where: Filter = EVERYTHING) -> int:
        """Merge memories that say the same and say how many are left of those that pass the filter."""
        return await self._upkeep.compact(tenant, where=where)

    async def backfill(self, *, batch: int = 200) -> int:
        """Make anew what an earlier version or another embedding model wrote, and say how many memories that were."""
        return await self._upkeep.backfill(batch=batch)

    async def _with_ids(self, tenant: str, ids: Sequence[str], where: Filter) -> dict[str, FoundMemory]:
        every = replace(where, superseded=True)
        return await self._store.fetch(await self._store.having(tenant, every, field=TagField.ID, values=ids))

    def _weights(self, query: str, terms: Sequence[str]) -> dict[str, float]:
        names = self._terms.names_in(ends(query, QUERY_CHARS))
        return ranking.question_weights(terms, names, self._embedder.weigh)

    def _relevant(
        self,
        best: Sequence[Fused],
        found: Mapping[str, UnreadMemory],
        weights: Mapping[str, float],
        *,
        candidates: int,
    ) -> list[Fused]:
        judged = {}
        for candidate in best:
            memory = found[candidate.key]
            covered = ranking.coverage(weights, memory.terms)
            has = ranking.relevance(covered, candidate.vector_score, unrelated=self._embedder.unrelated)
            judged[candidate.key] = (has, memory.type)
        passed = set(self._floor.passed(judged, candidates=candidates))
        return [candidate for candidate in best if candidate.key in passed]


def _told(best: Iterable[Fused], found: Mapping[str, UnreadMemory]) -> Iterator[ScoredMemory]:
    """The memories themselves; one that can't be read must not keep the others from being told."""
    for candidate in best:
        try:
            record = found[candidate.key].read()
        except StoreError as error:
            log.warning("%s: %s", candidate.key, error)
            continue
        yield ScoredMemory(record, candidate.score, candidate.text_score, candidate.vector_score)
