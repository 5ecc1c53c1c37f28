"""The life of the index over memories, with a real engine."""

import asyncio

import pytest
from redis.asyncio import Redis
from typing_extensions import override

from memproxy.errors import StoreUnavailableError, StoreUnfitError
from memproxy.storage import memory_index
from memproxy.storage.connection import open_redis
from memproxy.storage.memory_index import Made
from memproxy.storage.query_engine import QueryEngine, require_query_engine

MADE = Made("test", 4)


async def test_the_index_may_be_made_by_many_at_once(redis: Redis, redis_url: str) -> None:
    """Several processes start together."""
    clients = [open_redis(redis_url, connect_timeout_s=5.0, max_connections=5) for _ in range(8)]
    engines = [QueryEngine(client, MADE) for client in clients]
    async with asyncio.TaskGroup() as group:
        for engine in engines:
            group.create_task(engine.ensure_index())
    assert len(await redis.execute_command("FT._LIST")) == 1  # type: ignore[no-untyped-call]  # redis-py's gap
    for client in clients:
        await client.aclose()


async def test_an_index_that_is_never_ready_is_not_waited_for_longer_than_allowed(redis: Redis) -> None:
    """A start that hangs is worse than one that fails and says why."""

    class NeverReady(QueryEngine):
        @override
        async def is_indexing(self) -> bool:
            return True

    with pytest.raises(StoreUnavailableError, match="not ready within"):
        await NeverReady(redis, MADE).ensure_index(deadline_s=0.05)


async def test_an_engine_that_does_not_take_our_queries_is_refused_at_start(redis: Redis) -> None:
    """Better than failing at every request."""
    await redis.execute_command("ACL", "SETUSER", "writer", "on", "nopass", "+@all", "-FT.SEARCH", "~*")  # type: ignore[no-untyped-call]  # redis-py's gap
    await redis.execute_command("AUTH", "writer", "")  # type: ignore[no-untyped-call]  # redis-py's gap
    with pytest.raises(StoreUnfitError, match="BM25STD"):
        await QueryEngine(redis, MADE).ensure_index()


async def test_a_store_with_the_engine_is_fit(redis: Redis) -> None:
    await require_query_engine(redis)


async def test_a_store_without_the_engine_is_refused_with_a_way_out(redis: Redis) -> None:
    """Plain Redis 7 is the most common mistake."""
    await redis.execute_command("ACL", "SETUSER", "plain", "on", "nopass", "+@all", "-FT._LIST", "~*")  # type: ignore[no-untyped-call]  # redis-py's gap
    await redis.execute_command("AUTH", "plain", "")  # type: ignore[no-untyped-call]  # redis-py's gap
    with pytest.raises(StoreUnfitError, match="Redis 8"):
        await require_query_engine(redis)


async def indexes(redis: Redis) -> list[str]:
    names = await redis.execute_command("FT._LIST")  # type: ignore[no-untyped-call]  # redis-py's gap
    return sorted(name.decode() for name in names)


async def test_indexes_of_other_versions_and_models_are_dropped(redis: Redis) -> None:
    """Each takes as much memory as the one that is used; what is not ours stays."""
    engine, other = QueryEngine(redis, MADE), QueryEngine(redis, Made("other", 4))
    await engine.ensure_index()
    await other.ensure_index()
    for name in ("memproxy-memories-1-test-4-x", "theirs"):
        await redis.execute_command("FT.CREATE", name, "PREFIX", 1, "x:", "SCHEMA", "text", "TEXT")  # type: ignore[no-untyped-call]  # redis-py's gap
    await engine.drop_other_indexes()
    assert await indexes(redis) == [MADE.index_name, "theirs"]
    await engine.drop_other_indexes()
    assert await indexes(redis) == [MADE.index_name, "theirs"]


async def test_no_query_asks_nothing(redis: Redis) -> None:
    assert await QueryEngine(redis, MADE).ask([]) == []


async def test_queries_are_answered_in_their_order(redis: Redis) -> None:
    """One round trip for all."""
    engine = QueryEngine(redis, MADE)
    await engine.ensure_index()
    await redis.hset("mp:m:{p00}:1", mapping={"text": "tea", "tenant": "t"})
    counts = [memory_index.some(MADE.index_name, selected, limit=0) for selected in ("tea", "milk", "tea|milk")]
    assert await engine.ask(counts) == [[1], [0], [1]]
