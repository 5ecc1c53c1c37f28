"""Marks that say that some work on a user's memories is done.

They are set in the same step in which its memories are written (`memory_changes`); here they are looked at before the
work is begun again, and set for work that gave nothing to write.
"""

from typing import TYPE_CHECKING

from memproxy.records import Scope
from memproxy.storage import schema
from memproxy.storage.connection import translated
from memproxy.storage.memory_changes import MARK_TTL_S

if TYPE_CHECKING:
    from redis.asyncio import Redis


class DoneMarks:
    """Reads and sets marks. Each method is one round trip and raises `StoreError`."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    async def is_done(self, scope: Scope, mark: str) -> bool:
        """Whether the work is done."""
        with translated("looking whether work is done"):
            return bool(await self._redis.exists(schema.done_key(scope, mark)))

    async def set_done(self, scope: Scope, mark: str) -> None:
        """Say that the work is done."""
        with translated("marking work as done"):
            await self._redis.set(schema.done_key(scope, mark), b"1", ex=MARK_TTL_S)
