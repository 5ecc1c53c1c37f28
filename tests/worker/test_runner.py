"""The worker against a real store that is killed, and jobs that fail in every way."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from memproxy.errors import BudgetSpentError, ModelAwayError, ModelCallError, StoreReadOnlyError, StoreUnavailableError
from memproxy.records import Outcome, Scope, Turn
from memproxy.storage import schema
from memproxy.storage.connection import open_redis
from memproxy.storage.embedded import EmbeddedStore
from memproxy.storage.queue import Stage, TurnQueue, encode_turn
from memproxy.worker.jobs import Job, Patience
from memproxy.worker.lanes import Rules
from memproxy.worker.runner import BLIPS, Limits, Worker

QUICK = Patience(attempts=3, deadline_s=5.0, first_delay_s=0.01, factor=2, longest_delay_s=0.05)
LIMITS = Limits(parallel=4, block_s=0.05, grace_s=5.0)
SINGLY = Rules(turns=1)
EMPTY = (0, 0, 0)
"""Waiting, pending, dead."""
LEASE_S = 60.0
"""Long: what these tests see handed over is given back, or the store says so."""

USER = Scope("tenant", "ann")
HOME = schema.partition_of(USER)


def turn(name: str, *, session: str = "s", user: str = "ann") -> Turn:
    return Turn(name, Scope("tenant", user), session, datetime(2023, 5, 8, tzinfo=UTC), Outcome.COMPLETED, ())


class Script:
    """A job that does what the script of a turn in its batch says; the last thing again and again."""

    def __init__(self, **acts: list[Exception | asyncio.Event | None]) -> None:
        self.acts = acts
        self.batches: list[list[str]] = []
        """The batches that were begun."""
        self.ended: list[str] = []
        self.running = 0
        self.most_running = 0
        self._changed = asyncio.Event()

    @property
    def began(self) -> list[str]:
        return [name for batch in self.batches for name in batch]

    async def __call__(self, turns: Sequence[Turn]) -> int:
        names = [each.id for each in turns]
        self.batches.append(names)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self._changed.set()
        try:
            for name in names:
                await self._act(name)
            self.ended += names
        finally:
            self.running -= 1
            self._changed.set()
        return 100

    async def _act(self, name: str) -> None:
        acts = self.acts.get(name, [None])
        act = acts.pop(0) if len(acts) > 1 else acts[0]
        if isinstance(act, Exception):
            raise act
        if act is not None:
            await act.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what only the store can tell; each look is a round trip, so this gives way to others."""
    async with asyncio.timeout(15):
        while not await holds():
            continue


def worker_for(queue: TurnQueue, run: Callable[[Sequence[Turn]], Awaitable[int]], **options: Any) -> Worker:
    leases = queue.leases_of(options.pop("consumer", "one"), ttl_s=options.pop("lease_s", LEASE_S))
    rules, alone = options.pop("rules", SINGLY), options.pop("asks_store_alone", False)
    job = Job(queue.stage, run, rules, options.pop("then", None), asks_store_alone=alone)
    chosen: dict[str, Any] = {"patience": QUICK, "limits": LIMITS, "chance": lambda: 0.0}
    return Worker(queue, leases, job, **(chosen | options))


@contextlib.asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The workers at work; they are stopped in the end, which has to succeed."""
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        yield [group.create_task(worker.run()) for worker in workers]
        for worker in workers:
            worker.stop()


@pytest.fixture
def queue(redis: Redis) -> TurnQueue:
    return TurnQueue(redis)


async def is_shape(queue: TurnQueue, shape: tuple[int, int, int]) -> bool:
    depth = await queue.depth()
    return (depth.waiting, depth.pending, depth.dead) == shape


async def reasons(redis: Redis, stage: Stage = Stage.INDEX) -> list[str]:
    letters: Any = []
    for partition in schema.partitions():
        letters += await redis.xrange(schema.dead_key(partition, stage))
    return [fields[b"reason"].decode() for _, fields in letters]


async def has_passed(began: float, *, seconds: float) -> bool:
    await asyncio.sleep(0)
    return asyncio.get_running_loop().time() - began > seconds


def now() -> float:
    return asyncio.get_running_loop().time()


async def left_for_others(queue: TurnQueue) -> list[tuple[str, int]]:
    """What the next worker finds in the usual user's partition, with the attempts that count."""
    taken = await queue.take_over("next", HOME)
    fresh = await queue.claim("next", [HOME], count=100, block_s=0.01)
    return [(claimed.turn.id, claimed.attempts) for claimed in (*taken.found, *fresh)]


async def test_a_turn_is_run_and_leaves_the_queue(queue: TurnQueue) -> None:
    """The usual case, from the store to the job and out."""
    await queue.add(turn("a"))
    script, seen = Script(), Counter[str]()
    worker = worker_for(queue, script, observe=lambda name, value: seen.update({name: round(value)}))
    async with running(worker):
        await until(lambda: is_shape(queue, EMPTY))
        assert worker.partitions == set(schema.partitions())
    assert script.ended == ["a"]
    assert seen == {"turns.done": 1, "turns.seconds": 0, "turns.tokens": 100}
    assert worker.partitions == frozenset()


async def test_turns_of_a_session_run_in_order_and_sessions_in_parallel(queue: TurnQueue) -> None:
    """A correction comes after what it corrects, and one slow conversation holds up no other."""
    gate = asyncio.Event()
    script = Script(a0=[gate], b0=[gate], c0=[gate], d0=[gate], e0=[gate])
    for number in range(3):
        for session in "abcde":
            await queue.add(turn(f"{session}{number}", session=session))
    async with running(worker_for(queue, script)):
        await script.until(lambda: script.running == LIMITS.parallel)
        gate.set()
        await until(lambda: is_shape(queue, EMPTY))
    for session in "abcde":
        assert [name for name in script.ended if name[0] == session] == [f"{session}{number}" for number in range(3)]
    assert script.most_running == LIMITS.parallel


async def test_work_that_only_asks_the_store_is_done_batch_by_batch(queue: TurnQueue) -> None:
    """A request that wants something of the store at the same time does not wait behind a crowd."""
    gate = asyncio.Event()
    script = Script(a0=[gate], b0=[gate])
    for session in "ab":
        await queue.add(turn(f"{session}0", session=session))
    worker = worker_for(queue, script, asks_store_alone=True)
    async with running(worker):
        await script.until(lambda: script.running == 1)
        await until(lambda: is_shape(queue, (0, 2, 0)))
        gate.set()
        await until(lambda: is_shape(queue, EMPTY))
    assert script.most_running == 1


async def test_what_waits_of_a_session_is_done_in_one_go(queue: TurnQueue) -> None:
    """Ten turns cost one model call, and go on to the next stage one and all."""
    learning = TurnQueue(queue._redis, stage=Stage.LEARN)
    for number in range(10):
        await queue.add(turn(str(number)))
    script = Script()
    async with running(worker_for(queue, script, rules=Rules(turns=20), then=Stage.LEARN)):
        await until(lambda: is_shape(queue, EMPTY))
    assert script.batches == [[str(number) for number in range(10)]]
    assert await is_shape(learning, (10, 0, 0))


async def test_a_session_is_read_when_it_has_become_quiet(queue: TurnQueue) -> None:
    """Turns that follow each other are read together."""
    script = Script()
    began = now()
    async with running(worker_for(queue, script, rules=Rules(quiet_s=0.3, longest_s=10))):
        for count, name in enumerate("abc", start=1):
            await queue.add(turn(name))
            await until(partial(is_shape, queue, (0, count, 0)))
        assert script.batches == []
        await until(lambda: is_shape(queue, EMPTY))
    assert script.batches == [["a", "b", "c"]]
    assert now() - began >= 0.3


async def test_a_turn_that_comes_during_another_is_done_without_any_further_one(queue: TurnQueue) -> None:
    """What is said while the model reads is not forgotten until the user happens to come back."""
    gate = asyncio.Event()
    script = Script(a=[gate])
    async with running(worker_for(queue, script, rules=Rules(turns=20, quiet_s=0.05, longest_s=1))):
        await queue.add(turn("a"))
        await script.until(lambda: script.began == ["a"])
        await queue.add(turn("b"))
        await until(lambda: is_shape(queue, (0, 2, 0)))
        gate.set()
        await until(lambda: is_shape(queue, EMPTY))
    assert script.batches == [["a"], ["b"]]


@pytest.mark.parametrize("error", [ModelCallError("busy", retryable=True), KeyError("a bug")])
async def test_a_failed_attempt_is_repeated(queue: TurnQueue, error: Exception) -> None:
    """A model that is busy, or a bug that shows only now and then, costs no memory, and keeps its session's order."""
    script = Script(a=[error, error, None])
    await queue.add(turn("a"))
    await queue.add(turn("b"))
    async with running(worker_for(queue, script)):
        await until(lambda: is_shape(queue, EMPTY))
    assert script.began == ["a", "a", "a", "b"]
    assert script.ended == ["a", "b"]


async def test_a_turn_that_fails_each_time_is_given_up_and_others_go_on(queue: TurnQueue, redis: Redis) -> None:
    """One bad turn neither stops learning nor vanishes."""
    seen = Counter[str]()
    script = Script(bad=[ValueError("a bug")])
    for name in ("bad", "good"):
        await queue.add(turn(name))
    async with running(worker_for(queue, script, observe=lambda name, value: seen.update({name: 1}))):
        await until(lambda: is_shape(queue, (0, 0, 1)))
    assert Counter(script.began) == {"bad": QUICK.attempts, "good": 1}
    assert await reasons(redis) == ["attempt 3: ValueError: a bug"]
    assert (seen["turns.retried"], seen["turns.dead"], seen["turns.done"]) == (2, 1, 1)


async def test_a_poisonous_turn_is_given_up_alone(queue: TurnQueue, redis: Redis) -> None:
    """The turns that were read together with it are read without it."""
    script = Script(c=[ModelCallError("no JSON", retryable=True)])
    for name in "abcde":
        await queue.add(turn(name))
    async with running(worker_for(queue, script, rules=Rules(turns=20, attempts_together=2))):
        await until(lambda: is_shape(queue, (0, 0, 1)))
    assert script.batches[:2] == [list("abcde")] * 2
    assert script.batches[2:] == [["a"], ["b"], ["c"], ["d"], ["e"]]
    assert sorted(script.ended) == list("abde")
    assert await reasons(redis) == ["attempt 3: no JSON"]


async def test_a_batch_that_is_refused_for_good_is_tried_turn_by_turn_at_once(queue: TurnQueue, redis: Redis) -> None:
    """Too long as a whole is not too long in parts, and nobody waits for that."""
    script = Script(b=[ModelCallError("too long", retryable=False)])
    for name in "abc":
        await queue.add(turn(name))
    patience = Patience(first_delay_s=600)
    async with running(worker_for(queue, script, rules=Rules(turns=20), patience=patience)):
        await until(lambda: is_shape(queue, (0, 0, 1)))
    assert script.batches == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    assert await reasons(redis) == ["too long"]


async def test_a_model_that_is_away_is_waited_for_as_long_as_it_takes(
    queue: TurnQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """A night without the provider fills neither the dead letters nor the log."""
    caplog.set_level("WARNING")
    script = Script(a=[ModelAwayError("no connection", retryable=True)] * 10 + [None])
    for name in "ab":
        await queue.add(turn(name))
    async with running(worker_for(queue, script, rules=Rules(turns=20))):
        await until(lambda: is_shape(queue, EMPTY))
    assert script.batches == [["a", "b"]] * 11
    assert [record.getMessage() for record in caplog.records] == [
        "the worker for turns waits for the model: no connection"
    ]


@pytest.mark.parametrize("error", [BudgetSpentError("spent"), ModelAwayError("no key", retryable=False)])
async def test_what_was_never_asked_is_no_attempt_for_the_next_worker_either(
    queue: TurnQueue, error: Exception
) -> None:
    """A week of outages and deployments lays nothing aside."""
    script = Script(a=[error])
    worker = worker_for(queue, script, patience=Patience(first_delay_s=600))
    await queue.add(turn("a"))
    async with running(worker) as [task]:
        await script.until(lambda: script.began == ["a"] and script.running == 0)
        worker.stop()
        await task
    assert await left_for_others(queue) == [("a", 0)]


async def test_a_spent_budget_gives_no_turn_up(queue: TurnQueue) -> None:
    """It is learned from when there is budget again."""
    script = Script(a=[BudgetSpentError("spent", retry_after_s=0.01)] * 10 + [None])
    await queue.add(turn("a"))
    async with running(worker_for(queue, script, patience=Patience(attempts=1))):
        await until(lambda: is_shape(queue, EMPTY))
    assert script.ended == ["a"]


async def test_a_final_refusal_is_not_repeated(queue: TurnQueue, redis: Redis) -> None:
    """Nobody pays for asking what was refused."""
    script = Script(a=[ModelCallError("context too long", retryable=False)])
    await queue.add(turn("a"))
    async with running(worker_for(queue, script)):
        await until(lambda: is_shape(queue, (0, 0, 1)))
    assert script.began == ["a"]
    assert await reasons(redis) == ["context too long"]


async def test_a_job_that_hangs_is_broken_off(queue: TurnQueue, redis: Redis) -> None:
    """A model server that never answers does not hold a worker for ever."""
    script = Script(a=[asyncio.Event()])
    await queue.add(turn("a"))
    patience = Patience(attempts=2, deadline_s=0.02, first_delay_s=0.01)
    async with running(worker_for(queue, script, patience=patience)):
        await until(lambda: is_shape(queue, (0, 0, 1)))
    assert await reasons(redis) == ["attempt 2: not finished within 0.02 s"]


async def test_indexing_goes_on_while_the_model_is_away(queue: TurnQueue, redis: Redis) -> None:
    """What was said can be found at once, and stays found when learning from it is given up."""
    learning = TurnQueue(redis, stage=Stage.LEARN)
    index, learn = Script(), Script(a=[asyncio.Event()], b=[ModelCallError("no", retryable=False)])
    limits = Limits(parallel=1, held=1, block_s=0.05, grace_s=0.01)
    workers = worker_for(queue, index, then=Stage.LEARN), worker_for(learning, learn, limits=limits)
    async with running(*workers):
        await queue.add(turn("a"))
        await learn.until(lambda: learn.began == ["a"])
        for number in range(10):
            await queue.add(turn(f"later {number}"))
        await index.until(lambda: len(index.ended) == 11)
        await until(lambda: is_shape(queue, EMPTY))
        assert await is_shape(learning, (10, 1, 0))
    assert learn.ended == []
    assert len(index.ended) == 11


async def test_workers_share_the_users_and_do_each_turn_once(redis: Redis) -> None:
    """Two processes do not pay twice, and neither overtakes the other within a session."""
    queues = [TurnQueue(redis), TurnQueue(redis)]
    scripts = [Script(), Script()]
    workers = [
        worker_for(queue, script, consumer=f"worker-{number}", lease_s=1.0)
        for number, (queue, script) in enumerate(zip(queues, scripts, strict=True))
    ]
    async with running(*workers):

        async def are_shared_out() -> bool:
            await asyncio.sleep(0.01)
            return [len(worker.partitions) for worker in workers] == [8, 8]

        await until(are_shared_out)
        for number in range(10):
            for user in range(20):
                await queues[0].add(turn(f"{user}/{number}", user=f"user-{user}"))
        await until(lambda: is_shape(queues[0], EMPTY))
    assert all(script.ended for script in scripts)
    ended = scripts[0].ended + scripts[1].ended
    assert len(ended) == len(set(ended)) == 200
    for user in range(20):
        mine = [name for name in ended if name.startswith(f"{user}/")]
        assert mine == [f"{user}/{number}" for number in range(10)]


async def test_partitions_are_given_up_to_a_newcomer_without_breaking_anything_off(redis: Redis) -> None:
    """Scaling out in the middle of the work does nothing twice."""
    queue, gate = TurnQueue(redis), asyncio.Event()
    script, other = Script(a=[gate]), Script()
    await queue.add(turn("a"))
    await queue.add(turn("b"))
    first = worker_for(queue, script, consumer="first", lease_s=1.0)
    second = worker_for(TurnQueue(redis), other, consumer="a-second", lease_s=1.0)
    async with running(first):
        await script.until(lambda: script.began == ["a"])
        async with running(second):

            async def is_shared_out() -> bool:
                await asyncio.sleep(0.01)
                return len(second.partitions) >= 7

            await until(is_shared_out)
            assert HOME in first.partitions
            gate.set()
            await until(lambda: is_shape(queue, EMPTY))
    assert sorted(script.ended + other.ended) == ["a", "b"]
    assert script.began[0] == "a"


async def test_a_dead_workers_turns_go_to_the_next_one_in_order(redis: Redis) -> None:
    """A crash costs the time of a lease, and nothing else."""
    queue = TurnQueue(redis)
    for name in "abc":
        await queue.add(turn(name))
    dead = queue.leases_of("dead", ttl_s=0.2)
    await dead.beat()
    await dead.take([HOME])
    assert len(await queue.claim("dead", [HOME], count=2 * 16, block_s=0.05)) == 3
    script = Script()
    async with running(worker_for(queue, script, lease_s=1.0)):
        await until(lambda: is_shape(queue, EMPTY))
    assert script.ended == ["a", "b", "c"]


@pytest.mark.parametrize("claimer", ["sleeper", "one"])
async def test_what_was_claimed_and_forgotten_is_found(redis: Redis, claimer: str) -> None:
    """A suspended machine wakes up, takes one more turn, and learns only then that it is out; or the worker itself was
    told too late what it has. No turn is stuck."""
    queue = TurnQueue(redis)
    script = Script()
    async with running(worker_for(queue, script, lease_s=1.0)):
        await queue.add(turn("a"))
        await script.until(lambda: script.ended == ["a"])
        key = schema.queue_key(HOME)
        async with redis.pipeline() as pipe:  # in one go, so that the worker can't be faster
            pipe.xadd(key, {"turn": encode_turn(turn("b"))})  # type: ignore[unused-awaitable]  # only queued
            pipe.xreadgroup(schema.GROUP, claimer, {key: ">"})  # type: ignore[unused-awaitable]  # only queued
            await pipe.execute()
        await until(lambda: is_shape(queue, EMPTY))
    assert script.ended == ["a", "b"]


async def test_a_worker_that_lost_a_partition_stops_working_on_it(redis: Redis) -> None:
    """What another has by now is neither finished nor given up here."""
    queue = TurnQueue(redis)
    script = Script(first=[asyncio.Event()])
    worker = worker_for(queue, script, lease_s=1.0, patience=Patience(deadline_s=600))
    async with running(worker):
        await queue.add(turn("first"))
        await queue.add(turn("second"))
        await script.until(lambda: script.began == ["first"])
        await redis.set(schema.lease_key(HOME, Stage.INDEX), "other")
        await redis.zadd(schema.workers_key(Stage.INDEX), {"other": 9e15})
        await queue.take_over("other", HOME)
        await script.until(lambda: script.running == 0)
        assert HOME not in worker.partitions
        assert await is_shape(queue, (0, 2, 0))
        await redis.delete(schema.lease_key(HOME, Stage.INDEX))
    assert script.began == ["first"]
    assert await reasons(redis) == []


async def test_a_turn_that_kills_its_workers_is_given_up(redis: Redis) -> None:
    """The fourth worker does not even begin."""
    queue = TurnQueue(redis)
    await queue.add(turn("a"))
    for victim in range(QUICK.attempts):
        taken = await queue.take_over(f"victim {victim}", HOME)
        held = taken.found or await queue.claim(f"victim {victim}", [HOME], count=1, block_s=0.05)
        await queue.begin(f"victim {victim}", held)
    script = Script()
    async with running(worker_for(queue, script)):
        await until(lambda: is_shape(queue, (0, 0, 1)))
    assert script.began == []
    [reason] = await reasons(redis)
    assert reason.startswith("begun 3 times")


async def test_turns_that_only_waited_while_their_worker_died_are_not_blamed(redis: Redis) -> None:
    """Ten crashes by somebody else's turn do not lay this one aside."""
    queue = TurnQueue(redis)
    await queue.add(turn("a"))
    await queue.claim("victim", [HOME], count=1, block_s=0.05)
    for victim in range(10):
        await queue.take_over(f"victim {victim}", HOME)
    script = Script()
    async with running(worker_for(queue, script)):
        await until(lambda: is_shape(queue, EMPTY))
    assert script.ended == ["a"]


async def test_stopping_lets_the_current_job_finish_and_begins_no_other(queue: TurnQueue) -> None:
    """A deployment breaks nothing off; what waits goes to the next worker at once."""
    gate = asyncio.Event()
    script = Script(a=[gate])
    worker = worker_for(queue, script)
    await queue.add(turn("a"))
    await queue.add(turn("b"))
    async with running(worker) as [task]:
        await script.until(lambda: script.began == ["a"])
        await until(lambda: is_shape(queue, (0, 2, 0)))
        worker.stop()
        gate.set()
        await task
    assert script.ended == ["a"]
    assert await queue.leases_of("next", ttl_s=60).free() == set(schema.partitions())
    assert await left_for_others(queue) == [("b", 0)]


async def test_stopping_breaks_off_what_outlasts_the_grace_period(queue: TurnQueue) -> None:
    """A deployment is not held up by a model that does not answer, and that attempt does not count."""
    script = Script(a=[asyncio.Event()])
    worker = worker_for(queue, script, limits=Limits(block_s=0.05, grace_s=0.01))
    await queue.add(turn("a"))
    async with running(worker) as [task]:
        await script.until(lambda: script.began == ["a"])
        worker.stop()
        await task
    assert script.ended == []
    assert await left_for_others(queue) == [("a", 0)]


async def test_stopping_does_not_wait_for_the_next_attempt(queue: TurnQueue) -> None:
    """Nor is the turn forgotten."""
    script = Script(a=[ModelCallError("busy", retryable=True)])
    worker = worker_for(queue, script, patience=Patience(first_delay_s=600))
    await queue.add(turn("a"))
    async with running(worker) as [task]:
        await script.until(lambda: script.began == ["a"] and script.running == 0)
        worker.stop()
        await task
    assert await left_for_others(queue) == [("a", 1)]


async def test_stopping_begins_nothing_that_waits_for_its_turn(queue: TurnQueue) -> None:
    """Sessions that wait for a free slot when a deployment comes wait for the next worker."""
    gate = asyncio.Event()
    script = Script(a=[gate])
    worker = worker_for(queue, script, limits=Limits(parallel=1, block_s=0.05))
    await queue.add(turn("a", session="first"))
    await queue.add(turn("b", session="second"))
    async with running(worker) as [task]:
        await script.until(lambda: script.began == ["a"])
        await until(lambda: is_shape(queue, (0, 2, 0)))
        worker.stop()
        gate.set()
        await task
    assert script.began == ["a"]


async def test_a_full_worker_claims_no_more_and_can_be_stopped(queue: TurnQueue) -> None:
    """Turns wait in the store, where they are safe and others can have them."""
    script = Script(a=[asyncio.Event()])
    worker = worker_for(queue, script, limits=Limits(parallel=1, held=1, block_s=0.05, grace_s=0.01))
    await queue.add(turn("a"))
    async with running(worker) as [task]:
        await script.until(lambda: script.began == ["a"])
        await queue.add(turn("b"))
        await until(lambda: is_shape(queue, (1, 1, 0)))
        worker.stop()
        await task


async def test_a_worker_that_is_full_does_not_wait_for_quiet(queue: TurnQueue) -> None:
    """Else a busy hour would be worked off at the pace of the waiting."""
    script = Script()
    for number in range(20):
        await queue.add(turn(str(number), session=str(number)))
    limits = Limits(parallel=1, held=1, block_s=0.05)
    async with running(worker_for(queue, script, rules=Rules(quiet_s=600, longest_s=600), limits=limits)):
        await until(lambda: is_shape(queue, EMPTY))
    assert script.ended == [str(number) for number in range(20)]


async def test_a_store_away_for_the_job_is_waited_for_and_not_counted(queue: TurnQueue) -> None:
    """An outage wears no turn out."""
    away = StoreUnavailableError("away")
    script = Script(a=[away] * BLIPS + [None])
    await queue.add(turn("a"))
    async with running(worker_for(queue, script, patience=Patience(attempts=1))):
        await until(lambda: is_shape(queue, EMPTY))
    assert script.ended == ["a"]


async def test_a_job_that_only_says_the_store_is_away_is_given_up(queue: TurnQueue, redis: Redis) -> None:
    """A turn too big for the store's deadline does not block a worker for ever."""
    script = Script(a=[StoreUnavailableError("too slow")])
    await queue.add(turn("a"))
    async with running(worker_for(queue, script, patience=Patience(attempts=1))):
        await until(lambda: is_shape(queue, (0, 0, 1)))
    assert "too slow" in (await reasons(redis))[0]


async def test_a_store_without_room_is_waited_for_however_often_it_refuses(queue: TurnQueue) -> None:
    """Full memory is nobody's fault, and lays no turn aside."""
    full = StoreReadOnlyError("no room")
    script = Script(a=[full] * (BLIPS + 2) + [None])
    await queue.add(turn("a"))
    async with running(worker_for(queue, script, patience=Patience(attempts=1, deadline_s=60))):
        await until(lambda: is_shape(queue, EMPTY))
    assert script.ended == ["a"]


async def test_a_store_that_fills_up_keeps_what_is_done_until_it_can_go_on(queue: TurnQueue, redis: Redis) -> None:
    """Work that is done is not done again, only handed on later."""
    gate = asyncio.Event()
    script, learning = Script(a=[gate]), TurnQueue(redis, stage=Stage.LEARN)
    await queue.add(turn("a"))
    async with running(worker_for(queue, script, then=Stage.LEARN)):
        await script.until(lambda: script.began == ["a"])
        await redis.config_set("maxmemory", "1")
        try:
            gate.set()
            await script.until(lambda: script.ended == ["a"])
            assert await is_shape(queue, (0, 1, 0))
        finally:
            await redis.config_set("maxmemory", "0")
        await until(lambda: is_shape(learning, (1, 0, 0)))
    assert script.began == ["a"]


async def test_a_killed_store_is_waited_for_once_said_and_everything_is_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store may end at any moment and come back: no restart, no loss, and one line in the log."""
    caplog.set_level("INFO", logger="memproxy.worker.outage")
    async with EmbeddedStore(tmp_path / "data") as store:
        client = open_redis(store.url, connect_timeout_s=1.0, max_connections=20)
        queue = TurnQueue(client)
        gate = asyncio.Event()
        script = Script(a=[gate])
        for name in ("a", "b"):
            await queue.add(turn(name))
        await queue.add(turn("c", session="other"))
        async with running(worker_for(queue, script, lease_s=1.0)):
            await script.until(lambda: "c" in script.ended)
            os.kill((await client.info("server"))["process_id"], signal.SIGKILL)
            gate.set()
            await until(lambda: is_settled(queue))
            await queue.add(turn("after"))
            await until(lambda: is_settled(queue))
        await client.aclose()
    assert set(script.ended) == {"a", "b", "c", "after"}
    assert script.ended.index("a") < script.ended.index("b")
    said = [record.getMessage() for record in caplog.records]
    assert sum("waits for the store" in line for line in said) == sum("goes on" in line for line in said) > 0


async def is_settled(queue: TurnQueue) -> bool:
    """Whether the store is there and the queue empty. While it restarts it can't be asked, only asked again."""
    try:
        return await is_shape(queue, EMPTY)
    except StoreUnavailableError:
        return False


async def test_a_store_that_is_away_at_the_end_does_not_hold_up_stopping(tmp_path: Path) -> None:
    """The worker ends within its grace period; its turns are taken over when the store is back."""
    async with EmbeddedStore(tmp_path / "data") as store:
        client = open_redis(store.url, connect_timeout_s=1.0, max_connections=20)
        queue = TurnQueue(client, deadline_s=1.0)
        script, gate = Script(), asyncio.Event()
        script.acts["a"] = [gate]
        worker = worker_for(queue, script, limits=Limits(block_s=0.05, grace_s=0.1))
        await queue.add(turn("a"))
        run = asyncio.get_running_loop().create_task(worker.run())
        await script.until(lambda: script.began == ["a"])
    gate.set()
    await script.until(lambda: script.ended == ["a"])
    worker.stop()
    async with asyncio.timeout(10):
        await run
    await client.aclose()


async def test_an_emptied_store_is_no_failure(queue: TurnQueue, redis: Redis) -> None:
    """Turns that were erased are not insisted on, and new ones are found."""
    gate = asyncio.Event()
    script = Script(a=[gate])
    await queue.add(turn("a"))
    async with running(worker_for(queue, script)):
        await script.until(lambda: script.began == ["a"])
        await redis.flushall()
        gate.set()
        await queue.add(turn("b"))
        await script.until(lambda: script.ended == ["a", "b"])
        await until(lambda: is_shape(queue, EMPTY))


async def test_turns_whose_names_were_lost_on_the_way_are_found_again(queue: TurnQueue, redis: Redis) -> None:
    """A connection that breaks while turns are handed out leaves none of them behind."""
    script = Script()
    worker = worker_for(queue, script)
    claim, broken = queue.claim, asyncio.Event()

    async def breaks_once(*arguments: Any, **named: Any) -> Any:
        found = await claim(*arguments, **named)
        if found and not broken.is_set():
            broken.set()
            raise StoreUnavailableError("the connection broke while the reply came")
        return found

    queue.claim = breaks_once  # type: ignore[method-assign]  # a fault that can't be caused at will
    async with running(worker):
        await queue.add(turn("a"))
        await until(lambda: is_shape(queue, EMPTY))
    assert broken.is_set()
    assert script.ended == ["a"]


async def test_what_others_have_finished_is_noticed_before_it_is_begun(queue: TurnQueue, redis: Redis) -> None:
    """A turn that was erased, or done elsewhere, while it waited here is not done again."""
    gate = asyncio.Event()
    script = Script(first=[gate])
    await queue.add(turn("first"))
    await queue.add(turn("second"))
    async with running(worker_for(queue, script)):
        await script.until(lambda: script.began == ["first"])
        await until(lambda: is_shape(queue, (0, 2, 0)))
        key = schema.queue_key(HOME)
        entries: Any = await redis.xrange(key)
        await redis.xack(key, schema.GROUP, entries[1][0])
        await redis.xdel(key, entries[1][0])
        gate.set()
        await until(lambda: is_shape(queue, EMPTY))
    assert script.began == ["first"]
