"""Work off one stage's queue: claim, run, acknowledge; try again, give up, stop cleanly.

A worker holds a bounded number of claimed turns. Those of one session stand in a *lane* and are worked off in order, a
turn that waits to be tried again included; lanes run in parallel, a few at a time. What is held is renewed, so that no
other worker takes over; a worker that dies renews nothing, and its turns go to the others.

Two kinds of failure are kept apart. An attempt that fails counts, and after some of them the turn goes to the dead
letters. A store that is away counts as nothing: the worker says so once, waits, and goes on where it was.
"""

import asyncio
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from memproxy.errors import MemproxyError, StoreError, StoreUnavailableError
from memproxy.records import Scope
from memproxy.storage.queue import Address, Claimed, TurnQueue
from memproxy.worker.jobs import GiveUp, Job, Patience, Retry, judge, worn_out

log = logging.getLogger(__name__)

OUTAGE_DELAYS_S = (0.1, 5.0)
"""Wait for a store that is away: at first, and at most; it doubles."""

BLIPS = 5
"""Failures of the store within one attempt, each of them over when asked again, after which the attempt counts."""

Observe = Callable[[str, float], None]
"""Takes a name and a number: the stage's `.done`, `.retried`, `.dead` and `.store_away` (1 each time), and `.seconds`
(of an attempt that succeeded), such as `learn.done`.
"""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a worker does at a time."""

    parallel: int = 4
    """Turns that are being run."""
    held: int = 64
    """Turns that are claimed: run, waiting for their session's turn before, or waiting to be tried again."""
    block_s: float = 2.0
    """How long one look into an empty queue takes; stopping waits for it."""
    grace_s: float = 20.0
    """How long stopping waits for what is being run."""


class Outage:
    """Says once that the store is away, and once that it is back."""

    def __init__(self, stage: str, observe: Observe) -> None:
        self._stage = stage
        self._observe = observe
        self._failures = 0

    def failed(self, error: StoreError) -> float:
        """How long to wait now, in seconds."""
        first_s, longest_s = OUTAGE_DELAYS_S
        if self._failures == 0:
            log.warning("the worker for %s waits for the store: %s", self._stage, error)
            self._observe(f"{self._stage}.store_away", 1)
        self._failures += 1
        return min(first_s * 2.0 ** min(self._failures - 1, 10), longest_s)

    def passed(self) -> None:
        """The store answered."""
        if self._failures:
            log.info("the worker for %s goes on: the store is back", self._stage)
        self._failures = 0


class Worker:
    """Works off one job's queue until it is stopped. `run` is called once.

    `consumer` must be this worker's alone, among all processes. `chance` gives numbers in 0..1.
    """

    def __init__(
        self,
        queue: TurnQueue,
        job: Job,
        *,
        consumer: str,
        patience: Patience | None = None,
        limits: Limits | None = None,
        observe: Observe | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._queue = queue
        self._job = job
        self._consumer = consumer
        self._patience = patience or Patience()
        self._limits = limits or Limits()
        self._observe = observe or _ignore
        self._clock = clock
        self._chance = chance
        self._outage = Outage(job.stage, self._observe)
        self._slots = asyncio.Semaphore(self._limits.parallel)
        self._held: dict[Address, Claimed] = {}
        self._lanes: dict[tuple[Scope, str], deque[Claimed]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """Claim and begin nothing more; `run` returns when what is being run is done, or the grace period is over."""
        self._stopping.set()
        self._changed.set()

    async def run(self) -> None:
        """Work until stopped. If cancelled instead, what is held goes to others once it has lain for long enough."""
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(self._keep_held())
            while not self._stopping.is_set():
                for claimed in await self._claim():
                    self._admit(claimed, group)
            await self._let_finish()
            keeper.cancel()
        await self._release_held()

    async def _claim(self) -> list[Claimed]:
        """New turns, as many as there is room for; none while the store is away."""
        while len(self._held) >= self._limits.held:
            self._changed.clear()
            await self._changed.wait()
            if self._stopping.is_set():
                return []
        try:
            found = await self._queue.claim(self._consumer, self._limits.held - len(self._held), self._limits.block_s)
        except StoreError as error:
            await self._wait_unless_stopped(self._outage.failed(error))
            return []
        self._outage.passed()
        return found

    def _admit(self, claimed: Claimed, group: asyncio.TaskGroup) -> None:
        if claimed.address in self._held:  # our own hold ran out while the store was away, and we took it over
            return
        self._held[claimed.address] = claimed
        key = (claimed.turn.scope, claimed.turn.session)
        if key in self._lanes:
            self._lanes[key].append(claimed)
            return
        self._lanes[key] = deque([claimed])
        task = group.create_task(self._work_off(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work_off(self, key: tuple[Scope, str]) -> None:
        """Bring one session's turns to their ends, in order."""
        lane = self._lanes[key]
        while lane and not self._stopping.is_set():
            if await self._bring_to_end(lane[0]):
                self._held.pop(lane.popleft().address, None)
                self._changed.set()
        del self._lanes[key]

    async def _bring_to_end(self, claimed: Claimed) -> bool:
        """Try the turn until it is done, given up, or somebody else's; False if stopped before."""
        while claimed.address in self._held:
            async with self._slots:
                if self._stopping.is_set():
                    return False
                verdict = worn_out(claimed.deliveries, patience=self._patience) or await self._attempt(claimed)
                if not isinstance(verdict, Retry):
                    await self._when_store_answers(partial(self._conclude, claimed, verdict))
                    return True
            log.warning("turn %s is tried again in %.1f s: %s", claimed.turn.id, verdict.delay_s, verdict.reason)
            self._observe(f"{self._job.stage}.retried", 1)
            if await self._wait_unless_stopped(verdict.delay_s):
                return False
            if not await self._when_store_answers(partial(self._queue.count_attempt, self._consumer, claimed)):
                return True
            claimed = replace(claimed, deliveries=claimed.deliveries + 1)
        return True

    async def _attempt(self, claimed: Claimed) -> Retry | GiveUp | None:
        """Run the job until it ends by anything but the store's being away; None when it is done."""
        began = self._clock()
        for blip in itertools.count():
            try:
                async with asyncio.timeout(self._patience.deadline_s):
                    await self._job.run(claimed.turn)
                break
            except Exception as error:
                # One turn's failure, a bug included, must not end the loop: the others are not to blame, and this one
                # is tried again, and in the end kept with the reason.
                if isinstance(error, StoreUnavailableError) and blip < BLIPS:
                    await asyncio.sleep(self._outage.failed(error))
                    await self._when_store_answers(partial(self._queue.renew, self._consumer, [claimed]))
                    continue
                if not isinstance(error, MemproxyError | TimeoutError):
                    log.exception("the job for %s failed at turn %s", self._job.stage, claimed.turn.id)
                return judge(error, claimed.deliveries, patience=self._patience, chance=self._chance())
        self._observe(f"{self._job.stage}.seconds", self._clock() - began)
        return None

    async def _conclude(self, claimed: Claimed, verdict: GiveUp | None) -> None:
        if verdict is not None:
            await self._queue.dead_letter(claimed, verdict.reason)
            log.error("turn %s is given up at %s: %s", claimed.turn.id, self._job.stage, verdict.reason)
        elif self._job.then is not None:
            await self._queue.hand_over(claimed, self._job.then)
        else:
            await self._queue.acknowledge(claimed)
        self._observe(f"{self._job.stage}.{'done' if verdict is None else 'dead'}", 1)

    async def _when_store_answers(self, act: Callable[[], Awaitable[Value]]) -> Value:
        """What `act` gives, tried until the store does not refuse."""
        while True:
            try:
                value = await act()
            except StoreError as error:
                await asyncio.sleep(self._outage.failed(error))
            else:
                self._outage.passed()
                return value

    async def _wait_unless_stopped(self, delay_s: float) -> bool:
        """Wait; True, and at once, when the worker is being stopped."""
        try:
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _keep_held(self) -> None:
        """Renew what is held, well before others may take it over; forget what they have."""
        while True:
            await asyncio.sleep(self._queue.take_over_s / 3)
            held = list(self._held.values())
            if not held:
                continue
            try:
                still = await self._queue.renew(self._consumer, held)
            except StoreError as error:
                self._outage.failed(error)
                continue
            for claimed in held:
                if claimed.address not in still:
                    self._held.pop(claimed.address, None)
                    self._changed.set()

    async def _let_finish(self) -> None:
        """Wait for what is being run, for the grace period; then break it off."""
        if self._tasks:
            _, unfinished = await asyncio.wait(self._tasks, timeout=self._limits.grace_s)
            for task in unfinished:
                task.cancel()

    async def _release_held(self) -> None:
        """Let other workers have at once what was not finished here."""
        if self._held:
            try:
                await self._queue.release(self._consumer, self._held.values())
            except StoreError as error:
                log.warning("turns are left to be taken over in %g s: %s", self._queue.take_over_s, error)


def _ignore(_name: str, _value: float) -> None:
    """Observe nothing."""
