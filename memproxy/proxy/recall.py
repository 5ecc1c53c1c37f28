"""Gather what a request needs from memory: its session, then the memories its newest words call for.

Each look-up has its own deadline. The session is what keeps a conversation whole and the prompt's beginning stable, so
it may take longer than the search, which only adds to it. Nothing here raises: what is missing is named in `degraded`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from memproxy.errors import StoreError, StoreUnavailableError, StoreUnfitError
from memproxy.memory.long_term import LongTermMemory
from memproxy.proxy.conversation import Conversation, answer_chain
from memproxy.records import Scope, ScoredMemory, SessionKey, StoredMessage
from memproxy.storage.breaker import Breaker
from memproxy.storage.memory_filter import Filter, TagField, none_of
from memproxy.storage.working import LoadedSession, SessionStore
from memproxy.wire.dialect import Request

log = logging.getLogger(__name__)

T = TypeVar("T")

NOTHING: tuple[StoredMessage, ...] = ()

TAIL = 100
"""Stored messages read along with a session whose history may have to be restored."""

PARALLEL_SEARCHES = 4
"""Searches in flight at once. All share one event loop: begun together, they would all miss the deadline together."""

SHORT_QUERY_WORDS = 4
"""A message of so few words ("When will it arrive?") is looked up together with the one before it."""

QUERY_CHARS = 600
"""Of the newest message that are looked up. Measured: embedding more costs more than it finds."""


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """What a look-up gave."""

    value: T
    degraded: bool = False


class Recall:
    """Everything that a request asks of the store before it is forwarded."""

    def __init__(
        self,
        sessions: SessionStore,
        memories: LongTermMemory,
        breaker: Breaker,
        *,
        session_deadline_s: float,
        search_deadline_s: float,
    ) -> None:
        self._sessions = sessions
        self._memories = memories
        self._breaker = breaker
        self._session_deadline_s = session_deadline_s
        self._search_deadline_s = search_deadline_s
        self._slots = asyncio.Semaphore(PARALLEL_SEARCHES)

    async def session(
        self, scope: Scope, named: str | None, conversation: Conversation, *, want_index: bool
    ) -> Found[LoadedSession | None]:
        """The session of this conversation, if there is one."""
        chains = conversation.chains
        if named is None and not chains:
            return Found(None)
        return await self._ask(
            lambda: self._sessions.load(scope, named, chains=chains, want_index=want_index, tail=TAIL),
            deadline_s=self._session_deadline_s,
            otherwise=None,
        )

    async def resolved(self, scope: Scope, named: str | None, request: Request) -> Request:
        """The request with stored messages in place of references to them; its bytes keep the references."""
        if not request.dialect.has_references:
            return request
        references = [request.dialect.reference_of(message) for message in request.messages]
        newest = next((reference for reference in reversed(references) if reference), "")
        if not newest:
            return request

        async def look_up() -> tuple[StoredMessage, ...]:
            chains = [answer_chain(newest)]
            session = await self._sessions.load(scope, named, chains=chains, want_index=False, tail=0)
            return await self._sessions.messages(session.key, 0, -1) if session else ()

        found = await self._ask(look_up, deadline_s=self._session_deadline_s, otherwise=NOTHING)
        known = {str(stored.message.get("id")): stored.message for stored in found.value}
        pairs = zip(references, request.messages, strict=True)
        return replace(request, messages=tuple(known.get(reference, message) for reference, message in pairs))

    async def messages(self, key: SessionKey, first: int, last: int) -> Found[tuple[StoredMessage, ...]]:
        """Stored messages first..last of a session."""
        return await self._ask(
            lambda: self._sessions.messages(key, first, last), deadline_s=self._session_deadline_s, otherwise=()
        )

    async def instructions(self, key: SessionKey) -> Found[bytes]:
        """The instructions that the session came with last."""
        return await self._ask(
            lambda: self._sessions.instructions(key), deadline_s=self._session_deadline_s, otherwise=b""
        )

    async def memories(
        self, scope: Scope, query: str, *, limit: int, excluded_sessions: Sequence[str], excluded_ids: Collection[str]
    ) -> Found[Sequence[ScoredMemory]]:
        """The memories that this query is about. The deadline is short: missing it does not speak against the store."""
        where = Filter((none_of(TagField.SESSION, excluded_sessions),))
        if not await self._has_slot():
            return Found((), degraded=True)
        try:
            return await self._ask(
                lambda: self._memories.search(scope, query, limit=limit, where=where, excluded_ids=excluded_ids),
                deadline_s=self._search_deadline_s,
                otherwise=(),
            )
        finally:
            self._slots.release()

    async def _has_slot(self) -> bool:
        if not self._slots.locked():
            return await self._slots.acquire()
        try:
            async with asyncio.timeout(self._session_deadline_s):
                return await self._slots.acquire()
        except TimeoutError:
            return False

    async def _ask(self, look_up: Callable[[], Awaitable[T]], *, deadline_s: float, otherwise: T) -> Found[T]:
        if not self._breaker.allows():
            return Found(otherwise, degraded=True)
        try:
            async with asyncio.timeout(deadline_s):
                value = await look_up()
        except TimeoutError:
            self._missed(f"no answer within {deadline_s} s", counts=deadline_s >= self._session_deadline_s)
            return Found(otherwise, degraded=True)
        except StoreUnfitError:  # said at start, and no outage
            return Found(otherwise)
        except StoreError as error:
            self._missed(str(error), counts=isinstance(error, StoreUnavailableError))
            return Found(otherwise, degraded=True)
        self._breaker.succeeded()
        return Found(value)

    def _missed(self, reason: str, *, counts: bool) -> None:
        if not self._breaker.is_open:
            log.warning("going on without memory: %s", reason)
        if counts:
            self._breaker.failed()


def query_of(texts: Sequence[str]) -> str:
    """What to look up: the newest of these messages of the user, with the one before it when it is short."""
    newest = texts[-1][:QUERY_CHARS] if texts else ""
    if len(newest.split()) <= SHORT_QUERY_WORDS and len(texts) > 1:
        return f"{texts[-2][: QUERY_CHARS // 3]}\n{newest}"
    return newest
