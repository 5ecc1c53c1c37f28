"""What the background model cost each tenant on each day (UTC)."""

from datetime import date
from typing import TYPE_CHECKING, Any

from memproxy.storage import schema
from memproxy.storage.connection import translated

if TYPE_CHECKING:
    from redis.asyncio import Redis

TTL_S = 2 * 86_400
"""A day is looked at while it lasts; another one lets people look back."""


class SpentTokens:
    """Counts tokens, over all processes. Each method is one round trip and raises `StoreError`."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    async def spent(self, tenant: str, day: date) -> int:
        """The tokens of this tenant on this day."""
        with translated("reading what was spent"):
            return int(await self._redis.get(schema.spent_key(tenant, day.isoformat())) or 0)

    async def add(self, tenant: str, day: date, tokens: int) -> int:
        """Count tokens, and say how many the day has by now."""
        name = schema.spent_key(tenant, day.isoformat())
        pipe: Any = self._redis.pipeline(transaction=True)
        pipe.incrby(name, tokens)
        pipe.expire(name, TTL_S)
        with translated("counting what was spent"):
            total, _ = await pipe.execute()
        return int(total)
