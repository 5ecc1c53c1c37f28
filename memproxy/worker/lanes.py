"""In what order a worker does its turns, how many at a time, and when; pure.

The turns of one session stand in a *lane* and are done in the order in which they came, never two batches of a lane at
once; lanes know nothing of each other. A batch is what is done at one go: turns from the front of a lane, or of several
where the job gathers.

A lane is due when its session has been quiet for a while, or its oldest turn has waited long enough, or as many turns
wait as make a batch. What comes while a batch is being done waits in the lane and is due by the same rule, so nothing
needs to happen for it to be done.

A batch that failed is put off, and later done as it was; then turn by turn, so that one turn which can't be done is
given up alone. The same turns make the same batch again, also for a worker that takes over from a dead one: what was
begun of a lane stands at its front, and nothing else has been begun. So the mark that a batch is done with (which the
job leaves where it writes) is found by whoever comes next.
"""

import heapq
import itertools
from bisect import insort
from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field, replace

from memproxy.storage.queue import Address, Claimed

Place = tuple[float, tuple[int, int], int, Hashable, int]
"""In the heap: when it is due, its first turn's order, a number that keeps equals apart, the lane, its version."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How turns are put together."""

    turns: int = 20
    """At most so many at a time."""
    size: int = 60_000
    """At most so many bytes of JSON at a time; a single turn may have more."""
    lanes: int = 1
    """At most so many lanes at a time."""
    quiet_s: float = 0.0
    """How long a lane waits for more."""
    longest_s: float = 0.0
    """How long its oldest turn waits at the most."""
    attempts_together: int = 2
    """How often a turn is tried in company; after that it is tried alone."""


@dataclass(frozen=True, slots=True)
class Held:
    """A turn in its lane."""

    claimed: Claimed
    since_s: float
    """When it was queued, by the worker's own clock."""
    is_alone: bool = False
    """It is tried by itself from now on."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Turns that are done at one go, oldest first in each lane."""

    held: tuple[Held, ...]
    lanes: tuple[Hashable, ...]
    number: int
    """Tells it from earlier batches of the same lanes."""

    @property
    def claimed(self) -> tuple[Claimed, ...]:
        return tuple(each.claimed for each in self.held)

    @property
    def attempts(self) -> int:
        """How often the most tried of them was begun so far."""
        return max(each.claimed.attempts for each in self.held)

    @property
    def partitions(self) -> frozenset[str]:
        return frozenset(each.claimed.partition for each in self.held)


@dataclass(slots=True)
class _Lane:
    partition: str
    waiting: list[Held] = field(default_factory=list)
    size: int = 0
    """Of what waits."""
    newest_s: float = 0.0
    running: tuple[Held, ...] = ()
    batch: int = -1
    """The number of the batch that `running` belongs to."""
    not_before_s: float = 0.0
    retries: int = 0
    """How often in a row it was put off."""
    sealed: frozenset[Address] = frozenset()
    """What was put off, and is done again in the same company."""
    version: int = 0
    """Changes with each place in the heap: older places are out of date."""


class Lanes:
    """The turns that a worker holds. Times are its own clock's, in seconds."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._lanes: dict[Hashable, _Lane] = {}
        self._known: dict[Address, int] = {}
        """What stands in a lane, being done or not, and its size."""
        self._partitions: Counter[str] = Counter()
        self._due: list[Place] = []
        self._numbers = itertools.count()
        self.size = 0
        """Bytes of JSON of all turns."""

    def __len__(self) -> int:
        return len(self._known)

    def held_in(self, partition: str) -> int:
        """How many turns of a partition stand in lanes, being done or not."""
        return self._partitions[partition]

    def admit(self, claimed: Claimed, lane: Hashable, *, since_s: float) -> bool:
        """Put the turn at its place in its lane; False when it is there already."""
        if claimed.address in self._known:
            return False
        self._known[claimed.address] = claimed.size
        self._partitions[claimed.partition] += 1
        self.size += claimed.size
        found = self._lanes.setdefault(lane, _Lane(claimed.partition))
        insort(found.waiting, Held(claimed, since_s), key=lambda held: held.claimed.order)
        found.size += claimed.size
        found.newest_s = max(found.newest_s, since_s)
        self._schedule(lane)
        return True

    def next_due_s(self) -> float | None:
        """When the next batch is due; None when nothing waits."""
        self._drop_outdated()
        return self._due[0][0] if self._due else None

    def next_batch(self, now_s: float, *, hurry: bool = False) -> Batch | None:
        """What is to be done now; in a hurry what is due next, too, unless it was put off. It counts as being done."""
        held: list[Held] = []
        lanes: list[Hashable] = []
        number = next(self._numbers)
        while len(lanes) < self._rules.lanes and (lane := self._next_lane(now_s, hurry=hurry)) is not None:
            front = self._front(self._lanes[lane], taken=held)
            if not front or (held and (front[0].is_alone or front[0].claimed.attempts)):
                break
            heapq.heappop(self._due)
            _take(self._lanes[lane], front, number=number)
            held += front
            lanes.append(lane)
            if front[0].is_alone or front[0].claimed.attempts:
                break
        return Batch(tuple(held), tuple(lanes), number) if held else None

    def finished(self, batch: Batch) -> None:
        """The batch is done, or its turns are somebody else's: they leave their lanes."""
        for lane, found in self._lanes_of(batch):
            self._forget(found.running)
            found.running, found.retries, found.not_before_s, found.sealed = (), 0, 0.0, frozenset()
            self._schedule(lane)

    def put_off(self, batch: Batch, *, until_s: float, attempted: bool = True, alone: bool = False) -> None:
        """The batch goes back to the front of its lanes, for later; `alone`: its turns are tried one by one."""
        for lane, found in self._lanes_of(batch):
            back = [_tried(held, attempted=attempted, alone=alone) for held in found.running]
            found.waiting = back + found.waiting
            found.size += sum(held.claimed.size for held in back)
            found.sealed = frozenset(held.claimed.address for held in back)
            found.running, found.not_before_s, found.retries = (), until_s, found.retries + 1
            self._schedule(lane)

    def retries(self, batch: Batch) -> int:
        """How often in a row the batch's lanes were put off before."""
        return max((lane.retries for _, lane in self._lanes_of(batch)), default=0)

    def keep(self, batch: Batch, addresses: Collection[Address]) -> Batch | None:
        """The batch without the turns that are not among these: they are somebody else's. None when none is left."""
        for lane, found in self._lanes_of(batch):
            self._forget([held for held in found.running if held.claimed.address not in addresses])
            found.running = tuple(held for held in found.running if held.claimed.address in addresses)
            if not found.running:
                self._schedule(lane)
        left = tuple(held for held in batch.held if held.claimed.address in addresses)
        return replace(batch, held=left) if left else None

    def forget(self, partition: str) -> None:
        """Everything of this partition is somebody else's."""
        for lane, found in list(self._lanes.items()):
            if found.partition == partition:
                self._forget([*found.waiting, *found.running])
                del self._lanes[lane]

    def _front(self, lane: _Lane, *, taken: list[Held]) -> list[Held]:
        """The turns at the lane's front that can be done together, and together with what is taken already."""
        front: list[Held] = []
        size = sum(held.claimed.size for held in taken)
        for held in lane.waiting:
            alone = held.is_alone or held.claimed.attempts >= self._rules.attempts_together
            size += held.claimed.size
            is_full = len(taken) + len(front) >= self._rules.turns or size > self._rules.size
            if (front or taken) and (alone or is_full or _is_apart(held, lane)):
                break
            front.append(replace(held, is_alone=alone))
            if alone:
                break
        return front

    def _lanes_of(self, batch: Batch) -> list[tuple[Hashable, _Lane]]:
        """The batch's lanes, as far as it is still what is being done in them."""
        lanes = ((lane, self._lanes.get(lane)) for lane in batch.lanes)
        return [(lane, found) for lane, found in lanes if found and found.running and found.batch == batch.number]

    def _next_lane(self, now_s: float, *, hurry: bool) -> Hashable | None:
        self._drop_outdated()
        if not self._due:
            return None
        due_s, *_, lane, _ = self._due[0]
        if due_s <= now_s or (hurry and self._lanes[lane].not_before_s <= now_s):
            return lane
        return None

    def _drop_outdated(self) -> None:
        while self._due:
            *_, lane, version = self._due[0]
            found = self._lanes.get(lane)
            if found is not None and found.version == version:
                return
            heapq.heappop(self._due)

    def _schedule(self, lane: Hashable) -> None:
        found = self._lanes[lane]
        found.version = next(self._numbers)
        if found.running:
            return
        if not found.waiting:
            del self._lanes[lane]
            return
        order = found.waiting[0].claimed.order
        heapq.heappush(self._due, (self._due_s(found), order, next(self._numbers), lane, found.version))

    def _due_s(self, lane: _Lane) -> float:
        rules, waiting = self._rules, lane.waiting
        first = waiting[0]
        is_full = len(waiting) >= rules.turns or lane.size >= rules.size
        if is_full or lane.retries or first.claimed.attempts or first.is_alone:
            return max(first.since_s, lane.not_before_s)
        return max(min(lane.newest_s + rules.quiet_s, first.since_s + rules.longest_s), lane.not_before_s)

    def _forget(self, held: Collection[Held]) -> None:
        for each in held:
            self.size -= self._known.pop(each.claimed.address)
            self._partitions[each.claimed.partition] -= 1


def _is_apart(held: Held, lane: _Lane) -> bool:
    """Whether the turn can't be done together with the lane's first: it was not before, or is for other memories."""
    first, claimed = lane.waiting[0].claimed, held.claimed
    if claimed.turn.strategies != first.turn.strategies:
        return True
    if lane.sealed:
        return (first.address in lane.sealed) != (claimed.address in lane.sealed)
    return bool(first.attempts) != bool(claimed.attempts)


def _take(lane: _Lane, front: list[Held], *, number: int) -> None:
    lane.waiting = lane.waiting[len(front) :]
    lane.size -= sum(held.claimed.size for held in front)
    lane.running, lane.batch = tuple(front), number
    lane.version = -1  # no place in the heap is its own while it is being done


def _tried(held: Held, *, attempted: bool, alone: bool) -> Held:
    claimed = held.claimed
    attempts = claimed.attempts + 1 if attempted else claimed.attempts
    return replace(held, claimed=replace(claimed, attempts=attempts), is_alone=held.is_alone or alone)
