"""Leases against a real store: one worker a partition, and none for ever."""

import asyncio

import pytest
from redis.asyncio import Redis

from memproxy.errors import StoreUnavailableError
from memproxy.storage import schema
from memproxy.storage.connection import open_redis
from memproxy.storage.leases import Leases
from tests.fakes.serving import until


def leases(redis: Redis, worker: str, ttl_s: float = 60.0) -> Leases:
    return Leases(redis, stage="learn", worker=worker, ttl_s=ttl_s)


async def test_a_lease_is_one_workers_until_it_gives_it_back(redis: Redis) -> None:
    """Two workers never read the same partition: that is what keeps a session's turns in order."""
    one, two = leases(redis, "one"), leases(redis, "two")
    assert await one.take(["p00", "p01"]) == {"p00", "p01"}
    assert await two.take(["p00", "p02"]) == {"p02"}
    assert await one.take(["p00", "p01"]) == {"p00", "p01"}
    assert await one.free() == set(schema.partitions()) - {"p00", "p01", "p02"}
    await two.give_back(["p00", "p02"])
    await one.give_back(["p00"])
    assert await two.take(["p00", "p01", "p02"]) == {"p00", "p02"}


async def test_many_who_want_one_lease_get_it_once(redis: Redis) -> None:
    """Workers that start together do not share by accident."""
    wishes = [leases(redis, str(number)).take(["p07"]) for number in range(20)]
    assert sorted(len(got) for got in await asyncio.gather(*wishes)) == [0] * 19 + [1]


async def test_a_dead_workers_lease_ends_by_itself(redis: Redis) -> None:
    """Nobody has to notice that a worker was killed."""
    dead, heir = leases(redis, "dead", ttl_s=0.05), leases(redis, "heir")
    await dead.take(["p00"])
    await dead.beat()

    async def is_free() -> bool:
        return "p00" in await heir.free()

    await until(is_free)
    assert await heir.take(["p00"]) == {"p00"}
    assert (await heir.beat()).workers == ("heir",)


async def test_stages_share_no_leases(redis: Redis) -> None:
    """Who indexes a partition need not be the one who asks a model about it."""
    await leases(redis, "one").take(["p00"])
    assert await Leases(redis, stage="turns", worker="two").take(["p00"]) == {"p00"}


async def test_the_roll_has_all_who_live_and_nobody_who_left(redis: Redis) -> None:
    """Each worker's fair share follows from it."""
    one, two = leases(redis, "one"), leases(redis, "two")
    await two.beat()
    roll = await one.beat()
    assert roll.workers == ("one", "two")
    seconds, microseconds = await redis.time()
    assert 0 <= seconds * 1000 + microseconds // 1000 - roll.now_ms < 5_000
    await two.leave()
    assert (await one.beat()).workers == ("one",)


async def test_what_leases_leave_behind_ends_by_itself(redis: Redis) -> None:
    """Workers that are gone for good leave nothing in the store."""
    one = leases(redis, "one")
    await one.take(["p00"])
    await one.beat()
    names: list[bytes] = await redis.keys("mp:*")  # type: ignore[assignment]  # the client gives bytes
    assert len(names) == 2
    assert all([0 < await redis.pttl(name) <= 60_000 for name in names])


async def test_a_store_that_lost_its_data_gives_leases_anew(redis: Redis) -> None:
    """A store that was emptied needs no restart of the workers."""
    one = leases(redis, "one")
    await one.take(["p00"])
    await redis.flushall()
    assert await one.take(["p00"]) == {"p00"}


async def test_a_store_that_is_away_is_said_so() -> None:
    """The worker waits, and keeps what it has."""
    async with open_redis("unix:///nowhere/store.sock", connect_timeout_s=1, max_connections=1) as away:
        one = leases(away, "one")
        for call in (one.beat(), one.take(["p00"]), one.free(), one.leave()):
            with pytest.raises(StoreUnavailableError):
                await call
