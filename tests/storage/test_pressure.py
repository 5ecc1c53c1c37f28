"""How short the store's memory is."""

import pytest
from redis.asyncio import Redis

from memproxy.errors import StoreUnavailableError
from memproxy.storage.connection import open_redis
from memproxy.storage.pressure import Pressure, StoreMemory, pressure_at


@pytest.mark.parametrize(
    ("share", "pressure"),
    [
        (0.0, Pressure.NONE),
        (0.849, Pressure.NONE),
        (0.85, Pressure.TIGHT),
        (0.919, Pressure.TIGHT),
        (0.92, Pressure.SHORT),
        (1.4, Pressure.SHORT),
    ],
)
def test_the_less_memory_is_left_the_more_is_left_out(share: float, pressure: Pressure) -> None:
    """What can be missed goes first, before the store refuses what can't."""
    assert pressure_at(share) is pressure


async def test_a_store_without_a_limit_is_never_short(redis: Redis) -> None:
    """The default costs nobody a memory."""
    memory = StoreMemory(redis)
    await memory.look()
    assert (memory.pressure, memory.share) == (Pressure.NONE, 0.0)


async def test_it_is_seen_and_said_when_memory_gets_short_and_when_there_is_room_again(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator finds in the log why nothing is learned any more."""
    memory = StoreMemory(redis)
    used = (await redis.info("memory"))["used_memory"]
    try:
        for share, pressure in ((0.88, Pressure.TIGHT), (0.97, Pressure.SHORT), (0.97, Pressure.SHORT)):
            await redis.config_set("maxmemory", int(used / share))
            await memory.look()
            assert memory.pressure is pressure
            assert memory.share == pytest.approx(share, abs=0.05)
    finally:
        await redis.config_set("maxmemory", "0")
    await memory.look()
    assert memory.pressure is Pressure.NONE
    assert len(caplog.records) == 3
    assert "no longer queued" in caplog.text


async def test_a_store_that_does_not_answer_changes_nothing() -> None:
    """What was known last is the best guess."""
    async with open_redis("unix:///nowhere/store.sock", connect_timeout_s=1, max_connections=1) as away:
        memory = StoreMemory(away)
        memory.pressure = Pressure.TIGHT
        with pytest.raises(StoreUnavailableError):
            await memory.look()
        assert memory.pressure is Pressure.TIGHT
