"""What one exchange writes, decided before anything is written. Pure.

An exchange is a request and what came of it. Here it becomes a `NewTurn`: the messages that are new in the log, the
facts, pins and chain pointer that go with them, and the turn that is queued for learning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce

import msgspec

from memproxy.proxy.align import Alignment, Entry, Shape, align, align_chained, align_foreign, finished_length
from memproxy.proxy.compose import Cut, Placement, message_without_blocks
from memproxy.proxy.conversation import (
    Conversation,
    answer_chains,
    extend,
    flags_of,
    instructions_digest,
    is_other_agent,
    stored_entries,
    telling,
)
from memproxy.records import JsonObject, Outcome, Pin, Scope, SessionKey, StoredMessage, Turn
from memproxy.storage.pressure import Pressure
from memproxy.storage.queue import encode_turn
from memproxy.storage.working import Account, LoadedSession, NewTurn
from memproxy.wire.answer_facts import token_counts
from memproxy.wire.dialect import Answer, Request

CONTEXT_MESSAGES = 2
"""Messages before a turn that go to the queue with it: what grounds its first words."""

SPEAKERS = frozenset({"user", "assistant"})
"""Whose words are queued even where memory is short."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what came of it, with all that recording needs."""

    request_id: str
    key: SessionKey
    is_named: bool
    request: Request
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
    trace: str = ""
    """The request's place in a trace."""


def appended(exchange: Exchange, alignment: Alignment) -> list[tuple[int, JsonObject]]:
    """The client's messages that go into the log, with their index behind the instructions."""
    sent = exchange.request.conversation
    return [
        (index, sent[index])
        for index, position in enumerate(alignment.positions)
        if position is not None and position >= alignment.keep
    ]


def align_with(
    session: LoadedSession | None, conversation: Conversation, *, is_retry: bool, is_other: bool = False
) -> Alignment:
    """The conversation against the session. When the chain names exactly the log, there is nothing to compare."""
    entries = conversation.entries
    if conversation.is_chained:
        return _align_chained(session, entries, is_retry=is_retry)
    found = _align_sent(session, conversation, is_retry=is_retry, is_other=is_other)
    return replace(found, lies_elsewhere=True) if conversation.is_compacted else found


def _align_chained(session: LoadedSession | None, entries: Sequence[Entry], *, is_retry: bool) -> Alignment:
    if session is None:
        return align_chained((), entries, after=0)
    stored = stored_entries(session.index)
    if session.exact_prefix is not None and not stored:
        stored = (Entry(b"", is_answer=True),) * session.length  # all of it is before the messages: nothing to compare
    after = finished_length(stored) if session.known_to is None else session.known_to
    return align_chained(stored, entries, after=after, is_retry=is_retry)


def _align_sent(
    session: LoadedSession | None, conversation: Conversation, *, is_retry: bool, is_other: bool
) -> Alignment:
    entries = conversation.entries
    if session is None:
        return align((), entries, sends_newest=False)
    if session.dialect and session.dialect != conversation.dialect:
        return align_foreign(stored_entries(session.index), entries)
    if session.exact_prefix is not None:
        length = conversation.prefixes[session.exact_prefix].length
        if length == session.length:
            known = tuple(index < length for index in range(len(entries)))
            return Alignment(
                Shape.WHOLE, head=0, keep=length, branches=False, positions=tuple(range(len(entries))), known=known
            )
    return align(
        stored_entries(session.index),
        entries,
        sends_newest=session.sends_newest,
        is_retry=is_retry,
        is_other_agent=is_other,
    )


def session_key(
    session: LoadedSession | None, alignment: Alignment, *, scope: Scope, named: str | None, fresh: str
) -> SessionKey:
    """Where this request's turn will be appended."""
    if session is None:
        return SessionKey(scope, named or unnamed_session(fresh))
    return target_key(session, alignment, fresh=fresh, is_named=named is not None)


def align_again(exchange: Exchange, session: LoadedSession | None) -> tuple[Alignment, SessionKey]:
    """Where the exchange belongs in a session that has changed since the request came."""
    is_other = is_other_agent(session, exchange.request)
    alignment = align_with(session, exchange.conversation, is_retry=exchange.is_retry, is_other=is_other)
    if session is None:
        return alignment, SessionKey(exchange.key.scope, exchange.key.session)
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


def stored(
    message: JsonObject,
    *,
    exchange: Exchange,
    at: datetime,
    tokens: int,
    digest: bytes | None = None,
    is_partial: bool = False,
) -> StoredMessage:
    """A message as it is kept: whole, but without blocks that memproxy put into it."""
    dialect = exchange.request.dialect
    return StoredMessage(
        message=message_without_blocks(dialect, message),
        digest=(digest or dialect.digest(message)).hex(),
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
    answer: Sequence[StoredMessage],
    counts: Sequence[int],
    pressure: Pressure = Pressure.NONE,
) -> NewTurn | None:
    """All that this exchange writes; None when the session holds it already.

    The shorter the store's memory, the less is queued.
    """
    entries = exchange.conversation.entries
    new = [
        (index, stored(message, exchange=exchange, at=exchange.at, tokens=tokens, digest=entries[index].digest))
        for (index, message), tokens in zip(appended(exchange, alignment), counts, strict=True)
    ]
    messages = (*(message for _, message in new), *answer)
    if not messages or _holds(session, exchange, alignment, answer):
        return None
    branch = session is not None and alignment.branches
    learned = tuple(message for index, message in new if not alignment.known[index])
    learned += tuple(message for message in answer if not message.partial)  # else the client will ask again
    return NewTurn(
        key=key,
        turn_id=exchange.request_id,
        expected_length=0 if branch or session is None else session.length,
        keep=0 if branch else alignment.keep,
        messages=messages,
        flags=tuple(flags_of(exchange.request.dialect, each.message, is_partial=each.partial) for each in messages),
        facts=_facts(exchange, session, alignment, key=key, messages=messages),
        pins=_pins(exchange, alignment, answer_at=alignment.keep + len(new), span=len(answer)),
        queued=_queued(exchange, session, key=key, learned=learned, pressure=pressure),
        chain=_chain(exchange, alignment, answer),
        chain_is_whole=alignment.is_whole,
        is_named=exchange.is_named,
        parent=session.key if branch and session is not None else None,
        copied=alignment.keep if branch else 0,
        rewrites=session.rewrites if session is not None else 0,
        instructions=_new_instructions(exchange, session, key),
        answers=tuple(answer_chains(exchange.answer)),
        counts=account_of(exchange.answer).counts(),
    )


def _queued(
    exchange: Exchange,
    session: LoadedSession | None,
    *,
    key: SessionKey,
    learned: tuple[StoredMessage, ...],
    pressure: Pressure,
) -> bytes:
    """The turn as it is queued; empty when nothing is."""
    lean = pressure >= Pressure.TIGHT
    if lean:
        learned = tuple(message for message in learned if message.message.get("role") in SPEAKERS)
    if not (exchange.learns and learned) or pressure >= Pressure.SHORT:
        return b""
    return encode_turn(_turn(exchange, session, key=key, learned=learned, lean=lean))


def account_of(answer: Answer) -> Account:
    """What this answer adds to its session's account: nothing where its provider does not tell of its prompt cache."""
    told = token_counts(answer.usage)
    if told.cached is None:
        return Account()
    return Account(1, told.prompt or 0, told.cached, told.completion or 0)


def _new_instructions(exchange: Exchange, session: LoadedSession | None, key: SessionKey) -> bytes:
    """The request's instructions, unless the thread has them already."""
    instructions = exchange.request.instructions
    kept = session.instructions if session is not None and session.key == key else ""
    if not instructions or kept == instructions_digest(exchange.request):
        return b""
    return msgspec.json.encode(instructions)


def _holds(
    session: LoadedSession | None, exchange: Exchange, alignment: Alignment, answer: Sequence[StoredMessage]
) -> bool:
    """The log has this very exchange: an earlier attempt went through unnoticed, or a later turn brought it along.

    That the log ends with the same words would not do: users say "ok" twice and are answered alike.
    """
    if session is None:
        return False
    if session.last_turn == exchange.request_id:
        return True
    if not answer or alignment.head or alignment.shape is Shape.CHAINED or len(session.index) != session.length:
        return False
    digests = [entry.digest for entry in exchange.conversation.entries]
    digests += [bytes.fromhex(message.digest) for message in answer]
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
        "dialect": exchange.request.dialect.name,
    }
    if session is None or alignment.branches:
        facts["created_at"] = exchange.at.isoformat()
    if not alignment.head and _resends(exchange.conversation, alignment):
        facts["resends"] = "1"
    if exchange.cut.position and not exchange.is_blind:
        facts |= {"cut": str(exchange.cut.position), "cut_note": exchange.cut.note}
    elif session is not None and session.cut > alignment.keep:
        facts |= {"cut": "0", "cut_note": ""}  # what stood before the cut has been replaced
    if not exchange.request.instructions and session is not None:
        facts["instructions"] = session.instructions
    return facts


def _resends(conversation: Conversation, alignment: Alignment) -> bool:
    """The client sends earlier turns again: a tool loop sends its own messages again in any case."""
    newest = conversation.newest_user or 0
    return any(alignment.known[at] and conversation.entries[at].is_user for at in range(newest))


def _pins(exchange: Exchange, alignment: Alignment, *, answer_at: int, span: int) -> Mapping[int, Pin]:
    pins: dict[int, Pin] = {}
    placement = exchange.placement
    if placement is not None:
        position = alignment.positions[placement.index - exchange.request.lead]
        if position is not None:
            pins[position] = placement.pin
    if exchange.instead and span:
        pins[answer_at] = Pin(instead=exchange.instead, span=span)
    return pins


def _chain(exchange: Exchange, alignment: Alignment, answer: Sequence[StoredMessage]) -> str:
    """The pointer after this turn: only where the client sends all that was said, for it stands for all of it."""
    if not answer or answer[-1].partial or alignment.head or None in alignment.positions:
        return ""
    if alignment.shape is Shape.CHAINED:
        return ""
    spoken = [each for each in answer if not exchange.request.dialect.is_silent(each.message)]
    return reduce(extend, (bytes.fromhex(each.digest) for each in spoken), exchange.conversation.chain).hex()


def _turn(
    exchange: Exchange,
    session: LoadedSession | None,
    *,
    key: SessionKey,
    learned: tuple[StoredMessage, ...],
    lean: bool,
) -> Turn:
    """What is queued; `lean`: without what only grounds it."""
    return Turn(
        id=exchange.request_id,
        scope=key.scope,
        session=key.session,
        at=exchange.at,
        outcome=exchange.outcome,
        messages=learned,
        context=() if lean else _context(exchange, learned),
        strategies=session.strategies if session is not None else (),
        thread=key.thread,
        trace=exchange.trace,
    )


def _context(exchange: Exchange, learned: tuple[StoredMessage, ...]) -> tuple[StoredMessage, ...]:
    first = learned[0].message
    sent = [*(message.message for message in exchange.history), *exchange.request.conversation]
    places = (place for place in range(len(sent) - 1, -1, -1) if sent[place] is first or sent[place] == first)
    before = sent[: next(places, len(sent))]
    grounding = telling(exchange.request.dialect, before)[-CONTEXT_MESSAGES:]
    return tuple(stored(message, exchange=exchange, at=exchange.at, tokens=0) for message in grounding)
