"""What the store says of itself."""

from pathlib import Path

import pytest
from redis.asyncio import Redis

from memproxy.errors import StoreUnavailableError
from memproxy.storage.diagnosis import diagnose
from tests.fakes.stores import store_process


async def test_a_store_that_fits_is_described_and_left_as_it_was(redis: Redis, redis_url: str) -> None:
    """Looking must not leave anything behind that lasts."""
    found = await diagnose(redis_url, connect_timeout_s=2, model="wordllama", dims=8)
    assert (found.refused, found.search_problem) == ({}, "")
    assert (found.facts.role, found.facts.eviction, found.facts.memory_limit) == ("master", "noeviction", 0)
    assert found.facts.version
    assert found.facts.memory_used > 0
    assert found.took_ms > 0
    for key in await redis.keys("*"):
        assert 0 < await redis.pttl(key) <= 10_000


async def test_what_is_refused_is_told_by_what_it_is_for(tmp_path: Path) -> None:
    """An operator grants rights, not features."""
    rights = ("--user", "app", "on", ">secret", "~mp:*", "+@all", "-@stream")
    with store_process(tmp_path, *rights) as (port, _):
        found = await diagnose(f"redis://app:secret@127.0.0.1:{port}", connect_timeout_s=2, model="m", dims=8)
    assert list(found.refused) == ["streams (XADD)"]
    assert "xadd" in found.refused["streams (XADD)"].lower()


async def test_a_store_that_is_away_is_an_error() -> None:
    with pytest.raises(StoreUnavailableError):
        await diagnose("redis://127.0.0.1:1", connect_timeout_s=1, model="m", dims=8)
