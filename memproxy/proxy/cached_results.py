"""The tool cache in one request: learn from the results that the agent delivers, answer what it was told before.

What may be kept and answered is decided in `memory/tool_cache`; results lie in `storage/tool_results`. Learning comes
before the request goes out, since a result that a call has put out of date must not be given while that call's own
answer is still under way.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from memproxy.clock import Clock
from memproxy.errors import StoreError
from memproxy.memory.tool_cache import Distrust, Lookup, lessons
from memproxy.memory.tool_policy import ToolPolicy
from memproxy.proxy.stages import Outbound, Remembered
from memproxy.records import JsonObject, Pin, SessionKey, ToolAnswer, ToolCacheMode, ToolCall
from memproxy.storage.tool_counts import ToolCounts
from memproxy.storage.tool_results import Clear, Lessons, ToolResultStore
from memproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

MAX_UNSURE = 10_000
"""Sessions remembered as not to be trusted; a store away for longer loses its results by their time to live."""


@dataclass(frozen=True, slots=True)
class CachedResults:
    """The source of answers for one request."""

    store: ToolResultStore
    lookup: Lookup
    session: SessionKey
    told: set[str]
    """Keys of the calls that were answered since the user last spoke: asked again, they go to the agent."""
    clock: Clock
    events: list[tuple[str, str]]
    """What became of calls so far: outcome and tool."""

    def may_answer(self, name: str) -> bool:
        """Whether results of this tool are kept at all."""
        return self.lookup.may_answer(name)

    async def answer(self, call: ToolCall) -> ToolAnswer | None:
        """The result that the agent's tool gave to the same call before. Raises StoreError."""
        wanted = self.lookup.wanted(call)
        if wanted is None or not Distrust(frozenset(self.told)).trusts(wanted):
            self.events.append(("bypassed", call.name))
            return None
        now = self.clock.now()
        found = await self.store.get(self.session, wanted.key, now=now, scope=wanted.scope)
        self.events.append(("hit" if found else "missed", call.name))
        if found is None:
            return None
        self.told.add(wanted.key)
        return ToolAnswer(call, found.content, "cache", age_s=round((now - found.at).total_seconds(), 3))

    async def observe(self, calls: Sequence[ToolCall]) -> None:
        """Count which of these calls, that the agent will run, could have been answered. Raises StoreError."""
        for call in calls:
            if self.may_answer(call.name) and await self.answer(call) is not None:
                self.events[-1] = ("would_hit", call.name)


class ToolCache:
    """Makes the source of one request, after having learned from what it delivers."""

    def __init__(
        self,
        store: ToolResultStore,
        counts: ToolCounts,
        policy: ToolPolicy,
        *,
        clock: Clock,
        metrics: Metrics,
        deadline_s: float,
    ) -> None:
        self._store = store
        self._counts = counts
        self._policy = policy
        self._clock = clock
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._unsure: set[SessionKey] = set()

    async def for_request(self, known: Remembered, outbound: Outbound) -> CachedResults | None:
        """What can answer this request's calls; None when nothing can, or the store is away."""
        request = known.request
        tools = request.tools
        if not tools or "session" in known.degraded:
            return None
        sent = request.conversation
        new_from = 0 if known.alignment.branches else len(outbound.before) + _first_new(known, sent)
        read = request.dialect.as_chat([*(stored.message for stored in outbound.before), *sent])
        conversation = [message for _, message in read]
        new_from = sum(at < new_from for at, _ in read)
        learned = lessons(conversation, new_from=new_from, tools=tools, policy=self._policy, at=self._clock.now())
        if not known.mode.writes:
            learned = learned.forgetting
        if known.key in self._unsure:
            learned = replace(learned, operations=(Clear(), *learned.operations))
        if learned.operations and not await self._apply(known.key, learned):
            return None
        lookup = Lookup(tools, self._policy)
        distrust = Distrust.of(_told_in_turn(known), lookup)
        clears = sum(isinstance(operation, Clear) for operation in learned.operations)
        events = [("invalidated", "")] * clears
        return CachedResults(self._store, lookup, known.key, set(distrust.answered), self._clock, events)

    async def _apply(self, session: SessionKey, learned: Lessons) -> bool:
        """Learn; where that fails, the session is not trusted before all of its results were dropped."""
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._store.apply(session, learned)
        except (StoreError, TimeoutError) as error:
            log.warning("going on without cached tool results: %s", error)
            if len(self._unsure) < MAX_UNSURE:
                self._unsure.add(session)
            return False
        self._unsure.discard(session)
        return True

    async def finish(
        self, cached: CachedResults, calls: Sequence[ToolCall], *, mode: ToolCacheMode, tokens_saved: int
    ) -> None:
        """Count what became of this request's calls; `calls` are those that the agent got. After the last byte."""
        try:
            if mode is ToolCacheMode.OBSERVE:
                await cached.observe(calls)
            for outcome, _ in cached.events:
                self._metrics.tool_calls.labels(outcome).inc()
            if cached.events or tokens_saved:
                await self._counts.add(cached.events, tokens_saved=tokens_saved)
        except StoreError as error:
            log.warning("tool calls were not counted: %s", error)


def _first_new(known: Remembered, sent: Sequence[JsonObject]) -> int:
    """Where what was not learned from begins: at the newest answer that was known, whose calls had no results yet."""
    unknown = known.alignment.known.index(False) if False in known.alignment.known else len(sent)
    answers = [at for at in range(unknown) if known.request.dialect.role_of(sent[at]) == "assistant"]
    return answers[-1] if answers else 0


def _told_in_turn(known: Remembered) -> list[JsonObject]:
    """The messages that were hidden from the client since the user last spoke."""
    if known.session is None:
        return []
    newest = known.conversation.newest_user
    spoken = known.alignment.positions[newest] if newest is not None else None
    pins = sorted(known.session.pins.items())
    return [message for at, pin in pins if spoken is None or at > spoken for message in _hidden(known, pin)]


def _hidden(known: Remembered, pin: Pin) -> list[JsonObject]:
    """What stands before the answer that the client got."""
    read = [message for _, message in known.request.dialect.as_chat(pin.instead)]
    answers = [at for at, message in enumerate(read) if message.get("role") == "assistant"]
    return read[: answers[-1]] if answers else []
