"""Write, search and delete memories and their vectors.

A memory is one hash: the record as JSON, which is what comes back, and beside it what the index reads: digests as tags,
terms, time, vector (`memory_index`). Each is written by one script, so that it is there as a whole or not at all.

A search is two round trips: both ranked lists without any content in one pipeline, then the documents of the few that
the caller chose. Fetching the documents of all hundred candidates in the first trip costs more than the second trip.

If the store lost the index (FLUSHALL, a restart without its files), the search that notices makes it anew and raises;
the next one works. Redis' own words are not passed on, since they may quote the query.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace
from redis import exceptions
from redis.asyncio import Redis
from redisvl.exceptions import RedisVLError  # type: ignore[import-untyped]  # redisvl ships no types
from redisvl.index import AsyncSearchIndex  # type: ignore[import-untyped]  # redisvl ships no types

from memproxy.errors import StoreError, StoreUnavailableError, StoreUnfitError
from memproxy.records import MemoryRecord, Scope
from memproxy.storage import memory_index, schema
from memproxy.storage.connection import translated
from memproxy.storage.memory_index import Filter

Vector = npt.NDArray[np.float32]

PAGE = 1000
"""Memories found and deleted at a time when a user is erased."""

POLL_S = 0.02
"""How often to look whether the index has read what was there before it."""

_MISSING_INDEX = ("no such index", "unknown index name", "index not found", "search_index_not_found")
"""How versions of the query engine say that the index is not there, in lower case."""


@dataclass(frozen=True, slots=True)
class IndexedMemory:
    """A memory with what makes it findable. `vector`: (dims,) float32, unit length."""

    record: MemoryRecord
    text_terms: Sequence[str]
    context_terms: Sequence[str]
    vector: Vector


@dataclass(frozen=True, slots=True)
class Hits:
    """Two ranked lists by document key, best first: BM25 scores and cosine similarities."""

    text: dict[str, float]
    vector: dict[str, float]
    candidates: int
    """How many memories were compared by vector, or matched by text if there was none."""


@dataclass(frozen=True, slots=True)
class FoundMemory:
    """A memory as it is stored, with the terms of its text and context, by which a caller may judge the match."""

    record: MemoryRecord
    terms: frozenset[str]
    raw: bytes
    """The record's bytes, by which `rewrite` sees whether it is still the same."""


async def require_query_engine(redis: Redis) -> None:
    """Raise `StoreUnfitError` if the store can't search."""
    try:
        with translated("asking for the query engine"):
            await redis.execute_command("FT._LIST")  # type: ignore[no-untyped-call]  # redis-py's gap
    except StoreUnavailableError:
        raise
    except StoreError as error:
        raise StoreUnfitError(
            "The store answers, but has no query engine (FT.* commands), which long-term memory needs. Use Redis 8 or"
            " newer, Redis Stack, Redis Cloud or Redis Enterprise with search, or leave the Redis URL unset to use the"
            f" embedded store. Its answer: {error}"
        ) from error


class LongTermStore:
    """The memories of all users, for vectors of one embedding model."""

    def __init__(self, redis: Redis, *, model: str, dims: int) -> None:
        self._redis = redis
        self._dims = dims
        self._name = memory_index.index_name(model, dims)
        self._vector_field = memory_index.vector_field(model, dims)
        self._index = AsyncSearchIndex(memory_index.index_schema(model, dims), redis_client=redis)
        scripts = resources.files("memproxy.storage") / "lua"
        self._remember = (scripts / "remember.lua").read_text("utf-8")
        self._rewrite = (scripts / "rewrite_memory.lua").read_text("utf-8")
        self._read_memories = (scripts / "read_memories.lua").read_text("utf-8")
        self._decoder = msgspec.json.Decoder(MemoryRecord)

    async def ensure_index(self, *, deadline_s: float = 60.0) -> None:
        """Make the index unless it is there, and wait until it has read all memories; any number may call at once.

        Raises `StoreUnfitError` if the query engine does not take our queries. Searches while an index reads what was
        there before may miss memories, and documents loaded meanwhile may be counted twice.
        """
        await self._create_index()
        try:
            async with asyncio.timeout(deadline_s):
                while await self._is_indexing():  # noqa: ASYNC110  the server does not tell when it is ready
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise StoreUnavailableError(f"Index {self._name} was not ready within {deadline_s} s.") from None
        await self._try_queries()

    async def write(self, memories: Sequence[IndexedMemory]) -> int:
        """Store memories and say how many are new; an equal id is replaced and keeps its first time. One round trip."""
        if not memories:
            return 0
        pipe = self._pipeline()
        for memory in memories:
            key = schema.memory_key(memory.record.scope, memory.record.id)
            pipe.execute_command("EVAL", self._remember, 1, key, *self._arguments(memory))
        with translated("storing memories"):
            return sum(_checked(await pipe.execute(raise_on_error=False)))

    async def rewrite(self, memory: IndexedMemory, *, known: FoundMemory) -> bool:
        """Store a memory anew in place of what was found under its id; it keeps its first time. One round trip.

        False when that was changed or deleted meanwhile: then nothing is written.
        """
        key = schema.memory_key(memory.record.scope, memory.record.id)
        _, *fields = self._arguments(memory)
        command: list[Any] = ["EVAL", self._rewrite, 1, key, known.raw, *fields]
        with translated("changing a memory"):
            return bool(await self._redis.execute_command(*command))  # type: ignore[no-untyped-call]  # redis-py's gap

    async def search(
        self,
        scope: Scope,
        terms: Sequence[str],
        *,
        vector: Vector | None,
        limit: int,
        where: Filter,
        excluded_ids: Iterable[str] = (),
        counted: int = 0,
    ) -> Hits:
        """The best `limit` of one user's memories by text and by vector, without content. One round trip.

        `counted`: how far to count the candidates; counting 310 costs 0.1 ms more than counting 50.
        """
        excluded = {schema.memory_key(scope, memory_id) for memory_id in excluded_ids}
        selected = memory_index.selection(scope, where)
        wanted = limit + len(excluded)
        pipe = self._pipeline()
        if terms:
            pipe.execute_command(*memory_index.text_search(self._name, selected, terms, limit=wanted))
        if vector is not None:
            packed, nearest = self._packed(vector), max(wanted, counted)
            near = memory_index.vector_search(
                self._name, selected, packed, field=self._vector_field, nearest=nearest, limit=wanted
            )
            pipe.execute_command(*near)
        replies = await self._queried(pipe) if terms or vector is not None else []
        by_text = memory_index.read_scores(replies[0]) if terms else {}
        by_vector = memory_index.read_distances(replies[-1]) if vector is not None else {}
        candidates = int(replies[-1][0]) if replies else 0
        return Hits(_without(by_text, excluded, limit), _without(by_vector, excluded, limit), candidates)

    async def fetch(self, keys: Sequence[str]) -> dict[str, FoundMemory]:
        """One user's documents under these keys, in this order; what is gone is left out. One round trip."""
        if not keys:
            return {}
        command: list[Any] = ["EVAL", self._read_memories, len(keys), *keys, "record", "created_at", "text", "ctx"]
        with translated("reading memories"):
            rows = await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's gap
        return {key: self._read(*row) for key, row in zip(keys, rows, strict=True) if row[0] is not None}

    async def find(self, scope: Scope, memory_id: str) -> FoundMemory | None:
        """The memory with this id, if there is one. One round trip."""
        return next(iter((await self.fetch([schema.memory_key(scope, memory_id)])).values()), None)

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[MemoryRecord]:
        """The memories with these ids, in this order; unknown ids are left out. One round trip."""
        found = await self.fetch([schema.memory_key(scope, memory_id) for memory_id in ids])
        return [memory.record for memory in found.values()]

    async def newest(
        self, scope: Scope, *, limit: int, offset: int = 0, where: Filter
    ) -> tuple[int, list[MemoryRecord]]:
        """How many memories pass the filter, and one page of them, newest first. Two round trips."""
        selected = memory_index.selection(scope, where)
        pipe = self._pipeline()
        pipe.execute_command(*memory_index.listing(self._name, selected, offset=offset, limit=limit))
        total, keys = memory_index.read_keys((await self._queried(pipe))[0])
        return total, [memory.record for memory in (await self.fetch(keys)).values()]

    async def delete(self, scope: Scope, ids: Sequence[str]) -> int:
        """Delete the memories with these ids and say how many there were. One round trip."""
        return await self._unlink([schema.memory_key(scope, memory_id) for memory_id in ids])

    async def delete_user(self, scope: Scope) -> int:
        """Delete every memory of this user, in all namespaces, and say how many there were.

        Waits until the index knows every memory, since it is asked which are the user's.
        """
        await self.ensure_index()
        deleted = 0
        while True:
            pipe = self._pipeline()
            every = memory_index.everything_of_user(scope)
            pipe.execute_command(*memory_index.listing(self._name, every, offset=0, limit=PAGE))
            _, keys = memory_index.read_keys((await self._queried(pipe))[0])
            gone = await self._unlink(keys)
            deleted += gone
            if not gone:
                return deleted

    def _pipeline(self) -> Any:
        return self._redis.pipeline(transaction=False)

    async def _unlink(self, keys: Sequence[str]) -> int:
        if not keys:
            return 0
        pipe = self._pipeline()
        for key in keys:
            pipe.execute_command("UNLINK", key)
        with translated("deleting memories"):
            return sum(_checked(await pipe.execute(raise_on_error=False)))

    async def _queried(self, pipe: Any) -> list[Any]:
        """The replies of a pipeline of queries; an index that is not there is made anew before raising."""
        with translated("searching memories"):
            replies = await pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, exceptions.ResponseError):
                if _is_missing_index(reply):
                    await self._create_index()
                    raise StoreError(f"The store had lost index {self._name}. It is made anew; search again.")
                raise StoreError(f"The query engine refused a search of index {self._name}.") from reply
        with translated("searching memories"):
            return _checked(replies)

    async def _create_index(self) -> None:
        try:
            with translated("making the index of memories"), _unwrapped():
                await self._index.create(overwrite=False)
        except StoreError as error:
            if "already exists" not in str(error):  # another process was faster
                raise

    async def _is_indexing(self) -> bool:
        with translated("looking at the index of memories"), _unwrapped():
            info = await self._index.info()
        return bool(int(info["indexing"]))

    async def _try_queries(self) -> None:
        """Search for nothing in particular, to learn at start whether the engine takes our queries."""
        nobody = Scope("", None)
        try:
            await self.search(nobody, ["x"], vector=np.ones(self._dims, np.float32), limit=1, where=Filter())
        except StoreUnavailableError:
            raise
        except StoreError as error:
            raise StoreUnfitError(
                f"The store's query engine does not take memproxy's queries ({error.__cause__ or error}). They need the"
                " scorer BM25STD, dialect 2 and vectors: RediSearch 2.10 or newer, as in Redis 8 and Redis Stack 7.4."
            ) from error

    def _arguments(self, memory: IndexedMemory) -> list[str | bytes]:
        record = memory.record
        scope = record.scope
        fields: dict[str, str | bytes] = {
            "record": _as_json(record),
            "user": schema.user_tag(scope),
            "namespace": schema.namespace_tag(scope),
            "type": record.type.value,
            "text": " ".join(memory.text_terms),
            "ctx": " ".join(memory.context_terms),
            self._vector_field: self._packed(memory.vector),
        }
        if not memory.vector.any():  # nothing is near to a text without known words, and its cosine would be no number
            del fields[self._vector_field]
        if record.session is not None:
            fields["session"] = schema.session_tag(scope, record.session)
        if record.topics:
            fields["topics"] = memory_index.tags_of(scope, "topic", record.topics)
        if record.entities:
            fields["entities"] = memory_index.tags_of(scope, "entity", record.entities)
        return [repr(record.created_at.timestamp()), *(part for pair in fields.items() for part in pair)]

    def _packed(self, vector: Vector) -> bytes:
        if vector.shape != (self._dims,):
            raise StoreError(f"A vector of shape {vector.shape} does not fit index {self._name}.")
        return vector.astype(np.float32, copy=False).tobytes()

    def _read(self, raw: bytes, created_at: bytes, text: bytes, context: bytes) -> FoundMemory:
        try:
            record = self._decoder.decode(raw)
        except msgspec.DecodeError as error:
            raise StoreError("A stored memory can't be read; was it written by a newer memproxy?") from error
        first = datetime.fromtimestamp(float(created_at), UTC)
        terms = frozenset(f"{text.decode()} {context.decode()}".split())
        return FoundMemory(replace(record, created_at=first), terms, raw)


def _as_json(record: MemoryRecord) -> bytes:
    try:
        return msgspec.json.encode(record)
    except UnicodeEncodeError:  # a lone surrogate, which JSON can bring and UTF-8 can't hold
        return json.dumps(msgspec.to_builtins(record), ensure_ascii=False).encode("utf-8", "replace")


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise what redisvl wrapped: our translation goes by redis-py's own exceptions."""
    try:
        yield
    except RedisVLError as error:
        raise error.__cause__ or StoreError(str(error)) from error


def _checked(replies: list[Any]) -> list[Any]:
    """The replies, or the first error among them; a pipeline's own error message would quote the whole command."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _is_missing_index(error: exceptions.ResponseError) -> bool:
    message = str(error).lower()
    return any(words in message for words in _MISSING_INDEX)


def _without(ranked: dict[str, float], excluded: set[str], limit: int) -> dict[str, float]:
    kept = [(key, score) for key, score in ranked.items() if key not in excluded]
    return dict(kept[:limit])
