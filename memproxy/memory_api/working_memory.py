"""The operations on sessions over REST: list, read, write, delete.

They are the sessions that the proxy captures. A session is found by exactly its tenant, user, namespace and name.
"""

from litestar import Response, delete, get, put
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler

from memproxy.errors import NotConfiguredError, NotFoundError
from memproxy.identity import checked
from memproxy.memory.working import Window, window_of
from memproxy.memory_api.api import MemoryApi
from memproxy.memory_api.requests import ApiRequest, Call, Caller, answer
from memproxy.memory_api.schemas import ScopeQuery
from memproxy.memory_api.session_json import UNDATED, has_undated, session_json, unsaved_json, wish_of
from memproxy.memory_api.session_schemas import ListQuery, SessionInput, SessionQuery
from memproxy.memory_api.sessions import Sessions, new_turn_id
from memproxy.records import Scope, SessionKey
from memproxy.storage.session_state import View

PATH = "/v1/working-memory"
ONE = f"{PATH}/{{session_id:path}}"


def routes(api: MemoryApi) -> list[HTTPRouteHandler]:
    """The handlers under `/v1/working-memory`."""
    return [] if api.sessions is None else [_list, _get, _put, _delete]


def sessions_of(call: Call) -> Sessions:
    """The sessions that are served."""
    if call.api.sessions is None:
        raise NotConfiguredError("No sessions are served here.")
    return call.api.sessions


def session_key(caller: Caller, name: str, *, user: str | None, namespace: str | None) -> SessionKey:
    """The session of this name; user and namespace are the caller's where the request names none."""
    return SessionKey(Scope(caller.tenant, user or caller.owner, namespace or caller.namespace), name)


def window(sessions: Sessions, asked: SessionQuery) -> Window:
    """The window that a request names."""
    return window_of(sessions.windows, model=asked.model_name, most=asked.context_window_max)


def view_of(window: Window, *, most: int | None = None) -> View:
    """How much of a session is shown: what fits into the window that was named, and at most so many messages."""
    return View(messages=max(0, most or 0), tokens=window.tokens if window.is_given else 0)


@get(PATH)
async def _list(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    asked, caller = call.query(ListQuery), call.caller
    async with call.within_deadline():
        page = await sessions_of(call).index.page(
            caller.tenant,
            user=asked.user_id or caller.user,
            namespace=asked.namespace or caller.namespace,
            limit=asked.limit,
            offset=asked.offset,
        )
    return answer({"sessions": page.names, "total": page.total})


@get(ONE)
async def _get(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    sessions, asked = sessions_of(call), call.query(SessionQuery)
    key = session_key(call.caller, _name(call), user=asked.user_id, namespace=asked.namespace)
    fits = window(sessions, asked)
    async with call.within_deadline():
        view = view_of(fits, most=asked.recent_messages_limit)
        document = await sessions.read(key, view, connection=_connection(call))
    if document.is_there:
        return answer(session_json(document, fits, data={}))
    if sessions.shows_unsaved:
        return answer(unsaved_json(key, fits, now=sessions.clock.now()))
    raise NotFoundError(f"Session {key.session} not found")


@put(ONE)
async def _put(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    sessions, asked, body = sessions_of(call), call.query(SessionQuery), await call.body(SessionInput)
    # The client names the user in the query alone.
    user, namespace = asked.user_id or body.user_id, asked.namespace or body.namespace
    key = session_key(call.caller, _name(call), user=user, namespace=namespace)
    fits, turn_id = window(sessions, asked), new_turn_id()
    wish = wish_of(body, key, now=sessions.clock.now(), turn_id=turn_id, window=fits)
    async with call.within_deadline():
        document = await sessions.put(key, wish, connection=_connection(call), turn_id=turn_id)
    headers = {"X-Deprecation-Warning": UNDATED} if has_undated(body) else {}
    return answer(session_json(document, fits, data=None if body.data is None else {}), headers=headers)


@delete(ONE, status_code=200)
async def _delete(call: NamedDependency[ApiRequest]) -> Response[bytes]:
    asked = call.query(ScopeQuery)
    key = session_key(call.caller, _name(call), user=asked.user_id, namespace=asked.namespace)
    async with call.within_deadline():
        await sessions_of(call).documents.delete(key)
    return answer({"status": "ok"})


def _name(call: ApiRequest) -> str:
    return checked("session", call.ids(below="working-memory")[0], source="the path")


def _connection(call: ApiRequest) -> str:
    """What tells the client's connections apart, as far as can be seen from here."""
    client = call.http.scope.get("client")
    return ":".join(map(str, client)).replace(" ", "") if client else "-"
