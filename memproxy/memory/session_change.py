"""What one write of a document changes in a session, decided before anything is written. Pure.

What the document does not say stays. What it says, or leaves out of a list, counts against what its writer has seen
(`read_marks`): a value that others changed since, and that comes back as it was read, stays as the others left it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from msgspec.structs import replace as changed

from memproxy.memory.read_marks import Seen, marks_after, seen_by, short_digest
from memproxy.memory.session_merge import (
    Match,
    Merged,
    Sent,
    first_repeated,
    match,
    merge,
    without_removed,
)
from memproxy.memory.working import FULL, Window
from memproxy.records import MemoryRecord, Outcome, StrategyChoice, Turn
from memproxy.storage.queue import encode_turn
from memproxy.storage.session_state import Change, Document, KeptMemory, Marks, MarksChange, Witness

T = TypeVar("T")

CONTEXT_MESSAGES = 2
"""Messages before the first new one that go to the queue with it: what grounds its first words."""

MOST_GONE = 2_000
"""Removed messages that are remembered, the newest."""

_SAYS = ("text", "type", "scope", "session", "topics", "entities", "event_date", "metadata", "pinned", "extracted_from")
"""What of a memory is its author's: equal in all of this, it is the same as before."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A document as its writer wants it."""

    messages: tuple[Sent, ...] = ()
    memories: tuple[MemoryRecord, ...] = ()
    data: Mapping[str, bytes] | None = None
    """JSON by name; None leaves what there is."""
    summary: str | None = None
    """None leaves what there is, the empty string clears it."""
    strategy: StrategyChoice | None = None
    """None leaves what there is."""
    ttl_ms: int | None = None
    """None for the configured one."""
    keeps_ttl: bool = True
    """The document says nothing about its time to live."""
    state: datetime | None = None
    """The time that it sends back: of the state that it was made from."""
    window: Window | None = None
    """What the session should fit into."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """A document beside the session that it is written to."""

    document: Document
    """The session."""
    wish: Wish
    writer: Witness
    matches: Sequence[Match]
    seen: Seen
    gone: Mapping[str, int]
    """Messages that were removed lately, and by which change."""


def align_with(document: Document, marks: Marks, wish: Wish, *, writer: Witness) -> Aligned:
    """Find out what the document repeats, and what its writer has seen."""
    matches = match(document, wish.messages)
    seen = seen_by(document, marks.left, writer=writer, state=wish.state, first=first_repeated(matches))
    return Aligned(document, wish, writer, without_removed(matches, seen, marks.gone), seen, marks.gone)


def plan(aligned: Aligned, *, tokens: Sequence[int], turn_id: str) -> Change:
    """What is written, and what there is then. `tokens` of what `to_count` names."""
    was = aligned.document
    merged = merge(was, aligned.matches, aligned.seen, tokens=tokens, turn=turn_id)
    data, memories = _data(aligned), _memories(aligned)
    at = _later(aligned.writer.at, was.updated_at)
    after = _after(aligned, merged, data=_left(was.data, data), memories=memories, at=at)
    turn = _turn(merged, after, memories.values(), turn_id=turn_id, at=at)
    is_full = after.tokens > after.wanted_within * FULL > 0
    return Change(
        document=was,
        after=after,
        keep=merged.keep,
        data=data,
        memories=memories,
        queued=encode_turn(turn) if turn.messages or turn.memories or is_full else b"",
        marks=_marks(aligned, merged),
    )


def _after(
    aligned: Aligned,
    merged: Merged,
    *,
    data: Mapping[str, bytes],
    memories: Mapping[str, KeptMemory | None],
    at: datetime,
) -> Document:
    """The session after the change."""
    was, wish = aligned.document, aligned.wish
    summary = _summary(aligned)
    after = replace(
        was,
        version=was.version + 1,
        length=len(merged.messages),
        messages=tuple(kept.message for kept in merged.messages),
        index=tuple(kept.entry for kept in merged.messages),
        summary=summary,
        summarised=min(was.summarised, merged.keep) if summary else 0,
        cut=was.cut if was.cut <= merged.keep else 0,
        data=data,
        memories=tuple(_left({kept.record.id: kept for kept in was.memories}, memories).values()),
        strategies=(wish.strategy,) if wish.strategy is not None else was.strategies,
        ttl_ms=was.ttl_ms if wish.keeps_ttl else wish.ttl_ms,
        created_at=was.created_at or at,
        updated_at=at,
        is_there=True,
    )
    window = wish.window
    if window is None or not (window.is_given or after.tokens > window.summarised_from):
        return after
    return replace(after, wanted_within=window.tokens)


def _later(now: datetime, before: datetime | None) -> datetime:
    """Now, and in any case after the change before: the time of a state tells it from the others."""
    return now if before is None else max(now, before + timedelta(microseconds=1))


def _left(was: Mapping[str, T], changes: Mapping[str, T | None]) -> dict[str, T]:
    return {name: value for name, value in {**was, **changes}.items() if value is not None}


def _summary(aligned: Aligned) -> str:
    was, wished = aligned.document.summary, aligned.wish.summary
    if wished is None or wished == was:
        return was
    if not wished:  # cleared, if what is cleared is what was read
        return "" if aligned.seen.knows_text(_digest(was)) else was
    return was if aligned.seen.read_text(_digest(wished)) else wished


def _digest(text: str) -> str:
    return short_digest(text.encode())


def _data(aligned: Aligned) -> dict[str, bytes | None]:
    """What changes of the data."""
    was, wished, seen = aligned.document.data, aligned.wish.data, aligned.seen
    if wished is None:
        return {}
    changes: dict[str, bytes | None] = {
        name: None for name, value in was.items() if name not in wished and seen.knows_value(name, short_digest(value))
    }
    return changes | {
        name: value
        for name, value in wished.items()
        if value != was.get(name) and not seen.read_value(name, short_digest(value))
    }


def _memories(aligned: Aligned) -> dict[str, KeptMemory | None]:
    """What changes of the memories beside the session."""
    known = {kept.record.id: kept for kept in aligned.document.memories}
    seen, version = aligned.seen, aligned.document.version + 1
    wished = {record.id: record for record in aligned.wish.memories}
    changes: dict[str, KeptMemory | None] = {
        name: None for name, kept in known.items() if name not in wished and seen.knows_change(kept.version)
    }
    for name, record in wished.items():
        before = known.get(name)
        if before is None:
            changes[name] = KeptMemory(record, version)
        elif not _says_same(before.record, record) and seen.knows_change(before.version):
            first = min(before.record.created_at, record.created_at)
            changes[name] = KeptMemory(changed(record, created_at=first, persisted_at=None), version)
    return changes


def _says_same(one: MemoryRecord, other: MemoryRecord) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in _SAYS)


def _turn(
    merged: Merged, after: Document, memories: Iterable[KeptMemory | None], *, turn_id: str, at: datetime
) -> Turn:
    """What is to be learned from the change; without messages and memories there is nothing."""
    new = [at for at, kept in enumerate(merged.messages) if kept.position is None and not kept.message.learned]
    first = new[0] if new else 0
    return Turn(
        id=turn_id,
        scope=after.key.scope,
        session=after.key.session,
        at=at,
        outcome=Outcome.COMPLETED,
        messages=tuple(after.messages[at] for at in new),
        context=after.messages[max(0, first - CONTEXT_MESSAGES) : first],
        memories=tuple(kept.record for kept in memories if kept is not None and kept.record.persisted_at is None),
        strategies=after.strategies,
        thread=after.key.thread,
    )


def _marks(aligned: Aligned, merged: Merged) -> MarksChange:
    """What becomes of the marks, and what the writer knows from now on."""
    was, wish, seen = aligned.document, aligned.wish, aligned.seen
    data = wish.data
    if data is None:
        data = {name: value for name, value in was.data.items() if seen.knows_value(name, short_digest(value))}
    return marks_after(
        seen,
        was,
        writer=aligned.writer,
        length=len(merged.messages),
        written=[entry.version for entry, one in zip(was.index, was.messages, strict=True) if one.is_written],
        differs=merged.differs or len(aligned.matches) < len(wish.messages),
        data=data,
        summary=was.summary if wish.summary is None else wish.summary,
        gone=_gone(aligned, merged),
    )


def _gone(aligned: Aligned, merged: Merged) -> Mapping[str, int]:
    """The messages that were removed lately, the newest so many."""
    there = {kept.message.id for kept in merged.messages}
    gone = {**aligned.gone, **dict.fromkeys(merged.removed, aligned.document.version + 1)}
    return dict([(name, version) for name, version in gone.items() if name not in there][-MOST_GONE:])
