"""How a stage's queue stands, and who works on it: what operators ask for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from memproxy.storage import schema
from memproxy.storage.deadline import within
from memproxy.storage.queue import Stage

FIELDS = 5
"""Replies read for each partition."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker at one stage."""

    name: str
    partitions: int
    """That it has the lease of."""
    pending: int
    """Turns that it has claimed and not finished; those of a worker without partitions go to the next one."""


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage, over all partitions."""

    stage: Stage
    waiting: int
    """Not claimed by anybody yet."""
    pending: int
    dead: int
    oldest_s: float
    """Age of the oldest turn that is not finished; 0 when there is none."""
    workers: tuple[WorkerStatus, ...]


async def read_status(
    redis: Redis, stage: Stage, *, partitions: Sequence[str] = schema.partitions(), deadline_s: float = 10.0
) -> StageStatus:
    """The stage as it is now. One round trip; raises `StoreError`."""
    async with within(deadline_s, "reading the queue"):
        pipe: Any = redis.pipeline(transaction=False)  # Any: redis-py types a queued command as something to await
        async with pipe:
            pipe.execute_command("TIME")
            for partition in partitions:
                pipe.xlen(schema.queue_key(partition, stage))
                pipe.xpending(schema.queue_key(partition, stage), schema.GROUP)
                pipe.xlen(schema.dead_key(partition, stage))
                pipe.xrange(schema.queue_key(partition, stage), count=1)
                pipe.get(schema.lease_key(partition, stage))
            now, *replies = await pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception) and not _is_unused(reply):
                raise reply
    lengths, pending, dead, first, holders = (replies[at::FIELDS] for at in range(FIELDS))
    turns: dict[str, int] = {}
    leases: dict[str, int] = {}
    for summary in pending:
        for holder in [] if isinstance(summary, Exception) else summary["consumers"]:
            name = holder["name"].decode()
            turns[name] = turns.get(name, 0) + holder["pending"]
    for lease in filter(None, holders):
        leases[lease.decode()] = leases.get(lease.decode(), 0) + 1
    began = [int(entries[0][0].partition(b"-")[0]) / 1000 for entries in first if entries]
    return StageStatus(
        stage,
        waiting=max(0, sum(lengths) - sum(turns.values())),
        pending=sum(turns.values()),
        dead=sum(dead),
        oldest_s=max(0.0, now[0] - min(began)) if began else 0.0,
        workers=tuple(
            WorkerStatus(name, leases.get(name, 0), turns.get(name, 0)) for name in sorted({*leases, *turns})
        ),
    )


def _is_unused(error: Exception) -> bool:
    """No worker has been at this stage so far, so there is no group yet."""
    return isinstance(error, ResponseError) and "NOGROUP" in str(error)
