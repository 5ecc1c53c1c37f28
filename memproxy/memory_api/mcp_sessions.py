"""The tools of the MCP server that work on conversations, carried out by the same code as the REST API."""

from collections.abc import Iterable

from memproxy.errors import NotFoundError
from memproxy.memory.working import Window, window_of
from memproxy.memory_api import mcp_forms as forms
from memproxy.memory_api.mcp_memories import memory_input, says_something, search_request, shown
from memproxy.memory_api.prompt import prompt as put_together
from memproxy.memory_api.requests import Call
from memproxy.memory_api.session_json import session_json, wish_of
from memproxy.memory_api.session_schemas import PromptRequest, PromptSession, SessionInput
from memproxy.memory_api.sessions import Sessions, new_turn_id
from memproxy.memory_api.working_memory import session_key, sessions_of
from memproxy.records import JsonObject, SessionKey
from memproxy.storage.session_state import Document, View

CONNECTION = "mcp"
"""By this name reads and writes of a session are told from those of clients with a connection of their own."""

NEW_TTL_S = 3_600
"""Of a conversation that is not there yet. Source: agent-memory-server's tool."""

SEARCHED = frozenset(forms.Filtered.model_fields) - {"user_id", "namespace", "optimize_query"}
"""Arguments of `memory_prompt` that ask for a search of its own, in place of what the proxy would find."""

FOR_CODE = frozenset(
    {"long_term_memory_strategy", "last_accessed", "context_percentage_total_used"}
    | {"context_percentage_until_summarization", "updated_at"}
)
"""Fields of a session that a model has no use for."""


async def prompt(call: Call, asked: forms.Prompt) -> JsonObject:
    """What a model should see before a message."""
    search = search_request(asked, text=asked.query) if asked.model_fields_set & SEARCHED else True
    session = None
    if asked.session_id is not None:
        session = PromptSession(session_id=asked.session_id, context_window_max=asked.context_window_max)
    request = PromptRequest(query=asked.query, session=session, long_term_search=search)
    found = await put_together(call, request, rewrites=asked.optimize_query)
    messages = [{"role": one["role"], "content": one["content"]["text"]} for one in found["messages"]]
    return {"messages": messages, "long_term_memories": _shown(found["long_term_memories"] or ())}


async def get_session(call: Call, asked: forms.GetSession) -> JsonObject:
    """A conversation, or the end of it."""
    sessions, key = sessions_of(call), _key(call, asked.session_id)
    async with call.within_deadline():
        document = await sessions.read(key, View(messages=asked.recent_messages_limit), connection=CONNECTION)
    if not document.is_there:
        raise NotFoundError(f"Session {asked.session_id} not found")
    return _session(sessions, document)


async def set_session(call: Call, asked: forms.SetSession) -> JsonObject:
    """Keep a conversation. What is not given is read first and given back as it was, so it stays."""
    sessions, key, turn_id = sessions_of(call), _key(call, asked.session_id), new_turn_id()
    window = window_of(sessions.windows, model=None, most=None)
    async with call.within_deadline():
        document = await sessions.read(key, View(), connection=None)  # its caller has not seen what is read here
        wish = wish_of(_body(asked, document, window), key, now=sessions.clock.now(), turn_id=turn_id, window=window)
        return _session(sessions, await sessions.put(key, wish, connection=CONNECTION, turn_id=turn_id))


def _body(asked: forms.SetSession, document: Document, window: Window) -> SessionInput:
    given = asked.model_dump(exclude_none=True, include={"messages", "data", "context", "ttl_seconds"})
    memories = [memory_input(memory).model_dump() for memory in asked.memories or ()]
    if not document.is_there:
        return SessionInput.model_validate({"ttl_seconds": NEW_TTL_S, **given, "memories": memories})
    known = session_json(document, window, data=None)
    whole = {"messages": known["messages"], **given, "memories": [*known["memories"], *memories]}
    return SessionInput.model_validate(whole)


def _key(call: Call, name: str) -> SessionKey:
    return session_key(call.caller, name, user=None, namespace=None)


def _session(sessions: Sessions, document: Document) -> JsonObject:
    session = session_json(document, window_of(sessions.windows, model=None, most=None), data=None)
    told = {name: value for name, value in session.items() if name not in FOR_CODE and says_something(value)}
    names = ("id", "role", "content", "created_at")
    told["messages"] = [{name: message[name] for name in names} for message in session["messages"]]
    return told | {"memories": _shown(session["memories"])}


def _shown(memories: Iterable[JsonObject]) -> list[JsonObject]:
    return [shown(memory) for memory in memories]
