"""The worker against a real store that is killed, and jobs that fail in every way."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from memproxy.errors import ModelCallError, StoreUnavailableError
from memproxy.records import Outcome, Scope, Turn
from memproxy.storage import schema
from memproxy.storage.connection import open_redis
from memproxy.storage.embedded import EmbeddedStore
from memproxy.storage.queue import Depth, Stage, TurnQueue
from memproxy.worker.jobs import Job, Patience
from memproxy.worker.runner import BLIPS, Limits, Worker

QUICK = Patience(attempts=3, deadline_s=5.0, first_delay_s=0.01, factor=2, longest_delay_s=0.05)
LIMITS = Limits(parallel=4, held=64, block_s=0.05, grace_s=5.0)
EMPTY = Depth(waiting=0, pending=0, dead=0)


def turn(name: str, *, session: str = "s") -> Turn:
    return Turn(name, Scope("tenant", "ann"), session, datetime(2023, 5, 8, tzinfo=UTC), Outcome.COMPLETED, ())


class Script:
    """A job that does what the script of its turn says; the last thing again and again."""

    def __init__(self, **acts: list[Exception | asyncio.Event | None]) -> None:
        self.acts = acts
        self.began: list[str] = []
        self.ended: list[str] = []
        self.running = 0
        self.most_running = 0
        self._changed = asyncio.Event()

    async def __call__(self, turn: Turn) -> None:
        self.began.append(turn.id)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self._changed.set()
        try:
            await self._act(turn.id)
            self.ended.append(turn.id)
        finally:
            self.running -= 1
            self._changed.set()

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


def worker_for(queue: TurnQueue, run: Callable[[Turn], Awaitable[object]], **options: Any) -> Worker:
    chosen: dict[str, Any] = {"consumer": "one", "patience": QUICK, "limits": LIMITS, "chance": lambda: 0.0}
    return Worker(queue, Job(queue.stage, run, options.pop("then", None)), **(chosen | options))


@contextlib.asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The workers at work; they are stopped in the end, which has to succeed."""
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        yield [group.create_task(worker.run()) for worker in workers]
        for worker in workers:
            worker.stop()


@pytest.fixture
def queue(redis: Redis) -> TurnQueue:
    return TurnQueue(redis, take_over_s=60)


async def reasons(redis: Redis, stage: Stage = Stage.INDEX) -> list[str]:
    letters: Any = []
    for partition in schema.partitions():
        letters += await redis.xrange(schema.dead_key(partition, stage))
    return [fields[b"reason"].decode() for _, fields in letters]


async def test_a_turn_is_run_and_leaves_the_queue(queue: TurnQueue) -> None:
    """The usual case, from the store to the job and out."""
    await queue.add(turn("a"))
    script, seen = Script(), Counter[str]()
    worker = worker_for(queue, script, observe=lambda name, value: seen.update({name: 1}))
    async with running(worker):
        await until(lambda: is_depth(queue, EMPTY))
    assert script.ended == ["a"]
    assert seen == {"turns.done": 1, "turns.seconds": 1}


async def is_depth(queue: TurnQueue, depth: Depth) -> bool:
    return await queue.depth() == depth


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
        await until(lambda: is_depth(queue, EMPTY))
    for session in "abcde":
        assert [name for name in script.ended if name[0] == session] == [f"{session}{number}" for number in range(3)]
    assert script.most_running == LIMITS.parallel


@pytest.mark.parametrize("error", [ModelCallError("busy", retryable=True), KeyError("a bug")])
async def test_a_failed_attempt_is_repeated(queue: TurnQueue, error: Exception) -> None:
    """A model that is busy, or a bug that shows only now and then, costs no memory, and keeps its session's order."""
    script = Script(a=[error, error, None])
    await queue.add(turn("a"))
    await queue.add(turn("b"))
    async with running(worker_for(queue, script)):
        await until(lambda: is_depth(queue, EMPTY))
    assert script.began == ["a", "a", "a", "b"]
    assert script.ended == ["a", "b"]


async def test_a_turn_that_fails_each_time_is_given_up_and_others_go_on(queue: TurnQueue, redis: Redis) -> None:
    """One bad turn neither stops learning nor vanishes."""
    seen = Counter[str]()
    script = Script(bad=[ValueError("a bug")])
    for name in ("bad", "good"):
        await queue.add(turn(name))
    async with running(worker_for(queue, script, observe=lambda name, value: seen.update({name: 1}))):
        await until(lambda: is_depth(queue, Depth(0, 0, dead=1)))
    assert Counter(script.began) == {"bad": QUICK.attempts, "good": 1}
    assert await reasons(redis) == ["attempt 3: ValueError: a bug"]
    assert (seen["turns.retried"], seen["turns.dead"], seen["turns.done"]) == (2, 1, 1)


async def test_a_final_refusal_is_not_repeated(queue: TurnQueue, redis: Redis) -> None:
    """Nobody pays for asking what was refused."""
    script = Script(a=[ModelCallError("context too long", retryable=False)])
    await queue.add(turn("a"))
    async with running(worker_for(queue, script)):
        await until(lambda: is_depth(queue, Depth(0, 0, dead=1)))
    assert script.began == ["a"]
    assert await reasons(redis) == ["context too long"]


async def test_a_job_that_hangs_is_broken_off(queue: TurnQueue, redis: Redis) -> None:
    """A model server that never answers does not hold a worker for ever."""
    script = Script(a=[asyncio.Event()])
    await queue.add(turn("a"))
    patience = Patience(attempts=2, deadline_s=0.02, first_delay_s=0.01)
    async with running(worker_for(queue, script, patience=patience)):
        await until(lambda: is_depth(queue, Depth(0, 0, dead=1)))
    assert await reasons(redis) == ["attempt 2: not finished within 0.02 s"]


async def test_indexing_goes_on_while_the_model_is_away(queue: TurnQueue, redis: Redis) -> None:
    """What was said can be found at once, and stays found when learning from it is given up."""
    learning = TurnQueue(redis, stage=Stage.LEARN)
    index, learn = Script(), Script(a=[asyncio.Event()], b=[ModelCallError("no", retryable=False)])
    workers = worker_for(queue, index, then=Stage.LEARN), worker_for(learning, learn, limits=Limits(1, 1, 0.05, 0.01))
    async with running(*workers):
        await queue.add(turn("a"))
        await learn.until(lambda: learn.began == ["a"])
        for number in range(10):
            await queue.add(turn(f"later {number}"))
        await index.until(lambda: len(index.ended) == 11)
        await until(lambda: is_depth(queue, EMPTY))
        assert await learning.depth() == Depth(waiting=10, pending=1, dead=0)
    await queue.add(turn("b", session="other"))
    learning = TurnQueue(redis, stage=Stage.LEARN)  # a new one looks at once for what the other worker left
    async with running(worker_for(queue, index, then=Stage.LEARN), worker_for(learning, Script(b=learn.acts["b"]))):
        await until(lambda: is_depth(learning, Depth(0, 0, dead=1)))
    assert index.ended[-1] == "b"
    assert await reasons(redis, Stage.LEARN) == ["no"]


async def test_the_turn_of_a_killed_worker_is_taken_over(redis: Redis) -> None:
    """A crash in the middle of a job loses nothing."""
    queue = TurnQueue(redis, take_over_s=0.2)
    await queue.add(turn("a"))
    victim, heir = Script(a=[asyncio.Event()]), Script()
    task = asyncio.get_running_loop().create_task(worker_for(queue, victim, consumer="victim").run())
    await victim.until(lambda: victim.began == ["a"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with running(worker_for(TurnQueue(redis, take_over_s=0.2), heir, consumer="heir")):
        await until(lambda: is_depth(queue, EMPTY))
    assert (victim.ended, heir.ended) == ([], ["a"])


async def test_a_slow_job_is_not_taken_over(redis: Redis) -> None:
    """What takes longer than others wait is still done once."""
    gate = asyncio.Event()
    slow, other = Script(a=[gate]), Script()
    queues = [TurnQueue(redis, take_over_s=0.3) for _ in range(2)]
    await queues[0].add(turn("a"))
    began = asyncio.get_running_loop().time()
    async with running(worker_for(queues[0], slow, consumer="slow")):
        await slow.until(lambda: slow.began == ["a"])
        async with running(worker_for(queues[1], other, consumer="other")):
            await until(lambda: has_passed(began, seconds=0.8))
            gate.set()
            await until(lambda: is_depth(queues[0], EMPTY))
    assert (slow.began, other.began) == (["a"], [])


async def has_passed(began: float, *, seconds: float) -> bool:
    await asyncio.sleep(0)
    return asyncio.get_running_loop().time() - began > seconds


async def test_a_turn_that_another_worker_took_is_left_to_it(redis: Redis) -> None:
    """A worker that was cut off does not work against the one that stepped in."""
    queue = TurnQueue(redis, take_over_s=60)
    script = Script(first=[ModelCallError("busy", retryable=True)])
    await queue.add(turn("first"))
    await queue.add(turn("second"))
    async with running(worker_for(queue, script, patience=Patience(first_delay_s=0.4))):
        await until(lambda: is_depth(queue, Depth(0, 2, 0)))
        key = schema.queue_key(schema.partition_of(turn("first").scope))
        entries: Any = await redis.xrange(key)
        await redis.xclaim(key, schema.GROUP, "other", 0, [entry_id for entry_id, _ in entries])
        await queue.add(turn("third", session="other"))
        await script.until(lambda: "third" in script.ended)
        began = asyncio.get_running_loop().time()
        await until(lambda: has_passed(began, seconds=0.5))
    assert script.began.count("first") == 1
    assert await reasons(redis) == []


async def test_a_turn_that_kills_its_workers_is_given_up(redis: Redis) -> None:
    """The fourth worker does not even begin."""
    queue = TurnQueue(redis, take_over_s=0)
    await queue.add(turn("a"))
    for victim in range(QUICK.attempts):
        await queue.claim(f"victim {victim}", 1, 0.05)
    script = Script()
    async with running(worker_for(queue, script)):
        await until(lambda: is_depth(queue, Depth(0, 0, dead=1)))
    assert script.began == []
    [reason] = await reasons(redis)
    assert reason.startswith("delivered 4 times")


async def test_stopping_lets_the_current_job_finish_and_begins_no_other(queue: TurnQueue) -> None:
    """A deployment breaks nothing off; what waits goes to the next worker at once."""
    gate = asyncio.Event()
    script = Script(a=[gate])
    worker = worker_for(queue, script)
    await queue.add(turn("a"))
    await queue.add(turn("b"))
    async with running(worker) as [task]:
        await script.until(lambda: script.began == ["a"])
        await until(lambda: is_depth(queue, Depth(0, 2, 0)))
        worker.stop()
        gate.set()
        await task
    assert script.ended == ["a"]
    [claimed] = await TurnQueue(queue._redis).claim("next", 10, 0.05)
    assert (claimed.turn.id, claimed.deliveries) == ("b", 1)


async def test_stopping_breaks_off_what_outlasts_the_grace_period(queue: TurnQueue) -> None:
    """A deployment is not held up by a model that does not answer."""
    script = Script(a=[asyncio.Event()])
    worker = worker_for(queue, script, limits=Limits(block_s=0.05, grace_s=0.01))
    await queue.add(turn("a"))
    async with running(worker) as [task]:
        await script.until(lambda: script.began == ["a"])
        worker.stop()
        await task
    assert script.ended == []
    assert [claimed.turn.id for claimed in await TurnQueue(queue._redis).claim("next", 10, 0.05)] == ["a"]


async def test_stopping_does_not_wait_for_the_next_attempt(queue: TurnQueue) -> None:
    """Nor is the turn forgotten."""
    script = Script(a=[ModelCallError("busy", retryable=True)])
    worker = worker_for(queue, script, patience=Patience(first_delay_s=600))
    await queue.add(turn("a"))
    async with running(worker) as [task]:
        await script.until(lambda: script.began == ["a"] and script.running == 0)
        worker.stop()
        await task
    assert (await queue.depth()).pending == 1


async def test_a_full_worker_claims_no_more_and_can_be_stopped(queue: TurnQueue) -> None:
    """Turns wait in the store, where they are safe and others can have them."""
    script = Script(a=[asyncio.Event()])
    worker = worker_for(queue, script, limits=Limits(parallel=1, held=1, block_s=0.05, grace_s=0.01))
    await queue.add(turn("a"))
    async with running(worker) as [task]:
        await script.until(lambda: script.began == ["a"])
        await queue.add(turn("b"))
        await until(lambda: is_depth(queue, Depth(waiting=1, pending=1, dead=0)))
        worker.stop()
        await task


async def test_work_goes_on_when_there_is_room_again(queue: TurnQueue) -> None:
    """A bound on what is held is no bound on what is done."""
    script = Script()
    for number in range(20):
        await queue.add(turn(str(number)))
    async with running(worker_for(queue, script, limits=Limits(parallel=1, held=1, block_s=0.05))):
        await until(lambda: is_depth(queue, EMPTY))
    assert script.ended == [str(number) for number in range(20)]


async def test_a_store_away_for_the_job_is_waited_for_and_not_counted(queue: TurnQueue) -> None:
    """An outage wears no turn out."""
    away = StoreUnavailableError("away")
    script = Script(a=[away] * BLIPS + [None])
    await queue.add(turn("a"))
    async with running(worker_for(queue, script, patience=Patience(attempts=1))):
        await until(lambda: is_depth(queue, EMPTY))
    assert script.ended == ["a"]


async def test_a_job_that_only_says_the_store_is_away_is_given_up(queue: TurnQueue, redis: Redis) -> None:
    """A turn too big for the store's deadline does not block a worker for ever."""
    script = Script(a=[StoreUnavailableError("too slow")])
    await queue.add(turn("a"))
    async with running(worker_for(queue, script, patience=Patience(attempts=1))):
        await until(lambda: is_depth(queue, Depth(0, 0, dead=1)))
    assert "too slow" in (await reasons(redis))[0]


async def test_a_killed_store_is_waited_for_once_said_and_everything_is_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store may end at any moment and come back: no restart, no loss, and one line in the log."""
    caplog.set_level("INFO", logger="memproxy.worker.runner")
    async with EmbeddedStore(tmp_path / "data") as store:
        client = open_redis(store.url, connect_timeout_s=1.0, max_connections=20)
        queue = TurnQueue(client, take_over_s=0.5)
        gate = asyncio.Event()
        script = Script(a=[gate])
        for name in ("a", "b"):
            await queue.add(turn(name))
        await queue.add(turn("c", session="other"))
        async with running(worker_for(queue, script)):
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
        return await queue.depth() == EMPTY
    except StoreUnavailableError:
        return False


async def test_a_store_that_is_away_at_the_end_does_not_hold_up_stopping(tmp_path: Path) -> None:
    """The worker ends within its grace period; its turns are taken over when the store is back."""
    async with EmbeddedStore(tmp_path / "data") as store:
        client = open_redis(store.url, connect_timeout_s=1.0, max_connections=20)
        queue = TurnQueue(client, take_over_s=0.2, deadline_s=1.0)
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
        await until(lambda: is_depth(queue, EMPTY))


async def test_stopping_begins_nothing_that_waits_for_its_turn(queue: TurnQueue) -> None:
    """Sessions that wait for a free slot when a deployment comes wait for the next worker."""
    gate = asyncio.Event()
    script = Script(a=[gate])
    worker = worker_for(queue, script, limits=Limits(parallel=1, block_s=0.05))
    await queue.add(turn("a", session="first"))
    await queue.add(turn("b", session="second"))
    async with running(worker) as [task]:
        await script.until(lambda: script.began == ["a"])
        await until(lambda: is_depth(queue, Depth(0, 2, 0)))
        worker.stop()
        gate.set()
        await task
    assert script.began == ["a"]


async def test_what_others_have_taken_over_is_noticed_while_it_waits(redis: Redis) -> None:
    """A worker that was cut off for long does not do again what has been done meanwhile."""
    queue = TurnQueue(redis, take_over_s=0.15)
    gate = asyncio.Event()
    script = Script(first=[gate])
    await queue.add(turn("first"))
    await queue.add(turn("second"))
    async with running(worker_for(queue, script)):
        await script.until(lambda: script.began == ["first"])
        await until(lambda: is_depth(queue, Depth(0, 2, 0)))
        key = schema.queue_key(schema.partition_of(turn("first").scope))
        entries: Any = await redis.xrange(key)
        await redis.xack(key, schema.GROUP, entries[1][0])
        await redis.xdel(key, entries[1][0])
        began = asyncio.get_running_loop().time()
        await until(lambda: has_passed(began, seconds=0.2))  # it renews every 0.05 s
        gate.set()
        await until(lambda: is_depth(queue, EMPTY))
    assert script.began == ["first"]
