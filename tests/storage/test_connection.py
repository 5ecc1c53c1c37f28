"""The connection to the store: what its errors mean, and that no reply ever reaches the wrong caller."""

import asyncio

import pytest
from redis import exceptions
from redis.asyncio import Redis

from memproxy.errors import SettingsError, StoreError, StoreUnavailableError
from memproxy.storage.connection import open_redis, translated


def errors() -> list[type[exceptions.RedisError]]:
    found = [kind for kind in vars(exceptions).values() if isinstance(kind, type)]
    return sorted((kind for kind in found if issubclass(kind, exceptions.RedisError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", errors(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_client_is_a_store_error(kind: type[exceptions.RedisError]) -> None:
    """Whoever asks the store has two errors to think of: it is away, or it refuses."""
    made: exceptions.RedisError = type(kind.__name__, (kind,), {"__init__": lambda self: None})()
    with (
        pytest.raises(StoreError, match=f"reading a session: {kind.__name__}") as told,
        translated("reading a session"),
    ):
        raise made
    passes = issubclass(kind, exceptions.ConnectionError | exceptions.TimeoutError | exceptions.BusyLoadingError)
    assert isinstance(told.value, StoreUnavailableError) or not passes
    assert told.value.__cause__ is made


@pytest.mark.parametrize("error", [TimeoutError("late"), OSError("gone"), ConnectionResetError("reset")])
def test_errors_of_the_network_mean_that_the_store_is_away(error: Exception) -> None:
    """They pass; the turn waits."""
    with pytest.raises(StoreUnavailableError, match="recording a turn"), translated("recording a turn"):
        raise error


def test_other_errors_are_not_hidden() -> None:
    """A mistake in memproxy is not blamed on the store."""
    with pytest.raises(ValueError, match="ours"), translated("reading a session"):
        raise ValueError("ours")


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "unix:///nowhere/store.sock"])
async def test_an_unreachable_store_is_told_at_once(url: str) -> None:
    """No silent retries: whoever is told early goes on without memory."""
    async with open_redis(url, connect_timeout_s=5, max_connections=1) as redis:
        with pytest.raises(StoreUnavailableError, match="The store could not be used for asking"), translated("asking"):
            await redis.ping()


WITH_AN_OPTION = ["redis://h", "unix:///s", "redis+sentinel://h/service", "redis+cluster://h"]


@pytest.mark.parametrize("url", WITH_AN_OPTION)
def test_an_option_that_there_is_not_is_told_at_start(url: str) -> None:
    """Not as a traceback, nor with each command of the first request."""
    with pytest.raises(SettingsError, match="redis_url can't be used: It has the option 'socket_timeot'"):
        _ = open_redis(f"{url}?socket_timeot=3", connect_timeout_s=1, max_connections=4)


@pytest.mark.parametrize("url", ["redis://h:port", "redis://u:secret@h:6379/0?db=x", "redis+sentinel://u:secret@h"])
def test_a_wrong_address_is_told_at_start_without_its_password(url: str) -> None:
    """Whoever mistyped it reads what to mend, and so may everybody who reads the log."""
    with pytest.raises(SettingsError, match="redis_url") as told:
        _ = open_redis(url, connect_timeout_s=1, max_connections=1)
    assert "secret" not in str(told.value)


async def test_a_store_that_is_full_is_away_for_now(redis: Redis) -> None:
    """When somebody makes room, what waited is recorded."""
    await redis.config_set("maxmemory", "1")
    script = redis.register_script("return redis.call('SET', KEYS[1], ARGV[1])")
    try:
        for write in (lambda: redis.set("key", "value"), lambda: script(keys=["key"], args=["value"])):
            with pytest.raises(StoreUnavailableError), translated("writing"):
                await write()
    finally:
        await redis.config_set("maxmemory", "0")


async def test_values_come_as_bytes(redis: Redis) -> None:
    """Messages may hold anything; nothing is decoded on the way."""
    await redis.set("key", b"\xff\x00")
    assert await redis.get("key") == b"\xff\x00"


async def test_a_reply_that_nobody_waits_for_any_more_reaches_nobody(redis: Redis, redis_url: str) -> None:
    """A look-up that missed its deadline must not leave its answer, maybe another user's, to the next caller."""
    for number in range(20):
        await redis.set(f"key-{number}", f"value-{number}")
    await redis.set("own", "own value")
    async with open_redis(redis_url, connect_timeout_s=5, max_connections=1) as one:
        read = one.register_script("return redis.call('GET', KEYS[1])")
        assert await one.ping()
        for number in range(20):
            await redis.client_pause(20)
            asking = read(keys=[f"key-{number}"]) if number % 2 else one.get(f"key-{number}")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asking, 0.001 * (number % 4))
            assert await one.get("own") == b"own value"
            assert await read(keys=["key-1"]) == b"value-1"


async def test_a_burst_beyond_the_connections_waits_its_turn(redis_url: str) -> None:
    """More requests at once than connections are slow for a moment; that is no outage, which costs their memory."""
    async with open_redis(redis_url, connect_timeout_s=5, max_connections=2) as redis:
        replies = await asyncio.gather(*(redis.echo(str(number)) for number in range(100)))
        assert replies == [str(number).encode() for number in range(100)]
        clients = await redis.info("clients")
        assert clients["connected_clients"] < 50
