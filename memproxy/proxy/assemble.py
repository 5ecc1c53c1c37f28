"""Put a request together from what memory holds: memories for the newest message, missing history, a cut if it must be.

What is needed is looked up here, what is to be done with it is decided in `compose` and `budget`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from memproxy.proxy import compose as composing
from memproxy.proxy.budget import Weight, choose_cut, divide
from memproxy.proxy.compose import Cut, Placement, compose, memory_block
from memproxy.proxy.conversation import stored_entries
from memproxy.proxy.offered_tools import OFFERED_TOKENS, with_memory_tools
from memproxy.proxy.recall import TAIL, Recall, query_of
from memproxy.proxy.stages import Outbound, Policy, Remembered
from memproxy.records import JsonObject, Pin, ScoredMemory, StoredMessage
from memproxy.tokens import Windows, estimate_tokens
from memproxy.wire.dialect import Dialect, Request

CAUTIOUS_BYTES_PER_TOKEN = 2
"""A body of fewer bytes than this per token of the budget is taken to fit, and no message is counted. Tool results as
JSON have 2.6 bytes a token, prose 4; only base64 has fewer than 2."""

MEMORY_SHARE = 15
"""Per cent of the available tokens that a block of memories may take."""

NOTE_SHARE = 15
"""Per cent of the available tokens that the account of what was cut may take."""


class Assembler:
    """Turns what is remembered about a request into what goes out."""

    def __init__(self, recall: Recall, windows: Windows, policy: Policy) -> None:
        self._recall = recall
        self._windows = windows
        self._policy = policy

    def may_exceed(self, request: Request, *, offers_tools: bool) -> bool:
        """Whether the conversation might not fit, so that its messages have to be counted."""
        return len(request.body) > CAUTIOUS_BYTES_PER_TOKEN * self._available(request, offers_tools=offers_tools)

    def _available(self, request: Request, *, offers_tools: bool) -> int:
        tools = request.tools
        tools_tokens = len(msgspec.json.encode(tools)) // CAUTIOUS_BYTES_PER_TOKEN if tools else 0
        tools_tokens += OFFERED_TOKENS if offers_tools else 0
        window = self._windows.window_of(request.model)
        return divide(window, reply_tokens=request.reply_tokens, tools_tokens=tools_tokens).available

    async def assemble(self, known: Remembered) -> Outbound:
        """Recall what the newest message calls for and put the request together."""
        if not known.mode.reads:
            return Outbound(known.request.body, known, degraded=known.degraded)
        degraded = list(known.degraded)
        placement, found = await self._new_block(known, degraded)
        cut, history = await self._fit(known, degraded)
        instructions = await self._instructions(known, degraded)
        body = compose(
            known.request,
            known.alignment,
            history=history,
            history_from=known.alignment.restored - len(history),
            instructions=instructions,
            pins=known.session.pins if known.session else {},
            placement=placement,
            cut=cut,
        )
        if known.offers_tools:
            body = with_memory_tools(known.request.dialect, body)
        before = await self._before(known, degraded) if known.alignment.lies_elsewhere else history
        return Outbound(body, known, history, before, placement, cut, found, tuple(degraded))

    async def _new_block(
        self, known: Remembered, degraded: list[str]
    ) -> tuple[Placement | None, Sequence[ScoredMemory]]:
        """The memories for the newest message: only when the user speaks and nothing was put before these words yet."""
        newest = known.conversation.newest_user
        if newest is None or newest != len(known.conversation.entries) - 1 or known.scope.user is None or degraded:
            return None, ()
        session, position = known.session, known.alignment.positions[newest]
        pins = session.pins if session else {}
        if position in pins and known.alignment.known[newest]:
            return None, ()
        if known.alignment.branches:
            pins = {at: pin for at, pin in pins.items() if at < known.alignment.keep}
        dialect = known.request.dialect
        seen = frozenset(memory for pin in pins.values() for memory in pin.memories)
        said = [dialect.text_of(each) for each in known.request.conversation if dialect.role_of(each) == "user"]
        found = await self._recall.memories(
            known.scope,
            query_of([composing.without_blocks(text) for text in said]),
            limit=self._policy.max_memories,
            excluded_sessions=() if session and session.cut else shown_sessions(known),
            excluded_ids=seen,
        )
        if found.degraded:
            degraded.append("recall")
        pin = memory_block(
            found.value,
            max_memories=self._policy.max_memories,
            max_tokens=self._memory_tokens(known),
            seen=seen,
        )
        return (Placement(known.request.lead + newest, pin) if pin else None), found.value

    async def _fit(self, known: Remembered, degraded: list[str]) -> tuple[Cut, Sequence[StoredMessage]]:
        """Where the conversation is cut so that it fits, and the stored messages that are sent along."""
        session, head = known.session, known.alignment.restored
        if known.alignment.lies_elsewhere:
            return Cut(), ()
        now = Cut()
        if session is not None and session.cut <= known.alignment.keep:
            now = Cut(session.cut, session.cut_note)
        position = self._cut_position(known, now.position)
        cut = now if position == now.position else Cut(position)
        history = await self._history(known, min(cut.position, head), degraded)
        if cut is not now:
            dropped = await self._dropped(known, cut.position, degraded)
            dialect = known.request.dialect
            newest = dialect.text_of(known.request.messages[-1])
            room = NOTE_SHARE * self._available(known.request, offers_tools=known.offers_tools) // 100
            summary = session.summary if session else ""
            note = composing.cut_note(dialect, dropped, newest, summary=summary, max_tokens=room)
            cut = replace(cut, note=note)
        return cut, history

    def _cut_position(self, known: Remembered, now: int) -> int:
        session, dialect = known.session, known.request.dialect
        index = stored_entries(session.index) if session else ()
        head, pins = index[: known.alignment.head], session.pins if session else {}
        available = self._available(known.request, offers_tools=known.offers_tools)
        size = len(known.request.body) // CAUTIOUS_BYTES_PER_TOKEN + sum(entry.tokens for entry in head)
        size += sum(_pinned(dialect, pins, position) for position in pins)
        if size <= available and not now:
            return now
        weights = [
            Weight(at, entry.tokens + _pinned(dialect, pins, at), entry.is_user) for at, entry in enumerate(head)
        ]
        for at, position in enumerate(known.alignment.positions):
            message = known.request.conversation[at]
            counted = index[position].tokens if position is not None and position < len(index) else 0
            tokens = counted or estimate_tokens(dialect.countable_text(message))
            tokens += _pinned(dialect, pins, position)
            weights.append(Weight(position, tokens, dialect.role_of(message) == "user"))
        fixed = sum(estimate_tokens(dialect.countable_text(message)) for message in known.request.instructions)
        fixed += self._memory_tokens(known) + NOTE_SHARE * available // 100
        return choose_cut(weights, cut=now, fixed=fixed, available=available, keep_share=self._policy.keep_share)

    def _memory_tokens(self, known: Remembered) -> int:
        """What a memory block may take: what the operator allows, and never much of a small window."""
        available = self._available(known.request, offers_tools=known.offers_tools)
        return min(self._policy.max_memory_tokens, MEMORY_SHARE * available // 100)

    async def _history(self, known: Remembered, first: int, degraded: list[str]) -> Sequence[StoredMessage]:
        """The stored messages first..head, from what was read along or, if that is too short, by another look-up."""
        session, head = known.session, known.alignment.restored
        if session is None or head <= first:
            return ()
        tail_from = session.length - len(session.tail)
        if tail_from <= first:
            return session.tail[first - tail_from : head - tail_from]
        found = await self._recall.messages(session.key, first, head - 1)
        if found.degraded or len(found.value) != head - first:
            degraded.append("history")
            return ()
        return found.value

    async def _before(self, known: Remembered, degraded: list[str]) -> Sequence[StoredMessage]:
        """The newest messages that the provider has, where results come without their calls."""
        session, head = known.session, known.alignment.head
        role_of = known.request.dialect.role_of
        if session is None or not head or all(role_of(message) != "tool" for message in known.request.conversation):
            return ()
        found = await self._recall.messages(session.key, max(0, head - TAIL), head - 1)
        if found.degraded:
            degraded.append("history")
        return found.value

    async def _dropped(self, known: Remembered, position: int, degraded: list[str]) -> Sequence[JsonObject]:
        stored = await self._history(known, 0, degraded) if known.alignment.head else ()
        sent = [
            known.request.conversation[at]
            for at, place in enumerate(known.alignment.positions)
            if place is not None and place < position
        ]
        return [*(message.message for message in stored[:position]), *sent]

    async def _instructions(self, known: Remembered, degraded: list[str]) -> Sequence[JsonObject]:
        """The session's instructions, for a client that sends only its newest message and none of them."""
        session = known.session
        if session is None or not session.instructions or known.request.instructions or not known.alignment.restored:
            return ()
        found = await self._recall.instructions(session.key)
        if found.degraded:
            degraded.append("instructions")
        return msgspec.json.decode(found.value, type=list[JsonObject]) if found.value else ()


def _pinned(dialect: Dialect, pins: Mapping[int, Pin], position: int | None) -> int:
    if position is None or position not in pins:
        return 0
    hidden = sum(estimate_tokens(dialect.countable_text(message)) for message in pins[position].instead)
    return _block_tokens(pins[position].block) + hidden


def _block_tokens(block: str) -> int:
    return len(block) // CAUTIOUS_BYTES_PER_TOKEN


def shown_sessions(known: Remembered) -> tuple[str, ...]:
    """Sessions whose messages the request shows in full: nothing of them needs recalling."""
    names = {known.key.session}
    if known.session is not None:
        names.add(known.session.key.session)
    return tuple(sorted(names))
