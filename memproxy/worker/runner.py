"""Work off one stage's queue: hold partitions, claim, run, finish; try again, give up, stop cleanly.

Three things go on at once. The *keeper* renews the leases of the worker's partitions, takes over what dead workers left
in them, and lets go of what others have by now. The *claimer* fetches new turns while there is room. The *dispatcher*
starts batches as they come due, a few at a time; `lanes` says which, so that a session's turns stay in order.

Two kinds of failure are kept apart. An attempt that fails counts, and after some of them the turn goes to the dead
letters. A store or a model that is away counts as nothing: the worker says so once, waits, and goes on where it was.
"""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from memproxy.errors import MemproxyError, ModelAwayError, StoreError, StoreReadOnlyError, StoreUnavailableError
from memproxy.storage.leases import Leases
from memproxy.storage.queue import Claimed, TurnQueue
from memproxy.worker.jobs import Failure, GiveUp, Job, Patience, Retry, judge, lane_of, worn_out
from memproxy.worker.lanes import Batch, Lanes
from memproxy.worker.outage import Observe, Outage, observe_nothing
from memproxy.worker.tenure import Tenure

log = logging.getLogger(__name__)

BLIPS = 5
"""Failures of the store within one attempt, each of them over when asked again, after which the attempt counts."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a worker does at a time."""

    parallel: int = 4
    """Batches that are being run; one where the job asks nobody but the store."""
    held: int = 4_000
    """Turns that are claimed: run, waiting for their session's turn before, for quiet, or to be tried again."""
    held_bytes: int = 16_000_000
    """Their size as JSON; several times that in memory."""
    block_s: float = 2.0
    """How long one look into an empty queue takes."""
    grace_s: float = 20.0
    """How long stopping waits for what is being run."""


class Worker:
    """Works off one job's queue until it is stopped. `run` is called once. `chance` gives numbers in 0..1."""

    def __init__(
        self,
        queue: TurnQueue,
        leases: Leases,
        job: Job,
        *,
        patience: Patience | None = None,
        limits: Limits | None = None,
        observe: Observe | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._queue = queue
        self._job = job
        self._consumer = leases.worker
        self._patience = patience or Patience()
        self._limits = limits or Limits()
        self._parallel = 1 if job.asks_store_alone else self._limits.parallel
        self._observe = observe or observe_nothing
        self._clock = clock
        self._chance = chance
        self._tenure = Tenure(leases)
        self._lanes = Lanes(job.rules)
        self._store = Outage(job.stage, "store", self._observe)
        self._model = Outage(job.stage, "model", self._observe)
        self._ahead_s = 0.0
        """The store's time minus that of our clock."""
        self._behind: set[str] = set()
        """Partitions whose pending turns have to be looked through before new ones are claimed."""
        self._sweep_due_s = clock()
        self._running: dict[asyncio.Task[None], Batch] = {}
        self._broken_off: list[Claimed] = []
        self._stopping = False
        self._changed = asyncio.Event()
        self._lease_work = asyncio.Event()

    @property
    def partitions(self) -> frozenset[str]:
        """The partitions that this worker works on."""
        return frozenset(self._tenure.held)

    def stop(self) -> None:
        """Claim and begin nothing more; `run` returns when what is being run is done, or the grace period is over."""
        self._stopping = True
        self._announce()

    async def run(self) -> None:
        """Work until stopped. If cancelled instead, others take over when the leases have ended."""
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(self._keep_partitions())
            claiming = group.create_task(self._claim_on())
            await self._dispatch(group)
            claiming.cancel()
            await self._let_finish()
            keeping.cancel()
        await self._leave()

    def _announce(self) -> None:
        """Wake whoever waits for a change; they look for themselves."""
        self._changed.set()
        self._changed = asyncio.Event()

    # The keeper

    async def _keep_partitions(self) -> None:
        while True:
            self._lease_work.clear()
            try:
                await self._look_after_partitions()
            except StoreError as error:
                self._behind |= self._tenure.held  # what was being taken over may have become ours unnoticed
                await asyncio.sleep(self._store.failed(error))
                continue
            self._store.passed()
            await _set_within(self._lease_work, self._tenure.leases.ttl_s / 3)

    async def _look_after_partitions(self) -> None:
        change = await self._tenure.renew()
        self._ahead_s = change.now_ms / 1000 - self._clock()
        self._lose(change.lost)
        self._behind |= change.gained
        for partition in sorted(self._behind & self._tenure.held):
            await self._catch_up(partition)
            self._behind.discard(partition)
            self._announce()
        if self._clock() >= self._sweep_due_s:
            # Who does not know yet that it lost a partition may still claim in it; and what was somebody else's when a
            # batch of ours was begun or finished may be ours again.
            self._sweep_due_s = self._clock() + self._tenure.leases.ttl_s
            for partition in sorted(self._tenure.held):
                await self._catch_up(partition, known=self._lanes.held_in(partition))
        busy = {partition for batch in self._running.values() for partition in batch.partitions}
        if idle := self._tenure.leaving - busy:
            self._lose(idle)
            await self._tenure.give_back(idle)

    async def _catch_up(self, partition: str, *, known: int = -1) -> None:
        """Have in the lanes all that anybody has claimed in the partition and not finished.

        With `known`, nothing is looked at unless that is more.
        """
        taken = await self._queue.take_over(self._consumer, partition, known=known)
        self._admit(taken.found)
        while not taken.is_last:
            taken = await self._queue.take_over(self._consumer, partition, cursor=taken.cursor)
            self._admit(taken.found)

    def _lose(self, partitions: Iterable[str]) -> None:
        """Stop working on what somebody else works on by now."""
        gone = set(partitions)
        self._behind -= gone
        for partition in gone:
            self._lanes.forget(partition)
        for task, batch in self._running.items():
            if batch.partitions & gone:
                task.cancel()

    # The claimer

    async def _claim_on(self) -> None:
        while True:
            changed = self._changed
            partitions = self._tenure.held - self._tenure.leaving - self._behind
            room = self._limits.held - len(self._lanes)
            if not partitions or self._is_full():
                await changed.wait()
                continue
            try:
                found = await self._queue.claim(self._consumer, partitions, count=room, block_s=self._limits.block_s)
            except StoreError as error:
                # The store may have given us turns whose names never arrived: the keeper looks for them.
                self._behind |= self._tenure.held
                self._lease_work.set()
                await asyncio.sleep(self._store.failed(error))
                continue
            self._store.passed()
            self._admit(claimed for claimed in found if claimed.partition in self._tenure.held)

    def _is_full(self) -> bool:
        return len(self._lanes) >= self._limits.held or self._lanes.size >= self._limits.held_bytes

    def _admit(self, found: Iterable[Claimed]) -> None:
        for claimed in found:
            queued_s = claimed.order[0] / 1000 - self._ahead_s
            self._lanes.admit(claimed, lane_of(claimed.turn), since_s=min(queued_s, self._clock()))
        self._announce()

    # The dispatcher

    async def _dispatch(self, group: asyncio.TaskGroup) -> None:
        while not self._stopping:
            changed, due_s = self._changed, None
            if len(self._running) < self._parallel:
                batch = self._lanes.next_batch(self._clock(), hurry=self._is_full())
                if batch is not None:
                    self._start(batch, group)
                    continue
                due_s = self._lanes.next_due_s()
            await _set_within(changed, None if due_s is None else max(0.0, due_s - self._clock()))

    def _start(self, batch: Batch, group: asyncio.TaskGroup) -> None:
        task = group.create_task(self._bring_forward(batch))
        self._running[task] = batch
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self._running[task]
        if self._tenure.leaving:
            self._lease_work.set()
        self._announce()

    async def _bring_forward(self, batch: Batch) -> None:
        """One attempt at a batch, and what follows from it."""
        try:
            verdict: Retry | GiveUp | None = worn_out(batch.attempts, patience=self._patience)
            if verdict is None:
                held = await self._when_store_answers(partial(self._queue.begin, self._consumer, batch.claimed))
                mine = self._lanes.keep(batch, held)
                if mine is None:
                    return
                batch = mine
                verdict = await self._attempt(batch)
            await self._conclude(batch, verdict)
        except asyncio.CancelledError:
            if self._stopping:
                self._broken_off += batch.claimed
            self._lanes.put_off(batch, until_s=self._clock())
            raise

    async def _attempt(self, batch: Batch) -> Retry | GiveUp | None:
        """Run the job until it ends by anything but the store's being away; None when it is done."""
        began = self._clock()
        turns = [claimed.turn for claimed in batch.claimed]
        for blip in itertools.count():
            try:
                async with asyncio.timeout(self._patience.deadline_s):
                    tokens = await self._job.run(turns)
                break
            except Exception as error:
                # One batch's failure, a bug included, must not end the loop: the others are not to blame, and this one
                # is tried again, and in the end kept with the reason.
                if isinstance(error, StoreUnavailableError) and _is_store_to_blame(error, blip):
                    await asyncio.sleep(self._store.failed(error))
                    await self._when_store_answers(partial(self._queue.holds, self._consumer, batch.claimed))
                    continue
                if not isinstance(error, MemproxyError | TimeoutError):
                    log.exception("the job for %s failed at %s", self._job.stage, _named(batch))
                return self._verdict(error, batch)
        self._model.passed()
        self._observe(f"{self._job.stage}.seconds", self._clock() - began)
        self._observe(f"{self._job.stage}.tokens", tokens)
        return None

    def _verdict(self, error: Exception, batch: Batch) -> Retry | GiveUp:
        if isinstance(error, ModelAwayError):
            self._model.failed(error)
        age_s = self._clock() - min(held.since_s for held in batch.held)
        failure = Failure(error, attempt=batch.attempts + 1, retries=self._lanes.retries(batch), age_s=age_s)
        return judge(failure, patience=self._patience, chance=self._chance())

    async def _conclude(self, batch: Batch, verdict: Retry | GiveUp | None) -> None:
        stage, now_s = self._job.stage, self._clock()
        match verdict:
            case None:
                await self._when_store_answers(partial(self._finish, batch))
                self._lanes.finished(batch)
                self._observe(f"{stage}.done", len(batch.held))
            case Retry():
                if not verdict.counts:
                    await self._when_store_answers(partial(self._queue.uncount, self._consumer, batch.claimed))
                log.info("%s is tried again in %.1f s: %s", _named(batch), verdict.delay_s, verdict.reason)
                self._lanes.put_off(batch, until_s=now_s + verdict.delay_s, attempted=verdict.counts)
                self._observe(f"{stage}.retried", 1)
            case GiveUp() if len(batch.held) > 1:
                await self._when_store_answers(partial(self._queue.uncount, self._consumer, batch.claimed))
                log.info("%s is tried turn by turn: %s", _named(batch), verdict.reason)
                self._lanes.put_off(batch, until_s=now_s, attempted=False, alone=True)
                self._observe(f"{stage}.split", 1)
            case GiveUp():
                await self._when_store_answers(partial(self._bury, batch.claimed[0], verdict.reason))
                self._lanes.finished(batch)

    async def _finish(self, batch: Batch) -> None:
        forwarded = self._job.forwarded(batch.claimed) if self._job.forwarded is not None else None
        await self._queue.finish(self._consumer, batch.claimed, then=self._job.then, forwarded=forwarded)

    async def _bury(self, claimed: Claimed, reason: str) -> None:
        dropped = await self._queue.dead_letter(self._consumer, claimed, reason)
        if dropped is None:
            return
        log.error("turn %s is given up at %s: %s", claimed.turn.id, self._job.stage, reason)
        self._observe(f"{self._job.stage}.dead", 1)
        if dropped:
            log.error("%d of the oldest dead letters at %s made room for it and are gone", dropped, self._job.stage)
            self._observe(f"{self._job.stage}.dead_dropped", dropped)

    async def _when_store_answers(self, act: Callable[[], Awaitable[Value]]) -> Value:
        """What `act` gives, tried until the store does not refuse."""
        while True:
            try:
                value = await act()
            except StoreError as error:
                await asyncio.sleep(self._store.failed(error))
            else:
                self._store.passed()
                return value

    # The end

    async def _let_finish(self) -> None:
        """Wait for what is being run, for the grace period; then break it off."""
        if self._running:
            _, unfinished = await asyncio.wait(self._running, timeout=self._limits.grace_s)
            for task in unfinished:
                task.cancel()
            if unfinished:
                await asyncio.wait(unfinished)

    async def _leave(self) -> None:
        """Let other workers have at once what was not finished here."""
        try:
            await self._queue.uncount(self._consumer, self._broken_off)
            await self._tenure.end()
        except StoreError as error:
            log.warning("what was not done is left to others in %g s: %s", self._tenure.leases.ttl_s, error)


def _is_store_to_blame(error: StoreUnavailableError, blip: int) -> bool:
    """Rather than a batch that is too much for the store each time."""
    return blip < BLIPS or isinstance(error, StoreReadOnlyError)


def _named(batch: Batch) -> str:
    first, *others = batch.claimed
    return f"turn {first.turn.id}" + (f" with {len(others)} more" if others else "")


async def _set_within(event: asyncio.Event, timeout_s: float | None) -> None:
    """Wait for the event, but not longer."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
