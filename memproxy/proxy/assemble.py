"""Put a request together from what memory holds: memories for the newest message, missing history, a cut if it must be.

What is needed is looked up here, what is to be done with it is decided in `compose` and `budget`.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from memproxy.extraction.own_words import without_tags
from memproxy.proxy import compose as composing
from memproxy.proxy.budget import Weight, choose_cut, divide, note_room, opening
from memproxy.proxy.compose import Cut, Placement, compose, memory_block
from memproxy.proxy.cut_note import cut_note
from memproxy.proxy.offered_tools import OFFERED_TOKENS, with_memory_tools
from memproxy.proxy.recall import TAIL, Recall, query_of
from memproxy.proxy.stages import Outbound, Policy, Remembered
from memproxy.records import JsonObject, Pin, ScoredMemory, StoredMessage
from memproxy.storage.working import RESULT, USER, WRITTEN, IndexEntry
from memproxy.telemetry.metrics import Metrics
from memproxy.tokens import Windows, estimate_tokens
from memproxy.wire.chat_completions import INSTRUCTION_ROLES
from memproxy.wire.dialect import Dialect, Request

CAUTIOUS_BYTES_PER_TOKEN = 2
"""A body of fewer bytes than this per token of the budget is taken to fit, and no message is counted. Tool results as
JSON have 2.6 bytes a token, prose 4; only base64 has fewer than 2."""

MEMORY_SHARE = 6
"""Per cent of the available tokens that blocks of memories may take."""

LEAST_MEMORY_PART = 4
"""Such a part of that is for the newest block in any case."""

QUERY_MESSAGES, QUERY_CHARS = 4, 600
"""The newest messages that say what is still needed of those that are cut, and how much of each."""

RESULT_ROLES = frozenset({"tool", "function"})


class Assembler:
    """Turns what is remembered about a request into what goes out."""

    def __init__(self, recall: Recall, windows: Windows, policy: Policy, metrics: Metrics) -> None:
        self._recall = recall
        self._windows = windows
        self._policy = policy
        self._metrics = metrics

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
        cut, history = await self._fit(known, placement, degraded)
        instructions = await self._instructions(known, degraded)
        with self._metrics.stage("compose"):
            body = compose(
                known.request,
                known.alignment,
                history=history,
                history_from=known.alignment.restored - len(history),
                instructions=instructions,
                pins=known.session.pins if known.session else {},
                placement=placement,
                cut=cut,
                raws=known.conversation.raws,
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
        if newest is None or not _is_spoken_last(known.request, newest) or known.scope.user is None or degraded:
            return None, ()
        session, position = known.session, known.alignment.positions[newest]
        pins = session.pins if session else {}
        if position in pins and known.alignment.known[newest]:
            return None, ()
        if known.alignment.branches:
            pins = {at: pin for at, pin in pins.items() if at < known.alignment.keep}
        dialect = known.request.dialect
        cut = session.cut if session else 0
        seen = frozenset(memory for at, pin in pins.items() if at >= cut for memory in pin.memories)
        spoken = (each for each in reversed(known.request.conversation) if dialect.role_of(each) == "user")
        said = [dialect.text_of(each) for each in itertools.islice(spoken, 2)]
        with self._metrics.stage("recall"):
            found = await self._recall.memories(
                known.scope,
                query_of([_asked(text) for text in reversed(said)]),
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
        self._metrics.recalls["degraded" if found.degraded else "hit" if pin else "nothing"].inc()
        return (Placement(known.request.lead + newest, pin) if pin else None), found.value

    async def _fit(
        self, known: Remembered, placement: Placement | None, degraded: list[str]
    ) -> tuple[Cut, Sequence[StoredMessage]]:
        """Where the conversation is cut so that it fits, and the stored messages that are sent along."""
        session, head = known.session, known.alignment.restored
        if known.alignment.lies_elsewhere:
            return Cut(), ()
        now = Cut()
        if session is not None and session.cut <= known.alignment.keep:
            now = Cut(session.cut, session.cut_note)
        cut = self._cut(known, now, placement)
        history = await self._history(known, min(cut.first, head), degraded)
        if cut.position != now.position:
            cut = replace(cut, note=await self._note(known, cut, degraded))
        return cut, history

    def _cut(self, known: Remembered, now: Cut, placement: Placement | None) -> Cut:
        """The cut that there is, or another one where the conversation does not fit any more."""
        session, dialect = known.session, known.request.dialect
        index, pins = (session.index, session.pins) if session else ((), {})
        head = index[: known.alignment.head]
        available = self._available(known.request, offers_tools=known.offers_tools)
        size = len(known.request.body) // CAUTIOUS_BYTES_PER_TOKEN + sum(entry.tokens for entry in head)
        size += sum(_pinned(dialect, pins, position) for position in pins)
        size += _block_tokens(placement.pin.block) if placement else 0
        if size <= available and not now.position:
            return now
        weights = _weights(known, index)
        position = choose_cut(
            weights,
            cut=now.position,
            note=estimate_tokens(now.note),
            fixed=_fixed(known.request) + (estimate_tokens(placement.pin.block) if placement else 0),
            available=available,
            keep_share=self._policy.keep_share,
        )
        note = now.note if position == now.position else ""
        return Cut(position, note, opening(weights, position) if position else None)

    async def _note(self, known: Remembered, cut: Cut, degraded: list[str]) -> str:
        """What stands for what is cut. It takes some 50 ms per 100 kB: not on the event loop."""
        dropped, query = await self._dropped(known, cut, degraded), _goes_on(known)
        dialect, summary = known.request.dialect, known.session.summary if known.session else ""
        available = self._available(known.request, offers_tools=known.offers_tools)
        room = note_room(available, fixed=_fixed(known.request))
        return await asyncio.to_thread(cut_note, dialect, dropped, query, summary=summary, max_tokens=room)

    def _memory_tokens(self, known: Remembered) -> int:
        """What a memory block may take: what the operator allows, and never much of a small window.

        What earlier blocks take is taken into account: with each of them, a small window would be cut again and again.
        """
        session = known.session
        most = MEMORY_SHARE * self._available(known.request, offers_tools=known.offers_tools) // 100
        there = sum(_block_tokens(pin.block) for at, pin in session.pins.items() if at >= session.cut) if session else 0
        return min(self._policy.max_memory_tokens, max(most - there, most // LEAST_MEMORY_PART))

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

    async def _dropped(self, known: Remembered, cut: Cut, degraded: list[str]) -> Sequence[JsonObject]:
        """The messages that are cut away, as the model saw them."""
        stored = await self._history(known, 0, degraded) if known.alignment.head else ()
        placed = [(at, message.message) for at, message in enumerate(stored)]
        placed += [
            (place, known.request.conversation[at])
            for at, place in enumerate(known.alignment.positions)
            if place is not None
        ]
        hidden = {at: pin.instead for at, pin in known.session.pins.items() if pin.instead} if known.session else {}
        gone = [(at, message) for at, message in placed if not cut.keeps(at)]
        return [each for at, message in gone for each in hidden.get(at, (message,))]

    async def _instructions(self, known: Remembered, degraded: list[str]) -> Sequence[JsonObject]:
        """The session's instructions, for a client that sends only its newest message and none of them."""
        session = known.session
        if session is None or not session.instructions or known.request.instructions or not known.alignment.restored:
            return ()
        found = await self._recall.instructions(session.key)
        if found.degraded:
            degraded.append("instructions")
        return msgspec.json.decode(found.value, type=list[JsonObject]) if found.value else ()


def _fixed(request: Request) -> int:
    """Tokens of the instructions, which are never cut."""
    return sum(estimate_tokens(request.dialect.countable_text(message)) for message in request.instructions)


def _weights(known: Remembered, index: Sequence[IndexEntry]) -> list[Weight]:
    """All that may be sent of the conversation: what is restored, then what the client sends."""
    dialect, pins = known.request.dialect, known.session.pins if known.session else {}
    weights, was_result = [], False
    for at, entry in enumerate(index[: known.alignment.head]):
        tokens = entry.tokens + _pinned(dialect, pins, at)
        is_result, is_written = bool(entry.flags & RESULT), bool(entry.flags & WRITTEN)
        is_seam = was_result and not is_result and not is_written
        weights.append(Weight(at, tokens, begins_turn=bool(entry.flags & USER), is_seam=is_seam))
        was_result = was_result if is_written else is_result
    for message, position in zip(known.request.conversation, known.alignment.positions, strict=True):
        counted = index[position].tokens if position is not None and position < len(index) else 0
        tokens = counted or estimate_tokens(dialect.countable_text(message))
        tokens += _pinned(dialect, pins, position)
        role = dialect.role_of(message)
        is_result = role in RESULT_ROLES
        weights.append(Weight(position, tokens, begins_turn=role == "user", is_seam=was_result and not is_result))
        was_result = is_result
    return weights


def _goes_on(known: Remembered) -> str:
    """What the conversation is about as it goes on: the user's newest words, and the newest messages."""
    dialect, sent = known.request.dialect, known.request.conversation
    spoken = [dialect.text_of(message) for message in sent if dialect.role_of(message) == "user"][-1:]
    newest = [dialect.countable_text(message)[:QUERY_CHARS] for message in sent[-QUERY_MESSAGES:]]
    return composing.without_blocks("\n".join([*spoken, *newest]))


def _pinned(dialect: Dialect, pins: Mapping[int, Pin], position: int | None) -> int:
    if position is None or position not in pins:
        return 0
    hidden = sum(estimate_tokens(dialect.countable_text(message)) for message in pins[position].instead)
    return _block_tokens(pins[position].block) + hidden


def _block_tokens(block: str) -> int:
    return len(block) // CAUTIOUS_BYTES_PER_TOKEN


def _asked(text: str) -> str:
    """What to search for: the message without what was put into it, be it by us or between tags by the agent."""
    given = composing.without_blocks(text)
    return without_tags(given).strip() or given


def _is_spoken_last(request: Request, position: int) -> bool:
    """Nothing but instructions stands behind this message: some agents give the model theirs after each question."""
    return all(request.dialect.role_of(each) in INSTRUCTION_ROLES for each in request.conversation[position + 1 :])


def shown_sessions(known: Remembered) -> tuple[str, ...]:
    """Sessions whose messages the request shows in full: nothing of them needs recalling."""
    names = {known.key.session}
    if known.session is not None:
        names.add(known.session.key.session)
    return tuple(sorted(names))
