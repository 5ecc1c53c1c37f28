"""The tools of the MCP server that work on long-term memory, carried out by the same code as the REST API.

What goes back is for a model to read: the REST API's names, without what is empty and without what only code looks at.
"""

import asyncio
import itertools
import uuid
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

from memproxy.errors import RequestError
from memproxy.memory_api import mcp_forms as forms
from memproxy.memory_api.long_term import edited, find, memory_of, one_of
from memproxy.memory_api.memories import memory_json, narrowed, record_of, result_json
from memproxy.memory_api.requests import Call
from memproxy.memory_api.schemas import EditRequest, MemoryInput, SearchRequest
from memproxy.memory_api.summary_views import as_filter
from memproxy.records import JsonObject, MemoryRecord

FILTERED = ("user_id", "namespace", "session_id", "topics", "entities", "memory_type")
SPANS = ("created_at", "last_accessed", "event_date")

FOR_CODE = frozenset(
    {"memory_hash", "discrete_memory_extracted", "extraction_strategy_config", "persisted_at", "access_count"}
)
"""Fields of a memory that a model has no use for."""


MAX_RESULT_CHARS = 40_000
"""Of found memories' texts, about 10,000 tokens: a host puts all of it into its model's context."""


async def now(call: Call, asked: forms.Now) -> JsonObject:
    """The time of day."""
    try:
        zone = await asyncio.to_thread(ZoneInfo, asked.timezone)
    except (LookupError, ValueError, OSError):
        raise RequestError("This time zone is not known; give an IANA name such as Europe/Lisbon.") from None
    at = call.api.clock.now().astimezone(zone)
    return {"datetime": at.isoformat(timespec="seconds"), "weekday": f"{at:%A}", "timezone": asked.timezone}


async def create(call: Call, asked: forms.Create) -> JsonObject:
    """Keep memories as they are given."""
    at = call.api.clock.now()
    records = [record_of(given, call.caller, now=at) for given in map(memory_input, asked.memories)]
    async with call.within_deadline():
        made = await memory_of(call).create(records, deduplicate=True)
    return {"status": "ok", "memories": [{"id": one.id, "is_new": one.is_new} for one in made]}


def memory_input(given: forms.NewMemory) -> MemoryInput:
    """The memory as the REST API takes it, with an id."""
    return MemoryInput(**{"id": uuid.uuid4().hex, **given.model_dump(exclude_none=True)})


async def search(call: Call, asked: forms.Search) -> JsonObject:
    """Find memories."""
    found = await find(call, search_request(asked, text=asked.text), rewrites=asked.optimize_query)
    fits = _fitting([len(match.record.text) for match in found.memories])
    memories = [shown(result_json(match, mode=found.mode)) for match in found.memories[:fits]]
    is_cut = fits < len(found.memories)
    next_offset = asked.offset + fits if is_cut else found.next_offset
    return {"memories": memories, "total": found.total, "next_offset": next_offset}


def _fitting(sizes: Sequence[int]) -> int:
    """How many of the first are not too much to read at a time; one in any case."""
    sums = itertools.accumulate(sizes)
    return max(1, sum(size <= MAX_RESULT_CHARS for size in sums)) if sizes else 0


def search_request(asked: forms.Filtered, *, text: str | None) -> SearchRequest:
    """The search as the REST API takes it. Raises ValidationError."""
    given = asked.model_dump(exclude_none=True)
    if isinstance(asked, forms.Prompt):
        given.pop("session_id", None)  # the conversation to go on with, and no restriction of the search
    filters = {name: as_filter(given[name]) for name in FILTERED if name in given}
    spans = {name: given[name] for name in SPANS if name in given}
    paging = {name: given[name] for name in ("limit", "offset", "distance_threshold", "search_mode") if name in given}
    return SearchRequest.model_validate({**filters, **spans, **paging, "text": text})


async def get(call: Call, asked: forms.One) -> JsonObject:
    """One memory."""
    async with call.within_deadline():
        return shown(memory_json(await _one(call, asked)))


async def edit(call: Call, asked: forms.Edit) -> JsonObject:
    """Change one memory."""
    changes = asked.model_dump(exclude_none=True, exclude={"memory_id", "user_id", "namespace"})
    if not changes:
        raise RequestError("There is nothing to change: give text, topics, entities, memory_type or event_date.")
    async with call.within_deadline():
        known = await _one(call, asked)
        return shown(memory_json(await edited(call, known, EditRequest(**changes))))


async def _one(call: Call, asked: forms.One) -> MemoryRecord:
    return await one_of(call, [asked.memory_id], where=narrowed(call.caller))


async def delete(call: Call, asked: forms.Delete) -> JsonObject:
    """Delete memories."""
    deleted = 0
    if asked.memory_ids:
        async with call.within_deadline():
            where = narrowed(call.caller)
            deleted = await memory_of(call).delete_ids(call.caller.tenant, asked.memory_ids, where=where)
    return {"status": f"ok, deleted {deleted} memories", "deleted": deleted}


async def compact(call: Call, _: forms.Whose) -> JsonObject:
    """Merge what says the same."""
    async with call.within_deadline():
        left = await memory_of(call).compact(call.caller.tenant, where=narrowed(call.caller))
    return {"status": f"ok, {left} memories remaining after compaction", "remaining": left}


def shown(memory: JsonObject) -> JsonObject:
    """A memory without what is empty or for code only."""
    return {name: value for name, value in memory.items() if name not in FOR_CODE and says_something(value)}


def says_something(value: Any) -> bool:
    """Whether a field is worth a model's tokens; zero is."""
    return value is not None and value is not False and value not in ((), [], {}, "")
