"""What the client sent against what is stored: which messages are new, which are missing, and whether it branched.

Clients send the whole history, only their newest messages, a window of the history, a history that they compacted or
edited. The digests of the stored log S and of the incoming conversation C (without leading instructions) tell which:

| shape | found by | effect |
|---|---|---|
| whole history | S is a prefix of C | the rest of C is new |
| newest only | nothing in common, no answer in C | S is put before C |
| window | a tail of S is a head of C | the part of S before it is put before C |
| compacted | a tail of S stands inside C | C is sent as it is; what follows the tail is new |
| edited | C leaves S before its end | C wins: a new thread begins there |
| foreign | nothing in common, C has answers, or other instructions than a client that resends | a thread of its own |
| chained | C names the answer behind which the provider puts it | nothing goes before C; it follows that answer |

Silent messages (what a model thought, what a provider did for it) tell nothing: clients may send them again or not.
They take part in none of this, and stand where the message stands that they led to.

The log is append-only. A branch becomes a thread that copies the common part; only an unfinished end (messages whose
answer never came, or broke off) is ever replaced in place. Messages that code wrote into the log, and that the client
does not send, are passed over: it knows nothing of them, and they stay. Pure; cost is linear in S and C.
"""

import enum
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

MAX_UNFINISHED = 12
"""Messages at the log's end, unanswered or broken off, of which a client may have kept some; each costs one more look
at the log."""


class Shape(enum.StrEnum):
    """How the client's messages relate to the stored ones."""

    WHOLE = "whole"
    NEWEST = "newest"
    WINDOW = "window"
    COMPACTED = "compacted"
    EDITED = "edited"
    FOREIGN = "foreign"
    CHAINED = "chained"


class Entry(NamedTuple):
    """One message of either side, as alignment sees it. A tuple, since a long history has thousands."""

    digest: bytes
    is_answer: bool
    is_partial: bool = False
    tokens: int = 0
    is_user: bool = False
    is_silent: bool = False
    """It tells nothing about where it stands, and may be missing."""
    is_written: bool = False
    """Code put it into the log; it was not said through the proxy."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where the incoming messages stand in the stored log."""

    shape: Shape
    head: int
    """Stored messages that the client did not send and that go before its own."""
    keep: int
    """Stored messages that stay in this thread, or that a branch copies: the log's length before new ones."""
    branches: bool
    """The new messages may not be appended to this thread; they begin one of their own."""
    positions: tuple[int | None, ...]
    """For each incoming message its position in the log after recording; None for one that is not stored."""
    known: tuple[bool, ...]
    """For each incoming message: it was seen before, so nothing is learned from it again."""
    lies_elsewhere: bool = False
    """The client's messages stand behind others that the provider has, or that the client says in another form: what
    is before them in the log is not sent, and nothing is cut."""

    @property
    def restored(self) -> int:
        """Stored messages that go before the client's own."""
        return 0 if self.lies_elsewhere else self.head

    @property
    def is_whole(self) -> bool:
        """The client sends all of the log, and nothing else, in its order."""
        return self.positions == tuple(range(len(self.positions)))

    @property
    def new_from(self) -> int:
        """The first incoming message that will be appended."""
        for index, position in enumerate(self.positions):
            if position is not None and position >= self.keep:
                return index
        return len(self.positions)


def align(
    stored: Sequence[Entry],
    incoming: Sequence[Entry],
    *,
    sends_newest: bool,
    is_retry: bool = False,
    is_other_agent: bool = False,
) -> Alignment:
    """Find the incoming messages among the stored ones.

    Silent ones are looked past on both sides.

    `sends_newest` says that this session's client has never sent earlier messages again: a lone message that equals the
    first stored one is then a repetition, not a return to the start. `is_retry` says that the client repeats a request
    whose answer it did not get: an answer to it at the log's end counts as unfinished.
    `is_other_agent` says that the instructions are not the session's: where the session's own client would have sent
    its history, a message alone is then a helper's, which shares the session's name and nothing else.
    """
    if any(entry.is_silent for entry in (*stored, *incoming)):
        heard = [stored[at] for at in _heard(stored)]
        told = [incoming[at] for at in _heard(incoming)]
        among = align(heard, told, sends_newest=sends_newest, is_retry=is_retry, is_other_agent=is_other_agent)
        return _among_silent(among, stored, incoming)
    found = _align(stored, incoming, sends_newest=sends_newest, is_retry=is_retry, is_other_agent=is_other_agent)
    sent = {entry.digest for entry in incoming}
    known = [at for at, entry in enumerate(stored) if not entry.is_written or entry.digest in sent]
    if len(known) == len(stored) or (found.keep == len(stored) and not found.branches):
        return found
    said = [stored[at] for at in known]
    without = _align(said, incoming, sends_newest=sends_newest, is_retry=is_retry, is_other_agent=is_other_agent)
    if without.keep == len(said) and not without.branches:
        return _around(without, known, length=len(stored))
    if found.branches or not any(entry.is_written for entry in stored[found.keep :]):
        return found
    return _branch(Shape.EDITED, stored, incoming, head=found.head, run=found.keep - found.head)


def _around(found: Alignment, known: Sequence[int], *, length: int) -> Alignment:
    """The same among all messages of the log, of which the alignment was made with those at `known` alone."""
    places = [*known, *range(length, length + len(found.positions) + 1)]
    positions = tuple(None if position is None else places[position] for position in found.positions)
    return replace(found, head=places[found.head] if found.head else 0, keep=length, positions=positions)


def _align(
    stored: Sequence[Entry], incoming: Sequence[Entry], *, sends_newest: bool, is_retry: bool, is_other_agent: bool
) -> Alignment:
    if is_retry and _answers(stored, incoming):
        stored = [*stored[:-1], stored[-1]._replace(is_partial=True)]
    common = _common_prefix(stored, incoming)
    if common == len(stored):
        return _at_offset(Shape.WHOLE, incoming, head=0, run=common)
    end, overlap = _tail_overlap(stored, incoming)
    start, run = _longest_run(stored, incoming)
    if common >= max(overlap, run, 1) and not _is_repetition(stored, incoming, sends_newest=sends_newest):
        return _edited(stored, incoming, head=0, run=common)
    if overlap and overlap >= run:
        return _at_offset(Shape.WINDOW, incoming, head=end - overlap, run=overlap)
    if run:
        return _edited(stored, incoming, head=start, run=run)
    return _unmatched(stored, incoming, is_apart=is_other_agent and not sends_newest)


def align_chained(
    stored: Sequence[Entry], incoming: Sequence[Entry], *, after: int, is_retry: bool = False
) -> Alignment:
    """The incoming messages follow the log's first `after` ones, which the provider has.

    They may be there already, from a request that was broken off and is made again. What code has written since stays.
    """
    log = list(stored)
    if all(entry.is_written for entry in log[after:]):
        after = len(log)
    if is_retry and len(log) > after and log[-1].is_answer and finished_length(log) > after:
        log[after:] = [entry._replace(is_partial=True) for entry in log[after:]]
    run = 0 if finished_length(log) > after else _common_prefix(log[after:], incoming)
    found = _edited(log, incoming, head=after, run=run)
    return replace(found, shape=Shape.CHAINED, lies_elsewhere=True)


def align_foreign(stored: Sequence[Entry], incoming: Sequence[Entry]) -> Alignment:
    """The incoming messages have nothing to do with the log."""
    return _branch(Shape.FOREIGN, stored, incoming, head=0, run=0)


def _heard(entries: Sequence[Entry]) -> list[int]:
    return [at for at, entry in enumerate(entries) if not entry.is_silent]


def _among_silent(found: Alignment, stored: Sequence[Entry], incoming: Sequence[Entry]) -> Alignment:
    """An alignment of the messages that are not silent, told of all of them."""
    heard, said = _heard(stored), _heard(incoming)
    keep = _place(heard, found.keep, len(stored))
    positions: list[int | None] = [None] * len(incoming)
    known = [False] * len(incoming)
    place_of = dict(zip(said, zip(found.positions, found.known, strict=True), strict=True))
    new, following = keep, said
    for at, entry in enumerate(incoming):
        following = following[1:] if following and following[0] < at else following
        place, is_known = place_of[following[0]] if following else (found.keep, False)
        known[at] = is_known
        if place is None:
            continue
        if place < found.keep:
            positions[at] = _silent_place(stored, heard[place], entry) if entry.is_silent else heard[place]
        else:
            positions[at], new = new, new + 1
    head = _place(heard, found.head, len(stored))
    return replace(found, head=head, keep=keep, positions=tuple(positions), known=tuple(known))


def _place(heard: Sequence[int], count: int, length: int) -> int:
    """The length of the log that holds so many messages which are not silent, and none behind them."""
    if count >= len(heard):
        return length
    return heard[count - 1] + 1 if count else 0


def _silent_place(stored: Sequence[Entry], before: int, entry: Entry) -> int:
    """Where a silent message stands in the log: among those that led to the message at `before`, else with it."""
    at = before - 1
    while at >= 0 and stored[at].is_silent:
        if stored[at].digest == entry.digest:
            return at
        at -= 1
    return before


def _answers(stored: Sequence[Entry], incoming: Sequence[Entry]) -> bool:
    """The log ends with an answer to the newest incoming message."""
    ends = len(stored) > 1 and stored[-1].is_answer
    return ends and bool(incoming) and stored[-2].digest == incoming[-1].digest


def _unmatched(stored: Sequence[Entry], incoming: Sequence[Entry], *, is_apart: bool) -> Alignment:
    has_answer = any(entry.is_answer for entry in incoming)
    if not has_answer and is_apart and finished_length(stored):
        return _branch(Shape.FOREIGN, stored, incoming, head=0, run=0)
    if not has_answer:
        return _at_offset(Shape.NEWEST, incoming, head=len(stored), run=0)
    for end in _ends(stored):
        offset, run = _tail_inside(stored[:end], incoming)
        if run:
            return _compacted(incoming, keep=end, offset=offset, run=run)
    return _branch(Shape.FOREIGN, stored, incoming, head=0, run=0)


def _tail_overlap(stored: Sequence[Entry], incoming: Sequence[Entry]) -> tuple[int, int]:
    """The longest tail of `stored` that is a head of `incoming`: (where it ends, length).

    Messages without an answer are looked for at the end only: further back they are rather new ones of the same words.
    """
    has_answer = any(entry.is_answer for entry in incoming)
    for end in _ends(stored):
        overlap = _overlap(stored[:end], incoming)
        if overlap and (has_answer or overlap < len(incoming) or end >= _without_partial(stored)):
            return end, overlap
    return len(stored), 0


def _ends(stored: Sequence[Entry]) -> list[int]:
    """Where the log may end for the client, who may have kept all, some or nothing of what is unfinished."""
    finished = finished_length(stored)
    return [*range(len(stored), max(finished, len(stored) - MAX_UNFINISHED), -1), finished]


def finished_length(stored: Sequence[Entry]) -> int:
    """The length of the log up to its last finished answer; what follows waits for one."""
    for index in range(len(stored) - 1, -1, -1):
        if stored[index].is_answer and not stored[index].is_partial:
            return index + 1
    return 0


def _without_partial(stored: Sequence[Entry]) -> int:
    return len(stored) - 1 if stored and stored[-1].is_partial else len(stored)


def _is_repetition(stored: Sequence[Entry], incoming: Sequence[Entry], *, sends_newest: bool) -> bool:
    """A lone user message that happens to equal the first stored one, from a client that sends only newest messages."""
    return sends_newest and len(incoming) == 1 and finished_length(stored) > 0


def _common_prefix(stored: Sequence[Entry], incoming: Sequence[Entry]) -> int:
    count = 0
    for mine, theirs in zip(stored, incoming, strict=False):
        if mine.digest != theirs.digest:
            break
        count += 1
    return count


def _at_offset(shape: Shape, incoming: Sequence[Entry], *, head: int, run: int) -> Alignment:
    """The first `run` incoming messages stand at `head`; the rest follows them in the same thread."""
    positions = tuple(range(head, head + len(incoming)))
    known = tuple(index < run for index in range(len(incoming)))
    keep = head + run
    return Alignment(shape, head=head, keep=keep, branches=False, positions=positions, known=known)


def _edited(stored: Sequence[Entry], incoming: Sequence[Entry], *, head: int, run: int) -> Alignment:
    """The client left the log at `head + run`: in place if what it drops was unfinished, else as a branch."""
    keep = head + run
    if finished_length(stored) <= keep:
        shape = Shape.WINDOW if head else Shape.WHOLE
        return _at_offset(shape, incoming, head=head, run=run)
    return _branch(Shape.EDITED, stored, incoming, head=head, run=run)


def _branch(shape: Shape, stored: Sequence[Entry], incoming: Sequence[Entry], *, head: int, run: int) -> Alignment:
    positions = tuple(range(head, head + len(incoming)))
    known = _seen(stored, incoming)
    return Alignment(shape, head=head, keep=head + run, branches=True, positions=positions, known=known)


def _compacted(incoming: Sequence[Entry], *, keep: int, offset: int, run: int) -> Alignment:
    """The client replaced older messages by its own account of them: that account is not part of the conversation."""
    base = keep - run - offset
    positions = tuple(None if index < offset else base + index for index in range(len(incoming)))
    known = tuple(index < offset + run for index in range(len(incoming)))
    return Alignment(Shape.COMPACTED, head=0, keep=keep, branches=False, positions=positions, known=known)


def _seen(stored: Sequence[Entry], incoming: Sequence[Entry]) -> tuple[bool, ...]:
    """Which incoming messages occur in the log, in its order, each stored one used once."""
    places: dict[bytes, list[int]] = {}
    for index, entry in enumerate(stored):
        places.setdefault(entry.digest, []).append(index)
    last, seen = -1, []
    for entry in incoming:
        candidates = places.get(entry.digest, [])
        after = bisect_right(candidates, last)
        seen.append(after < len(candidates))
        last = candidates[after] if after < len(candidates) else last
    return tuple(seen)


def _overlap(stored: Sequence[Entry], incoming: Sequence[Entry]) -> int:
    """The length of the longest tail of `stored` that is a head of `incoming`. Knuth, Morris and Pratt."""
    failure = _failure(incoming)
    state = 0
    for entry in stored:
        while state and (state == len(incoming) or entry.digest != incoming[state].digest):
            state = failure[state - 1]
        if incoming and entry.digest == incoming[state].digest:
            state += 1
    return state


def _failure(pattern: Sequence[Entry]) -> list[int]:
    failure = [0] * len(pattern)
    state = 0
    for index in range(1, len(pattern)):
        while state and pattern[index].digest != pattern[state].digest:
            state = failure[state - 1]
        if pattern[index].digest == pattern[state].digest:
            state += 1
        failure[index] = state
    return failure


def _longest_run(stored: Sequence[Entry], incoming: Sequence[Entry]) -> tuple[int, int]:
    """Where in `stored` the longest head of `incoming` stands that holds a message and its answer: (start, length)."""
    if not any(entry.is_answer for entry in incoming):
        return 0, 0
    failure = _failure(incoming)
    state, best, best_end = 0, 0, 0
    for index, entry in enumerate(stored):
        while state and (state == len(incoming) or entry.digest != incoming[state].digest):
            state = failure[state - 1]
        if entry.digest == incoming[state].digest:
            state += 1
        if state >= best:
            best, best_end = state, index + 1
    if best < 2 or not any(entry.is_answer for entry in incoming[:best]):
        return 0, 0
    return best_end - best, best


def _tail_inside(stored: Sequence[Entry], incoming: Sequence[Entry]) -> tuple[int, int]:
    """Where in `incoming` a tail of `stored` stands that holds an answer: (offset, length), or (0, 0)."""
    if not stored:
        return 0, 0
    last = stored[-1].digest
    for end in range(len(incoming) - 1, -1, -1):
        if incoming[end].digest != last:
            continue
        run = 1
        while run <= end and run < len(stored) and incoming[end - run].digest == stored[-1 - run].digest:
            run += 1
        if any(entry.is_answer for entry in stored[len(stored) - run :]):
            return end - run + 1, run
    return 0, 0
