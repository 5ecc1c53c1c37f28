"""Which documents are to be made anew, and by whom."""

import pytest
from redis.asyncio import Redis

from memproxy.storage.memory_index import Made
from memproxy.storage.outdated import LEASE_MS, OutdatedMemories
from memproxy.storage.query_engine import QueryEngine

MADE = Made("test", 2)


@pytest.fixture
async def workers(redis: Redis) -> list[OutdatedMemories]:
    """Two processes that look at the same store."""
    engine = QueryEngine(redis, MADE)
    await engine.ensure_index()
    return [OutdatedMemories(redis, engine, MADE) for _ in range(2)]


async def test_documents_without_this_index_mark_are_outdated(redis: Redis, workers: list[OutdatedMemories]) -> None:
    """Those of another version, of another model, and those that say nothing."""
    marks = {"1": MADE.mark, "2": f"{MADE.mark},{MADE.vector_mark}", "3": Made("other", 2).mark, "4": ""}
    for name, mark in marks.items():
        await redis.hset(f"mp:m:{{p00}}:{name}", mapping={"text": "tea", "made": mark})
    assert await workers[0].some(limit=9, offset=0) == (2, ["mp:m:{p00}:3", "mp:m:{p00}:4"])
    assert await workers[0].some(limit=1, offset=1) == (2, ["mp:m:{p00}:4"])


async def test_one_worker_works_at_a_time(redis: Redis, workers: list[OutdatedMemories]) -> None:
    """It may go on as long as it lives; another takes over when it gives back, or dies."""
    one, other = workers
    assert [await one.take(), await other.take(), await one.take()] == [True, False, True]
    await other.give_back()
    assert await other.take() is False
    await one.give_back()
    assert await other.take() is True
    (lease,) = await redis.keys("mp:lease:*")
    assert 0 < await redis.pttl(lease) <= LEASE_MS
