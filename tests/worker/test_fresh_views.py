"""Continuous views stay fresh without anybody asking."""

import asyncio
import json
from typing import Any

import pytest

from memproxy.demo.script import ModelRequest, Reply
from memproxy.errors import StoreUnavailableError
from memproxy.memory_api.summary_views import views_of
from memproxy.tasks import Tasks
from memproxy.worker.fresh_views import fresh_views
from tests.fakes.memory_client import memory_client, record
from tests.fakes.serving import Serve, until


class Views:
    """Counts looks, and fails at first."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.looks = 0

    async def refresh_due(self, *, every_s: float) -> int:
        self.looks += 1
        if self.errors:
            raise self.errors.pop(0)
        return 0


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), ZeroDivisionError("a bug")])
async def test_looking_goes_on_whatever_happens(error: Exception) -> None:
    """A store that was away for a moment does not leave views stale for good."""
    tasks, views = Tasks(), Views(error)

    async def has_looked_again() -> bool:
        return views.looks > 2

    async with fresh_views(views, tasks, every_s=60, look_s=0.001):  # type: ignore[arg-type]  # as far as it is needed
        await until(has_looked_again)
    seen = views.looks
    await asyncio.sleep(0)
    assert views.looks == seen
    assert await tasks.drain(0) == 0


def scribe(request: ModelRequest) -> Reply:
    """A model that joins what it is shown."""
    shown: Any = json.loads(request.last_user_text)
    return Reply(json.dumps({"summary": " ".join(memory["text"] for memory in shown["memories"])}))


async def test_a_continuous_view_is_there_without_a_run(serve: Serve) -> None:
    """Whoever makes one finds its summaries a moment later."""
    settings = {"extraction_model": "scripted", "upstream_api_key": "key"}
    async with serve(scribe, **settings) as served, memory_client(served) as client:
        await client.create_long_term_memory([record("Likes tea.", id="m1", user_id="alice")])
        services = served.instance.services
        views = views_of(services)
        given = {"source": "long_term", "group_by": ["user_id"], "continuous": True}
        response = await client._client.post("/v1/summary-views", json=given)
        view = response.json()["id"]

        async def is_there() -> bool:
            return bool(await client.list_summary_view_partitions(view))

        async with fresh_views(views, services.tasks, every_s=3_600, look_s=0.01):
            await until(is_there)
        (summary,) = await client.list_summary_view_partitions(view)
        assert summary.summary == "Likes tea."
