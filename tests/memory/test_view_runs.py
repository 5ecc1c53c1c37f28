"""Runs in the background: their tasks tell the truth, however the runs end."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from memproxy.clock import SystemClock
from memproxy.errors import ModelCallError, RequestError, StoreUnavailableError
from memproxy.memory import view_runs
from memproxy.memory.summary_views import Refreshed
from memproxy.memory.view_runs import RUNS_AT_ONCE, ViewRuns
from memproxy.storage.run_tasks import SILENCE_S, RunTask, RunTaskStore, TaskStatus
from memproxy.storage.summary_views import SummaryView
from memproxy.tasks import Tasks
from tests.fakes.serving import until

VIEW = SummaryView("v1", datetime(2026, 3, 1, tzinfo=UTC))


class Views:
    """Refreshes when it is let, and fails if it is told to."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.let.set()
        self.error: Exception | None = None
        self.under_way = 0
        self.forced: list[bool] = []

    async def refresh(self, tenant: str, view: SummaryView, *, force: bool) -> Refreshed:
        self.under_way += 1
        self.forced.append(force)
        await self.let.wait()
        self.under_way -= 1
        if self.error is not None:
            raise self.error
        return Refreshed(made=1)


@pytest.fixture
def views() -> Views:
    return Views()


@pytest.fixture
def store(redis: Redis) -> RunTaskStore:
    return RunTaskStore(redis)


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks()
    yield tasks
    await tasks.drain(0)


@pytest.fixture
def runs(views: Views, store: RunTaskStore, tasks: Tasks) -> ViewRuns:
    return ViewRuns(views, store, tasks=tasks, clock=SystemClock())


async def status_of(runs: ViewRuns, task_id: str) -> TaskStatus | None:
    task = await runs.get("t", task_id)
    return None if task is None else task.status


async def ended(runs: ViewRuns, task_id: str) -> RunTask:
    """The task when it is over."""

    async def is_over() -> bool:
        return (await runs.get("t", task_id) or RUNNING).is_over

    await until(is_over)
    task = await runs.get("t", task_id)
    assert task is not None
    return task


RUNNING = RunTask("", "", TaskStatus.RUNNING, created_at=VIEW.created_at, beat_at=VIEW.created_at)


async def test_a_run_is_watched_from_its_beginning_to_its_end(runs: ViewRuns, views: Views) -> None:
    """Who asked for a run gets its task at once, and sees it go through every state."""
    views.let.clear()
    task = await runs.begin("t", VIEW, task_id="a", force=True)
    assert (task.status, task.view_id, task.started_at) == (TaskStatus.PENDING, "v1", None)
    await until(lambda: _is(runs, "a", TaskStatus.RUNNING))
    views.let.set()
    done = await ended(runs, "a")
    assert done.status is TaskStatus.SUCCESS
    assert done.created_at <= (done.started_at or done.created_at) <= (done.completed_at or done.created_at)
    assert done.error_message is None
    assert views.forced == [True]
    assert await runs.get("other", "a") is None


async def _is(runs: ViewRuns, task_id: str, status: TaskStatus) -> bool:
    return await status_of(runs, task_id) is status


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModelCallError("llama answered 500", retryable=True), "llama answered 500"),
        (StoreUnavailableError("The store is away."), "store is away"),
        (ZeroDivisionError("a secret"), "not foreseen"),
    ],
)
async def test_a_run_that_fails_says_why(runs: ViewRuns, views: Views, error: Exception, said: str) -> None:
    """An error ends the task with words that help, not with a task that runs for ever, nor with what a bug holds."""
    views.error = error
    await runs.begin("t", VIEW, task_id="a", force=False)
    failed = await ended(runs, "a")
    assert failed.status is TaskStatus.FAILED
    assert said in (failed.error_message or "")
    assert "secret" not in (failed.error_message or "")


async def test_a_request_that_comes_twice_begins_one_run(runs: ViewRuns, views: Views) -> None:
    """A client that repeats its request after a timeout pays for one run, and another view's id is no key to it."""
    await runs.begin("t", VIEW, task_id="a", force=False)
    done = await ended(runs, "a")
    assert await runs.begin("t", VIEW, task_id="a", force=False) == done
    assert len(views.forced) == 1
    with pytest.raises(RequestError, match="another id"):
        await runs.begin("t", SummaryView("v2", VIEW.created_at), task_id="a", force=False)


async def test_a_few_run_and_the_others_wait(runs: ViewRuns, views: Views) -> None:
    """Ten runs at once do not take the model away from everything else."""
    views.let.clear()
    ids = [str(number) for number in range(RUNS_AT_ONCE + 2)]
    for task_id in ids:
        await runs.begin("t", VIEW, task_id=task_id, force=False)
    await until(lambda: _at(views, RUNS_AT_ONCE))
    assert sorted([await status_of(runs, task_id) or "" for task_id in ids]) == ["pending"] * 2 + ["running"] * 2
    views.let.set()
    assert {(await ended(runs, task_id)).status for task_id in ids} == {TaskStatus.SUCCESS}


async def _at(views: Views, number: int) -> bool:
    return views.under_way == number


async def test_a_caller_in_a_loop_is_told_to_stop(
    runs: ViewRuns, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is bounded, and ends give room again."""
    monkeypatch.setattr(view_runs, "MAX_WAITING", 2)
    views.let.clear()
    for task_id in "ab":
        await runs.begin("t", VIEW, task_id=task_id, force=False)
    with pytest.raises(RequestError, match="waiting"):
        await runs.begin("t", VIEW, task_id="c", force=False)
    views.let.set()
    for task_id in "ab":
        await ended(runs, task_id)
    await runs.begin("t", VIEW, task_id="c", force=False)
    assert (await ended(runs, "c")).status is TaskStatus.SUCCESS


async def test_stopping_memproxy_ends_the_task(runs: ViewRuns, views: Views, tasks: Tasks) -> None:
    """A restart in the middle of a run is said, and at once."""
    views.let.clear()
    await runs.begin("t", VIEW, task_id="a", force=False)
    await until(lambda: _is(runs, "a", TaskStatus.RUNNING))
    await tasks.drain(0)
    failed = await runs.get("t", "a")
    assert failed is not None
    assert failed.status is TaskStatus.FAILED
    assert "stopped" in (failed.error_message or "")


async def test_a_long_run_is_no_crash(
    runs: ViewRuns, views: Views, store: RunTaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it beats, nobody gives it up."""
    monkeypatch.setattr(view_runs, "BEAT_S", 0.01)
    views.let.clear()
    begun = await runs.begin("t", VIEW, task_id="a", force=False)

    async def has_beaten() -> bool:
        task = await runs.get("t", "a")
        return task is not None and task.beat_at > begun.beat_at + timedelta(seconds=0.03)

    await until(has_beaten)
    views.let.set()
    assert (await ended(runs, "a")).status is TaskStatus.SUCCESS


async def test_a_run_that_was_given_up_stays_so(runs: ViewRuns, views: Views, store: RunTaskStore) -> None:
    """Once somebody was told that it failed, it does not succeed behind their back."""
    views.let.clear()
    await runs.begin("t", VIEW, task_id="a", force=False)
    await until(lambda: _is(runs, "a", TaskStatus.RUNNING))
    silent = datetime.now(UTC) + timedelta(seconds=SILENCE_S + 5)
    assert await store.get("t", "a", now=silent) is not None
    views.let.set()
    await until(lambda: _at(views, 0))
    failed = await runs.get("t", "a")
    assert failed is not None
    assert failed.status is TaskStatus.FAILED
