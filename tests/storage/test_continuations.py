"""Continuations on a real store."""

import pytest
from redis.asyncio import Redis

from memproxy.errors import StoreError
from memproxy.records import Scope
from memproxy.storage import schema
from memproxy.storage.continuations import Continuation, ContinuationStore

ANN = Scope("tenant", "ann")


async def test_what_was_kept_is_found_by_its_owner(redis: Redis) -> None:
    """An id is not enough: another user's request goes on under its own."""
    store = ContinuationStore(redis, ttl_s=60)
    kept = Continuation("real", ({"type": "function_call_output", "call_id": "a", "output": "x"},))
    await store.put(ANN, "seen", kept)
    assert await store.get(ANN, "seen") == kept
    assert await store.get(Scope("tenant", "bob"), "seen") is None
    assert await store.get(Scope("other", "ann"), "seen") is None
    assert 0 < await redis.pttl(schema.continuation_key(ANN, "seen")) <= 60_000


async def test_what_can_not_be_read_is_an_error_of_the_store(redis: Redis) -> None:
    """The request goes on without it, and the log tells why."""
    await redis.set(schema.continuation_key(ANN, "seen"), b"{")
    with pytest.raises(StoreError):
        await ContinuationStore(redis, ttl_s=0).get(ANN, "seen")
