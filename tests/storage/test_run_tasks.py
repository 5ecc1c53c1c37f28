"""Tasks in a real store: which states they may have, and who sees them."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from memproxy.errors import StoreError
from memproxy.storage import schema
from memproxy.storage.run_tasks import (
    BEAT_S,
    KEPT_S,
    NEXT,
    SILENCE_S,
    RunTask,
    RunTaskStore,
    TaskStatus,
    abandoned,
    beaten,
    moved,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=5)
SILENT = timedelta(seconds=SILENCE_S + 1)
NEW = RunTask("task-1", "v1", TaskStatus.PENDING, created_at=NOW, beat_at=NOW)


@pytest.fixture
def store(redis: Redis) -> RunTaskStore:
    return RunTaskStore(redis)


@given(st.lists(st.sampled_from(TaskStatus), max_size=6))
def test_a_task_only_ever_goes_forward(wishes: list[TaskStatus]) -> None:
    """Who has seen a task done will not see it running again, whatever its workers try."""
    task, order = NEW, [TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.SUCCESS, TaskStatus.FAILED]
    for at, wish in enumerate(wishes):
        after = moved(task, wish, now=NOW + timedelta(seconds=at))
        assert (after is not None) == (wish in NEXT[task.status])
        if after is not None:
            assert order.index(after.status) > order.index(task.status)
            task = after
    assert (task.completed_at is not None) == task.is_over


async def test_a_task_is_seen_by_its_tenant_alone(store: RunTaskStore, redis: Redis) -> None:
    """An id that somebody guessed tells nothing."""
    assert await store.add("t", NEW)
    assert await store.get("t", "task-1", now=LATER) == NEW
    assert await store.get("other", "task-1", now=LATER) is None
    assert 0 < await redis.pttl(schema.task_key("t", "task-1")) <= KEPT_S * 1_000


async def test_an_id_is_given_once(store: RunTaskStore) -> None:
    """A request that was sent twice begins one run."""
    assert await store.add("t", NEW)
    assert not await store.add("t", RunTask("task-1", "v2", TaskStatus.PENDING, created_at=LATER, beat_at=LATER))
    assert await store.get("t", "task-1", now=LATER) == NEW
    assert await store.add("other", NEW)


async def test_the_whole_way(store: RunTaskStore) -> None:
    """What a caller polls: when it began, when it ended, how."""
    await store.add("t", NEW)
    await store.change("t", "task-1", lambda known: moved(known, TaskStatus.RUNNING, now=LATER))
    done = await store.change(
        "t", "task-1", lambda known: moved(known, TaskStatus.FAILED, now=LATER, error_message="no model")
    )
    assert done is not None
    assert (done.started_at, done.completed_at, done.error_message) == (LATER, LATER, "no model")
    assert await store.change("t", "task-1", lambda known: moved(known, TaskStatus.SUCCESS, now=LATER)) is None
    assert await store.get("t", "task-1", now=LATER + SILENT) == done
    assert await store.change("t", "nothing", lambda known: moved(known, TaskStatus.RUNNING, now=LATER)) is None


@pytest.mark.parametrize("status", [TaskStatus.PENDING, TaskStatus.RUNNING])
async def test_a_task_whose_process_is_gone_has_failed(store: RunTaskStore, status: TaskStatus) -> None:
    """Nobody polls for ever: a crash is seen within a minute, and stays seen."""
    await store.add("t", NEW)
    if status is TaskStatus.RUNNING:
        await store.change("t", "task-1", lambda known: moved(known, status, now=NOW))
    alive = NOW + timedelta(seconds=SILENCE_S)
    seen = await store.get("t", "task-1", now=alive)
    assert seen is not None
    assert seen.status is status
    failed = await store.get("t", "task-1", now=NOW + SILENT)
    assert failed is not None
    assert failed.status is TaskStatus.FAILED
    assert "ended" in (failed.error_message or "")
    assert await store.change("t", "task-1", lambda known: beaten(known, now=NOW + SILENT)) is None


async def test_a_beating_task_is_let_live(store: RunTaskStore) -> None:
    """A run of an hour is no crash."""
    await store.add("t", NEW)
    for beats in range(1, 20):
        now = NOW + beats * timedelta(seconds=BEAT_S)
        assert await store.change("t", "task-1", lambda known, now=now: beaten(known, now=now))  # type: ignore[misc]
        seen = await store.get("t", "task-1", now=now + timedelta(seconds=BEAT_S))
        assert seen is not None
        assert seen.status is TaskStatus.PENDING


async def test_of_two_who_change_a_task_at_once_neither_is_lost(store: RunTaskStore) -> None:
    """The beat does not undo the end, and of two ends one counts."""
    await store.add("t", NEW)
    await store.change("t", "task-1", lambda known: moved(known, TaskStatus.RUNNING, now=NOW))
    ends = (TaskStatus.SUCCESS, TaskStatus.FAILED)
    changed = await asyncio.gather(
        *(store.change("t", "task-1", lambda known: beaten(known, now=LATER)) for _ in range(4)),
        *(store.change("t", "task-1", lambda known, end=end: moved(known, end, now=LATER)) for end in ends),  # type: ignore[misc]
    )
    winners = [task for task in changed[-2:] if task is not None]
    assert len(winners) == 1
    assert await store.get("t", "task-1", now=LATER + SILENT) == winners[0]


async def test_a_task_that_never_rests_is_given_up(store: RunTaskStore) -> None:
    """A change that can't be made is an error, not a loop without an end."""
    await store.add("t", NEW)
    with pytest.raises(StoreError):
        await _always_too_late(store)


async def _always_too_late(store: RunTaskStore) -> None:
    loser = RunTaskStore(store._redis)
    beats = iter(range(1, 1_000))

    async def put(tenant: str, task: RunTask, *, instead_of: bytes) -> bool:
        at = NOW + timedelta(seconds=next(beats))
        await store.change(tenant, task.id, lambda known: beaten(known, now=at))
        return await store._put(tenant, task, instead_of=instead_of)

    loser._put = put  # type: ignore[method-assign]  # somebody else is always faster
    await loser.change("t", "task-1", lambda known: beaten(known, now=LATER))


async def test_what_is_not_understood_is_said(store: RunTaskStore, redis: Redis) -> None:
    """A store that a newer memproxy wrote gives an error, not nonsense."""
    await redis.set(schema.task_key("t", "task-1"), "{}")
    with pytest.raises(StoreError, match="newer memproxy"):
        await store.get("t", "task-1", now=NOW)


def test_a_task_that_is_over_is_not_given_up() -> None:
    """Silence after the end is as it should be."""
    running = moved(NEW, TaskStatus.RUNNING, now=NOW)
    assert running is not None
    done = moved(running, TaskStatus.SUCCESS, now=NOW)
    assert done is not None
    assert abandoned(done, now=NOW + SILENT) is None
