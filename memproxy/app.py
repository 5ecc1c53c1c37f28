"""Wire services into the web application: the provider's API, the memory API, receipts, health, metrics.

The provider's API is a plain ASGI app in front; memproxy's own pages and the memory API are ordinary litestar handlers
behind it. (A mount at the root would shadow every handler with a path parameter.)
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote

import msgspec
from litestar import Litestar, MediaType, Request, Response, get
from litestar.exceptions import HTTPException
from litestar.params import FromPath

from memproxy.errors import MemproxyError, NotFoundError, RequestError, StoreAwayError, StoreError
from memproxy.identity import credential_of, read_claims
from memproxy.memory.view_runs import ViewRuns
from memproxy.memory_api.api import MemoryApi
from memproxy.memory_api.mcp_server import McpApp, McpDefaults, mcp_identity
from memproxy.memory_api.paths import ApiPath, api_path
from memproxy.memory_api.requests import IDENTITY_PREFIX
from memproxy.memory_api.routes import memory_app
from memproxy.memory_api.sessions import Sessions
from memproxy.memory_api.summary_views import views_of
from memproxy.memory_api.watched import WatchedApi
from memproxy.proxy.assemble import Assembler
from memproxy.proxy.cached_results import ToolCache
from memproxy.proxy.client import Message, Receive, Send
from memproxy.proxy.continuations import Continuations
from memproxy.proxy.memory_tools import MemoryTools
from memproxy.proxy.pipeline import SETTLE_DEADLINE_S, Pipeline
from memproxy.proxy.recall import Recall
from memproxy.proxy.receipts import Receipts
from memproxy.proxy.record import Recorder
from memproxy.proxy.routes import ProxyApp
from memproxy.proxy.stages import Policy
from memproxy.proxy.upstream import Upstream
from memproxy.proxy.watched import WatchedSender
from memproxy.proxy.watching import Watching
from memproxy.records import MemoryMode, Scope, SessionKey
from memproxy.services import Services
from memproxy.settings import LOOPBACK, Settings
from memproxy.storage.deadline import within
from memproxy.storage.schema import session_key
from memproxy.telemetry.requests import RequestWatch
from memproxy.telemetry.several_processes import SharedMetrics
from memproxy.tokens import Windows

log = logging.getLogger(__name__)

OWN_SEGMENTS = frozenset({b"healthz", b"readyz", b"metrics", b"memproxy"})
"""First segments of paths that memproxy serves itself; all others are the provider's."""

HandlerRequest = Request[Any, Any, Any]


def open_upstream(services: Services) -> Upstream:
    """The model server that the settings name."""
    settings = services.settings
    return Upstream(
        settings.upstream_base_url,
        api_key=settings.upstream_api_key.get_secret_value() if settings.upstream_api_key else None,
        connect_timeout_s=settings.upstream_connect_timeout_s,
        idle_timeout_s=settings.upstream_idle_timeout_s,
        connections=settings.upstream_connections,
    )


@dataclass(slots=True)
class App:
    """The ASGI application of one process."""

    proxy: ProxyApp
    pages: Litestar
    memory_api: WatchedApi
    mcp: McpApp
    watched_mcp: WatchedApi
    recorder: Recorder
    is_draining: bool = False

    def drain(self) -> None:
        """Say that this process is not ready any more; what is under way, and what still comes, is served."""
        self.is_draining = True
        self.proxy.drain()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request: the provider's API first, since that is where every microsecond counts."""
        path: str = scope["path"]
        if scope["type"] == "websocket":  # there is one of the provider's API alone; others are refused there
            await self.proxy(scope, receive, send)
        elif path.lstrip("/").partition("/")[0].encode() in OWN_SEGMENTS:
            await self.pages(scope, receive, send)  # type: ignore[arg-type]  # litestar's own names for ASGI's types
        elif (found := api_path(scope.get("raw_path") or path.encode())) is not None:
            await self.memory_api(_below(found, scope), receive, send)
        elif (identity := mcp_identity(scope.get("raw_path") or path.encode())) is not None:
            await self.watched_mcp(scope, receive, send, identity=identity)
        else:
            await self.proxy(scope, receive, send)


def _below(found: ApiPath, scope: Message) -> Message:
    """The request as the memory API takes it: the identity stands beside the path, not in it."""
    path = unquote(found.path.decode("latin-1"))
    return {**scope, "path": path, "raw_path": found.path, IDENTITY_PREFIX: found.identity}


def create_app(services: Services, upstream: Upstream, *, shared: SharedMetrics | None = None) -> App:
    """The application over these services. `shared`: the metrics of processes beside this one are shown, too."""
    settings = services.settings
    recall = Recall(
        services.sessions,
        services.long_term,
        services.breaker,
        session_deadline_s=settings.session_deadline_s,
        search_deadline_s=settings.recall_deadline,
    )
    recorder, receipts = _recorder(services), Receipts()
    watched = WatchedSender(upstream, services.metrics, base_url=settings.upstream_base_url)
    pipeline = _pipeline(services, watched, recall=recall, recorder=recorder, receipts=receipts)
    watch = RequestWatch(services.metrics, has_access_log=settings.access_log)
    sockets = upstream if settings.responses_websocket else None
    proxy = ProxyApp(pipeline, watched, services.tasks, watch, sockets=sockets)
    api = memory_api(services, settled=_settled(recorder))
    mcp = McpApp(api, defaults=mcp_defaults(settings), is_loopback=settings.listen_host in LOOPBACK)
    app = App(
        proxy,
        Litestar(openapi_config=None, logging_config=None),
        WatchedApi(memory_app(api), watch, services.metrics, kind="memory_api"),
        mcp,
        WatchedApi(mcp, watch, services.metrics, kind="mcp", route="/mcp"),
        recorder,
    )
    app.pages = Litestar(
        [
            _healthz,
            _readyz(lambda: not app.is_draining),
            _metrics(services, recorder, shared),
            _explain(services, receipts),
            _usage(services),
        ],
        openapi_config=None,
        logging_config=None,
        exception_handlers={MemproxyError: _own_error, HTTPException: _http_error},
    )
    return app


def _recorder(services: Services) -> Recorder:
    settings = services.settings
    return Recorder(
        services.sessions,
        services.tasks,
        breaker=services.breaker,
        clock=services.clock,
        metrics=services.metrics,
        buffer_size=settings.record_buffer,
        deadline_s=settings.record_deadline_s,
        pressure=lambda: services.store_memory.pressure,
    )


def _pipeline(
    services: Services, upstream: WatchedSender, *, recall: Recall, recorder: Recorder, receipts: Receipts
) -> Pipeline:
    settings, policy = services.settings, _policy(services)
    return Pipeline(
        upstream=upstream,
        recall=recall,
        recorder=recorder,
        receipts=receipts,
        assembler=Assembler(recall, _windows(settings), policy, services.metrics),
        tool_cache=ToolCache(
            services.tool_results,
            services.tool_counts,
            services.tool_policy,
            clock=services.clock,
            metrics=services.metrics,
            deadline_s=settings.session_deadline_s,
        ),
        continuations=Continuations(services.continuations, services.tasks, deadline_s=settings.session_deadline_s),
        memory_tools=MemoryTools(services.long_term, services.session_data, clock=services.clock),
        tasks=services.tasks,
        policy=policy,
        tenants=services.tenants,
        clock=services.clock,
        metrics=services.metrics,
        watching=Watching(services.metrics, base_url=settings.upstream_base_url),
    )


def mcp_defaults(settings: Settings) -> McpDefaults:
    """Whose memory MCP's tools work on when nobody says."""
    return McpDefaults(settings.mcp_user or None, settings.mcp_namespace or None)


def _settled(recorder: Recorder) -> Callable[[SessionKey], Awaitable[None]]:
    """Waits as a next request of the session would for what is being recorded."""

    async def settled(key: SessionKey) -> None:
        await recorder.settled([session_key("s", key)], deadline_s=SETTLE_DEADLINE_S)

    return settled


async def _at_once(_: SessionKey) -> None:
    """In a process that records nothing there is nothing to wait for."""


def memory_api(services: Services, *, settled: Callable[[SessionKey], Awaitable[None]] = _at_once) -> MemoryApi:
    """What the memory API and MCP work with."""
    settings = services.settings
    views = views_of(services)
    return MemoryApi(
        tenants=services.tenants,
        clock=services.clock,
        tasks=services.tasks,
        long_term=services.long_term,
        views=views,
        runs=ViewRuns(views, services.run_tasks, tasks=services.tasks, clock=services.clock),
        deadline_s=settings.api_deadline_s,
        model_deadline_s=settings.extraction_timeout_s,
        max_body_bytes=int(settings.max_body_mb * 1_048_576),
        default_user=settings.default_user or None,
        is_on=settings.memory is not MemoryMode.OFF,
        model=services.model,
        sessions=Sessions(
            services.session_documents,
            services.session_index,
            _windows(settings),
            services.clock,
            settled=settled,
            shows_unsaved=settings.legacy_unsaved_sessions,
            recall_memories=settings.recall_memories,
            recall_tokens=settings.recall_tokens,
        ),
    )


def _windows(settings: Settings) -> Windows:
    return Windows(settings.windows(), default=settings.default_window)


def _policy(services: Services) -> Policy:
    settings = services.settings
    return Policy(
        memory=settings.memory,
        default_user=settings.default_user or None,
        max_body_bytes=int(settings.max_body_mb * 1_048_576),
        max_memories=settings.recall_memories,
        max_memory_tokens=settings.recall_tokens,
        keep_share=settings.history_keep_share,
        tools=settings.tools,
        tool_cache=settings.tool_cache,
        answer_rounds=settings.answer_rounds,
        answer_s=settings.answer_s,
    )


@get("/healthz", media_type=MediaType.JSON, sync_to_thread=False)
def _healthz() -> dict[str, str]:
    return {"status": "ok"}


def _readyz(is_ready: Callable[[], bool]) -> Any:
    @get("/readyz", media_type=MediaType.JSON, sync_to_thread=False)
    def readyz() -> Response[dict[str, str]]:
        """Able to serve requests; with or without the store."""
        ready = is_ready()
        return Response({"status": "ready" if ready else "draining"}, status_code=200 if ready else 503)

    return readyz


def _metrics(services: Services, recorder: Recorder, shared: SharedMetrics | None) -> Any:
    services.metrics.turns_waiting.set_function(lambda: recorder.waiting)
    services.metrics.store_away.set_function(lambda: services.breaker.is_open)
    source = shared or services.metrics

    @get("/metrics", media_type=MediaType.TEXT, sync_to_thread=True)
    def metrics() -> Response[bytes]:
        """Prometheus' text format."""
        return Response(source.render(), media_type="text/plain; version=0.0.4")

    return metrics


def _explain(services: Services, receipts: Receipts) -> Any:
    @get("/memproxy/explain/{request_id:str}", media_type=MediaType.JSON)
    async def explain(request_id: FromPath[str], request: HandlerRequest) -> Response[bytes]:
        """What was done to a request; only for the tenant whose request it was."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        tenant = services.tenants.tenant_of(credential_of(headers))
        receipt = await _receipt(services, receipts, tenant, request_id)
        if receipt is None:
            raise NotFoundError(
                "There is no receipt of this id. Receipts are kept for receipt_ttl_s seconds and shown only under the "
                "credential that the request was made with."
            )
        return Response(receipt, media_type=MediaType.JSON)

    return explain


def _usage(services: Services) -> Any:
    @get("/memproxy/sessions/{session:str}/usage", media_type=MediaType.JSON)
    async def usage(session: FromPath[str], request: HandlerRequest) -> dict[str, int | str | float | None]:
        """What the provider's prompt cache gave a session; user and namespace as a request names them, or as query."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        tenant = services.tenants.tenant_of(credential_of(headers))
        claims = read_claims(headers, {}, {}, default_user=services.settings.default_user or None)
        user = request.query_params.get("user_id") or claims.user
        namespace = request.query_params.get("namespace") or claims.namespace
        key = SessionKey(Scope(tenant or "", user, namespace), session)
        deadline_s = services.settings.api_deadline_s
        try:
            async with within(deadline_s, "reading a session's account"):
                account = await services.sessions.account(key) if tenant is not None else None
        except StoreError as error:
            log.warning("a session's account was not read: %s", error)
            raise StoreAwayError("The memory store can't be used right now; try again.") from error
        if account is None:
            raise NotFoundError("There is no such session of this user and namespace under this credential.")
        share = account.cached_tokens / account.prompt_tokens if account.prompt_tokens else None
        return {"session_id": session, **asdict(account), "cached_share": share}

    return usage


async def _receipt(services: Services, receipts: Receipts, tenant: str | None, request_id: str) -> bytes | None:
    if tenant is None:
        return None
    at_hand = receipts.get(tenant, request_id)
    if at_hand is not None:
        return msgspec.json.encode(at_hand)
    try:
        async with within(services.settings.api_deadline_s, "reading a receipt"):
            return await services.sessions.receipt(tenant, request_id)
    except StoreError:
        return None


def _own_error(_: HandlerRequest, error: MemproxyError) -> Response[Any]:
    known = error if isinstance(error, RequestError) else RequestError(str(error))
    return Response(known.openai_body(), status_code=known.status)


def _http_error(_: HandlerRequest, error: HTTPException) -> Response[Any]:
    """litestar's own refusals in OpenAI's shape."""
    known = RequestError(error.detail)
    return Response(known.openai_body(), status_code=error.status_code)
