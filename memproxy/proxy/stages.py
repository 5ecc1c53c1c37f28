"""The values that one request's stages hand to each other, in the order in which they are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from memproxy.identity import Claims, SplitPath
from memproxy.proxy.align import Alignment
from memproxy.proxy.compose import Cut, Placement
from memproxy.proxy.conversation import Conversation
from memproxy.records import MemoryMode, Scope, ScoredMemory, SessionKey, StoredMessage, ToolCacheMode, ToolsMode
from memproxy.storage.working import LoadedSession
from memproxy.telemetry.requests import Seen
from memproxy.wire.dialect import Dialect, Request


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decided about memory."""

    memory: MemoryMode
    default_user: str | None
    max_body_bytes: int
    max_memories: int
    max_memory_tokens: int
    keep_share: float
    tools: ToolsMode
    tool_cache: ToolCacheMode
    answer_rounds: int
    answer_s: float
    """For all rounds of one request."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A body as it came, and what it is without its content encoding."""

    came: bytes
    means: bytes

    def sent(self, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, Sequence[tuple[bytes, bytes]]]:
        """What goes out for `body`, with its headers: what came where nothing was changed."""
        if body is self.means:
            return self.came, headers
        return body, [(name, value) for name, value in headers if name.lower() != b"content-encoding"]


@dataclass(frozen=True, slots=True)
class Inbound:
    """A request as it came in, with who sent it."""

    id: str
    at: datetime
    began_s: float
    body: bytes
    """Not compressed."""
    packed: Packed
    path: SplitPath
    dialect: Dialect
    request: Request | None
    """What the body says; None for one that can't be read."""
    headers: Mapping[str, str]
    tenant: str | None
    """None when the credential names none: then there is no memory."""
    seen: Seen = field(default_factory=Seen)
    """What is told of it."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What memory knows about a request, before anything is composed."""

    scope: Scope
    claims: Claims
    mode: MemoryMode
    tool_cache: ToolCacheMode
    offers_tools: bool
    """Memory tools are offered to the model."""
    request: Request
    conversation: Conversation
    session: LoadedSession | None
    alignment: Alignment
    key: SessionKey
    is_retry: bool
    degraded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outbound:
    """What goes to the model server, and what is to be remembered of it."""

    body: bytes
    remembered: Remembered | None = None
    history: Sequence[StoredMessage] = ()
    """Stored messages that are sent along."""
    before: Sequence[StoredMessage] = ()
    """Stored messages just before the client's own, sent along or not: they say what its results are results of."""
    placement: Placement | None = None
    cut: Cut = field(default_factory=Cut)
    found: Sequence[ScoredMemory] = ()
    degraded: tuple[str, ...] = ()
    reason: str = ""
    """Why memory stayed out of it."""
