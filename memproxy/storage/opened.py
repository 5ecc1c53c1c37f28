"""The store as a command of the command line uses it: beside a server that runs, or alone."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from memproxy.storage.connection import open_redis
from memproxy.storage.embedded import EmbeddedStore


@asynccontextmanager
async def opened_store(redis_url: str, *, data_dir: Path, connect_timeout_s: float) -> AsyncIterator[Redis]:
    """A client for the Redis at this address, or without one for the embedded store in this folder.

    The embedded store is the running server's, if there is one, else it is started and stopped again. Raises
    `StoreUnavailableError` if it can't be had.
    """
    async with AsyncExitStack() as stack:
        url = redis_url or (await stack.enter_async_context(EmbeddedStore(data_dir))).url
        redis = open_redis(url, connect_timeout_s=connect_timeout_s, max_connections=4)
        stack.push_async_callback(redis.aclose)
        yield redis
