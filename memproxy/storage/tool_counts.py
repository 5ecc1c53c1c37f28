"""What became of tool calls, counted over all processes and restarts: the numbers behind `memproxy tools report`."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis

from memproxy.storage import schema
from memproxy.storage.connection import translated

MAX_NAME = 64
"""Characters of a tool's name that are kept. Source: OpenAI's limit for function names."""

MAX_TOOLS = 1_000
"""Fields beyond this are not begun: names come from clients."""

SEPARATOR = " "
"""Stands in no outcome; the tool's name follows it."""


class ToolCounts:
    """Counts outcomes by tool. Every method raises `StoreError`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def add(self, outcomes: Iterable[tuple[str, str]], *, tokens_saved: int = 0) -> None:
        """Count each (outcome, tool)."""
        counted = Counter(f"{outcome}{SEPARATOR}{tool[:MAX_NAME]}" for outcome, tool in outcomes)
        if tokens_saved:
            counted[f"tokens_saved{SEPARATOR}"] = tokens_saved
        with translated("counting tool calls"):
            is_full = await self._redis.hlen(schema.TOOL_COUNTS_KEY) >= MAX_TOOLS
            pipe: Any = self._redis.pipeline(transaction=False)
            for field, number in counted.items():
                name = field if not is_full else field.partition(SEPARATOR)[0] + SEPARATOR + "(other tools)"
                pipe.hincrby(schema.TOOL_COUNTS_KEY, name, number)
            await pipe.execute()

    async def totals(self) -> dict[tuple[str, str], int]:
        """How often each (outcome, tool) was counted."""
        with translated("reading the counts of tool calls"):
            rows = await self._redis.hgetall(schema.TOOL_COUNTS_KEY)
        totals = {}
        for field, number in rows.items():
            name = field.decode("utf-8", "replace") if isinstance(field, bytes) else field
            outcome, _, tool = name.partition(SEPARATOR)
            totals[outcome, tool] = int(number)
        return totals
