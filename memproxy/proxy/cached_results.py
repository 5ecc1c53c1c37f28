"""The tool cache in one request: learn from the results that the agent delivers, answer what it was told before.

What may be kept and answered is decided in `memory/tool_cache`; results lie in `storage/tool_results`. Learning comes
before the request goes out, since a result that a call has put out of date must not be given while that call's own
answer is still under way.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from memproxy.clock import Clock
from memproxy.errors import StoreError
from memproxy.memory.tool_cache import Distrust, Lookup, lessons
from memproxy.memory.tool_policy import ToolPolicy
from memproxy.proxy.stages import Outbound, Remembered
from memproxy.records import JsonObject, SessionKey, ToolAnswer, ToolCall
from memproxy.storage.tool_results import ToolResultStore
from memproxy.telemetry import Metrics
from memproxy.wire.chat_completions import ChatRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedResults:
    """The source of answers for one request."""

    store: ToolResultStore
    lookup: Lookup
    session: SessionKey
    told: set[str]
    """Keys of the calls that were answered since the user last spoke: asked again, they go to the agent."""
    clock: Clock
    metrics: Metrics

    def may_answer(self, name: str) -> bool:
        """Whether results of this tool are kept at all."""
        return self.lookup.may_answer(name)

    async def answer(self, call: ToolCall) -> ToolAnswer | None:
        """The result that the agent's tool gave to the same call before. Raises StoreError."""
        wanted = self.lookup.wanted(call)
        if wanted is None or not Distrust(frozenset(self.told)).trusts(wanted):
            self.metrics.tool_calls.labels("bypassed").inc()
            return None
        now = self.clock.now()
        found = await self.store.get(self.session, wanted.key, now=now, scope=wanted.scope)
        self.metrics.tool_calls.labels("hit" if found else "missed").inc()
        if found is None:
            return None
        self.told.add(wanted.key)
        return ToolAnswer(call, found.content, "cache", age_s=round((now - found.at).total_seconds(), 3))


class ToolCache:
    """Makes the source of one request, after having learned from what it delivers."""

    def __init__(
        self, store: ToolResultStore, policy: ToolPolicy, *, clock: Clock, metrics: Metrics, deadline_s: float
    ) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._metrics = metrics
        self._deadline_s = deadline_s

    async def for_request(self, known: Remembered, outbound: Outbound) -> CachedResults | None:
        """What can answer this request's calls; None when nothing can, or the store is away."""
        request = known.request
        tools = request.fields.get("tools")
        if not isinstance(tools, list) or not tools or "session" in known.degraded:
            return None
        sent = request.messages[request.instructions :]
        conversation = [*(stored.message for stored in outbound.history), *sent]
        new_from = 0 if known.alignment.branches else len(outbound.history) + _first_new(known, sent)
        learned = lessons(conversation, new_from=new_from, tools=tools, policy=self._policy, at=self._clock.now())
        if learned.operations and known.mode.writes:
            try:
                async with asyncio.timeout(self._deadline_s):
                    await self._store.apply(known.key, learned)
            except (StoreError, TimeoutError) as error:
                log.warning("going on without cached tool results: %s", error)
                return None
        lookup = Lookup(tools, self._policy)
        distrust = Distrust.of(_told_in_turn(known), lookup)
        return CachedResults(self._store, lookup, known.key, set(distrust.answered), self._clock, self._metrics)


def _first_new(known: Remembered, sent: Sequence[JsonObject]) -> int:
    """Where what was not learned from begins: at the newest answer that was known, whose calls had no results yet."""
    unknown = known.alignment.known.index(False) if False in known.alignment.known else len(sent)
    answers = [at for at in range(unknown) if sent[at].get("role") == "assistant"]
    return answers[-1] if answers else 0


def _told_in_turn(known: Remembered) -> list[JsonObject]:
    """The messages that were hidden from the client since the user last spoke."""
    if known.session is None:
        return []
    newest = known.conversation.newest_user
    spoken = known.alignment.positions[newest] if newest is not None else None
    pins = sorted(known.session.pins.items())
    return [message for at, pin in pins if spoken is None or at > spoken for message in pin.instead[:-1]]


def is_ordinary(request: ChatRequest) -> bool:
    """Whether rounds inside can be joined into the answer that this request asks for; the unusual passes through."""
    fields = request.fields
    return (
        fields.get("n") in {None, 1}
        and fields.get("tool_choice") in (None, "auto")
        and not fields.get("functions")
        and not fields.get("audio")
        and not fields.get("logprobs")
    )
