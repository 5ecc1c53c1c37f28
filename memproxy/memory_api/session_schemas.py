"""What clients send about sessions: agent-memory-server's requests, with bounds.

A document says what it wants changed by the fields that it has: what is absent stays. Fields that memproxy decides
(tokens, times of the session) may be sent, and are passed over, but for `last_accessed`: it tells the state that the
document was made from.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from memproxy.extraction.strategies import check_strategy
from memproxy.memory_api.requests import Input, QueryInput
from memproxy.memory_api.schemas import MAX_OFFSET, MemoryInput, ScopeQuery, SearchRequest
from memproxy.memory_api.values import MAX_ID_CHARS, MAX_TEXT_CHARS, Moment, Name, SmallJson

MAX_MESSAGES = 50_000
"""Of one document."""
MAX_MEMORIES = 10_000
"""Beside one session."""
MAX_ROLE_CHARS = 64
MAX_TTL_S = 10 * 365 * 86_400
MAX_WINDOW = 100_000_000
"""Tokens; larger than any model's."""


Tokens = Annotated[int, Field(ge=1, le=MAX_WINDOW)]


class MessageInput(Input):
    """One message of a document."""

    role: Annotated[str, Field(min_length=1, max_length=MAX_ROLE_CHARS)]
    content: str
    id: Annotated[str | None, Field(max_length=MAX_ID_CHARS)] = None
    created_at: Moment | None = None
    discrete_memory_extracted: Literal["t", "f"] = "f"


class SessionMemoryInput(MemoryInput):
    """A memory that is put beside a session, to be stored in the background."""

    persisted_at: Moment | None = None


class StrategyInput(Input):
    """How memories are made of a session."""

    strategy: Literal["discrete", "summary", "preferences", "custom"] = "discrete"
    config: SmallJson = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_used(self) -> "StrategyInput":
        if (fault := check_strategy(self.strategy, self.config)) is not None:
            raise ValueError(fault)
        return self


class SessionInput(Input):
    """A session as a document."""

    messages: Annotated[list[MessageInput], Field(max_length=MAX_MESSAGES)] = Field(default_factory=list)
    memories: Annotated[list[SessionMemoryInput], Field(max_length=MAX_MEMORIES)] = Field(default_factory=list)
    data: dict[str, Any] | None = None
    context: str | None = None
    user_id: Name | None = None
    namespace: Name | None = None
    long_term_memory_strategy: StrategyInput = Field(default_factory=StrategyInput)
    ttl_seconds: Annotated[int | None, Field(ge=1, le=MAX_TTL_S)] = None
    last_accessed: Moment | None = None


class SessionQuery(ScopeQuery):
    """Which session, and how much of it."""

    model_name: str | None = None
    context_window_max: Tokens | None = None
    recent_messages_limit: int | None = None


class ListQuery(ScopeQuery):
    """Which sessions."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0


class PromptSession(Input):
    """The session that a prompt continues."""

    session_id: Name
    namespace: Name | None = None
    user_id: Name | None = None
    model_name: str | None = None
    context_window_max: Tokens | None = None


class PromptRequest(Input):
    """What to put together for a model."""

    query: Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
    session: PromptSession | None = None
    long_term_search: SearchRequest | bool | None = None


class PromptQuery(QueryInput):
    """Whether a model may rewrite the query for the search."""

    optimize_query: bool = False
