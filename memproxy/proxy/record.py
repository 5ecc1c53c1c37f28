"""Record a finished exchange: one atomic step appends the messages, the pins and the chain, and queues the turn.

It begins after the last byte has gone out, or after the client left, and never holds a request up. While the store is
away, exchanges wait in a bounded buffer, in order; the oldest are given up first, and counted.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from memproxy.clock import Clock
from memproxy.errors import StoreError, StoreUnavailableError
from memproxy.proxy.align import Alignment, align
from memproxy.proxy.compose import Cut, Placement, message_without_blocks
from memproxy.proxy.conversation import Conversation, extend, flags_of, stored_entries
from memproxy.records import JsonObject, Outcome, Pin, SessionKey, StoredMessage, Turn
from memproxy.storage.breaker import Breaker
from memproxy.storage.queue import encode_turn
from memproxy.storage.working import LoadedSession, NewTurn, SessionStore
from memproxy.tasks import Tasks
from memproxy.telemetry import Metrics
from memproxy.tokens import EXACT_LIMIT, MESSAGE_OVERHEAD, count_tokens
from memproxy.wire import chat_completions as chat
from memproxy.wire.chat_answers import Answer
from memproxy.wire.chat_completions import ChatRequest

log = logging.getLogger(__name__)

T = TypeVar("T")

CONTEXT_MESSAGES = 2
"""Messages before a turn that go to the queue with it: what grounds its first words."""

CONFLICT_ATTEMPTS = 5
"""Times that a recording is aligned anew because the session grew meanwhile."""

RETRY_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what came of it, with all that recording needs."""

    request_id: str
    key: SessionKey
    is_named: bool
    request: ChatRequest
    conversation: Conversation
    session: LoadedSession | None
    """As it was when the request came."""
    alignment: Alignment
    history: Sequence[StoredMessage]
    """Stored messages that were sent along."""
    placement: Placement | None
    cut: Cut
    answer: Answer
    outcome: Outcome
    learns: bool
    at: datetime
    answered_at: datetime
    is_retry: bool
    is_blind: bool
    """The session could not be read when the request came, or that was too long ago."""
    receipt: Mapping[str, object]
    instead: tuple[JsonObject, ...] = ()
    """What the model server was sent and said where calls were answered inside, the client's answer last."""


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
    ) -> None:
        self._sessions = sessions
        self._tasks = tasks
        self._breaker = breaker
        self._clock = clock
        self._metrics = metrics
        self._deadline_s = deadline_s
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
            await asyncio.wait(tasks, timeout=deadline_s)

    async def _record_after(self, before: Sequence["asyncio.Task[Any]"], exchange: Exchange) -> None:
        if before:
            await asyncio.wait(before)
        if self._waiting or not self._breaker.allows():
            self._put_off(exchange)
            return
        try:
            await self._record(exchange)
            self._breaker.succeeded()
        except StoreUnavailableError as error:
            log.warning("recording is put off: %s", error)
            self._breaker.failed()
            self._put_off(exchange)
        except Exception:  # the client has its answer; what failed here is ours alone
            self._metrics.turns_lost.inc()
            log.exception("request %s was not recorded", exchange.request_id)

    def _put_off(self, exchange: Exchange) -> None:
        if len(self._waiting) >= self._buffer_size:
            self._waiting.popleft()
            self._metrics.turns_lost.inc()
        self._waiting.append(replace(exchange, is_blind=True))  # what it was aligned with will have changed by then
        if self._retrying is None or self._retrying.done():
            self._retrying = self._tasks.spawn(self._retry(), name="record what had to wait")

    async def _retry(self) -> None:
        while self._waiting:
            exchange = self._waiting[0]
            try:
                await self._record(exchange)
            except StoreUnavailableError:
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            except Exception:  # one exchange that can't be recorded must not hold up the others
                self._metrics.turns_lost.inc()
                log.exception("request %s was not recorded", exchange.request_id)
            if self._waiting and self._waiting[0] is exchange:
                self._waiting.popleft()
            self._breaker.succeeded()

    async def _record(self, exchange: Exchange) -> None:
        session, alignment, key = exchange.session, exchange.alignment, exchange.key
        answer = await self._stored_answer(exchange)
        if exchange.is_blind:
            session = await self._in_time(self._load_again(exchange))
            alignment, key = align_again(exchange, session)
        for _ in range(CONFLICT_ATTEMPTS):
            counts = await self._token_counts(exchange, alignment)
            turn = plan_turn(exchange, session, alignment, key=key, answer=answer, counts=counts)
            if turn is None:
                break
            if await self._in_time(self._sessions.record(turn)):
                await self._keep_instructions(exchange, session, key)
                self._metrics.turns_recorded.labels(exchange.outcome.value).inc()
                break
            session = await self._in_time(self._load_again(exchange))
            alignment, key = align_again(exchange, session)
        else:
            raise StoreError(f"The session of request {exchange.request_id} kept changing while it was recorded.")
        receipt = msgspec.json.encode({**exchange.receipt, "recorded_at": self._clock.now()})
        await self._in_time(self._sessions.put_receipt(key.scope.tenant, exchange.request_id, receipt))

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await work
        except TimeoutError as error:
            raise StoreUnavailableError(f"The store did not answer within {self._deadline_s} s.") from error

    async def _load_again(self, exchange: Exchange) -> LoadedSession | None:
        named = exchange.key.session if exchange.is_named else None
        chains = [prefix.chain for prefix in exchange.conversation.prefixes]
        return await self._sessions.load(exchange.key.scope, named, chains=chains, want_index=True, tail=0)

    async def _stored_answer(self, exchange: Exchange) -> StoredMessage | None:
        message = exchange.answer.message
        is_partial = exchange.outcome is not Outcome.COMPLETED or exchange.answer.error
        if message is not None and is_partial:
            message = chat.without_calls(message)
        if message is None or (is_partial and not chat.message_text(message).strip()):
            return None
        (tokens,) = await counted([message])
        return stored(message, exchange=exchange, at=exchange.answered_at, tokens=tokens, is_partial=is_partial)

    async def _token_counts(self, exchange: Exchange, alignment: Alignment) -> Sequence[int]:
        return await counted([message for _, message in appended(exchange, alignment)])

    async def _keep_instructions(self, exchange: Exchange, session: LoadedSession | None, key: SessionKey) -> None:
        count = exchange.request.instructions
        kept = session.instructions if session is not None and session.key == key else ""
        if count and kept != instructions_digest(exchange.request):
            raw = msgspec.json.encode(exchange.request.messages[:count])
            await self._in_time(self._sessions.keep_instructions(key, raw=raw, is_named=exchange.is_named))


async def counted(messages: Sequence[JsonObject]) -> Sequence[int]:
    """Tokens of each message; counted in a thread when there is more than a page of text."""
    texts = [chat.countable_text(message) for message in messages]
    if sum(map(len, texts)) > EXACT_LIMIT:
        return await asyncio.to_thread(_count_all, texts)
    return _count_all(texts)


def _count_all(texts: Sequence[str]) -> list[int]:
    return [count_tokens(text) + MESSAGE_OVERHEAD for text in texts]


def appended(exchange: Exchange, alignment: Alignment) -> list[tuple[int, JsonObject]]:
    """The client's messages that go into the log, with their index behind the instructions."""
    own = exchange.request.instructions
    return [
        (index, exchange.request.messages[own + index])
        for index, position in enumerate(alignment.positions)
        if position is not None and position >= alignment.keep
    ]


def align_again(exchange: Exchange, session: LoadedSession | None) -> tuple[Alignment, SessionKey]:
    """Where the exchange belongs in a session that has changed since the request came."""
    entries = exchange.conversation.entries
    if session is None:
        key = SessionKey(exchange.key.scope, exchange.key.session)
        return align((), entries, sends_newest=False), key
    now = stored_entries(session.index)
    alignment = align(now, entries, sends_newest=session.sends_newest, is_retry=exchange.is_retry)
    return alignment, target_key(session, alignment, fresh=exchange.request_id, is_named=exchange.is_named)


def target_key(session: LoadedSession, alignment: Alignment, *, fresh: str, is_named: bool) -> SessionKey:
    """The thread that a turn is appended to. A branch of a named session is a thread of it; without a name it is a
    session of its own, since another conversation may have begun with the same words."""
    if not alignment.branches:
        return session.key
    if is_named:
        return SessionKey(session.key.scope, session.key.session, thread=fresh)
    return SessionKey(session.key.scope, unnamed_session(fresh))


def unnamed_session(fresh: str) -> str:
    """The name of a session that its client did not name."""
    return f"conv-{fresh.rpartition('-')[2]}"


def instructions_digest(request: ChatRequest) -> str:
    """What tells whether the agent's instructions changed."""
    return b"".join(chat.digest(message) for message in request.messages[: request.instructions]).hex()[:64]


def stored(
    message: JsonObject, *, exchange: Exchange, at: datetime, tokens: int, is_partial: bool = False
) -> StoredMessage:
    """A message as it is kept: whole, but without blocks that memproxy put into it."""
    return StoredMessage(
        message=message_without_blocks(message),
        digest=chat.digest(message).hex(),
        tokens=tokens,
        at=at,
        turn=exchange.request_id,
        partial=is_partial,
    )


def plan_turn(
    exchange: Exchange,
    session: LoadedSession | None,
    alignment: Alignment,
    *,
    key: SessionKey,
    answer: StoredMessage | None,
    counts: Sequence[int],
) -> NewTurn | None:
    """All that this exchange writes; None when the session holds it already."""
    new = [
        (index, stored(message, exchange=exchange, at=exchange.at, tokens=tokens))
        for (index, message), tokens in zip(appended(exchange, alignment), counts, strict=True)
    ]
    messages = tuple(message for _, message in new) + ((answer,) if answer is not None else ())
    if not messages or _holds(session, exchange, alignment, answer):
        return None
    branch = session is not None and alignment.branches
    learned = tuple(message for index, message in new if not alignment.known[index])
    learned += (answer,) if answer is not None else ()
    return NewTurn(
        key=key,
        turn_id=exchange.request_id,
        expected_length=0 if branch or session is None else session.length,
        keep=0 if branch else alignment.keep,
        messages=messages,
        flags=tuple(flags_of(message.message, is_partial=message.partial) for message in messages),
        facts=_facts(exchange, session, alignment, key=key, messages=messages),
        pins=_pins(exchange, alignment, answer_at=alignment.keep + len(new) if answer is not None else None),
        queued=encode_turn(_queued(exchange, key, learned)) if exchange.learns and learned else b"",
        chain=_chain(exchange, alignment, answer),
        is_named=exchange.is_named,
        parent=session.key if branch and session is not None else None,
        copied=alignment.keep if branch else 0,
    )


def _holds(
    session: LoadedSession | None, exchange: Exchange, alignment: Alignment, answer: StoredMessage | None
) -> bool:
    """The log has this very exchange: an earlier attempt went through unnoticed, or a later turn brought it along.

    That the log ends with the same words would not do: users say "ok" twice and are answered alike.
    """
    if session is None:
        return False
    if session.last_turn == exchange.request_id:
        return True
    if answer is None or alignment.head or len(session.index) != session.length:
        return False
    digests = [entry.digest for entry in exchange.conversation.entries] + [bytes.fromhex(answer.digest)]
    return [entry.digest for entry in session.index[: len(digests)]] == digests


def _facts(
    exchange: Exchange,
    session: LoadedSession | None,
    alignment: Alignment,
    *,
    key: SessionKey,
    messages: Sequence[StoredMessage],
) -> Mapping[str, str]:
    kept = 0
    if session is not None:
        whole = alignment.keep == session.length
        kept = session.tokens if whole else sum(entry.tokens for entry in session.index[: alignment.keep])
    facts = {
        "session": key.session,
        "thread": key.thread,
        "user": key.scope.user or "",
        "namespace": key.scope.namespace or "",
        "updated_at": exchange.answered_at.isoformat(),
        "tokens": str(kept + sum(message.tokens for message in messages)),
        "turns": str((session.turns if session else 0) + 1),
        "instructions": instructions_digest(exchange.request),
    }
    if session is None or alignment.branches:
        facts["created_at"] = exchange.at.isoformat()
    if not alignment.head and any(alignment.known):
        facts["resends"] = "1"
    if exchange.cut.position:
        facts |= {"cut": str(exchange.cut.position), "cut_note": exchange.cut.note}
    if not exchange.request.instructions and session is not None:
        facts["instructions"] = session.instructions
    return facts


def _pins(exchange: Exchange, alignment: Alignment, *, answer_at: int | None) -> Mapping[int, Pin]:
    pins: dict[int, Pin] = {}
    placement = exchange.placement
    if placement is not None:
        position = alignment.positions[placement.index - exchange.request.instructions]
        if position is not None:
            pins[position] = placement.pin
    if exchange.instead and answer_at is not None:
        pins[answer_at] = Pin(instead=exchange.instead)
    return pins


def _chain(exchange: Exchange, alignment: Alignment, answer: StoredMessage | None) -> str:
    """The pointer after this turn: only where the client sends all of the log, for it stands for all of it."""
    if answer is None or answer.partial or alignment.head or None in alignment.positions:
        return ""
    return extend(exchange.conversation.chain, bytes.fromhex(answer.digest)).hex()


def _queued(exchange: Exchange, key: SessionKey, learned: tuple[StoredMessage, ...]) -> Turn:
    first = learned[0].message
    sent = [
        *(message.message for message in exchange.history),
        *exchange.request.messages[exchange.request.instructions :],
    ]
    places = [place for place, message in enumerate(sent) if message is first or message == first]
    before = sent[: places[-1]] if places else sent
    context = tuple(
        stored(message, exchange=exchange, at=exchange.at, tokens=0) for message in before[-CONTEXT_MESSAGES:]
    )
    return Turn(
        id=exchange.request_id,
        scope=key.scope,
        session=key.session,
        at=exchange.at,
        outcome=exchange.outcome,
        messages=learned,
        context=context,
    )
