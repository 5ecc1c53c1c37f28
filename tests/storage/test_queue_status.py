"""What operators are told of the queue."""

from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from memproxy.errors import StoreError
from memproxy.records import Outcome, Scope, Turn
from memproxy.storage import schema
from memproxy.storage.queue import Stage, TurnQueue
from memproxy.storage.queue_status import WorkerStatus, read_status

ANN = Scope("tenant", "ann")
HOME = schema.partition_of(ANN)


async def add(queue: TurnQueue, count: int) -> None:
    for number in range(count):
        await queue.add(Turn(f"t{number}", ANN, "s", datetime(2023, 5, 8, tzinfo=UTC), Outcome.COMPLETED, ()))


async def test_a_store_that_no_worker_has_seen_yet_has_nothing_to_tell(redis: Redis) -> None:
    """The command works from the first moment."""
    await add(TurnQueue(redis), 2)
    status = await read_status(redis, Stage.INDEX)
    assert (status.waiting, status.pending, status.dead, status.workers) == (2, 0, 0, ())


async def test_it_says_who_holds_what(redis: Redis) -> None:
    """A worker that is stuck, and one that is gone, can be told from the others."""
    queue = TurnQueue(redis, stage=Stage.LEARN)
    await queue.ensure_groups()
    await add(queue, 5)
    held = await queue.claim("gone", [HOME], count=2, block_s=0.05)
    await queue.dead_letter("gone", held[0], "no")
    await queue.leases_of("new", ttl_s=60).take([HOME, "p15" if HOME != "p15" else "p14"])
    status = await read_status(redis, Stage.LEARN)
    assert (status.waiting, status.pending, status.dead) == (3, 1, 1)
    assert status.workers == (WorkerStatus("gone", 0, 1), WorkerStatus("new", 2, 0))
    assert 0 <= status.oldest_s < 60


async def test_the_age_is_the_oldest_turns(redis: Redis) -> None:
    """A queue that stands still is seen."""
    seconds, _ = await redis.time()
    await redis.xadd(schema.queue_key(HOME, "turns"), {"turn": b"{}"}, id=f"{(seconds - 500) * 1000}-0")
    await add(TurnQueue(redis), 1)
    assert 499 <= (await read_status(redis, Stage.INDEX)).oldest_s < 560


async def test_a_key_of_another_kind_is_said(redis: Redis) -> None:
    """Other trouble is not mistaken for an empty queue."""
    await redis.set(schema.queue_key("p03", "turns"), b"no stream")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await read_status(redis, Stage.INDEX)
