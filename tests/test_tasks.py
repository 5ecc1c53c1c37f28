"""Background tasks: each is kept until it ends, its failure is told, and none outlives the process's end."""

import asyncio
import gc
import logging
from contextvars import ContextVar

import pytest

from memproxy.tasks import Tasks


async def test_a_task_is_kept_until_it_ends() -> None:
    """What was promised after a response is done, though nobody waits for it."""
    tasks, done, go_on = Tasks(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        done.set()

    tasks.start(work(), name="some work")
    gc.collect()
    go_on.set()
    async with asyncio.timeout(5):
        await done.wait()
    assert await tasks.drain(5) == 0


async def test_a_task_has_its_name_and_its_result() -> None:
    """Whoever does wait gets what came of it."""
    tasks = Tasks()

    async def work() -> int:
        return 7

    task = tasks.spawn(work(), name="counting")
    assert task.get_name() == "counting"
    assert await task == 7


async def test_a_failure_is_logged_with_the_tasks_name(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that goes wrong in the background goes wrong silently."""
    tasks = Tasks()

    async def work() -> None:
        raise ValueError("no good")

    with caplog.at_level(logging.ERROR):
        tasks.start(work(), name="doomed work")
        assert await tasks.drain(5) == 0
    (record,) = caplog.records
    assert record.getMessage() == "the task doomed work failed"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_what_takes_too_long_at_the_end_is_cancelled_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A shutdown ends in its time, and says what it gave up."""
    tasks = Tasks()
    hanging = [tasks.spawn(asyncio.Event().wait(), name=f"hanging {number}") for number in range(3)]
    quick = tasks.spawn(asyncio.sleep(0), name="quick")
    assert await tasks.drain(0.01) == 3
    assert all(task.cancelled() for task in hanging)
    assert quick.done()
    assert not caplog.records, "being cancelled is no failure"
    assert await tasks.drain(0) == 0


async def test_a_task_on_its_own_is_not_in_the_name_of_who_began_it() -> None:
    """What goes on for many requests is not logged as the one that happened to come first."""
    tasks, name = Tasks(), ContextVar("name", default="nobody")

    async def whose() -> str:
        return name.get()

    name.set("a request")
    assert await tasks.spawn(whose(), name="inside") == "a request"
    assert await tasks.spawn(whose(), name="alone", alone=True) == "nobody"
