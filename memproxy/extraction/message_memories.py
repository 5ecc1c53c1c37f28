"""What was said, as it was said, as memories; pure.

Together with what a model makes of it, words as they fell recall most: they hold what no model thought worth noting.
"""

from collections.abc import Iterable, Sequence
from datetime import tzinfo

from memproxy.extraction.spoken import Utterance, day, is_trivial, pieces
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.schema import digest_of

CONTEXT_PIECES = 2
"""Pieces said before that are indexed beside a piece. Measured: worth more than any embedding."""


def message_memories(
    said: Iterable[Utterance], before: Iterable[Utterance], *, scope: Scope, session: str, zone: tzinfo
) -> list[MemoryRecord]:
    """The words of one session as MESSAGE memories, each with the two pieces that were said before it as context.

    What is trivial ("Noted.") is neither a memory nor context: it would take the place of what the talk is about.

    The id is a digest of session, speaker and words: the same words again in a session are the same memory.
    """
    earlier = [piece for one in before for piece in pieces(one.words) if not is_trivial(piece)]
    records: dict[str, MemoryRecord] = {}
    for one in said:
        for piece in pieces(one.words):
            if is_trivial(piece):
                continue
            record = _record(piece, one, scope=scope, session=session, before=earlier[-CONTEXT_PIECES:], zone=zone)
            records.setdefault(record.id, record)
            earlier.append(piece)
    return list(records.values())


def _record(
    piece: str, said: Utterance, *, scope: Scope, session: str, before: Sequence[str], zone: tzinfo
) -> MemoryRecord:
    return MemoryRecord(
        id=digest_of("message", session, said.role, said.speaker, piece),
        scope=scope,
        text=f"{said.speaker} ({day(said.at.astimezone(zone))}): {piece}",
        type=MemoryType.MESSAGE,
        created_at=said.at,
        session=session,
        speaker=said.speaker,
        context="\n".join(before),
        turns=(said.turn,) if said.turn else (),
    )
