"""What clients send about long-term memory: agent-memory-server's requests, with bounds.

Defaults are the server's, which differ from its client's: a record is `semantic` if it does not say otherwise. Fields
that the server decides (hash, times of access, `persisted_at`) may be sent, and are passed over.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from memproxy.memory.search import DEFAULT_ALPHA, SearchMode
from memproxy.memory_api.filters import Filters
from memproxy.memory_api.requests import Input, QueryInput
from memproxy.memory_api.values import MAX_TEXT_CHARS, Id, Ids, Label, Labels, Moment, Name, SmallJson, Text
from memproxy.records import MemoryType

MAX_MEMORIES = 1_000
"""That one request may create; the client sends 100 at a time."""
MAX_OFFSET = 1_000_000
"""How far a search can be paged: beyond it the query engine does not go."""
MAX_DAYS = 1_000_000.0
"""Longer than there are dates."""
MAX_FORGOTTEN = 100_000
"""That one request may look at."""


class MemoryInput(Input):
    """One memory as a client sends it."""

    id: Id
    text: Text
    session_id: Name | None = None
    user_id: Name | None = None
    namespace: Name | None = None
    created_at: Moment | None = None
    pinned: bool = False
    topics: Labels | None = None
    entities: Labels | None = None
    discrete_memory_extracted: Literal["t", "f"] = "t"
    memory_type: MemoryType = MemoryType.SEMANTIC
    extracted_from: Ids | None = None
    event_date: Moment | None = None
    extraction_strategy: Label = "discrete"
    extraction_strategy_config: SmallJson = Field(default_factory=dict)
    metadata: SmallJson = Field(default_factory=dict)


class CreateRequest(Input):
    """Memories to keep as they are given."""

    memories: Annotated[list[MemoryInput], Field(max_length=MAX_MEMORIES)]
    deduplicate: bool = True


class EditRequest(Input):
    """What to change about a memory; null changes nothing, an empty list clears."""

    text: Text | None = None
    topics: Labels | None = None
    entities: Labels | None = None
    memory_type: MemoryType | None = None
    namespace: Name | None = None
    user_id: Name | None = None
    session_id: Name | None = None
    event_date: Moment | None = None
    pinned: bool | None = None


class SearchRequest(Filters):
    """What to look for, and how."""

    text: Annotated[str | None, Field(max_length=MAX_TEXT_CHARS)] = None
    search_mode: SearchMode | None = None
    """Absent: memproxy's own ranking, by words and by meaning."""
    hybrid_alpha: Annotated[float, Field(ge=0, le=1)] = DEFAULT_ALPHA
    """The share of meaning, against words."""
    text_scorer: str | None = None
    """Of the reference; words are always scored by BM25STD."""
    distance_threshold: float | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 10
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0
    recency_boost: bool | None = None
    recency_semantic_weight: Annotated[float | None, Field(ge=0, le=1_000)] = None
    recency_recency_weight: Annotated[float | None, Field(ge=0, le=1_000)] = None
    recency_freshness_weight: Annotated[float | None, Field(ge=0, le=1_000)] = None
    recency_novelty_weight: Annotated[float | None, Field(ge=0, le=1_000)] = None
    recency_half_life_last_access_days: Annotated[float | None, Field(gt=0, le=MAX_DAYS)] = None
    recency_half_life_created_days: Annotated[float | None, Field(gt=0, le=MAX_DAYS)] = None
    server_side_recency: bool | None = None
    relax_filters: bool = False
    """Search again without topics, entities, type and date of the event if nothing passes them. Of memproxy's own."""


class PolicyInput(Input, extra="forbid"):
    """What may be forgotten. Unknown keys are refused: a limit that is silently missing forgets too much."""

    max_age_days: Annotated[float | None, Field(ge=0, le=MAX_DAYS)] = None
    max_inactive_days: Annotated[float | None, Field(ge=0, le=MAX_DAYS)] = None
    budget: Annotated[int | None, Field(ge=0, le=10**9)] = None
    memory_type_allowlist: list[MemoryType] | None = None
    hard_age_multiplier: Annotated[float, Field(ge=1, le=MAX_DAYS)] = 12


class ForgetRequest(Input):
    """A policy, and ids that it is not for."""

    policy: PolicyInput
    pinned_ids: Annotated[list[Id] | None, Field(max_length=MAX_FORGOTTEN)] = None


class ScopeQuery(QueryInput):
    """Narrows an operation to one user or namespace."""

    user_id: Name | None = None
    namespace: Name | None = None


class DeleteQuery(ScopeQuery):
    """Which memories to delete."""

    repeated: ClassVar[frozenset[str]] = frozenset({"memory_ids"})
    memory_ids: Annotated[list[Id], Field(max_length=MAX_FORGOTTEN)] = Field(default_factory=list)


class ForgetQuery(ScopeQuery):
    """Among which memories to forget."""

    session_id: Name | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_FORGOTTEN)] = 1_000
    dry_run: bool | None = None


class SearchQuery(QueryInput):
    """Whether a model may rewrite the text for the search."""

    optimize_query: bool = False
