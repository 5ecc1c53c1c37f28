"""Full runs of summary views in the background, each with a task by which its caller sees how it goes.

A run beats while it waits and while it works, so that a crash is seen; its task ends with the run, whatever happens to
it. A few run at a time, others wait.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Protocol

from memproxy.clock import Clock
from memproxy.errors import MemproxyError, RequestError, StoreError
from memproxy.storage.run_tasks import BEAT_S, RunTask, RunTaskStore, TaskStatus, beaten, moved
from memproxy.storage.summary_views import SummaryView
from memproxy.tasks import Tasks

log = logging.getLogger(__name__)

RUNS_AT_ONCE = 2
MAX_WAITING = 100
"""Runs that this process keeps waiting: a caller in a loop is told to stop."""

LAST_WORD_S = 2.0
"""How long a run that is broken off tries to say so."""


class Refreshes(Protocol):
    """Views, as far as runs need them."""

    async def refresh(self, tenant: str, view: SummaryView, *, force: bool) -> object:
        """Bring all summaries of a view up to date."""
        ...


class ViewRuns:
    """Begins runs and tells how they go."""

    def __init__(self, views: Refreshes, store: RunTaskStore, *, tasks: Tasks, clock: Clock) -> None:
        self._views = views
        self._store = store
        self._tasks = tasks
        self._clock = clock
        self._places = asyncio.Semaphore(RUNS_AT_ONCE)
        self._begun = 0

    async def begin(self, tenant: str, view: SummaryView, *, task_id: str, force: bool) -> RunTask:
        """Begin a run and give back its task; a task of this id that is there already is given back as it is.

        Raises:
            RequestError: the id is another view's task, or too many runs wait.
            StoreError: the store can't be used.
        """
        now = self._clock.now()
        if self._begun >= MAX_WAITING:
            raise RequestError(f"{self._begun} runs are waiting already; wait until some are done.")
        task = RunTask(task_id, view.id, TaskStatus.PENDING, created_at=now, beat_at=now)
        if not await self._store.add(tenant, task):
            known = await self._store.get(tenant, task_id, now=now)
            if known is None or known.view_id != view.id:
                raise RequestError(f"There is another task with the id {task_id} already; choose another id.")
            return known
        self._begun += 1
        self._tasks.start(self._run(tenant, view, task_id, force=force), name=f"run of view {view.id}")
        return task

    async def get(self, tenant: str, task_id: str) -> RunTask | None:
        """The task with this id as it is now, or None. Raises StoreError."""
        return await self._store.get(tenant, task_id, now=self._clock.now())

    async def _run(self, tenant: str, view: SummaryView, task_id: str, *, force: bool) -> None:
        beat = self._tasks.spawn(self._beat(tenant, task_id), name=f"beat of task {task_id}")
        error: str | None = "It was broken off: memproxy was stopped. Run it again."
        try:
            async with self._places:
                await self._move(tenant, task_id, TaskStatus.RUNNING)
                await self._views.refresh(tenant, view, force=force)
            error = None
        except MemproxyError as failure:
            error = str(failure)
        except Exception:  # whoever polls must learn that it ended, whatever went wrong
            log.exception("the run of summary view %s failed", view.id)
            error = "It failed in a way that was not foreseen; memproxy's log says more."
        finally:
            self._begun -= 1
            beat.cancel()
            status = TaskStatus.SUCCESS if error is None else TaskStatus.FAILED
            with suppress(StoreError, TimeoutError):  # then the missing beats tell it
                async with asyncio.timeout(LAST_WORD_S):
                    await self._move(tenant, task_id, status, error_message=error)

    async def _move(self, tenant: str, task_id: str, status: TaskStatus, *, error_message: str | None = None) -> None:
        now = self._clock.now()
        await self._store.change(
            tenant, task_id, lambda known: moved(known, status, now=now, error_message=error_message)
        )

    async def _beat(self, tenant: str, task_id: str) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            with suppress(StoreError):  # the next one may get through
                await self._store.change(tenant, task_id, lambda known: beaten(known, now=self._clock.now()))
