"""Which memories say the same, and what one memory is made of them. Pure.

What code or a tool created is kept as it was given: it is never changed, and of two such memories none is dropped. A
memory that was learned is dropped when one of them, or a newer one that was learned, says the same.

Two memories *say the same* when they are equal in text, session and type (`memory_hash`), or when both are learned
statements whose vectors are nearly equal and which agree in what vectors hardly see: numbers, identifiers, negations,
the date of the event.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from memproxy.records import MemoryRecord, MemoryType
from memproxy.storage.memory_documents import FoundMemory, memory_hash

DUPLICATE_COSINE = 0.95
"""Chosen on pairs of statements: with the local vectors, "likes tea" and "likes green tea" have 0.90, one statement
in two wordings 0.94 to 1.0, and "at 5 pm" and "at 6 pm" 0.96, which is why numbers are compared, too."""

BLOCK = 256
"""Memories compared with all others at a time."""

STATEMENTS = frozenset({MemoryType.SEMANTIC, MemoryType.EPISODIC})

_NUMBERED = re.compile(r"[^\W_]*\d[\w.:/-]*")
_NEGATION = re.compile(
    r"\b(?:no|not|never|neither|nor|none|nobody|nothing|without|cannot)\b|n['\u2019]t\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Merge:
    """Memories that say the same: what is kept, made of all, and what is dropped."""

    kept: FoundMemory
    merged: MemoryRecord
    """What `kept` becomes."""
    dropped: tuple[FoundMemory, ...]


def says_the_same(one: MemoryRecord, other: MemoryRecord, *, cosine: float) -> bool:
    """Whether two statements of one scope are one."""
    return (
        cosine >= DUPLICATE_COSINE
        and one.type is other.type
        and one.type in STATEMENTS
        and one.event_date == other.event_date
        and _details(one.text) == _details(other.text)
    )


def merges(found: Sequence[FoundMemory]) -> list[Merge]:
    """What can be merged of the memories of one scope; no memory is in two merges. They need their vectors.

    Cost: n * n / 2 products of vectors; 2 s for 5,000 memories.
    """
    exact = _exact(found)
    taken = {id(memory) for merge in exact for memory in (merge.kept, *merge.dropped)}
    learned = [memory for memory in found if id(memory) not in taken and _may_be_merged(memory)]
    return [*exact, *_near(learned)]


def _exact(found: Iterable[FoundMemory]) -> list[Merge]:
    by_hash: dict[str, list[FoundMemory]] = defaultdict(list)
    for memory in found:
        if memory.record.valid_until is None:
            by_hash[memory_hash(memory.record)].append(memory)
    made = []
    for same in by_hash.values():
        given = [memory for memory in same if memory.record.is_explicit]
        learned = [memory for memory in same if not memory.record.is_explicit]
        if given and learned:
            made.append(Merge(given[0], given[0].record, tuple(learned)))
        elif len(learned) > 1:
            made.append(_merged(learned))
    return made


def _near(learned: Sequence[FoundMemory]) -> list[Merge]:
    """Around each memory, newest first, the older ones that say the same."""
    newest_first = sorted(learned, key=_age, reverse=True)
    if len(newest_first) < 2:
        return []
    vectors = np.stack([memory.vector for memory in newest_first if memory.vector is not None])
    taken: set[int] = set()
    made = []
    for begin in range(0, len(newest_first), BLOCK):
        for centre, cosines in enumerate(vectors[begin : begin + BLOCK] @ vectors.T, start=begin):
            if centre in taken:
                continue
            same = [
                place
                for place in np.flatnonzero(cosines >= DUPLICATE_COSINE).tolist()
                if place > centre
                and place not in taken
                and says_the_same(newest_first[centre].record, newest_first[place].record, cosine=cosines[place])
            ]
            if same:
                taken.update(same)
                made.append(_merged([newest_first[centre], *(newest_first[place] for place in same)]))
    return made


def _may_be_merged(memory: FoundMemory) -> bool:
    """Whether it is a statement that was learned, holds, and can be compared; who pinned one means this very one."""
    record = memory.record
    is_learned = not record.is_explicit and not record.pinned and record.type in STATEMENTS
    return is_learned and record.valid_until is None and memory.vector is not None


def _merged(same: Sequence[FoundMemory]) -> Merge:
    """The newest, with what all were told and learned from; it is as old as the oldest and keeps all accesses."""
    newest_first = sorted(same, key=_age, reverse=True)
    kept, dropped = newest_first[0], newest_first[1:]
    records = [memory.record for memory in reversed(newest_first)]
    accessed = [record.last_accessed for record in records if record.last_accessed is not None]
    merged = replace(
        kept.record,
        created_at=min(record.created_at for record in records),
        topics=_united(record.topics for record in records),
        entities=_united(record.entities for record in records),
        turns=_united(record.turns for record in records),
        extracted_from=_united(record.extracted_from for record in records),
        supersedes=_united(record.supersedes for record in records),
        pinned=any(record.pinned for record in records),
        last_accessed=max(accessed, default=None),
        access_count=sum(record.access_count for record in records),
    )
    return Merge(kept, merged, tuple(dropped))


def _age(memory: FoundMemory) -> tuple[float, str]:
    return memory.record.created_at.timestamp(), memory.record.id


def _united(parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for part in parts for each in part))


def _details(text: str) -> tuple[frozenset[str], bool]:
    """What vectors hardly see: numbers and identifiers, and whether something is denied."""
    return frozenset(found.casefold().rstrip(".:/-") for found in _NUMBERED.findall(text)), bool(_NEGATION.search(text))
