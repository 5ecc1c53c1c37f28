"""Summary views over REST: standing wishes for summaries, each a tenant's.

What a view's filters may be is that of a search's filters (`filters`), and a plain value or a list of them besides,
which is how agent-memory-server takes them.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from pydantic import Field, ValidationError

from memproxy.clock import Clock
from memproxy.errors import NotFoundError, RequestError
from memproxy.extraction.spending import Question, Spending
from memproxy.llm import JsonModel
from memproxy.memory.summary_views import SummaryViews
from memproxy.memory.view_groups import FIELDS
from memproxy.memory_api.api import MemoryApi
from memproxy.memory_api.filters import Filters
from memproxy.memory_api.requests import ApiRequest, Input, QueryInput, answer, invalid
from memproxy.memory_api.tasks import task_json
from memproxy.memory_api.values import Id, Name, SmallJson
from memproxy.records import JsonObject
from memproxy.services import Services
from memproxy.storage.memory_filter import Rule
from memproxy.storage.summary_views import GroupSummary, SummaryView

FILTERS = frozenset(
    {"user_id", "namespace", "session_id", "memory_type", "extraction_strategy", "topics", "event_date"}
)
"""What a view may be filtered by."""

NO_MEMORIES = "no_matching_memories"


class ViewInput(Input):
    """A view as it is ordered."""

    source: Literal["long_term", "working_memory"]
    name: Annotated[str | None, Field(max_length=512)] = None
    group_by: Annotated[list[str], Field(default_factory=list, max_length=100)]
    filters: SmallJson | None = None
    time_window_days: Annotated[int | None, Field(ge=1, le=36_500)] = None
    continuous: bool | None = None
    prompt: Annotated[str | None, Field(max_length=10_000)] = None
    model_name: Annotated[str | None, Field(max_length=256)] = None


class GroupInput(Input):
    """The group whose summary is to be made."""

    group: dict[str, Name]


class RunInput(Input):
    """A run of all groups."""

    task_id: Id | None = None
    force: bool = False
    """Also of those in which nothing changed."""


class GroupQuery(QueryInput):
    """Which summaries to list: those of groups that have these values."""

    user_id: str | None = None
    namespace: str | None = None
    session_id: str | None = None
    memory_type: str | None = None


@dataclass(frozen=True, slots=True)
class _Budgeted:
    """A model that is asked within a tenant's budget."""

    model: JsonModel
    spending: Spending

    async def ask(
        self, *, system: str, user: str, schema_name: str, schema: JsonObject, read: Callable[[str], Any]
    ) -> Any:
        """What `read` makes of the answer. Raises ModelCallError and BudgetSpentError."""
        return await self.spending.ask(self.model, Question(schema_name, system, user, schema, read))


def views_of(services: Services) -> SummaryViews:
    """The views of all tenants, with filters as this API takes them, and each tenant's budget for the model."""
    model = services.model

    def model_for(tenant: str, name: str | None) -> _Budgeted:
        assert model is not None
        return _Budgeted(model.named(name) if name else model, Spending(tenant, services.budget))

    return SummaryViews(
        services.summary_views,
        services.long_term,
        model_for=None if model is None else model_for,
        read_filters=filter_rules,
        clock=services.clock,
    )


def filter_rules(filters: JsonObject) -> Sequence[Rule]:
    """What a view's filters mean. Raises ValidationError."""
    return Filters.model_validate({name: as_filter(value) for name, value in filters.items()}).rules()


def as_filter(value: Any) -> Any:
    """A plain value must be equal; of a list, one must be."""
    match value:
        case dict() | None:
            return value
        case list():
            return {"any": value}
        case _:
            return {"eq": value}


def routes(_: MemoryApi) -> list[HTTPRouteHandler]:
    """The handlers under `/v1/summary-views`."""
    return [_list, _create, _get, _delete, _run_group, _list_groups, _run]


@get("/v1/summary-views")
async def _list(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    async with call.within_deadline():
        views = await call.api.views.store.views(call.caller.tenant)
    return answer([_view_json(view) for view in views])


@post("/v1/summary-views", status_code=200)
async def _create(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    view = _new_view(await call.body(ViewInput), call.api.clock)
    store = call.api.views.store
    async with call.within_deadline():
        if not await store.add(call.caller.tenant, view, due=view.created_at):
            raise RequestError(f"There are {store.max_views} summary views already, which is the limit; delete one.")
    return answer(_view_json(view))


@get("/v1/summary-views/{view_id:str}")
async def _get(call: NamedDependency[ApiRequest], view_id: FromPath[str]) -> Response[bytes]:
    return answer(_view_json(await _known(call, view_id)))


@delete("/v1/summary-views/{view_id:str}", status_code=200)
async def _delete(call: NamedDependency[ApiRequest], view_id: FromPath[str]) -> Response[bytes]:
    """Its summaries go with it."""
    async with call.within_deadline():
        await call.api.views.store.delete(call.caller.tenant, view_id)
    return answer({"status": "ok"})


@post("/v1/summary-views/{view_id:str}/partitions/run", status_code=200)
async def _run_group(call: NamedDependency[ApiRequest], view_id: FromPath[str]) -> Response[bytes]:
    """Waits for the model."""
    asked = await call.body(GroupInput)
    view = await _known(call, view_id)
    if asked.group.keys() != set(view.group_by):
        raise RequestError(f"group keys {sorted(asked.group)} must exactly match view.group_by {sorted(view.group_by)}")
    deadline_s = call.api.model_deadline_s
    async with asyncio.timeout(call.api.deadline_s + deadline_s):
        summary = await call.api.views.run_group(call.caller.tenant, view, asked.group, deadline_s=deadline_s)
    return answer(_summary_json(view, summary))


@get("/v1/summary-views/{view_id:str}/partitions")
async def _list_groups(call: NamedDependency[ApiRequest], view_id: FromPath[str]) -> Response[bytes]:
    """What was made so far; nothing is made for it."""
    wanted = call.query(GroupQuery).model_dump(exclude_none=True)
    view = await _known(call, view_id)
    async with call.within_deadline():
        summaries = await call.api.views.store.summaries(call.caller.tenant, view_id)
    return answer([_summary_json(view, each) for each in summaries if wanted.items() <= each.group.items()])


@post("/v1/summary-views/{view_id:str}/run", status_code=200)
async def _run(call: NamedDependency[ApiRequest], view_id: FromPath[str]) -> Response[bytes]:
    """Answers at once with the task by which the run can be watched."""
    asked = await call.body(RunInput)
    view = await _known(call, view_id)
    task_id = asked.task_id or uuid.uuid4().hex
    async with call.within_deadline():
        task = await call.api.runs.begin(call.caller.tenant, view, task_id=task_id, force=asked.force)
    return answer(task_json(task))


async def _known(call: ApiRequest, view_id: str) -> SummaryView:
    async with call.within_deadline():
        view = await call.api.views.store.view(call.caller.tenant, view_id)
    if view is None:
        raise NotFoundError(f"SummaryView {view_id} not found")
    return view


def _new_view(asked: ViewInput, clock: Clock) -> SummaryView:
    if asked.source != "long_term":
        raise RequestError("SummaryView.source must be 'long_term'; 'working_memory' is not yet supported.")
    filters = {name: value for name, value in (asked.filters or {}).items() if value is not None}
    _refuse_unknown("group_by", asked.group_by, known=FIELDS)
    _refuse_unknown("filter", filters, known=FILTERS)
    try:
        filter_rules(filters)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise invalid(first["msg"], loc=["body", "filters", *first["loc"]], input_=first["input"]) from error
    return SummaryView(
        id=uuid.uuid4().hex,
        created_at=clock.now(),
        group_by=tuple(dict.fromkeys(asked.group_by)),
        filters=filters,
        name=asked.name,
        time_window_days=asked.time_window_days,
        is_continuous=bool(asked.continuous),
        prompt=asked.prompt or None,
        model=asked.model_name or None,
    )


def _refuse_unknown(what: str, names: Sequence[str] | JsonObject, *, known: Any) -> None:
    unknown = sorted(name for name in names if name not in known)
    if unknown:
        raise RequestError(f"Unsupported {what} fields: {', '.join(unknown)}")


def _view_json(view: SummaryView) -> JsonObject:
    return {
        "id": view.id,
        "name": view.name,
        "source": "long_term",
        "group_by": view.group_by,
        "filters": view.filters,
        "time_window_days": view.time_window_days,
        "continuous": view.is_continuous,
        "prompt": view.prompt,
        "model_name": view.model,
    }


def _summary_json(view: SummaryView, summary: GroupSummary) -> JsonObject:
    is_empty = summary.memory_count == 0
    return {
        "view_id": view.id,
        "group": summary.group,
        "summary": summary.text,
        "memory_count": summary.memory_count,
        "empty": is_empty,
        "empty_reason": NO_MEMORIES if is_empty else None,
        "computed_at": summary.computed_at,
    }
