"""The store behind a memproxy: fill it before the bench, and bring it back to that state after each measurement.

Every turn that is measured leaves a session and memories behind. Without taking them away, each round would search more
than the one before it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from bench.client import LoadError
from bench.people import handed_out, memories_of
from memproxy.embedding import LocalEmbedder
from memproxy.memory.indexing import Indexer
from memproxy.storage import schema
from memproxy.storage.connection import open_redis
from memproxy.storage.embedded import EmbeddedStore
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.memory_documents import IndexedMemory

BATCH = 1_000
"""Keys deleted at a time."""

WRITTEN = 5_000
"""Memories written between two calls of `progress`."""

QUIET_USER, QUIET_MEMORIES = "quiet", 100
"""Those who fill the store up and never ask."""

SCANNED = 5_000
"""Keys looked at in one round trip."""

SETTLE_POLL_S = 0.05
SETTLE_DEADLINE_S = 60.0
KEPT_KINDS = ("mp:q:", "mp:dead:", "mp:secret:", "mp:lease:", "mp:workers:")


class KnownUsers:
    """The users whom one memproxy knows."""

    def __init__(self, redis: Redis, *, learns: bool) -> None:
        """`learns`: somebody works off the queue of turns."""
        self._redis = redis
        self._learns = learns
        self._kept: set[bytes] = set()

    async def load(
        self, users: Mapping[int, Sequence[str]], *, in_all: int = 0, progress: Callable[[int], None] | None = None
    ) -> None:
        """Store memories of these users, by how many each has, as if they had been learned; 10,000 take a second.

        Other users get as many as there must be `in_all`. `progress` is told how many were written since it was last.
        """
        embedder = LocalEmbedder()
        store = LongTermStore(self._redis, model=embedder.name, dims=embedder.dims)
        await store.ensure_index()
        known = await Indexer(embedder).indexed(list(memories_of("everybody", max(QUIET_MEMORIES, *users))))
        waiting: list[IndexedMemory] = []

        async def write() -> None:
            await store.write(waiting)
            if progress is not None:
                progress(len(waiting))
            waiting.clear()

        for user, count in _shares(users, in_all=in_all):
            waiting += handed_out(known, user, count)
            if len(waiting) >= WRITTEN:
                await write()
        await write()
        self._kept = {key async for key in self._redis.scan_iter(count=SCANNED)}

    async def settled(self) -> None:
        """Wait until all turns are recorded and, if somebody learns from them, learned. Raises LoadError."""
        deadline = time.monotonic() + SETTLE_DEADLINE_S
        before = -1
        while time.monotonic() < deadline:
            await asyncio.sleep(SETTLE_POLL_S)
            waiting = await self._waiting()
            if waiting == before and (waiting == 0 or not self._learns):
                return
            before = waiting
        raise LoadError(f"after {SETTLE_DEADLINE_S:g} s, {before} turns still wait to be learned from")

    async def restore(self) -> None:
        """Delete all that was not there after `load`."""
        new = [
            key
            async for key in self._redis.scan_iter(count=SCANNED)
            if key not in self._kept and not key.decode().startswith(KEPT_KINDS)
        ]
        for at in range(0, len(new), BATCH):
            await self._redis.unlink(*new[at : at + BATCH])
        if not self._learns:
            pipe = self._pipeline()
            for partition in schema.partitions():
                pipe.xtrim(schema.queue_key(partition), maxlen=0, approximate=False)
            await pipe.execute()

    async def _waiting(self) -> int:
        pipe = self._pipeline()
        for partition in schema.partitions():
            pipe.xlen(schema.queue_key(partition))
        return sum(await pipe.execute())

    def _pipeline(self) -> Any:
        """Any: redis-py types a queued command as something to await, which it is not."""
        return self._redis.pipeline(transaction=False)


def _shares(users: Mapping[int, Sequence[str]], *, in_all: int) -> Iterator[tuple[str, int]]:
    """Each user with the number of their memories."""
    left = in_all
    for count, names in users.items():
        for user in names:
            yield user, count
            left -= count
    for number, at in enumerate(range(0, left, QUIET_MEMORIES)):
        yield f"{QUIET_USER}-{number}", min(QUIET_MEMORIES, left - at)


@asynccontextmanager
async def known_users(data_dir: Path, *, learns: bool) -> AsyncIterator[KnownUsers]:
    """The users of the memproxy that runs on this folder; leave before it is stopped, or we take over its store."""
    async with EmbeddedStore(data_dir) as store:
        redis = open_redis(store.url, connect_timeout_s=5, max_connections=16)
        try:
            yield KnownUsers(redis, learns=learns)
        finally:
            await redis.aclose()
