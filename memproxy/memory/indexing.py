"""Make memories findable: their terms and their vectors."""

import asyncio
from collections.abc import Sequence

from memproxy.embedding import Embedder, Vector
from memproxy.records import MemoryRecord
from memproxy.storage.memory_documents import IndexedMemory
from memproxy.words import Terms

DOCUMENT_CHARS = 8_000
DOCUMENT_TERMS = 600
"""What is indexed of one memory; a longer one is still told whole."""


class Indexer:
    """Makes what the store keeps beside each record."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def indexed(
        self, records: Sequence[MemoryRecord], *, vectors: Sequence[Vector | None] = ()
    ) -> list[IndexedMemory]:
        """The records with terms and vectors, in their order; all that lack one are embedded in one call.

        `vectors`: those that are known already, None for the others; empty when none is.
        """
        known = list(vectors) or [None] * len(records)
        missing = [record.text for record, vector in zip(records, known, strict=True) if vector is None]
        made = iter(await self._embedder.embed_documents(missing) if missing else [])
        terms = await asyncio.to_thread(_terms_of, records)
        return [
            IndexedMemory(record, *both, next(made) if vector is None else vector)
            for record, both, vector in zip(records, terms, known, strict=True)
        ]


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
