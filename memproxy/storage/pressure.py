"""How near the store is to its memory limit, so that what can be left out is left out before it refuses writes.

Memories and sessions are worth more than the wish to learn from a turn. So, as memory gets short:

| used | what is queued of a turn |
|---|---|
| below 85 % | all: its messages, and a few before them |
| from 85 % | what user and assistant said in it, without what only grounds or surrounds that |
| from 92 % | nothing: it is stored in its session, and not learned from |
| 100 % | the store refuses writes: turns wait in the proxies (`record_buffer`) until it takes them again |

Workers go on all the while: what they finish makes room. A store without a limit is never short.
"""

import enum
import logging
from typing import Any

from redis.asyncio import Redis

from memproxy.storage.deadline import within

log = logging.getLogger(__name__)

TIGHT_SHARE, SHORT_SHARE = 0.85, 0.92
"""Room for some minutes of turns even in a small store, and far enough apart not to be one step."""


class Pressure(enum.IntEnum):
    """How short the store's memory is."""

    NONE = 0
    TIGHT = 1
    SHORT = 2


class StoreMemory:
    """What is known of the store's memory. Reading `pressure` costs nothing; somebody calls `look` now and then."""

    def __init__(self, redis: Redis, *, deadline_s: float = 2.0) -> None:
        self.pressure = Pressure.NONE
        self.share = 0.0
        """Used, of the limit; 0 without one."""
        self._redis = redis
        self._deadline_s = deadline_s

    async def look(self) -> None:
        """Ask the store. Raises `StoreError`; what was known stays then."""
        async with within(self._deadline_s, "reading its memory"):
            facts: Any = await self._redis.info("memory")
        limit = facts.get("maxmemory", 0)
        self.share = facts.get("used_memory", 0) / limit if limit else 0.0
        now = pressure_at(self.share)
        if now is not self.pressure:
            log.warning("the store uses %.0f %% of its memory limit: %s", 100 * self.share, EFFECTS[now])
        self.pressure = now


EFFECTS = {
    Pressure.NONE: "turns are queued whole again",
    Pressure.TIGHT: "turns are queued without what was said before them",
    Pressure.SHORT: "turns are no longer queued, so nothing is learned from them. Raise maxmemory, or delete data",
}


def pressure_at(share: float) -> Pressure:
    """How short memory is when this share of it is in use."""
    if share >= SHORT_SHARE:
        return Pressure.SHORT
    return Pressure.TIGHT if share >= TIGHT_SHARE else Pressure.NONE
