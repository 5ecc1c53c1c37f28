"""Sharing partitions out among workers, against a real store."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from memproxy.storage import schema
from memproxy.storage.leases import Leases, Roll
from memproxy.worker.tenure import Tenure, share_of

ALL = set(schema.partitions())


def tenure(redis: Redis, worker: str, ttl_s: float = 60.0) -> Tenure:
    return Tenure(Leases(redis, stage="learn", worker=worker, ttl_s=ttl_s))


async def settle(*workers: Tenure) -> None:
    """Some rounds, in which nothing is being done in any partition."""
    for _ in range(4):
        for worker in workers:
            await worker.renew()
            await worker.give_back(worker.leaving.copy())


@given(st.sets(st.text(min_size=1, max_size=5), min_size=1, max_size=40), st.integers(1, 32))
def test_shares_add_up_and_are_fair(workers: set[str], partitions: int) -> None:
    """Every partition has a worker, and no worker has two more than another."""
    roll = Roll(tuple(sorted(workers)), 0)
    shares = [share_of(worker, roll, partitions) for worker in workers]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1
    assert share_of("nobody of these", roll, partitions) == 0


async def test_a_single_worker_has_everything(redis: Redis) -> None:
    """One process is all that a small installation needs."""
    one = tenure(redis, "one")
    change = await one.renew()
    assert change.gained == one.held == ALL
    assert (await one.renew()).gained == frozenset()


@pytest.mark.parametrize("count", [2, 3, 5, 16])
async def test_workers_share_whatever_the_order_in_which_they_come(redis: Redis, count: int) -> None:
    """More processes learn faster, and none has to be told about the others."""
    workers = []
    for number in range(count):
        workers.append(tenure(redis, f"worker-{number}"))
        await settle(*workers)
    assert set().union(*(worker.held for worker in workers)) == ALL
    assert sum(len(worker.held) for worker in workers) == len(ALL)
    assert {len(worker.held) for worker in workers} <= {len(ALL) // count, len(ALL) // count + 1}


async def test_more_workers_than_partitions_stand_by(redis: Redis) -> None:
    """A spare costs nothing, and steps in when one goes."""
    workers = [tenure(redis, f"worker-{number:02d}") for number in range(len(ALL) + 1)]
    await settle(*workers)
    spare = next(worker for worker in workers if not worker.held)
    await workers[0].end()
    await settle(*workers[1:])
    assert len(spare.held) == 1


async def test_a_worker_that_ends_leaves_its_share_to_the_others(redis: Redis) -> None:
    """A deployment delays nothing."""
    one, two = tenure(redis, "one"), tenure(redis, "two")
    await settle(one, two)
    await one.end()
    assert (one.held, one.leaving) == (set(), set())
    change = await two.renew()
    assert change.gained | (two.held - change.gained) == ALL


async def test_what_somebody_else_has_by_now_is_noticed(redis: Redis) -> None:
    """A worker that was suspended finds out at its next look."""
    one, two = tenure(redis, "one"), tenure(redis, "two")
    await one.renew()
    await redis.flushall()
    await two.renew()
    change = await one.renew()
    assert change.lost == ALL
    assert one.held == set()


async def test_surplus_is_kept_until_it_is_given_back(redis: Redis) -> None:
    """What is being done in a partition is finished first."""
    one, two = tenure(redis, "one"), tenure(redis, "two")
    await one.renew()
    await two.leases.beat()
    await one.renew()
    assert len(one.leaving) == 8
    assert one.held == ALL
    assert (await two.renew()).gained == frozenset()
    await two.leases.leave()
    await one.renew()
    assert one.leaving == set()
