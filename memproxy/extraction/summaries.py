"""Rolling summaries: what a long session was about before the part that still fits.

A session needs one when requests leave out messages that no summary covers, or when code wants it to fit into a window
and it fills most of that. Then the summary so far and the messages that come next, oldest first, become the new
summary, a piece at a time, each written at once. It is made in the background and waits for nobody; whoever reads the
session meanwhile finds the summary before. A model that has nothing to say leaves that as it is.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Protocol

from memproxy.extraction.facts import strict_object
from memproxy.extraction.grounding import invents
from memproxy.extraction.prompting import as_json, shortened
from memproxy.extraction.spending import Asks, Question, Spending
from memproxy.extraction.spoken import day, sentences
from memproxy.extraction.strategies import read_prompt
from memproxy.extraction.summary import LEAST_CHARS, bounded, summary_in
from memproxy.records import JsonObject, SessionKey, StoredMessage
from memproxy.storage.session_summaries import SummaryState
from memproxy.storage.working import RESULT, USER, IndexEntry
from memproxy.wire.chat_completions import countable_text, message_text
from memproxy.wire.chat_form import chat_form

log = logging.getLogger(__name__)

FULL, KEPT = 0.7, 0.4
"""Of the window that a session should fit into: from when on it is summarised, and what is left as it is. Source:
agent-memory-server."""

PIECE_CHARS = 24_000
"""Of messages in one call, about 6,000 tokens."""

PIECE_MESSAGES = 200
"""Messages read from the store for one call."""

MESSAGE_CHARS = 2_000
"""Of a longer message, its beginning and its end."""

RESULT_CHARS = 500
"""The same of what a tool gave."""

WORDS = 300
"""Of a summary, about 400 tokens: less than the note has room for that stands for what was cut."""

LEAST_WORDS = 40
WINDOW_SHARE = 0.08
"""Words of a summary per token of a small window."""

PUT_OFF_MESSAGES = 8
"""So much longer the session has to be for another try, when a model had nothing to say."""


class Sessions(Protocol):
    """Reads messages."""

    async def messages(self, key: SessionKey, first: int, last: int) -> Sequence[StoredMessage]:
        """The messages at positions first..last of the log, both included."""


class SummaryStore(Protocol):
    """Keeps the rolling summaries of sessions."""

    async def read(self, session: SessionKey) -> SummaryState | None: ...
    async def replace(self, session: SessionKey, state: SummaryState, *, summary: str, summarised: int) -> bool: ...
    async def put_off(self, session: SessionKey, state: SummaryState, *, until: int) -> bool: ...


def target_of(state: SummaryState) -> int:
    """How many messages from the beginning the summary should cover; no more than it does where it is enough."""
    if len(state.index) < state.not_before:
        return state.summarised
    target = max(state.cut, state.summarised)
    tokens = [entry.tokens for entry in state.index]
    window = state.wanted_within
    if window and sum(tokens[target:]) > FULL * window:
        target = max(target, _older_part(state.index, room=int(KEPT * window)))
    return target


def _older_part(index: Sequence[IndexEntry], *, room: int) -> int:
    """Where the messages begin that have room: at a turn's beginning, at least not between a call and its result."""
    first = len(index) - 1
    room -= index[first].tokens
    while first and index[first - 1].tokens <= room:
        first -= 1
        room -= index[first].tokens
    begins = next((at for at in range(first, len(index)) if index[at].flags & USER), None)
    if begins is not None:
        return begins
    while first and index[first].flags & RESULT:
        first -= 1
    return first


@dataclass(frozen=True, slots=True)
class Piece:
    """Messages that one call sums up."""

    shown: tuple[JsonObject, ...]
    count: int


def piece_of(messages: Sequence[StoredMessage], zone: tzinfo) -> Piece:
    """As many of the messages as fit into one call, at least one, as the model is shown them."""
    shown: list[JsonObject] = []
    room = PIECE_CHARS
    count = 0
    for stored in messages:
        one = _shown(stored, zone)
        room -= len(one["words"]) if one else 0
        if count and room < 0:
            break
        count += 1
        shown += [one] if one else []
    return Piece(tuple(shown), count)


def _shown(stored: StoredMessage, zone: tzinfo) -> JsonObject:
    """One message as the model is shown it: calls and results of tools too, for a summary stands for them."""
    message = chat_form(stored.message)
    role = str(message.get("role", ""))
    is_result = role in {"tool", "function"}
    text = message_text(message).strip() or countable_text(message).strip()
    words = shortened(text, RESULT_CHARS if is_result else MESSAGE_CHARS)
    if not words or role in {"system", "developer"}:
        return {}
    at = stored.at.astimezone(zone)
    return {"role": role, "time": f"{day(at)} {at:%H:%M}", "words": words}


def words_for(state: SummaryState) -> int:
    """How long the summary may be."""
    if not state.wanted_within:
        return WORDS
    return max(LEAST_WORDS, min(WORDS, int(WINDOW_SHARE * state.wanted_within)))


def read_rolling(answer: str, piece: Piece, *, previous: str, words: int) -> str:
    """The new summary in an answer, empty when it has nothing to say; ValueError for an unreadable answer."""
    text, _, _ = summary_in(answer)
    said = [previous, *(str(one["words"]) for one in piece.shown)]
    return bounded("".join(sentence for sentence in sentences(text) if not invents(sentence, said)), words)


class RollingSummaries:
    """Keeps the summaries of sessions up with them."""

    def __init__(self, store: SummaryStore, sessions: Sessions, model: Asks, *, zone: tzinfo = UTC) -> None:
        self._store = store
        self._sessions = sessions
        self._model = model
        self._zone = zone
        self._instructions = read_prompt("rolling")

    async def summarise(self, session: SessionKey, *, spending: Spending) -> None:
        """Bring the session's summary up to what it should cover, unless that is so, or others do it.

        What was written by then stays when it raises ModelCallError, BudgetSpentError or StoreError.
        """
        state = await self._store.read(session)
        while state is not None and (target := target_of(state)) > state.summarised:
            last = min(target, state.summarised + PIECE_MESSAGES) - 1
            piece = piece_of(await self._sessions.messages(session, state.summarised, last), self._zone)
            if not piece.count:
                return
            summary = await self._summed_up(piece, state, spending) if piece.shown else state.summary
            covered = state.summarised + piece.count
            if len(summary) < LEAST_CHARS and piece.shown:
                log.info("a model had nothing to say about %d messages of a session", piece.count)
                await self._store.put_off(session, state, until=len(state.index) + PUT_OFF_MESSAGES)
                return
            if not await self._store.replace(session, state, summary=summary, summarised=covered):
                return
            state = await self._store.read(session)

    async def _summed_up(self, piece: Piece, state: SummaryState, spending: Spending) -> str:
        words = words_for(state)
        shown = {"max_words": words, "previous": state.summary, "messages": list(piece.shown)}
        question = Question(
            name="rolling_summary",
            system=self._instructions,
            user=as_json(shown),
            schema=strict_object({"summary": {"type": "string"}}),
            read=lambda answer: read_rolling(answer, piece, previous=state.summary, words=words),
        )
        return str(await spending.ask(self._model, question))
