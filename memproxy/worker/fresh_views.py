"""Keep continuous summary views fresh while workers run."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from memproxy.errors import StoreError
from memproxy.memory.summary_views import SummaryViews
from memproxy.tasks import Tasks

log = logging.getLogger(__name__)

LOOK_S = 30.0
"""How often it is looked whether a view is due: one round trip."""


@asynccontextmanager
async def fresh_views(
    views: SummaryViews, tasks: Tasks, *, every_s: float, look_s: float = LOOK_S
) -> AsyncIterator[None]:
    """Refresh each continuous view every `every_s` while inside; any number of processes share the work."""
    refreshing = tasks.spawn(_refresh(views, every_s=every_s, look_s=look_s), name="refresh summary views")
    try:
        yield
    finally:
        refreshing.cancel()
        await asyncio.wait([refreshing])


async def _refresh(views: SummaryViews, *, every_s: float, look_s: float) -> None:
    while True:
        try:
            await views.refresh_due(every_s=every_s)
        except StoreError as error:
            log.debug("it was not looked which summary views are due: %s", error)
        except Exception:  # the other views, and the next look, are not to blame
            log.exception("refreshing summary views failed")
        await asyncio.sleep(look_s)
