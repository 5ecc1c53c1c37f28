"""Who works on which partition: leases that end by themselves, and a list of the living.

A lease is a key with a time to live that holds its worker's name. Its worker takes it again and again; a worker that
died does not, and the lease is free when its time is over. Beside the leases stands the list of workers that were heard
lately, so that each can tell how many partitions are its fair share.

A lease says who may claim. It can't keep a worker that was stopped for a while (a suspended machine, a long collection
of garbage) from going on as if it still had one; what such a worker does then is refused by the queue itself, turn by
turn (`queue.TurnQueue.begin`).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from redis.asyncio import Redis

from memproxy.storage import schema
from memproxy.storage.deadline import within


@dataclass(frozen=True, slots=True)
class Roll:
    """Who works at a stage."""

    workers: tuple[str, ...]
    """Their names, in order."""
    now_ms: int
    """The store's time."""


class Leases:
    """One worker's view of one stage's leases. Every method is one round trip and raises `StoreError`."""

    def __init__(
        self,
        redis: Redis,
        *,
        stage: str,
        worker: str,
        ttl_s: float = 15.0,
        partitions: Sequence[str] = schema.partitions(),
        deadline_s: float = 5.0,
    ) -> None:
        """`worker` must be this worker's alone, among all processes."""
        self.worker = worker
        self.ttl_s = ttl_s
        self.partitions = tuple(partitions)
        self._redis = redis
        self._stage = stage
        self._ttl_ms = max(1, round(ttl_s * 1000))
        self._deadline_s = deadline_s
        scripts = resources.files("memproxy.storage") / "lua"
        self._beat, self._take, self._give_back = (
            (scripts / f"{name}.lua").read_text() for name in ("worker_beat", "lease_take", "lease_give_back")
        )

    async def beat(self) -> Roll:
        """Tell that this worker lives, and read who else does."""
        async with within(self._deadline_s, "reading the list of workers"):
            command: Any = self._redis.eval  # Any: redis-py's types know no numbers as arguments
            now_ms, names = await command(self._beat, 1, schema.workers_key(self._stage), self.worker, self._ttl_ms)
        return Roll(tuple(sorted(name.decode() for name in names)), int(now_ms))

    async def take(self, partitions: Collection[str]) -> set[str]:
        """Take these leases where they are free, or keep them for another while; those that are this worker's now."""
        return await self._each(self._take, partitions, self.worker, self._ttl_ms, doing="taking leases")

    async def give_back(self, partitions: Collection[str]) -> None:
        """End these leases, as far as they are this worker's."""
        await self._each(self._give_back, partitions, self.worker, doing="giving leases back")

    async def free(self) -> set[str]:
        """The partitions whose lease nobody has."""
        async with within(self._deadline_s, "reading leases"), self._pipeline() as pipe:
            for partition in self.partitions:
                pipe.exists(schema.lease_key(partition, self._stage))
            taken = await pipe.execute()
        return {partition for partition, is_taken in zip(self.partitions, taken, strict=True) if not is_taken}

    async def leave(self) -> None:
        """Take this worker off the list."""
        async with within(self._deadline_s, "leaving the list of workers"):
            await self._redis.zrem(schema.workers_key(self._stage), self.worker)

    async def _each(self, script: str, partitions: Iterable[str], *arguments: str | int, doing: str) -> set[str]:
        wanted = list(partitions)
        if not wanted:
            return set()
        async with within(self._deadline_s, doing), self._pipeline() as pipe:
            for partition in wanted:
                pipe.eval(script, 1, schema.lease_key(partition, self._stage), *arguments)
            done = await pipe.execute()
        return {partition for partition, is_done in zip(wanted, done, strict=True) if is_done}

    def _pipeline(self) -> Any:
        """Any: redis-py types a queued command as something to await, which it is not."""
        return self._redis.pipeline(transaction=False)
