"""Remember statements about users, and find those that a message is about.

A search asks both ways at once, by words and by meaning, blends the answers, fetches the few that may be told, and
tells only those above the floor (`ranking`). Two round trips to the store. The caller sets the deadline.

Without a user there is no long-term memory: nothing is written, and nothing is found.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

from msgspec.structs import replace

from memproxy.embedding import Embedder
from memproxy.errors import StoreError
from memproxy.memory import ranking
from memproxy.memory.ranking import Floor, Fused
from memproxy.records import MemoryRecord, Scope, ScoredMemory
from memproxy.storage.long_term import FoundMemory, IndexedMemory, LongTermStore
from memproxy.storage.memory_index import Filter
from memproxy.words import Terms

QUERY_CHARS = 2_000
"""Of a longer message, a thousand characters of the beginning and of the end: the question stands at either."""

QUERY_TERMS = 32
"""The engine's time grows with each term; a question has 3 to 10, a paragraph 30."""

DOCUMENT_CHARS = 8_000
DOCUMENT_TERMS = 600
"""What is indexed of one memory; a longer one is still told whole."""

EDIT_ATTEMPTS = 5
"""How often an edit begins anew because somebody else was faster."""

EVERYTHING = Filter()
DEFAULT_FLOOR = Floor()


class LongTermMemory:
    """What is known about users, beyond one session."""

    def __init__(self, store: LongTermStore, embedder: Embedder, *, floor: Floor = DEFAULT_FLOOR) -> None:
        self._store = store
        self._embedder = embedder
        self._floor = floor
        self._terms = Terms()

    async def remember(self, records: Sequence[MemoryRecord]) -> int:
        """Store memories and say how many are new; an id that is known is replaced and keeps its first time."""
        kept = [record for record in records if record.scope.user is not None]
        return await self._store.write(await self._indexed(kept)) if kept else 0

    async def edit(
        self, scope: Scope, memory_id: str, change: Callable[[MemoryRecord], MemoryRecord]
    ) -> MemoryRecord | None:
        """Change one memory and give it back as it is then; None when there is none. Id, scope and first time stay.

        What others change or delete at the same time is not lost: `change` is then asked again, with the newest record.
        What it raises comes through. Raises `StoreError` when others are always faster.
        """
        if scope.user is None:
            return None
        for _ in range(EDIT_ATTEMPTS):
            known = await self._store.find(scope, memory_id)
            if known is None:
                return None
            fixed = known.record
            edited = replace(change(fixed), id=fixed.id, scope=fixed.scope, created_at=fixed.created_at)
            (indexed,) = await self._indexed([edited])
            if await self._store.rewrite(indexed, known=known):
                return edited
        raise StoreError("A memory kept changing while it was edited.")

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
        terms = self._terms.of_query(_ends(query, QUERY_CHARS), limit=QUERY_TERMS)
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
        fused = ranking.fuse(hits.text, hits.vector, limit=limit)
        found = await self._store.fetch([candidate.key for candidate in fused])
        if relevant_only:
            fused = self._relevant(fused, found, terms, candidates=hits.candidates)
        return ranking.newer_first(_scored(candidate, found) for candidate in fused if candidate.key in found)

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[MemoryRecord]:
        """The memories with these ids, in this order; unknown ids are left out."""
        return await self._store.get(scope, ids) if scope.user is not None else []

    async def newest(
        self, scope: Scope, *, limit: int, offset: int = 0, where: Filter = EVERYTHING
    ) -> tuple[int, list[MemoryRecord]]:
        """How many memories pass the filter, and one page of them, newest first."""
        if scope.user is None:
            return 0, []
        return await self._store.newest(scope, limit=limit, offset=offset, where=where)

    async def forget(self, scope: Scope, ids: Sequence[str]) -> int:
        """Delete the memories with these ids and say how many there were."""
        return await self._store.delete(scope, ids) if scope.user is not None else 0

    async def forget_user(self, scope: Scope) -> int:
        """Delete every memory of this user, in all namespaces, and say how many there were."""
        return await self._store.delete_user(scope) if scope.user is not None else 0

    async def _indexed(self, records: Sequence[MemoryRecord]) -> list[IndexedMemory]:
        vectors = await self._embedder.embed_documents([record.text for record in records])
        terms = await asyncio.to_thread(_terms_of, records)
        indexed = zip(records, terms, vectors, strict=True)
        return [IndexedMemory(record, *both, vector) for record, both, vector in indexed]

    def _relevant(
        self, fused: Sequence[Fused], found: dict[str, FoundMemory], terms: Sequence[str], *, candidates: int
    ) -> list[Fused]:
        weights = {term: self._embedder.weigh(term) for term in terms}
        relevant = []
        for candidate in fused:
            if memory := found.get(candidate.key):
                covered = ranking.coverage(weights, memory.terms)
                has = ranking.relevance(covered, candidate.vector_score, unrelated=self._embedder.unrelated)
                if has >= self._floor.threshold(candidates, memory.record.type):
                    relevant.append(candidate)
        return relevant


def _scored(candidate: Fused, found: dict[str, FoundMemory]) -> ScoredMemory:
    record = found[candidate.key].record
    return ScoredMemory(record, candidate.score, candidate.text_score, candidate.vector_score)


def _terms_of(records: Sequence[MemoryRecord]) -> list[tuple[list[str], list[str]]]:
    """The terms of each record's text and context; in a thread, so with a stemmer of its own."""
    terms = Terms()
    return [
        (
            terms.of(record.text[:DOCUMENT_CHARS])[:DOCUMENT_TERMS],
            terms.of(record.context[-DOCUMENT_CHARS:])[-DOCUMENT_TERMS:],
        )
        for record in records
    ]


def _ends(text: str, limit: int) -> str:
    """The text, or of a longer one the beginning and the end, half each."""
    return text if len(text) <= limit else f"{text[: limit // 2]} {text[len(text) - limit // 2 :]}"
