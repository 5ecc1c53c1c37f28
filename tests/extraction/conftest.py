"""The memory that these tests learn into: the real engine on the real store."""

import pytest
from redis.asyncio import Redis

from memproxy.embedding import LocalEmbedder
from memproxy.memory.long_term import LongTermMemory
from memproxy.storage.long_term import LongTermStore


@pytest.fixture(scope="session")
def embedder() -> LocalEmbedder:
    """Loaded once: it takes 0.2 s."""
    return LocalEmbedder()


@pytest.fixture
async def memory(redis: Redis, embedder: LocalEmbedder) -> LongTermMemory:
    """Long-term memory on the emptied store."""
    store = LongTermStore(redis, model=embedder.name, dims=embedder.dims)
    await store.ensure_index()
    return LongTermMemory(store, embedder)
