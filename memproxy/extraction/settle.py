"""What becomes of new facts beside those that are remembered: added, merged, put in another's place, or left out.

Exactly equal ones are found by their id, near ones by the store, and what is doubtful is asked of a model, in one call
for the whole batch. What is decided then is pure:

- *the same* adds its topics, entities and turns to the one that is there;
- *replaces* puts the old one out of use from the moment at which the new one was said, and keeps both;
- everything else is kept beside the others. A wrong "different" costs a line, a wrong "same" a memory.

What was said earlier never replaces what was said later, however late it is learned: then it is stored as already out
of use. Records that code made, or that are pinned, are never changed; a fact that says the same as one is left out.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import Protocol

from msgspec.structs import replace

from memproxy.extraction.decide import MAX_PAIRS, Pair, Relation
from memproxy.extraction.likeness import Gist, Likeness, gist, likeness
from memproxy.records import MemoryRecord, Scope, ScoredMemory
from memproxy.storage.schema import digest_of
from memproxy.words import Terms

PAIRS_EACH = 3
"""Remembered ones that a new fact is asked about; the nearest."""

BATCH_COSINE = 0.5
"""What two facts of one batch are taken to have: they come of the same talk, and nobody measured it."""

MAX_TURNS = 50
"""The newest turns that a memory names as where it comes from."""


class Remembered(Protocol):
    """Long-term memory, as far as settling looks at it."""

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[MemoryRecord]:
        """The memories with these ids."""

    async def neighbours(self, scope: Scope, records: Sequence[MemoryRecord]) -> list[list[ScoredMemory]]:
        """For each record the nearest memories that hold, nearest first."""


Change = Callable[[MemoryRecord], MemoryRecord]
Replaced = Mapping[str, Sequence[str]]
"""Id of a new memory -> ids of those whose place it takes."""

Decide = Callable[[Sequence[Pair]], Awaitable[Sequence[Relation]]]
"""Says what the new one of each pair is to the old one."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is to be written."""

    new: tuple[MemoryRecord, ...] = ()
    replaced: Replaced = field(default_factory=dict)
    merged: tuple[tuple[str, MemoryRecord], ...] = ()
    """Id of a memory that is there, and the new one that says the same."""


@dataclass(frozen=True, slots=True)
class Doubts:
    """A batch, as far as it can be settled without asking."""

    fresh: tuple[MemoryRecord, ...]
    merged: tuple[tuple[str, MemoryRecord], ...]
    pairs: tuple[Pair, ...]


async def settle(
    candidates: Sequence[MemoryRecord], *, memory: Remembered, decide: Decide, terms: Terms, unrelated: float
) -> Settlement:
    """What to write for facts of one scope. Two round trips, and a call of `decide` where something is doubtful.

    `unrelated`: the cosine of texts that have nothing to do with each other.
    """
    if not candidates:
        return Settlement()
    scope = candidates[0].scope
    known = {record.id: record for record in await memory.get(scope, [record.id for record in candidates])}
    fresh, merged = told_before(candidates, known)
    if not fresh:
        return Settlement(merged=tuple(merged))
    fresh = merged_in_batch(fresh, terms)
    near = await memory.neighbours(scope, fresh)
    doubts = compared(fresh, near, terms=terms, unrelated=unrelated)
    relations = await decide(doubts.pairs) if doubts.pairs else []
    settled = settled_by(doubts, relations)
    return Settlement(settled.new, settled.replaced, (*merged, *settled.merged))


def told_before(
    candidates: Sequence[MemoryRecord], known: Mapping[str, MemoryRecord]
) -> tuple[list[MemoryRecord], list[tuple[str, MemoryRecord]]]:
    """The facts whose words are not stored yet, and those that are there already.

    What is true again after something else was true for a while is a fact of its own: it gets an id of its own.
    """
    fresh: list[MemoryRecord] = []
    merged: list[tuple[str, MemoryRecord]] = []
    for record in candidates:
        there = known.get(record.id)
        if there is None:
            fresh.append(record)
        elif there.valid_until is None:
            if not is_fixed(there):
                merged.append((there.id, record))
        elif record.created_at > there.valid_until:
            fresh.append(replace(record, id=digest_of("fact", record.id, record.created_at.isoformat())))
    return fresh, merged


def merged_in_batch(records: Sequence[MemoryRecord], terms: Terms) -> list[MemoryRecord]:
    """The facts of a batch, each once: those of equal words are made one."""
    kept: dict[tuple[str, ...], MemoryRecord] = {}
    for record in records:
        skeleton = gist(record.text, terms).skeleton
        kept[skeleton] = united(kept[skeleton], record) if skeleton in kept else record
    return list(kept.values())


def compared(
    fresh: Sequence[MemoryRecord], near: Sequence[Sequence[ScoredMemory]], *, terms: Terms, unrelated: float
) -> Doubts:
    """Which facts are there already, and which pairs are doubtful."""
    gists = {record.id: gist(record.text, terms) for record in fresh}
    kept, merged, pairs = [], [], []
    for record, found in zip(fresh, near, strict=True):
        same, doubtful = _beside(record, found, gists[record.id], terms=terms, unrelated=unrelated)
        if same is None:
            kept.append(record)
            pairs += doubtful[:PAIRS_EACH]
        elif not is_fixed(same):
            merged.append((same.id, record))
    pairs += _within(kept, gists)
    pairs.sort(key=lambda pair: -pair.nearness)
    return Doubts(tuple(kept), tuple(merged), tuple(pairs[:MAX_PAIRS]))


def _beside(
    record: MemoryRecord, found: Sequence[ScoredMemory], own: Gist, *, terms: Terms, unrelated: float
) -> tuple[MemoryRecord | None, list[Pair]]:
    """The remembered fact that says the same, if there is one, and those that may."""
    doubtful = []
    for scored in found:
        old = scored.record
        if old.id == record.id or old.valid_until is not None or old.strategy == "summary":
            continue
        cosine = (scored.vector_score - unrelated) / (1 - unrelated)
        alike = likeness(own, gist(old.text, terms), cosine=cosine)
        if alike is Likeness.SAME:
            return old, []
        if alike is Likeness.UNSURE:
            doubtful.append(Pair(record, old, cosine))
    return None, doubtful


def _within(records: Sequence[MemoryRecord], gists: Mapping[str, Gist]) -> Iterator[Pair]:
    """The doubtful pairs of one batch, the earlier statement as the old one."""
    for one, other in combinations(records, 2):
        old, new = sorted((one, other), key=lambda record: record.created_at)
        if likeness(gists[new.id], gists[old.id], cosine=BATCH_COSINE) is not Likeness.DIFFERENT:
            yield Pair(new, old, BATCH_COSINE)


def settled_by(doubts: Doubts, relations: Sequence[Relation]) -> Settlement:
    """What is written once the doubtful pairs are decided."""
    new = {record.id: record for record in doubts.fresh}
    fresh = frozenset(new)
    replaced: dict[str, list[str]] = {}
    merged = list(doubts.merged)
    for pair, relation in zip(doubts.pairs, relations, strict=False):
        candidate = new.get(pair.new.id)
        is_gone = pair.old.id in fresh and pair.old.id not in new
        if candidate is None or is_gone or relation is Relation.DIFFERENT:
            continue
        if relation is Relation.SAME:
            del new[candidate.id]
            replaced.pop(candidate.id, None)
            if pair.old.id in new:
                new[pair.old.id] = united(new[pair.old.id], candidate)
            elif not is_fixed(pair.old):
                merged.append((pair.old.id, candidate))
        elif pair.old.id in new:
            new[pair.old.id] = _out_of_use(new[pair.old.id], candidate)
            new[candidate.id] = _successor(candidate, pair.old)
        elif candidate.created_at < held_at(pair.old):
            new[candidate.id] = _out_of_use(candidate, pair.old)
        elif not is_fixed(pair.old):
            replaced.setdefault(candidate.id, []).append(pair.old.id)
            new[candidate.id] = _successor(candidate, pair.old)
    return Settlement(tuple(new.values()), _holding(replaced, new), tuple(merged))


def _holding(replaced: Mapping[str, list[str]], new: Mapping[str, MemoryRecord]) -> dict[str, Sequence[str]]:
    """What is replaced by facts that hold themselves: one that is out of use already takes nobody's place."""
    return {name: ids for name, ids in replaced.items() if new[name].valid_until is None}


def _successor(record: MemoryRecord, old: MemoryRecord) -> MemoryRecord:
    return replace(record, supersedes=tuple(dict.fromkeys((*record.supersedes, old.id))))


def _out_of_use(record: MemoryRecord, newer: MemoryRecord) -> MemoryRecord:
    return replace(record, valid_until=held_at(newer), superseded_by=newer.id)


def is_fixed(record: MemoryRecord) -> bool:
    """Whether extraction may not change a record: code made it, or pinned it."""
    return record.is_explicit or record.pinned


def held_at(record: MemoryRecord) -> datetime:
    """When a memory was said the last time."""
    return max(record.created_at, record.updated_at or record.created_at)


def united(record: MemoryRecord, other: MemoryRecord) -> MemoryRecord:
    """A record with what another that says the same adds to it; its words, and when it was first said, stay."""
    return replace(
        record,
        topics=_union(record.topics, other.topics),
        entities=_union(record.entities, other.entities),
        turns=tuple(dict.fromkeys((*record.turns, *other.turns)))[-MAX_TURNS:],
        created_at=min(record.created_at, other.created_at),
        updated_at=max(held_at(record), held_at(other)) if other.turns != record.turns else record.updated_at,
        event_date=record.event_date or other.event_date,
    )


def _union(some: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """Each label once, whatever its case."""
    labels: dict[str, str] = {}
    for label in (*some, *others):
        labels.setdefault(label.casefold(), label)
    return tuple(labels.values())
