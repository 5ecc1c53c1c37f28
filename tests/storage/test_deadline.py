"""The bound on an exchange with the store."""

import asyncio
import contextlib

import pytest
from redis import exceptions

from memproxy.errors import StoreError, StoreUnavailableError
from memproxy.storage.deadline import within


async def test_what_takes_too_long_is_a_store_that_is_away() -> None:
    """A worker never waits for ever, not even for a store that accepts commands and is silent."""
    with pytest.raises(StoreUnavailableError, match="counting"):
        async with within(0.01, "counting"):
            await asyncio.Event().wait()


async def test_what_the_store_says_is_translated() -> None:
    """Nobody but the storage knows the client's exceptions."""
    with pytest.raises(StoreError, match="counting"):
        async with within(1, "counting"):
            raise exceptions.ResponseError("no")


async def test_a_cancellation_that_the_client_dropped_still_ends_the_task() -> None:
    """A worker that is told to end ends."""

    async def drops_it() -> None:
        async with within(5, "waiting"):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(drops_it())
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=2)
    assert done
    assert task.cancelled()
