"""What becomes of a session's messages when code puts a document in their place. Pure.

A message of the document is one of the session's if it has its id. What the proxy captured is recognised by its words,
too: code that writes down what it said through the proxy doubles nothing. So is everything by a document without ids.
What comes back unchanged keeps its full form, with calls, parts and names that the document can't show; what was
changed takes the document's form. What the document leaves out goes, if its writer had seen it, and else stays, in its
place.
"""

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from memproxy.memory.read_marks import Seen
from memproxy.memory.working import shown_role, shown_text
from memproxy.records import StoredMessage
from memproxy.storage.session_state import Document
from memproxy.storage.working import RESULT, IndexEntry, index_entry
from memproxy.wire import chat_completions as chat


@dataclass(frozen=True, slots=True)
class Sent:
    """One message as a document has it."""

    id: str
    role: str
    text: str
    at: datetime
    is_learned: bool = False
    is_named: bool = True
    """Its writer gave it its id."""


@dataclass(frozen=True, slots=True)
class Match:
    """A message of a document, and which of the session's it is."""

    sent: Sent
    position: int | None = None
    """In the log; None for one that is new."""
    is_same: bool = False
    """It says what it said before."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A message of the session from now on."""

    message: StoredMessage
    position: int | None
    """Where it stood, as it is; None for one that is new or changed."""
    entry: IndexEntry
    is_sent: bool
    """The document had it."""


@dataclass(frozen=True, slots=True)
class Merged:
    """The session's messages from now on."""

    messages: tuple[Kept, ...]
    keep: int
    """So many at the beginning are as they were, where they were."""
    removed: tuple[str, ...] = ()
    """The ids of those that are no more."""
    differs: bool = False
    """The session has more messages than the document, or others have removed some of those."""


def match(document: Document, sent: Sequence[Sent]) -> list[Match]:
    """Which of the session's messages those of the document are; each is only one of them."""
    by_id: dict[str, deque[int]] = defaultdict(deque)
    for position, stored in enumerate(document.messages):
        by_id[stored.id].append(position)
    found = [_by_id(document, one, by_id.get(one.id)) for one in sent]
    taken = {one.position for one in found}
    is_nameless = not any(one.is_named for one in sent)
    by_words: dict[str, list[int]] = defaultdict(list)
    for position, stored in enumerate(document.messages):
        if position not in taken and (is_nameless or not stored.is_written):
            by_words[stored.digest].append(position)
    last = -1
    for at, one in enumerate(found):
        place = one.position
        if place is None and by_words:
            places = by_words.get(chat.digest(wire_form(one.sent)).hex(), [])
            after = bisect_right(places, last)
            if after < len(places):
                place = places[after]
                found[at] = Match(one.sent, place, is_same=True)
        last = max(last, -1 if place is None else place)
    return found


def wire_form(sent: Sent) -> dict[str, str]:
    """The message as a model is sent it."""
    return {"role": sent.role, "content": sent.text}


def _by_id(document: Document, sent: Sent, places: deque[int] | None) -> Match:
    if not places:
        return Match(sent)
    position = places.popleft()
    message = document.messages[position].message
    same = shown_role(message) == sent.role and shown_text(message) == sent.text
    return Match(sent, position, is_same=same)


def first_repeated(matches: Sequence[Match]) -> int | None:
    """The first position in the log of which a document repeats the message."""
    return min((one.position for one in matches if one.position is not None), default=None)


def to_count(matches: Sequence[Match]) -> list[dict[str, str]]:
    """The messages whose tokens have to be counted, as `merge` wants them."""
    return [wire_form(one.sent) for one in matches if not one.is_same]


def without_removed(matches: Sequence[Match], seen: Seen, gone: Mapping[str, int]) -> list[Match]:
    """The matches without messages that others removed since the writer looked: it did not put them there anew."""
    return [
        one
        for one in matches
        if one.position is not None or seen.knows_change(gone.get(one.sent.id, 0), is_written=True)
    ]


def merge(document: Document, matches: Sequence[Match], seen: Seen, *, tokens: Sequence[int], turn: str) -> Merged:
    """The session's messages after the write. `tokens` of what `to_count` names; `turn` is the write's id."""
    counts = iter(tokens)
    sent = [_sent(document, one, seen, tokens=0 if one.is_same else next(counts), turn=turn) for one in matches]
    taken = {one.position for one in matches}
    unseen = seen.unseen(document.index, [stored.is_written for stored in document.messages])
    left = [position for position in range(len(unseen)) if position not in taken and unseen[position]]
    order = _in_order(document, matches, sent, left=left)
    keep = 0
    while keep < len(order) and order[keep].position == keep:
        keep += 1
    removed = {stored.id for stored in document.messages} - {kept.message.id for kept in order}
    return Merged(tuple(order), keep, tuple(removed), differs=not all(kept.is_sent for kept in order))


def _sent(document: Document, one: Match, seen: Seen, *, tokens: int, turn: str) -> Kept:
    """A message of the document as it is kept from now on."""
    if one.position is not None:
        stored, entry = document.messages[one.position], document.index[one.position]
        if one.is_same or (seen.reads and not seen.knows_change(entry.version)):  # else others changed it meanwhile
            if one.sent.is_learned and not stored.learned:
                return Kept(replace(stored, learned=True), None, entry, is_sent=True)
            return Kept(stored, one.position, entry, is_sent=True)
    message = wire_form(one.sent)
    stored = StoredMessage(
        message,
        digest=chat.digest(message).hex(),
        tokens=tokens,
        at=one.sent.at,
        turn=turn,
        id=one.sent.id,
        learned=one.sent.is_learned,
    )
    return Kept(stored, None, index_entry(stored, version=document.version + 1), is_sent=True)


def _in_order(document: Document, matches: Sequence[Match], sent: Sequence[Kept], *, left: Sequence[int]) -> list[Kept]:
    """The document's messages with what is left of the session between them.

    What is left follows the message that it followed before; among new ones it stands by its time.
    """
    places = {one.position for one in matches if one.position is not None}
    behind: dict[int, deque[int]] = defaultdict(deque)
    anchor, following = -1, iter(left)
    upcoming = next(following, None)
    for position in range(len(document.messages)):
        if position in places:
            anchor = position
        elif position == upcoming:
            behind[anchor].append(position)
            upcoming = next(following, None)
    order: list[Kept] = []
    waiting = behind.pop(-1, deque())
    for one, kept in zip(matches, sent, strict=True):
        if one.position is not None:
            order += _stays(document, waiting)
            waiting = behind.pop(one.position, deque())
        else:
            order += _stays(document, waiting, until=kept.message.at)
        order.append(kept)
    return [*order, *_stays(document, waiting)]


def _stays(document: Document, waiting: deque[int], *, until: datetime | None = None) -> list[Kept]:
    """Those that come next, up to this time; results of a tool always follow their call."""
    found: list[Kept] = []
    while waiting:
        stored, entry = document.messages[waiting[0]], document.index[waiting[0]]
        if until is not None and stored.at > until and not entry.flags & RESULT:
            break
        found.append(Kept(stored, waiting.popleft(), entry, is_sent=False))
    return found
