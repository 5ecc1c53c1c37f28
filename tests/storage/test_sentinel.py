"""A store that Sentinels watch: addresses, and what a fail-over costs. Real servers, a real Sentinel."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis as blocking_redis
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from memproxy.errors import StoreUnavailableError
from memproxy.storage.connection import open_redis, translated
from memproxy.storage.sentinel import WaitingPool, is_watched, problem_of
from tests.fakes.stores import sentinel_process, store_process

SERVICE = "memories"


@dataclass(frozen=True)
class Watched:
    """A primary, its replica, and the Sentinel."""

    primary: int
    replica: int
    sentinel: int
    url: str


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with ExitStack() as stack:
        primary, _ = stack.enter_context(store_process(tmp_path / "a", engine=False))
        copying = ("--replicaof", f"127.0.0.1 {primary}", "--repl-diskless-sync-delay", "0")
        replica, _ = stack.enter_context(store_process(tmp_path / "b", *copying, engine=False))
        sentinel = stack.enter_context(sentinel_process(tmp_path / "s", primary=primary, service=SERVICE))
        yield Watched(primary, replica, sentinel, f"redis+sentinel://127.0.0.1:{sentinel}/{SERVICE}")


@pytest.fixture
async def client(watched: Watched) -> AsyncIterator[Redis]:
    redis = open_redis(watched.url, connect_timeout_s=2, max_connections=4)
    yield redis
    await redis.aclose()


async def written(redis: Redis, key: str, value: str) -> None:
    """Write as soon as a primary takes it; no longer than fifteen seconds."""
    async with asyncio.timeout(15):
        while True:
            try:
                with translated("writing"):
                    await redis.set(key, value)
            except StoreUnavailableError:
                await asyncio.sleep(0.05)
            else:
                return


async def replicated(watched: Watched) -> None:
    """Return when the Sentinel knows the replica, and the replica has the primary's data."""
    async with asyncio.timeout(15), Redis(port=watched.sentinel) as sentinel, Redis(port=watched.replica) as replica:
        while True:
            info = await replica.info("replication")
            known = await sentinel.execute_command("SENTINEL", "REPLICAS", SERVICE)  # type: ignore[no-untyped-call]
            if info["master_link_status"] == "up" and known:
                return
            await asyncio.sleep(0.05)


async def test_commands_go_to_the_primary(client: Redis, watched: Watched) -> None:
    """Only the primary takes writes, and the Sentinel alone knows which one that is."""
    await client.set("key", "value")
    with blocking_redis.Redis(port=watched.primary) as primary:
        assert primary.get("key") == b"value"


async def test_after_a_fail_over_the_same_client_goes_on(client: Redis, watched: Watched) -> None:
    """A primary that dies costs seconds without memory, and no restart of memproxy."""
    await replicated(watched)
    await client.set("before", "1")
    await client.execute_command("WAIT", 1, 5_000)  # type: ignore[no-untyped-call]
    with blocking_redis.Redis(port=watched.primary) as primary:
        primary.shutdown(nosave=True)
    await written(client, "after", "2")
    with blocking_redis.Redis(port=watched.replica) as promoted:
        assert (promoted.get("before"), promoted.get("after")) == (b"1", b"2")


async def test_a_demoted_primary_is_left(client: Redis, watched: Watched) -> None:
    """A planned fail-over closes no connection: the old primary only says READONLY from then on."""
    await replicated(watched)
    await client.set("before", "1")
    async with Redis(port=watched.sentinel) as sentinel:
        await sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE)  # type: ignore[no-untyped-call]
    async with asyncio.timeout(15), Redis(port=watched.primary) as demoted:
        while (await demoted.info("replication"))["role"] == "master":  # noqa: ASYNC110  nobody tells when
            await asyncio.sleep(0.05)
    await written(client, "after", "2")
    with blocking_redis.Redis(port=watched.replica) as promoted:
        assert promoted.get("after") == b"2"


async def test_without_a_sentinel_the_store_is_away() -> None:
    """The request goes on without memory, as with any store that can't be reached."""
    async with open_redis("redis+sentinel://127.0.0.1:1/x", connect_timeout_s=1, max_connections=1) as redis:
        with pytest.raises(StoreUnavailableError, match="No master found"), translated("asking"):
            await redis.ping()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+sentinel://h:1,[::1]:2,other/service/3?ssl_ca_certs=/x", ""),
        ("rediss+sentinel://user:p%40ss@h/service", ""),
        ("redis+sentinel:///service", "names no Sentinel"),
        ("redis+sentinel://h:26379", "names no service"),
        ("redis+sentinel://h:port/service", "port that is no number"),
    ],
)
def test_a_wrong_address_is_told_at_start(url: str, problem: str) -> None:
    """Not when the first request comes."""
    assert is_watched(url)
    assert problem in problem_of(url)
    assert bool(problem) == bool(problem_of(url))


async def test_all_of_an_address_is_used() -> None:
    """Several Sentinels, a database, and credentials of the store and of the Sentinels."""
    url = "rediss+sentinel://user:p%40ss@a:1,[::1],b/main/3?sentinel_password=s&ssl_ca_certs=/ca.pem"
    async with open_redis(url, connect_timeout_s=1, max_connections=7) as redis:
        pool = redis.connection_pool
        assert isinstance(pool, WaitingPool)
        asked = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"]) for one in asked] == [("a", 1), ("::1", 26_379), ("b", 26_379)]
    assert {one["password"] for one in asked} == {"s"}
    assert {one["ssl_ca_certs"] for one in asked} == {"/ca.pem"}
    kept = pool.connection_kwargs
    assert (kept["username"], kept["password"], kept["db"], kept["ssl_ca_certs"]) == ("user", "p@ss", 3, "/ca.pem")
    assert (pool.service_name, pool.max_connections, pool.connection_class.__name__) == (
        "main",
        7,
        "SentinelManagedSSLConnection",
    )


@given(st.text())
def test_any_text_gets_a_verdict(text: str) -> None:
    """Settings come from people."""
    assert isinstance(problem_of(f"redis+sentinel://{text}"), str)
