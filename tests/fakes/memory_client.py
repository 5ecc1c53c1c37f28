"""agent-memory-client, as its users make it, before a memproxy of this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agent_memory_client import MemoryAPIClient, MemoryClientConfig
from agent_memory_client.models import ClientMemoryRecord, MemoryTypeEnum

from tests.fakes.serving import Served


@asynccontextmanager
async def memory_client(served: Served, **config: Any) -> AsyncIterator[MemoryAPIClient]:
    """The client, unmodified."""
    async with MemoryAPIClient(MemoryClientConfig(base_url=served.origin, **config)) as client:
        yield client


def record(text: str, *, kind: str = "semantic", **given: Any) -> ClientMemoryRecord:
    """A record as a user of the client makes it."""
    return ClientMemoryRecord(text=text, memory_type=MemoryTypeEnum(kind), **given)
