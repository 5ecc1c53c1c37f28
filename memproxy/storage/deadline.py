"""A bound on one exchange with the store, for code that chose its deadline itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from memproxy.storage.connection import translated


@asynccontextmanager
async def within(deadline_s: float, doing: str) -> AsyncIterator[None]:
    """Raise `StoreUnavailableError`, which says what was being done, when the block takes longer; translate the rest.

    A task that is cancelled in the block ends, late but surely. redis-py sends under `asyncio.wait_for`, which before
    Python 3.12 drops a cancellation that comes just when the bytes have gone out
    (https://github.com/python/cpython/issues/81839). Remove that part with the support for 3.11.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    with translated(doing):
        async with asyncio.timeout(deadline_s):
            yield
            if task is not None and task.cancelling() > before:
                raise asyncio.CancelledError
