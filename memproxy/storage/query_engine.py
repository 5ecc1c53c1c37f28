"""The query engine: the life of the index over memories, and putting queries to it.

If the store lost the index (FLUSHALL, a restart without its files), the query that notices makes it anew and raises;
the next one works. Redis' own words are not passed on, since they may quote the query.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from redis import exceptions
from redis.asyncio import Redis
from redisvl.exceptions import RedisVLError  # type: ignore[import-untyped]  # redisvl ships no types
from redisvl.index import AsyncSearchIndex  # type: ignore[import-untyped]  # redisvl ships no types

from memproxy.errors import StoreError, StoreUnavailableError, StoreUnfitError
from memproxy.storage import memory_index
from memproxy.storage.cluster import cluster_behind
from memproxy.storage.connection import translated
from memproxy.storage.memory_index import Argument, Made
from memproxy.storage.pipelined import Pipelined, checked

log = logging.getLogger(__name__)

POLL_S = 0.02
"""How often to look whether the index has read what was there before it."""

NO_ENGINE_IN_CLUSTER = (
    "Long-term memory is off: this Redis Cluster has no query engine that searches all of its nodes. Sessions, tool"
    " results and context windows work; nothing is recalled or learned. Redis Cloud and Redis Enterprise have one."
)

_MISSING_INDEX = ("no such index", "unknown index name", "index not found", "search_index_not_found")
"""How versions of the query engine say that the index is not there, in lower case."""


async def require_query_engine(redis: Redis) -> None:
    """Raise `StoreUnfitError` if the store can't search."""
    try:
        with translated("asking for the query engine"):
            await redis.execute_command("FT._LIST")  # type: ignore[no-untyped-call]  # redis-py's gap
    except StoreUnavailableError:
        raise
    except StoreError as error:
        if isinstance(error.__cause__, exceptions.InvalidResponse):
            raise
        if await _is_cluster_node(redis):
            raise StoreUnfitError(
                "The store is a node of a Redis Cluster: name it redis+cluster://host:port."
            ) from error
        raise StoreUnfitError(
            "The store answers, but has no query engine (FT.* commands), which long-term memory needs. Use Redis 8 or"
            " newer, Redis Stack, Redis Cloud or Redis Enterprise with search, or leave the Redis URL unset to use the"
            f" embedded store. Its answer: {error}"
        ) from error


async def _is_cluster_node(redis: Redis) -> bool:
    with translated("asking what it is"):
        facts = await redis.info("cluster")
    return bool(facts.get("cluster_enabled"))


async def missing_in_cluster(redis: Redis) -> str:
    """Why a cluster is used without its query engine; empty where it has one, and for all other stores.

    Raises `StoreError` if it can't be asked.
    """
    cluster = cluster_behind(redis)
    if cluster is None:
        return ""
    with translated("asking the cluster for its query engine"):
        return "" if await cluster.is_searchable() else NO_ENGINE_IN_CLUSTER


class QueryEngine:
    """The index for one embedding model."""

    def __init__(self, redis: Redis, made: Made, commands: Pipelined | None = None) -> None:
        self.missing = ""
        """Why there is nothing to ask; empty as long as there is."""
        self._redis = redis
        self._commands = commands or Pipelined(redis)
        self._made = made
        self._name = made.index_name
        self._index = AsyncSearchIndex(memory_index.index_schema(made), redis_client=redis)

    async def ensure_index(self, *, deadline_s: float = 60.0) -> None:
        """Make the index unless it is there, and wait until it has read all memories; any number may call at once.

        Raises `StoreUnfitError` if the query engine does not take our queries. Searches while an index reads what was
        there before may miss memories, and documents loaded meanwhile may be counted twice.
        """
        await self._create_index()
        try:
            async with asyncio.timeout(deadline_s):
                while await self.is_indexing():  # noqa: ASYNC110  the server does not tell when it is ready
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise StoreUnavailableError(f"Index {self._name} was not ready within {deadline_s} s.") from None
        await self._try_queries()

    async def ask(self, queries: Sequence[Sequence[Argument]]) -> list[Any]:
        """The replies to queries, in one round trip; an index that is not there is made anew before raising.

        Raises `StoreUnfitError` where there is no query engine.
        """
        self.require()
        with translated("searching memories"):
            replies = await self._commands.ask(queries)
        for reply in replies:
            if isinstance(reply, exceptions.ResponseError):
                if _is_missing_index(reply):
                    await self._create_index()
                    raise StoreError(f"The store had lost index {self._name}. It is made anew; search again.")
                raise StoreError(f"The query engine refused a search of index {self._name}.") from reply
        with translated("searching memories"):
            return checked(replies)

    def require(self) -> None:
        """Raise `StoreUnfitError` where there is no query engine."""
        if self.missing:
            raise StoreUnfitError(self.missing)

    async def drop_other_indexes(self) -> None:
        """Drop the indexes of other versions and models over the same memories, which stay."""
        with translated("dropping indexes of memories"):
            names = await self._redis.execute_command("FT._LIST")  # type: ignore[no-untyped-call]  # redis-py's gap
            others = [name.decode() for name in names if name.decode().startswith(memory_index.NAME_PREFIX)]
            for name in others:
                if name != self._name:
                    await self._redis.execute_command("FT.DROPINDEX", name)  # type: ignore[no-untyped-call]  # same
                    log.info("dropped index %s: %s has all memories", name, self._name)

    async def is_indexing(self) -> bool:
        """Whether the index still reads what was there before it."""
        with translated("looking at the index of memories"), _unwrapped():
            info = await self._index.info()
        return bool(int(info["indexing"]))

    async def _create_index(self) -> None:
        try:
            with translated("making the index of memories"), _unwrapped():
                await self._index.create(overwrite=False)
        except StoreError as error:
            if "already exists" not in str(error):  # another process was faster
                raise

    async def _try_queries(self) -> None:
        """Search for nothing in particular, to learn at start whether the engine takes our queries."""
        nowhere = memory_index.NOTHING
        packed = np.ones(self._made.dims, np.float32).tobytes()
        queries = [
            memory_index.text_search(self._name, nowhere, ["x"], limit=1),
            memory_index.vector_search(
                self._name, nowhere, packed, field=self._made.vector_field, nearest=1, limit=1, patient=True
            ),
        ]
        try:
            await self.ask(queries)
        except StoreUnavailableError:
            raise
        except StoreError as error:
            raise StoreUnfitError(
                f"The store's query engine does not take memproxy's queries ({error.__cause__ or error}). They need the"
                " scorer BM25STD, dialect 2 and vectors: RediSearch 2.10 or newer, as in Redis 8 and Redis Stack 7.4."
            ) from error


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise what redisvl wrapped: our translation goes by redis-py's own exceptions."""
    try:
        yield
    except RedisVLError as error:
        raise error.__cause__ or StoreError(str(error)) from error


def _is_missing_index(error: exceptions.ResponseError) -> bool:
    message = str(error).lower()
    return any(words in message for words in _MISSING_INDEX)
