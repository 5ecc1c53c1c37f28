"""The one owner of background tasks: names them, keeps them, and ends them."""

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """Tasks that outlive the request that began them. A task that fails is logged, never lost silently."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str, alone: bool = False) -> asyncio.Task[Any]:
        """Begin `work`; it is kept until it ends. `alone`: it is not done in the name of the request that runs."""
        context = Context() if alone else None
        task = asyncio.create_task(work, name=name, context=context)  # noqa: TID251  the one place
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def start(self, work: Coroutine[Any, Any, Any], *, name: str) -> None:
        """Begin `work` without waiting for it anywhere."""
        _ = self.spawn(work, name=name)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the task %s failed", task.get_name(), exc_info=error)

    async def drain(self, timeout_s: float) -> int:
        """Wait for all tasks, then cancel what is left; gives back how many had to be cancelled."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        left = list(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)
