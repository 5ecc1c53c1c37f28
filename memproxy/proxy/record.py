"""Record a finished exchange: one atomic step appends the messages, the pins and the chain, and queues the turn.

It begins after the last byte has gone out, or after the client left, and never holds a request up. While the store is
away, exchanges wait in a bounded buffer, in order; the oldest are given up first, and counted.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from memproxy.clock import Clock
from memproxy.errors import StoreError, StoreReadOnlyError, StoreUnavailableError
from memproxy.identity import Claims
from memproxy.proxy.align import Alignment
from memproxy.proxy.conversation import Conversation, answer_chain, answer_chains, chain_after
from memproxy.proxy.stages import Inbound, Outbound, Remembered
from memproxy.proxy.turns import Exchange, align_again, appended, plan_turn, stored
from memproxy.records import JsonObject, Outcome, Scope, SessionKey, StoredMessage
from memproxy.storage import schema
from memproxy.storage.breaker import Breaker
from memproxy.storage.pressure import Pressure
from memproxy.storage.working import LoadedSession, Receipt, SessionStore
from memproxy.tasks import Tasks
from memproxy.telemetry.metrics import Metrics
from memproxy.tokens import COUNTED_CHARS, EXACT_LIMIT, MESSAGE_OVERHEAD, count_tokens, estimate_tokens
from memproxy.wire.dialect import Answer, Dialect, Request

log = logging.getLogger(__name__)

T = TypeVar("T")

CONFLICT_ATTEMPTS = 5
"""Times that a recording is aligned anew because the session grew meanwhile."""

RETRY_PAUSE_S = 0.5

LEFT_OUT = {Pressure.TIGHT: "context", Pressure.SHORT: "learning"}
"""What is not queued of a turn when the store's memory is short, as metrics name it."""


class Recorder:
    """Records exchanges in the background, in the order in which they ended."""

    def __init__(
        self,
        sessions: SessionStore,
        tasks: Tasks,
        *,
        breaker: Breaker,
        clock: Clock,
        metrics: Metrics,
        buffer_size: int,
        deadline_s: float,
        pressure: Callable[[], Pressure] = lambda: Pressure.NONE,
    ) -> None:
        """`pressure`: how short the store's memory is; asked for each turn, so it must cost nothing."""
        self._sessions = sessions
        self._tasks = tasks
        self._breaker = breaker
        self._clock = clock
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._pressure = pressure
        self._waiting: deque[Exchange] = deque()
        self._buffer_size = buffer_size
        self._pending: dict[str, asyncio.Task[Any]] = {}
        self._retrying: asyncio.Task[Any] | None = None

    @property
    def waiting(self) -> int:
        """Exchanges that wait for the store."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Nothing is being recorded or waits to be."""
        return not self._waiting and not self._pending

    def submit(self, exchange: Exchange, *, marks: Sequence[str]) -> None:
        """Record the exchange in the background. `marks` are what `settled` can be asked for."""
        before = [self._pending[mark] for mark in marks if mark in self._pending]
        task = self._tasks.spawn(self._record_after(before, exchange), name=f"record {exchange.request_id}")
        for mark in marks:
            self._pending[mark] = task
        task.add_done_callback(lambda done: self._forget(done, marks))

    def _forget(self, task: "asyncio.Task[Any]", marks: Sequence[str]) -> None:
        for mark in marks:
            if self._pending.get(mark) is task:
                del self._pending[mark]

    async def settled(self, marks: Sequence[str], *, deadline_s: float) -> None:
        """Wait until recordings under these marks are done, so that a quick next request finds them."""
        tasks = {self._pending[mark] for mark in marks if mark in self._pending}
        if tasks:
            with self._metrics.stage("settle"):
                await asyncio.wait(tasks, timeout=deadline_s)

    async def _record_after(self, before: Sequence["asyncio.Task[Any]"], exchange: Exchange) -> None:
        if before:
            await asyncio.wait(before)
        if self._waiting or not self._breaker.allows():
            self._put_off(exchange)
            return
        try:
            with self._metrics.stage("record"):
                await self._record(exchange)
            self._breaker.succeeded()
        except StoreUnavailableError as error:
            log.warning("recording is put off: %s", error)
            if not isinstance(error, StoreReadOnlyError):  # what is stored can still be read
                self._breaker.failed()
            self._put_off(exchange)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  the client has its answer; what failed here is ours alone
            self._give_up(exchange, error)

    def _give_up(self, exchange: Exchange, error: BaseException) -> None:
        self._metrics.turns_lost.inc()
        log.error("request %s was not recorded", exchange.request_id, exc_info=error)

    def _put_off(self, exchange: Exchange) -> None:
        if len(self._waiting) >= self._buffer_size:
            self._waiting.popleft()
            self._metrics.turns_lost.inc()
        place = len(self._waiting)
        while place and self._waiting[place - 1].answered_at > exchange.answered_at:
            place -= 1  # recordings under way fail in any order
        self._waiting.insert(place, replace(exchange, is_blind=True))  # what it was aligned with will have changed
        if self._retrying is None or self._retrying.done():
            self._retrying = self._tasks.spawn(self._retry(), name="record what had to wait", alone=True)

    async def _retry(self) -> None:
        while self._waiting:
            exchange = self._waiting[0]
            try:
                await self._record(exchange)
            except StoreUnavailableError:
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001  one that can't be recorded must not hold up the others
                self._give_up(exchange, error)
            self._waiting = deque(waiting for waiting in self._waiting if waiting is not exchange)
            self._breaker.succeeded()

    async def _record(self, exchange: Exchange) -> None:
        session, alignment, key = exchange.session, exchange.alignment, exchange.key
        answer = await self._stored_answer(exchange)
        if exchange.is_blind:
            session = await self._in_time(self._load_again(exchange))
            alignment, key = align_again(exchange, session)
        receipt = self._receipt(exchange)
        for _ in range(CONFLICT_ATTEMPTS):
            counts = await self._token_counts(exchange, alignment)
            pressure = self._pressure()
            turn = plan_turn(exchange, session, alignment, key=key, answer=answer, counts=counts, pressure=pressure)
            if turn is None:
                await self._in_time(self._sessions.put_receipt(receipt))
                return
            if await self._in_time(self._sessions.record(turn, receipt=receipt)):
                self._metrics.turns_recorded.labels(exchange.outcome.value).inc()
                if exchange.learns and pressure in LEFT_OUT:
                    self._metrics.turns_thinned.labels(LEFT_OUT[pressure]).inc()
                return
            session = await self._in_time(self._load_again(exchange))
            alignment, key = align_again(exchange, session)
        raise StoreError(f"The session of request {exchange.request_id} kept changing while it was recorded.")

    def _receipt(self, exchange: Exchange) -> Receipt:
        raw = msgspec.json.encode({**exchange.receipt, "recorded_at": self._clock.now()})
        return Receipt(exchange.key.scope.tenant, exchange.request_id, raw)

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await work
        except TimeoutError as error:
            raise StoreUnavailableError(f"The store did not answer within {self._deadline_s} s.") from error

    async def _load_again(self, exchange: Exchange) -> LoadedSession | None:
        named = exchange.key.session if exchange.is_named else None
        chains = exchange.conversation.chains
        return await self._sessions.load(exchange.key.scope, named, chains=chains, want_index=True, tail=0)

    async def _stored_answer(self, exchange: Exchange) -> Sequence[StoredMessage]:
        dialect, messages = exchange.request.dialect, list(exchange.answer.messages)
        is_partial = exchange.outcome is not Outcome.COMPLETED or exchange.answer.error
        if is_partial:
            worth = [whole for message in messages if (whole := dialect.without_calls(message)) is not None]
            messages = worth if any(dialect.text_of(message).strip() for message in worth) else []
        counts = await counted(dialect, messages)
        return [
            stored(message, exchange=exchange, at=exchange.answered_at, tokens=tokens, is_partial=is_partial)
            for message, tokens in zip(messages, counts, strict=True)
        ]

    async def _token_counts(self, exchange: Exchange, alignment: Alignment) -> Sequence[int]:
        return await counted(exchange.request.dialect, [message for _, message in appended(exchange, alignment)])


async def counted(dialect: Dialect, messages: Sequence[JsonObject]) -> Sequence[int]:
    """Tokens of each message; counted in a thread when there is more than a page of text."""
    texts = [dialect.countable_text(message) for message in messages]
    if sum(map(len, texts)) > EXACT_LIMIT:
        return await asyncio.to_thread(_count_all, texts)
    return _count_all(texts)


def _count_all(texts: Sequence[str]) -> list[int]:
    return [
        (count_tokens(text) if len(text) <= COUNTED_CHARS else estimate_tokens(text)) + MESSAGE_OVERHEAD
        for text in texts
    ]


def marks_of(scope: Scope, claims: Claims, conversation: Conversation) -> list[str]:
    """What to wait for before this conversation is read: recordings that it may continue."""
    if claims.session is not None:
        return [schema.session_key("s", SessionKey(scope, claims.session))]
    return [schema.chain_key(scope, None, chain) for chain in conversation.chains[:1]]


def marks_of_references(scope: Scope, claims: Claims, request: Request) -> list[str]:
    """What to wait for before messages that the request refers to are read."""
    if not request.dialect.has_references:
        return []
    if claims.session is not None:
        return [schema.session_key("s", SessionKey(scope, claims.session))]
    references = filter(None, map(request.dialect.reference_of, reversed(request.messages)))
    return [schema.chain_key(scope, None, answer_chain(newest)) for newest in [next(references, "")] if newest]


def marks_after(known: Remembered, answer: Answer) -> list[str]:
    """What a next request of this conversation will wait for."""
    if known.claims.session is not None:
        return [schema.session_key("s", SessionKey(known.scope, known.claims.session))]
    chains = answer_chains(answer)
    if answer.messages:
        chains.append(chain_after(known.request.dialect, known.conversation.chain, answer.messages).hex())
    return [schema.chain_key(known.scope, None, chain) for chain in chains]


def exchange_of(
    inbound: Inbound,
    outbound: Outbound,
    known: Remembered,
    *,
    answer: Answer,
    outcome: Outcome,
    answered_at: datetime,
    receipt: JsonObject,
    instead: tuple[JsonObject, ...],
) -> Exchange:
    """What recording needs of a request and its answer."""
    return Exchange(
        request_id=inbound.id,
        key=known.key,
        is_named=known.claims.session is not None,
        request=known.request,
        conversation=known.conversation,
        session=known.session,
        alignment=known.alignment,
        history=outbound.history,
        placement=outbound.placement,
        cut=outbound.cut,
        answer=answer,
        outcome=outcome,
        learns=known.scope.user is not None,
        at=inbound.at,
        answered_at=answered_at,
        is_retry=known.is_retry,
        is_blind="session" in known.degraded,
        receipt=receipt,
        instead=instead,
        trace=inbound.seen.trace_parent,
    )
