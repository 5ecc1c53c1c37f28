"""The frozen values that all parts share; this module is the glossary.

A *tenant* pays, a *user* is whose memory it is, a *session* is one conversation; each only ever scopes under the one
before. A *turn* is what one request added to a session: the new messages of the client and the answer. A *memory* is
one remembered statement in long-term memory. A *block* is the text that memproxy adds to a message, and a *pin* the
record of that block, by which it is replayed byte for byte.

Times are timezone-aware UTC. Messages stay plain JSON objects, so that fields unknown here survive.
"""

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

JsonObject = dict[str, Any]

WRITTEN_TURN = "put-"
"""What the id of a turn begins with that is no request's, but a document's that code wrote."""


class MemoryMode(enum.StrEnum):
    """What memory may do for a request: nothing, inject, learn, or both."""

    OFF = "off"
    READ = "read"
    WRITE = "write"
    FULL = "full"

    @property
    def reads(self) -> bool:
        return self in {MemoryMode.READ, MemoryMode.FULL}

    @property
    def writes(self) -> bool:
        return self in {MemoryMode.WRITE, MemoryMode.FULL}


class ToolCacheMode(enum.StrEnum):
    """What the cache of tool results may do for a request."""

    OFF = "off"
    OBSERVE = "observe"
    """Learn, and count what would have been answered."""
    ANSWER = "answer"


class ToolsMode(enum.StrEnum):
    """Whether memory tools are offered to the model."""

    OFF = "off"
    ON = "on"


class MemoryType(enum.StrEnum):
    """The kinds of long-term memory, named as agent-memory-server names them."""

    SEMANTIC = "semantic"
    EPISODIC = "episodic"
    MESSAGE = "message"


class Outcome(enum.StrEnum):
    """How an exchange with the model server ended."""

    COMPLETED = "completed"
    ABORTED = "aborted"
    """The client left before the last byte."""
    FAILED = "failed"
    """The model server broke off, or reported an error after it had begun."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose long-term memory: nothing is ever read or written across two scopes."""

    tenant: str
    """An opaque digest, never a credential."""
    user: str | None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class SessionKey:
    """One conversation's address. `thread` tells apart conversations that run under the same session name."""

    scope: Scope
    session: str
    thread: str = ""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One complete message of the client's format, as it is kept."""

    message: JsonObject
    digest: str
    """Of the canonical form: equal for messages that mean the same on the wire."""
    tokens: int
    at: datetime
    turn: str = ""
    """The id of the turn that brought it."""
    partial: bool = False
    """An answer that broke off."""
    id: str = ""
    """What code that wrote it calls it; a captured message has none of its own."""
    learned: bool = False
    """Whoever wrote it says that its memories are made already."""

    @property
    def is_written(self) -> bool:
        """Code put it into the session; it was not said through the proxy."""
        return self.turn.startswith(WRITTEN_TURN)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool that a model asked for."""

    id: str
    name: str
    arguments: str
    """JSON as the model wrote it; may be empty or broken."""


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """The result of a call that was answered inside."""

    call: ToolCall
    content: str | list[Any]
    """Exactly what the tool message holds."""
    source: str
    """`cache` or `memory`."""
    age_s: float | None = None
    """How old a cached result is."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What was sent beside or in place of a message; replayed as it is, so that the provider's prompt cache keeps
    hitting and the model keeps its evidence."""

    block: str = ""
    """Goes before the words of a user's message."""
    memories: tuple[str, ...] = ()
    """The ids of the memories in the block."""
    instead: tuple[JsonObject, ...] = ()
    """Stands for an answer that took calls which were answered inside: the calls, their results, the answer itself."""
    span: int = 1
    """Of so many messages that the client has of that answer, of which the pin's is the first."""


@dataclass(frozen=True, slots=True)
class StrategyChoice:
    """One way of making memories that was asked for, with its options."""

    name: str
    config: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one request added to a session: the unit of the queue. Learning from it is idempotent by `id`."""

    id: str
    scope: Scope
    session: str
    at: datetime
    outcome: Outcome
    messages: tuple[StoredMessage, ...]
    """The new messages in order, the answer last; injected blocks are not in them."""
    context: tuple[StoredMessage, ...] = ()
    """The messages just before, oldest first: what grounds a pronoun."""
    memories: "tuple[MemoryRecord, ...]" = ()
    """Records that whoever wrote the session put beside its messages; stored as they are."""
    strategies: tuple[StrategyChoice, ...] = ()
    """How memories are made of it; empty means as it is configured."""
    thread: str = ""
    """Which of the conversations under the session's name."""
    trace: str = ""
    """The request's place in a trace, as W3C writes it; empty where none was made."""


class MemoryRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One memory. `text` is what a model reads; `context` is indexed beside it and never shown.

    A struct and no dataclass: hundreds are read on the path of requests, most of them with few fields set.
    """

    id: str
    """Unique within the scope; equal ids are the same memory."""
    scope: Scope
    text: str
    type: MemoryType
    created_at: datetime
    session: str | None = None
    speaker: str | None = None
    context: str = ""
    topics: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    event_date: datetime | None = None
    turns: tuple[str, ...] = ()
    """The ids of the turns that it was learned from."""
    updated_at: datetime | None = None
    persisted_at: datetime | None = None
    pinned: bool = False
    """Never forgotten by age or budget."""
    extracted_from: tuple[str, ...] = ()
    """The ids of the messages or memories that its author says it comes from."""
    metadata: JsonObject = {}
    strategy: str = "discrete"
    """Which way of extraction made it."""
    strategy_config: JsonObject = {}
    is_explicit: bool = False
    """Code or a memory tool created it: it is kept as it was given, and never merged with another."""
    valid_until: datetime | None = None
    """When a newer memory took its place; None while it holds."""
    superseded_by: str = ""
    """The id of the memory that took its place."""
    supersedes: tuple[str, ...] = ()
    """The ids of the memories whose place it took."""
    last_accessed: datetime | None = None
    """Kept beside the record and filled in when it is read, as is the number of accesses."""
    access_count: int = 0


@dataclass(frozen=True, slots=True)
class ScoredMemory:
    """A memory that a search found, with what it scored."""

    record: MemoryRecord
    score: float
    """Fused relevance in 0..1, best first."""
    text_score: float
    """BM25 over the best BM25 of this search, 0..1."""
    vector_score: float
    """Cosine similarity to the query, -1..1."""
