"""The store for a command of the command line."""

from pathlib import Path

from redis.asyncio import Redis

from memproxy.storage.embedded import EmbeddedStore
from memproxy.storage.opened import opened_store


async def test_an_address_is_used_as_it_is(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    """Nothing is started where a Redis is named."""
    await redis.set("key", b"value")
    async with opened_store(redis_url, data_dir=tmp_path / "unused", connect_timeout_s=5) as opened:
        assert await opened.get("key") == b"value"
    assert not (tmp_path / "unused").exists()


async def test_the_running_servers_store_is_shared(tmp_path: Path) -> None:
    """A command beside a running server sees what the server sees, and leaves the store running."""
    async with EmbeddedStore(tmp_path) as server:
        async with opened_store("", data_dir=tmp_path, connect_timeout_s=5) as opened:
            await opened.set("key", b"value")
        assert server.is_owner
        async with opened_store("", data_dir=tmp_path, connect_timeout_s=5) as opened:
            assert await opened.get("key") == b"value"


async def test_without_a_server_the_store_is_started_for_the_while(tmp_path: Path) -> None:
    """What a stopped server left can be looked at, and mended."""
    for _ in range(2):
        async with opened_store("", data_dir=tmp_path, connect_timeout_s=5) as opened:
            await opened.incr("key")
    async with opened_store("", data_dir=tmp_path, connect_timeout_s=5) as opened:
        assert await opened.get("key") == b"2"
