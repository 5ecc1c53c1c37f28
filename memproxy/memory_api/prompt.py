"""A prompt from what is remembered: the session so far, memories, and the query, ready to be looked at by code.

With `long_term_search: true` the memories are those that the proxy would inject before the query in this session: the
same engine, the same floor, the same room.
"""

from collections.abc import Sequence
from dataclasses import replace

from litestar import Response, post
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler

from memproxy.errors import RequestError
from memproxy.memory.search import Match
from memproxy.memory.working import shown_role, shown_text, window_of
from memproxy.memory_api.api import MemoryApi
from memproxy.memory_api.long_term import find
from memproxy.memory_api.memories import result_json
from memproxy.memory_api.requests import ApiRequest, Call, answer
from memproxy.memory_api.rewrite import rewritten
from memproxy.memory_api.schemas import SearchRequest
from memproxy.memory_api.session_schemas import PromptQuery, PromptRequest, PromptSession
from memproxy.memory_api.working_memory import session_key, sessions_of, view_of
from memproxy.proxy.compose import memory_block
from memproxy.proxy.recall import query_of
from memproxy.records import JsonObject, Scope
from memproxy.storage.memory_filter import Filter, TagField, none_of
from memproxy.storage.session_state import Document

MOST_WITHOUT_USER = 20
"""Memories for a query that is nobody's. Source: agent-memory-server."""

SUMMARY_HEADING = "## A summary of the conversation so far:"
MEMORIES_HEADING = "## Long term memories related to the user's query"
NOTHING_FOUND = "No relevant long-term memories found."

_ROLES = {"system": "system", "developer": "system", "user": "user"}
"""Of a prompt; whatever else a session has was said or done by the assistant."""


def routes(api: MemoryApi) -> list[HTTPRouteHandler]:
    """The handler of `/v1/memory/prompt`."""
    return [] if api.sessions is None else [_prompt]


@post("/v1/memory/prompt", status_code=200)
async def _prompt(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    asked, rewrites = await call.body(PromptRequest), call.query(PromptQuery).optimize_query
    return answer(await prompt(call, asked, rewrites=rewrites))


async def prompt(call: Call, asked: PromptRequest, *, rewrites: bool) -> JsonObject:
    """The messages for a model, and the memories among them.

    Raises:
        RequestError: there is nothing to put together.
    """
    if asked.session is None and not asked.long_term_search:
        raise RequestError("Either session or long_term_search must be provided")
    async with call.within_deadline():
        document = await _session(call, asked.session) if asked.session is not None else None
        call = _as_owner(call, document)
        found = await _memories(call, asked, document, rewrites=rewrites)
    messages = [*_history(document), *([] if found is None else [_shown_memories(found)])]
    memories = None if found is None else [result_json(match, mode=None) for match in found]
    return {"messages": [*messages, _message("user", asked.query)], "long_term_memories": memories}


async def _session(call: Call, asked: PromptSession) -> Document:
    """The session as far as it fits; an empty one where there is none."""
    sessions = sessions_of(call)
    key = session_key(call.caller, asked.session_id, user=asked.user_id, namespace=asked.namespace)
    fits = window_of(sessions.windows, model=asked.model_name, most=asked.context_window_max)
    return await sessions.read(key, view_of(fits), connection=None)


def _as_owner(call: Call, document: Document | None) -> Call:
    """The request as if its path named the session's user and namespace: searches are narrowed to them."""
    if document is None:
        return call
    scope = document.key.scope
    return replace(call, caller=replace(call.caller, user=scope.user, namespace=scope.namespace))


async def _memories(
    call: Call, asked: PromptRequest, document: Document | None, *, rewrites: bool
) -> Sequence[Match] | None:
    """The memories for the query; None when none are wanted."""
    wanted = asked.long_term_search
    if isinstance(wanted, SearchRequest):
        request = wanted.model_copy(update={"text": asked.query})
        return (await find(call, request, rewrites=rewrites)).memories
    if not wanted:
        return None
    if call.caller.owner is not None:
        return await _as_the_proxy(call, asked.query, document, rewrites=rewrites)
    request = SearchRequest.model_validate({"text": asked.query, "limit": MOST_WITHOUT_USER, **_not_of(document)})
    return (await find(call, request, rewrites=rewrites)).memories


def _not_of(document: Document | None) -> JsonObject:
    return {} if document is None else {"session_id": {"ne": document.key.session}}


async def _as_the_proxy(call: Call, query: str, document: Document | None, *, rewrites: bool) -> Sequence[Match]:
    """What the proxy would inject before the query."""
    sessions, caller, model = sessions_of(call), call.caller, call.api.model
    said = (
        [shown_text(one.message) for one in document.messages if shown_role(one.message) == "user"] if document else []
    )
    text = await rewritten(query, model) if rewrites and model is not None else query_of([*said, query])
    is_shown = document is not None and not document.cut
    found = await call.api.long_term.search(
        Scope(caller.tenant, caller.owner, caller.namespace),
        text,
        limit=sessions.recall_memories,
        where=Filter((none_of(TagField.SESSION, [document.key.session]),)) if document and is_shown else Filter(),
    )
    block = memory_block(
        found, max_memories=sessions.recall_memories, max_tokens=sessions.recall_tokens, seen=frozenset()
    )
    shown = set(block.memories) if block is not None else set()
    records = [one.record for one in found if one.record.id in shown]
    if records:
        looked_at = call.api.long_term.touch(records, now=sessions.clock.now())
        call.api.tasks.start(looked_at, name="note that memories were looked at")
    return [Match(one.record, one.score, 1.0 - one.vector_score) for one in found if one.record.id in shown]


def _history(document: Document | None) -> list[JsonObject]:
    if document is None:
        return []
    summary = [_message("system", f"{SUMMARY_HEADING}\n{document.summary}")] if document.summary else []
    said = [(shown_role(one.message), shown_text(one.message)) for one in document.messages]
    return [*summary, *(_message(_ROLES.get(role, "assistant"), text) for role, text in said if text.strip())]


def _shown_memories(found: Sequence[Match]) -> JsonObject:
    lines = [f"- {match.record.text} (ID: {match.record.id})" for match in found]
    return _message("system", "\n".join([MEMORIES_HEADING, *(lines or [NOTHING_FOUND])]))


def _message(role: str, text: str) -> JsonObject:
    return {"role": role, "content": {"type": "text", "text": text, "annotations": None, "_meta": None}}
