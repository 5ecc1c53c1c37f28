"""Which partitions a worker works on: its fair share of them, while it lives.

All partitions of a stage are shared out among its living workers. Each takes what is free until it has its share, and
gives back what it has above it. Nobody decides for the others: the shares add up to all partitions, so in the end each
partition has a worker, and those who come when all are shared out stand by.
"""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from memproxy.storage.leases import Leases, Roll


@dataclass(frozen=True, slots=True)
class Change:
    """What became different for this worker."""

    gained: frozenset[str]
    lost: frozenset[str]
    """Somebody else's from now on."""
    now_ms: int
    """The store's time."""


@dataclass(slots=True)
class Tenure:
    """The partitions of one worker. `shuffle` keeps workers that start together from wanting the same ones."""

    leases: Leases
    shuffle: Callable[[list[str]], None] = random.shuffle
    held: set[str] = field(default_factory=set)
    leaving: set[str] = field(default_factory=set)
    """Held, but to be given back as soon as nothing is being done in them."""

    async def renew(self) -> Change:
        """Keep what is held, and come nearer to the fair share. Raises `StoreError`; call it every third of a lease."""
        roll = await self.leases.beat()
        still = await self.leases.take(self.held)
        lost = self.held - still
        self.held, self.leaving = still, self.leaving & still
        wanted = share_of(self.leases.worker, roll, len(self.leases.partitions)) - len(self.held - self.leaving)
        staying = set(sorted(self.leaving)[: max(0, wanted)])
        self.leaving -= staying
        gained = await self._take(wanted - len(staying)) if wanted > len(staying) else set()
        self.leaving |= set(sorted(self.held - self.leaving)[: max(0, -wanted)])
        self.held |= gained
        return Change(frozenset(gained), frozenset(lost), roll.now_ms)

    async def give_back(self, partitions: Collection[str]) -> None:
        """End these leases before their time."""
        await self.leases.give_back(partitions)
        self.held -= set(partitions)
        self.leaving -= set(partitions)

    async def end(self) -> None:
        """Leave everything to the others at once."""
        await self.give_back(self.held.copy())
        await self.leases.leave()

    async def _take(self, count: int) -> set[str]:
        free = sorted(await self.leases.free() - self.held)
        self.shuffle(free)
        return await self.leases.take(free[:count])


def share_of(worker: str, roll: Roll, partitions: int) -> int:
    """How many partitions are this worker's share. The shares of all workers on the roll add up to all partitions."""
    return _shares(roll.workers, partitions).get(worker, 0)


def _shares(workers: Sequence[str], partitions: int) -> dict[str, int]:
    each, over = divmod(partitions, len(workers)) if workers else (0, 0)
    return {worker: each + (place < over) for place, worker in enumerate(workers)}
