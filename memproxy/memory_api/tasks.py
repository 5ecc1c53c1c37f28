"""Tasks over REST: how long work goes that was asked for."""

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler

from memproxy.errors import NotFoundError
from memproxy.memory_api.api import MemoryApi
from memproxy.memory_api.requests import ApiRequest, answer
from memproxy.records import JsonObject
from memproxy.storage.run_tasks import RunTask

FULL_RUN = "summary_view_full_run"


def routes(_: MemoryApi) -> list[HTTPRouteHandler]:
    """The handler under `/v1/tasks`."""
    return [_get]


@get("/v1/tasks/{task_id:path}")
async def _get(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    ids = call.ids(below="tasks")
    async with call.within_deadline():
        for task_id in ids:
            task = await call.api.runs.get(call.caller.tenant, task_id)
            if task is not None:
                return answer(task_json(task))
    raise NotFoundError(f"Task {ids[0]} not found")


def task_json(task: RunTask) -> JsonObject:
    """A task as it goes out."""
    return {
        "id": task.id,
        "type": FULL_RUN,
        "status": task.status.value,
        "view_id": task.view_id,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "completed_at": task.completed_at,
        "error_message": task.error_message,
    }
