"""From a request to search to what the engine is asked, and from what it found to the answer. Pure."""

from datetime import datetime

from memproxy.errors import RequestError
from memproxy.memory.search import Found, Query, Recency, SearchMode
from memproxy.memory_api.memories import result_json
from memproxy.memory_api.requests import Caller
from memproxy.memory_api.schemas import SearchRequest
from memproxy.records import JsonObject
from memproxy.storage.memory_filter import Filter, TagField, any_of

_RECENCY = {
    "recency_semantic_weight": "semantic_weight",
    "recency_recency_weight": "recency_weight",
    "recency_freshness_weight": "freshness_weight",
    "recency_novelty_weight": "novelty_weight",
    "recency_half_life_last_access_days": "half_life_access_days",
    "recency_half_life_created_days": "half_life_created_days",
}
"""The request's names of what recency counts, and the engine's."""


def query_of(asked: SearchRequest, caller: Caller, *, now: datetime) -> Query:
    """What the engine is asked. Path and headers narrow it where the request itself names no user or namespace.

    Without a mode the engine ranks as it finds best; but who gives a distance wants a search by meaning, as it is the
    reference's default.

    Raises:
        RequestError: a distance is given for a search that does not go by distance.
    """
    if asked.distance_threshold is not None and asked.search_mode not in {None, SearchMode.SEMANTIC}:
        raise RequestError(
            f"distance_threshold is for a semantic search, not for a {asked.search_mode} one: leave one of them out."
        )
    by_distance = asked.search_mode is None and asked.distance_threshold is not None
    return Query(
        text=asked.text,
        mode=SearchMode.SEMANTIC if by_distance else asked.search_mode,
        alpha=asked.hybrid_alpha,
        where=_where(asked, caller),
        limit=asked.limit,
        offset=asked.offset,
        distance_threshold=asked.distance_threshold,
        recency=_recency(asked, now=now),
        relaxes=asked.relax_filters,
    )


def _where(asked: SearchRequest, caller: Caller) -> Filter:
    rules = asked.rules()
    named = {rule.field for rule in rules}
    defaults = ((TagField.USER, caller.user), (TagField.NAMESPACE, caller.namespace))
    return Filter(rules).and_(
        *(any_of(field, [value]) for field, value in defaults if value is not None and field not in named)
    )


def _recency(asked: SearchRequest, *, now: datetime) -> Recency | None:
    """How recency counts: as asked; by the reference's defaults in the reference's modes, and else not."""
    given = {name: value for sent, name in _RECENCY.items() if (value := getattr(asked, sent)) is not None}
    boosted = asked.recency_boost
    if boosted is None:
        boosted = asked.search_mode is not None or bool(given)
    return Recency(now=now, **given) if boosted else None


def found_json(found: Found) -> JsonObject:
    """The answer to a search; `relaxed`, of memproxy's own, names the filters that were left out."""
    answer: JsonObject = {
        "memories": [result_json(match, mode=found.mode) for match in found.memories],
        "total": found.total,
        "next_offset": found.next_offset,
    }
    return answer | {"relaxed": found.relaxed} if found.relaxed else answer
