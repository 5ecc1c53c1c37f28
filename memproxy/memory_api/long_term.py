"""The operations on long-term memory over REST: create, search, get, edit, delete, forget, compact.

What was created is found as soon as the answer is there. All of it is below the caller's tenant; without a filter on
user or namespace an operation sees the whole of it, as agent-memory-server's do.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from msgspec.structs import replace as changed

from memproxy.errors import AmbiguousIdError, NotFoundError, RequestError
from memproxy.memory.forgetting import ForgetPolicy
from memproxy.memory.long_term import LongTermMemory
from memproxy.memory.search import Found
from memproxy.memory_api.api import MemoryApi
from memproxy.memory_api.memories import edits, memory_json, narrowed, new_scope, record_of
from memproxy.memory_api.requests import ApiRequest, Call, answer
from memproxy.memory_api.rewrite import rewritten
from memproxy.memory_api.schemas import (
    CreateRequest,
    DeleteQuery,
    EditRequest,
    ForgetQuery,
    ForgetRequest,
    PolicyInput,
    ScopeQuery,
    SearchQuery,
    SearchRequest,
)
from memproxy.memory_api.searching import found_json, query_of
from memproxy.records import MemoryRecord
from memproxy.storage.memory_filter import Filter, TagField, any_of, of_scope

PATH = "/v1/long-term-memory"
ONE = [f"{PATH}/{{memory_id:path}}", f"{PATH}/search", f"{PATH}/forget", f"{PATH}/compact"]
"""Where one memory is; the names of operations may be ids, too."""

CREATED_AT_ONCE = 50
"""Of many memories, so that other requests get their turn in between: a thousand at once hold them up for 0.3 s."""

ALWAYS_ACTS = re.compile(r"agent-memory-client/0\.14\.")
"""Clients that send nothing when they are told `dry_run=False`, so that they could not forget at all."""


def routes(_: MemoryApi) -> list[HTTPRouteHandler]:
    """The handlers under `/v1/long-term-memory`."""
    return [_create, _search, _get, _edit, _delete, _forget, _compact]


@post(PATH, status_code=200)
async def _create(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    asked = await call.body(CreateRequest)
    now = call.api.clock.now()
    records = [record_of(memory, call.caller, now=now) for memory in asked.memories]
    async with call.within_deadline():
        for start in range(0, len(records), CREATED_AT_ONCE):
            await memory_of(call).create(records[start : start + CREATED_AT_ONCE], deduplicate=asked.deduplicate)
    return answer({"status": "ok"})


@post(f"{PATH}/search", status_code=200)
async def _search(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    asked = await call.body(SearchRequest)
    rewrites = call.query(SearchQuery).optimize_query
    return answer(found_json(await find(call, asked, rewrites=rewrites)))


async def find(call: Call, asked: SearchRequest, *, rewrites: bool) -> Found:
    """What a search finds; that it was found is noted in the background.

    With `rewrites`, and a background model, the model writes the query; if that finds nothing, the text itself does.
    """
    memory, now = memory_of(call), call.api.clock.now()
    query = query_of(asked, call.caller, now=now)
    async with call.within_deadline():
        found = None
        if rewrites and asked.text and call.api.model is not None:
            written = replace(query, text=await rewritten(asked.text, call.api.model))
            found = await memory.find(call.caller.tenant, written)
        if found is None or not found.memories:
            found = await memory.find(call.caller.tenant, query)
    if found.memories:
        records = [match.record for match in found.memories]
        call.api.tasks.start(memory.touch(records, now=now), name="note that memories were looked at")
    return found


@get(ONE)
async def _get(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    async with call.within_deadline():
        return answer(memory_json(await _one(call)))


@patch(ONE)
async def _edit(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    asked = await call.body(EditRequest)
    if not asked.model_dump(exclude_none=True):
        raise RequestError("No fields provided for update")
    async with call.within_deadline():
        known = await _one(call)
        return answer(memory_json(await edited(call, known, asked)))


async def edited(call: Call, known: MemoryRecord, asked: EditRequest) -> MemoryRecord:
    """The memory after the edit. One that moves to another user or namespace is there before it is gone here."""
    memory, now = memory_of(call), call.api.clock.now()

    def change(record: MemoryRecord) -> MemoryRecord:
        return changed(record, **edits(asked), updated_at=now, is_explicit=True)

    scope = new_scope(known.scope, asked)
    if scope == known.scope:
        record = await memory.edit(scope, known.id, change)
        if record is None:  # deleted meanwhile
            raise _unknown(known.id)
        return record
    if await memory.by_id(scope.tenant, known.id, where=Filter(of_scope(scope))):
        raise AmbiguousIdError(f"There is a memory with ID {known.id} already where this one should go.")
    moved = changed(change(known), scope=scope)
    await memory.create([moved], deduplicate=False)
    await memory.forget(known.scope, [known.id])
    return moved


async def _one(call: ApiRequest) -> MemoryRecord:
    """The memory that the path names."""
    named = call.query(ScopeQuery)
    where = narrowed(call.caller, user=named.user_id, namespace=named.namespace)
    return await one_of(call, call.ids(below="long-term-memory"), where=where)


async def one_of(call: Call, ids: Sequence[str], *, where: Filter) -> MemoryRecord:
    """The memory with the first of these ids that there is."""
    for memory_id in ids:
        found = await memory_of(call).by_id(call.caller.tenant, memory_id, where=where)
        if len(found) > 1:
            raise AmbiguousIdError(
                f"{len(found)} memories have the ID {memory_id}, for different users or namespaces. "
                "Say which is meant with user_id and namespace."
            )
        if found:
            return found[0]
    raise _unknown(ids[0])


def _unknown(memory_id: str) -> NotFoundError:
    return NotFoundError(f"Memory with ID {memory_id} not found")


@delete(PATH, status_code=200)
async def _delete(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    asked = call.query(DeleteQuery)
    where = narrowed(call.caller, user=asked.user_id, namespace=asked.namespace)
    deleted = 0
    if asked.memory_ids:
        async with call.within_deadline():
            deleted = await memory_of(call).delete_ids(call.caller.tenant, asked.memory_ids, where=where)
    return answer({"status": f"ok, deleted {deleted} memories"})


@post(f"{PATH}/forget", status_code=200)
async def _forget(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    """Without `dry_run` it is one, unless the client is known to leave it out when it means no."""
    asked, query = await call.body(ForgetRequest), call.query(ForgetQuery)
    where = narrowed(call.caller, user=query.user_id, namespace=query.namespace)
    if query.session_id is not None:
        where = where.and_(any_of(TagField.SESSION, [query.session_id]))
    dry_run = query.dry_run
    if dry_run is None:
        dry_run = ALWAYS_ACTS.match(call.http.headers.get("user-agent", "")) is None
    async with call.within_deadline():
        forgotten = await memory_of(call).forget_by_policy(
            call.caller.tenant,
            _policy(asked.policy),
            where=where,
            pinned_ids=frozenset(asked.pinned_ids or ()),
            limit=query.limit,
            dry_run=dry_run,
            now=call.api.clock.now(),
        )
    deleted = forgotten.deleted_ids
    return answer({"scanned": forgotten.scanned, "deleted": len(deleted), "deleted_ids": deleted, "dry_run": dry_run})


def _policy(given: PolicyInput) -> ForgetPolicy:
    types = given.memory_type_allowlist
    return ForgetPolicy(
        max_age_days=given.max_age_days,
        max_inactive_days=given.max_inactive_days,
        budget=given.budget,
        types=None if types is None else tuple(types),
        hard_age_multiplier=given.hard_age_multiplier,
    )


@post(f"{PATH}/compact", status_code=200)
async def _compact(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    query = call.query(ScopeQuery)
    where = narrowed(call.caller, user=query.user_id, namespace=query.namespace)
    async with call.within_deadline():
        left = await memory_of(call).compact(call.caller.tenant, where=where)
    return answer({"status": f"ok, {left} memories remaining after compaction"})


def memory_of(call: Call) -> LongTermMemory:
    """Long-term memory; raises RequestError where there is none."""
    if not call.api.is_on:
        raise RequestError("Long-term memory is disabled")
    return call.api.long_term
