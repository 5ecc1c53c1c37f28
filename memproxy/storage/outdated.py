"""Memories that another version or embedding model wrote: which there are, and who makes them anew."""

import secrets
from importlib import resources

from redis.asyncio import Redis

from memproxy.storage import memory_index, schema
from memproxy.storage.connection import translated
from memproxy.storage.memory_index import Made
from memproxy.storage.query_engine import QueryEngine

LEASE_MS = 60_000
"""A worker that died holds the others up so long; a batch takes seconds."""


class OutdatedMemories:
    """What is left to do for one index, as one worker sees it. Every method is one round trip."""

    def __init__(self, redis: Redis, engine: QueryEngine, made: Made) -> None:
        self._redis = redis
        self._engine = engine
        self._made = made
        self._worker = secrets.token_hex(8)
        self._lease = schema.lease_key(schema.partitions()[0], f"backfill-{made.mark}")
        scripts = resources.files("memproxy.storage") / "lua"
        self._take = redis.register_script((scripts / "lease_take.lua").read_text("utf-8"))
        self._give_back = redis.register_script((scripts / "lease_give_back.lua").read_text("utf-8"))

    async def some(self, *, limit: int, offset: int) -> tuple[int, list[str]]:
        """How many there are, and the keys of some; those that were not made anew stay in their order."""
        selected = memory_index.made_otherwise(self._made)
        query = memory_index.some(self._made.index_name, selected, limit=limit, offset=offset)
        return memory_index.read_keys((await self._engine.ask([query]))[0])

    async def take(self) -> bool:
        """Whether this worker may make some anew for the next minute: one at a time does."""
        with translated("taking the lease of outdated memories"):
            return bool(await self._take(keys=[self._lease], args=[self._worker, LEASE_MS]))

    async def give_back(self) -> None:
        """Let another worker go on."""
        with translated("giving back the lease of outdated memories"):
            await self._give_back(keys=[self._lease], args=[self._worker])

    async def drop_other_indexes(self) -> None:
        """Drop the indexes of other versions and models, when no document needs them any more."""
        await self._engine.drop_other_indexes()
