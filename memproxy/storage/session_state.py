"""A session as code sees it, and what its readers have seen of it: the values of `session_documents`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from memproxy.records import MemoryRecord, SessionKey, StoredMessage, StrategyChoice
from memproxy.storage.working import IndexEntry


class ReadMark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody has seen of a session. Lives beside the session, until the answer to it comes back."""

    thread: str
    """What the keys of the thread end in."""
    version: int
    """All changes up to this one."""
    at: int
    """When, in ms since 1970."""
    hidden: int = 0
    """Messages at the beginning that were not shown."""
    begins: str = ""
    """The id of the first message that was shown, where some were not."""
    shown: int = 0
    """Messages that were."""
    state: str = ""
    """When the session had been changed last, as it was shown."""
    summary: str = ""
    """Digest of the summary."""
    data: Mapping[str, str] = {}
    """Digest of each name's JSON."""
    count: int = 1
    """How many readers were shown just this."""
    wrote: tuple[int, ...] = ()
    """Later changes that were the writer's own."""


@dataclass(frozen=True, slots=True)
class LeftMark:
    """A mark, and whose it is."""

    name: str
    kind: str
    """`open`, `own` or `shown`; see session_marks.lua."""
    connection: str
    mark: ReadMark


@dataclass(frozen=True, slots=True)
class Marks:
    """What readers of a session have seen, and may not know yet."""

    left: tuple[LeftMark, ...] = ()
    gone: Mapping[str, int] = field(default_factory=dict)
    """By its id, which change removed a message lately."""


class KeptMemory(msgspec.Struct, frozen=True):
    """A memory that code put beside a session."""

    record: MemoryRecord
    version: int
    """Which change of the session brought it."""


@dataclass(frozen=True, slots=True)
class Document:
    """A session as code sees it, or the part of it that is shown."""

    key: SessionKey
    """With the thread that is the session's current one."""
    base: str = ""
    """What the keys of this thread end in."""
    version: int = 0
    length: int = 0
    """Messages in the log."""
    first: int = 0
    """Position of the first message here."""
    messages: tuple[StoredMessage, ...] = ()
    index: tuple[IndexEntry, ...] = ()
    """Of these messages."""
    summary: str = ""
    summarised: int = 0
    """Messages from the beginning of the log that the summary covers."""
    wanted_within: int = 0
    """Tokens that the session should fit into, where code has said so."""
    cut: int = 0
    """Messages of the log that requests leave out by now."""
    shown: int = 0
    """Changes up to this one were shown to some reader as a whole."""
    data: Mapping[str, bytes] = field(default_factory=dict)
    """JSON by name."""
    memories: tuple[KeptMemory, ...] = ()
    strategies: tuple[StrategyChoice, ...] = ()
    ttl_ms: int | None = None
    """The session's own time to live; None for the configured one."""
    is_named: bool = True
    created_at: datetime | None = None
    updated_at: datetime | None = None
    born: str = ""
    """`created_at` as it is stored: what tells a session from another one of its name, created later."""
    is_there: bool = True

    @property
    def tokens(self) -> int:
        """Of the messages here."""
        return sum(entry.tokens for entry in self.index)


@dataclass(frozen=True, slots=True)
class View:
    """How much of a session is shown."""

    messages: int = 0
    """At most; 0 for no limit."""
    tokens: int = 0
    """At most, of the messages; 0 for no limit."""


@dataclass(frozen=True, slots=True)
class Witness:
    """Who reads or writes, as far as the marks of a session know it."""

    connection: str
    at: datetime

    @property
    def at_ms(self) -> int:
        return int(self.at.timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class MarksChange:
    """What a change does to the marks: its writer has used one up, and knows more now."""

    witness: Witness
    knows: ReadMark
    used: str = ""
    """The name of the mark that is used up."""
    aside: str = ""
    """The connection for which alone a copy of it is kept; empty for none."""
    gone: Mapping[str, int] = field(default_factory=dict)
    """The messages that were removed lately, this change's among them."""


@dataclass(frozen=True, slots=True)
class Change:
    """All that one change writes, decided before."""

    document: Document
    """As it was read, whole."""
    after: Document
    """As it is then."""
    keep: int
    """So many messages at the beginning are as they were, where they were."""
    data: Mapping[str, bytes | None] = field(default_factory=dict)
    """What changes of the data: JSON by name; None removes one."""
    memories: Mapping[str, KeptMemory | None] = field(default_factory=dict)
    """What changes of the memories, by id; None removes one."""
    queued: bytes = b""
    """The turn for the queue; empty when nothing is to be learned."""
    marks: MarksChange | None = None
