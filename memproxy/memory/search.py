"""What code asks of long-term memory, and what it gets."""

import enum
from dataclasses import dataclass
from datetime import datetime

from memproxy.records import MemoryRecord
from memproxy.storage.memory_filter import EVERYTHING, Filter

DEFAULT_ALPHA = 0.7


class SearchMode(enum.StrEnum):
    """By what memories are ranked. Without a mode: as the engine finds best."""

    SEMANTIC = "semantic"
    KEYWORD = "keyword"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True)
class Recency:
    """How much it counts that a memory was created or looked at lately; specification section 1.3."""

    now: datetime
    semantic_weight: float = 0.8
    recency_weight: float = 0.2
    freshness_weight: float = 0.6
    """Of the last access."""
    novelty_weight: float = 0.4
    """Of the creation."""
    half_life_access_days: float = 7.0
    half_life_created_days: float = 30.0


@dataclass(frozen=True, slots=True)
class Query:
    """One search below a tenant."""

    text: str | None = None
    """None or blank: everything that passes the filter, newest first."""
    mode: SearchMode | None = SearchMode.SEMANTIC
    alpha: float = DEFAULT_ALPHA
    """Of a hybrid search: the share of meaning against words, 0..1."""
    where: Filter = EVERYTHING
    limit: int = 10
    offset: int = 0
    distance_threshold: float | None = None
    """Of a semantic search: how far a memory may be, as 1 - cosine."""
    recency: Recency | None = None
    relaxes: bool = False
    """When nothing is found, search once more without rules on topics, entities, type and event date."""


@dataclass(frozen=True, slots=True)
class Match:
    """One memory that was found."""

    record: MemoryRecord
    score: float | None
    """Relevance in 0..1, whatever page it stands on; None where nothing was asked for but a filter."""
    distance: float
    """1 - cosine to the query; 0 where nothing was asked for but a filter."""


@dataclass(frozen=True, slots=True)
class Found:
    """One page of what a search found."""

    memories: list[Match]
    total: int
    """How many there are on all pages."""
    next_offset: int | None
    """Where the next page begins; None after the last."""
    mode: SearchMode | None
    relaxed: tuple[str, ...] = ()
    """The fields whose rules were left out, since with them nothing was found."""
