"""The object graph below HTTP: opened once per process in order, closed in reverse."""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from memproxy.clock import Clock, SystemClock
from memproxy.embedding import Embedder
from memproxy.errors import StoreError, StoreUnavailableError, StoreUnfitError
from memproxy.extraction.extract import Extractor
from memproxy.extraction.spending import Budget
from memproxy.identity import Tenants
from memproxy.learning import Client, budget_of, make_extractor
from memproxy.llm import JsonModel
from memproxy.memory.long_term import LongTermMemory
from memproxy.memory.tool_policy import ToolPolicy, parse_policy
from memproxy.model_clients import extraction_model, open_embedder
from memproxy.records import SessionKey, Turn
from memproxy.settings import Settings
from memproxy.storage.breaker import Breaker
from memproxy.storage.connection import open_redis
from memproxy.storage.continuations import ContinuationStore
from memproxy.storage.embedded import EmbeddedStore
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.pipelined import Pipelined
from memproxy.storage.pressure import StoreMemory
from memproxy.storage.query_engine import missing_in_cluster, require_query_engine
from memproxy.storage.queue import Stage, TurnQueue
from memproxy.storage.run_tasks import RunTaskStore
from memproxy.storage.session_data import SessionDataStore
from memproxy.storage.session_documents import SessionDocuments
from memproxy.storage.session_index import SessionIndex
from memproxy.storage.summary_views import SummaryViewStore
from memproxy.storage.tool_counts import ToolCounts
from memproxy.storage.tool_results import ToolResultStore
from memproxy.storage.working import SessionStore
from memproxy.tasks import Tasks
from memproxy.telemetry.metrics import Metrics
from memproxy.telemetry.traces import open_traces
from memproxy.tokens import load_vocabulary

log = logging.getLogger(__name__)

BREAKER_FAILURES = 3
BREAKER_PAUSE_S = 1.0
START_DEADLINE_S = 5.0
"""How long starting waits for a store that does not answer, before it goes on without."""

RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that requests and workers share. `sessions` and what is below it raise `StoreError`."""

    settings: Settings
    clock: Clock
    metrics: Metrics
    tasks: Tasks
    tenants: Tenants
    sessions: SessionStore
    breaker: Breaker
    long_term: LongTermMemory
    extractor: Extractor
    queues: dict[Stage, TurnQueue]
    store_memory: StoreMemory
    tool_policy: ToolPolicy
    tool_results: ToolResultStore
    tool_counts: ToolCounts
    session_data: SessionDataStore
    session_documents: SessionDocuments
    session_index: SessionIndex
    continuations: ContinuationStore
    summary_views: SummaryViewStore
    run_tasks: RunTaskStore
    model: JsonModel | None
    """The background model."""
    budget: Budget
    """What it may cost each tenant."""
    on_persisted: Callable[[Turn, datetime], Awaitable[None]] | None = None
    """Told when the records that a turn brought with it have been stored."""


@asynccontextmanager
async def open_services(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[Services]:
    """Open the store and all that stands on it.

    A store that does not answer yet is no reason not to start: requests go through without memory until it does.

    Raises:
        StoreUnavailableError: the embedded store can't be started; the message says what to do.
        StoreUnfitError: the store answers but has no query engine.
        SettingsError: traces are asked for and can't be had.
    """
    text, source = settings.tool_rules()
    policy = parse_policy(text, source=source)
    async with AsyncExitStack() as stack:
        traces = await stack.enter_async_context(open_traces(setting=settings.tracing, environment=os.environ))
        redis = await _open_store(settings, stack)
        embedder = await stack.enter_async_context(open_embedder(settings))
        await asyncio.to_thread(load_vocabulary)
        model = extraction_model(settings, traces)
        if model is not None:
            await stack.enter_async_context(model)
        commands = Pipelined(redis)
        store = LongTermStore(redis, model=embedder.name, dims=embedder.dims, commands=commands)
        services = _assembled(
            settings,
            redis,
            commands=commands,
            long_term=LongTermMemory(store, embedder),
            embedder=embedder,
            model=model,
            policy=policy,
            clock=clock or SystemClock(),
            metrics=Metrics(traces),
        )
        await _prepare_soon(stack, services, store, redis)
        stack.push_async_callback(services.tasks.drain, settings.shutdown_grace_s)
        yield services


async def _open_store(settings: Settings, stack: AsyncExitStack) -> Client:
    url = settings.store_url
    if not url:
        url = (await stack.enter_async_context(EmbeddedStore(settings.data_dir))).url
    redis = open_redis(
        url, connect_timeout_s=settings.redis_connect_timeout_s, max_connections=settings.redis_connections
    )
    stack.push_async_callback(redis.aclose)
    return redis


def _assembled(
    settings: Settings,
    redis: Client,
    *,
    commands: Pipelined,
    long_term: LongTermMemory,
    embedder: Embedder,
    model: JsonModel | None,
    policy: ToolPolicy,
    clock: Clock,
    metrics: Metrics,
) -> Services:
    ttls = {"named_ttl_s": settings.session_ttl_s, "unnamed_ttl_s": settings.unnamed_session_ttl_s}
    sessions = SessionStore(redis, receipt_ttl_s=settings.receipt_ttl_s, commands=commands, **ttls)
    documents = SessionDocuments(redis, index := SessionIndex(redis), **ttls)
    budget = budget_of(settings, redis, clock)
    far = embedder.unrelated
    extractor = make_extractor(
        settings, redis, long_term=long_term, sessions=sessions, model=model, budget=budget, unrelated=far
    )
    return Services(
        settings=settings,
        clock=clock,
        metrics=metrics,
        tasks=Tasks(),
        tenants=Tenants(tells_apart=settings.tells_tenants_apart),
        sessions=sessions,
        breaker=Breaker(threshold=BREAKER_FAILURES, pause_s=BREAKER_PAUSE_S, monotonic_s=clock.monotonic_s),
        long_term=long_term,
        extractor=extractor,
        queues={stage: TurnQueue(redis, stage=stage) for stage in Stage},
        store_memory=StoreMemory(redis),
        tool_policy=policy,
        tool_counts=ToolCounts(redis),
        session_data=SessionDataStore(redis, unrecorded_ttl_s=settings.unnamed_session_ttl_s),
        continuations=ContinuationStore(redis, ttl_s=settings.unnamed_session_ttl_s),
        session_documents=documents,
        session_index=index,
        summary_views=SummaryViewStore(redis),
        run_tasks=RunTaskStore(redis),
        model=model,
        budget=budget,
        on_persisted=_noting(documents),
        tool_results=ToolResultStore(redis, max_results=policy.max_results, max_bytes=policy.max_session_bytes),
    )


def _noting(documents: SessionDocuments) -> Callable[[Turn, datetime], Awaitable[None]]:
    """Says in a session which of the memories beside it are stored."""

    async def note(turn: Turn, at: datetime) -> None:
        ids = [memory.id for memory in turn.memories]
        await documents.mark_persisted(SessionKey(turn.scope, turn.session), ids, at)

    return note


async def _prepare_soon(stack: AsyncExitStack, services: Services, store: LongTermStore, redis: Client) -> None:
    """Make the store ready, now or when it comes."""
    try:
        async with asyncio.timeout(START_DEADLINE_S):
            await _prepare(services, store, redis)
    except (StoreUnavailableError, TimeoutError) as error:
        log.warning("starting without memory, the store does not answer yet: %s", error)
        waiting = Tasks()
        stack.push_async_callback(waiting.drain, 0)
        waiting.start(_prepare_when_there(services, store, redis), name="prepare the store")


async def _prepare(services: Services, store: LongTermStore, redis: Client) -> None:
    if missing := await missing_in_cluster(redis):
        log.warning("%s", missing)
        store.turn_off(missing)
    else:
        await require_query_engine(redis)
        await store.ensure_index()
        await services.session_index.ensure_index()
    services.tenants.secret = await services.sessions.secret(secrets.token_bytes(32))


async def _prepare_when_there(services: Services, store: LongTermStore, redis: Client) -> None:
    while True:
        try:
            await _prepare(services, store, redis)
        except StoreUnfitError as error:
            log.error("memory stays off: %s", error)
            return
        except StoreError:
            await asyncio.sleep(RETRY_S)
        else:
            log.info("the store is there; memory is on")
            return
