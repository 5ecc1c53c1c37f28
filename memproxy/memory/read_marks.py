"""What the writer of a session has seen of it, told from the marks that reads have left. Pure.

A document that comes back says what is in it, and not what its writer left out on purpose and what it never saw. Two
things tell:

1. **What it sends back.** A document carries the time of the state that it was made from (`last_accessed`). If that is
   what a read showed, it is this read that is answered.
2. **Who may still write.** Otherwise it may be the answer to any read of the last half minute, by whatever connection:
   only what all of these showed counts as seen. Each write uses one read up.

Without any such read the document takes the session's place: what some reader was shown, or some writer put there,
counts as seen. What the proxy captured and nobody was ever shown does not.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain

from msgspec.structs import replace as changed

from memproxy.storage.session_state import Document, LeftMark, MarksChange, ReadMark, Witness
from memproxy.storage.working import IndexEntry

RECENT_S = 30.0
"""How long any write may be the answer to a read: clients that read, change and write back do so within seconds."""

MOST_WRITES = 100
"""Changes of its own that a writer is known to know of; the newest."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a writer has seen of a session: what every read showed that it may be the answer to."""

    reads: tuple[LeftMark, ...]
    """Empty when it is the answer to none."""
    shown: int = 0
    """Without reads: the changes up to this one, which some reader was shown."""
    used: LeftMark | None = None
    """The read that it uses up."""

    def knows_change(self, version: int, *, is_written: bool = True) -> bool:
        """Whether it has seen what this change brought, which code has written or the proxy has captured."""
        if not self.reads:
            return is_written or version <= self.shown
        return all(_knows(left.mark, version) for left in self.reads)

    def unseen(self, index: Sequence[IndexEntry], written: Iterable[bool]) -> list[bool]:
        """Of each message in the log, whether the writer has not seen it."""
        return [
            not self.knows_change(entry.version, is_written=is_written) or self._hides(position, entry.version)
            for position, (entry, is_written) in enumerate(zip(index, written, strict=True))
        ]

    def _hides(self, position: int, version: int) -> bool:
        return any(position < left.mark.hidden and version not in left.mark.wrote for left in self.reads)

    def read_text(self, digest: str) -> bool:
        """The summary with this digest is what it was shown."""
        return any(left.mark.summary == digest for left in self.reads)

    def knows_text(self, digest: str) -> bool:
        """Whatever read it is that is answered, it showed this summary."""
        return all(left.mark.summary == digest for left in self.reads)

    def read_value(self, name: str, digest: str) -> bool:
        """The value with this digest is what it was shown under this name of the session's data."""
        return any(left.mark.data.get(name) == digest for left in self.reads)

    def knows_value(self, name: str, digest: str) -> bool:
        """Whatever read it is that is answered, it showed this value under this name."""
        return all(left.mark.data.get(name) == digest for left in self.reads)


def short_digest(value: bytes) -> str:
    """As the scripts digest what they show."""
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()[:12]


def seen_by(
    document: Document, marks: Sequence[LeftMark], *, writer: Witness, state: datetime | None, first: int | None
) -> Seen:
    """What the writer of a document has seen of the session.

    `state` is the time that the document sends back, `first` the first position in the log of which it repeats the
    message; None when it repeats nothing.
    """
    here = [_in_log(left, document) for left in marks]
    exact = _that_begin_before(first, [left for left in here if _answers(left, state)])
    fitting = exact or _that_begin_before(first, _guessed(here, writer=writer, repeats=first is not None))
    if not fitting:
        return Seen((), document.shown)
    return Seen(
        reads=(*fitting, *_since(fitting, here, writer=writer)),
        used=_used(fitting, here, writer=writer),
    )


def _used(fitting: Sequence[LeftMark], marks: Sequence[LeftMark], *, writer: Witness) -> LeftMark | None:
    """The newest read that may be answered: of the same connection, or else, if that has not written before, of any."""
    own = [left for left in fitting if left.connection == writer.connection]
    goes_on = any(left.kind == "own" and left.connection == writer.connection for left in marks)
    return max(own or ([] if goes_on else fitting), key=lambda left: left.mark.version, default=None)


def _since(fitting: Sequence[LeftMark], marks: Sequence[LeftMark], *, writer: Witness) -> list[LeftMark]:
    """What the writer knew when it wrote last, where it goes on from an older state all the same: no more than that."""
    newest = max(left.mark.version for left in fitting)
    own = [left for left in marks if left.kind == "own" and left.connection == writer.connection]
    return [left for left in own if left not in fitting and _reach(left.mark) > newest]


def _knows(mark: ReadMark, version: int) -> bool:
    return version <= mark.version or version in mark.wrote


def _reach(mark: ReadMark) -> int:
    return max((mark.version, *mark.wrote))


def _in_log(left: LeftMark, document: Document) -> LeftMark:
    """The mark as it counts for the log as it is now; `hidden` is then the position at which what was shown begins.

    Who was shown another thread has seen nothing of this one for sure.
    """
    mark = left.mark
    if mark.thread != document.base:
        return replace(left, mark=ReadMark(document.base, 0, mark.at, state=mark.state, data=mark.data))
    if not mark.hidden:
        return left
    place = next((at for at, stored in enumerate(document.messages) if stored.id == mark.begins), None)
    if place is not None:
        return replace(left, mark=changed(mark, hidden=place))
    # It was removed: what was hidden then is as much of what was there then, and is not told apart more exactly.
    older = [at for at, entry in enumerate(document.index) if entry.version <= mark.version][: mark.hidden]
    return replace(left, mark=changed(mark, hidden=older[-1] + 1 if older else 0, begins=""))


def _that_begin_before(first: int | None, marks: list[LeftMark]) -> list[LeftMark]:
    """Those that may have shown the first message that is repeated; all of them, if none did.

    What a writer knows may be more than its mark says: it may have taken over what the answer to its last write showed.
    """
    if first is None:
        return marks
    return [one for one in marks if one.kind == "own" or not one.mark.begins or one.mark.hidden <= first] or marks


def _answers(left: LeftMark, state: datetime | None) -> bool:
    return bool(state and left.mark.state) and datetime.fromisoformat(left.mark.state) == state


def _guessed(marks: Sequence[LeftMark], *, writer: Witness, repeats: bool) -> list[LeftMark]:
    """The reads that a write may be the answer to which does not say so itself."""
    since = writer.at_ms - RECENT_S * 1000
    own = [left for left in marks if left.connection == writer.connection and left.kind != "shown"]
    others = [left for left in marks if left.connection != writer.connection and left.kind == "open"]
    recent = [left for left in (*own, *others) if left.kind == "own" or left.mark.at >= since]
    if repeats:
        return recent
    nothing = [left for left in recent if not left.mark.shown]
    newest = sorted((left for left in own if left in recent), key=lambda left: left.mark.version)[-1:]
    return nothing or newest or recent


def marks_after(
    seen: Seen,
    document: Document,
    *,
    writer: Witness,
    length: int,
    written: Iterable[int],
    differs: bool,
    data: Mapping[str, bytes],
    summary: str,
    gone: Mapping[str, int],
) -> MarksChange:
    """What becomes of the marks with this write.

    `length`: messages in the session now; `differs`: they are not just those that the document had. `written`: the
    changes by which code brought messages. `data` and `summary`: as the writer knows them. `gone`: removed messages.
    """
    version = document.version + 1
    knows = ReadMark(
        thread=document.base,
        version=version,
        at=writer.at_ms,
        shown=length,
        summary=short_digest(summary.encode()),
        data={name: short_digest(value) for name, value in data.items()},
    )
    if differs:
        hidden = max((left.mark.hidden for left in seen.reads), default=0)
        own = (
            [left.mark.wrote for left in seen.reads if left.connection == writer.connection]
            if seen.reads
            else [written]
        )
        knows = changed(
            knows,
            version=min((left.mark.version for left in seen.reads), default=seen.shown),
            hidden=hidden,
            begins=next((stored.id for stored in document.messages[hidden : hidden + 1]), ""),
            wrote=tuple(sorted({version, *chain.from_iterable(own)}))[-MOST_WRITES:],
        )
    used = seen.used
    if used is None:
        return MarksChange(writer, knows, gone=gone)
    is_others = used.connection != writer.connection
    return MarksChange(writer, knows, used=used.name, aside=used.connection if is_others else "", gone=gone)
