"""From requests to queries, and from what was found to answers."""

from datetime import UTC, datetime
from typing import Any

import pytest

from memproxy.errors import RequestError
from memproxy.memory.search import Found, Match, Query, Recency, SearchMode
from memproxy.memory_api.requests import Caller
from memproxy.memory_api.schemas import SearchRequest
from memproxy.memory_api.searching import found_json, query_of
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.memory_filter import Filter, TagField, any_of, none_of

NOW = datetime(2024, 5, 1, 10, tzinfo=UTC)
NOBODY = Caller("t")


def query(caller: Caller = NOBODY, **given: Any) -> Query:
    """What this body asks of the engine."""
    return query_of(SearchRequest.model_validate(given), caller, now=NOW)


def test_without_a_mode_the_engine_ranks_as_it_finds_best() -> None:
    """But a distance means a search by meaning, the reference's default."""
    assert query(text="tea") == Query("tea", mode=None)
    by_distance = Query("tea", mode=SearchMode.SEMANTIC, distance_threshold=0.3)
    assert query(text="tea", distance_threshold=0.3) == by_distance


def test_a_mode_that_is_named_is_what_is_done() -> None:
    """Whoever knows the reference gets its modes."""
    asked = query(text="tea", search_mode="semantic", distance_threshold=0.3, recency_boost=False)
    assert asked == Query("tea", mode=SearchMode.SEMANTIC, distance_threshold=0.3)
    hybrid = query(text="tea", search_mode="hybrid", hybrid_alpha=0.2, recency_boost=False, limit=5, offset=10)
    assert hybrid == Query("tea", mode=SearchMode.HYBRID, alpha=0.2, limit=5, offset=10)


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_only_a_search_by_meaning_has_a_distance(mode: str) -> None:
    """The reference refuses it, too."""
    with pytest.raises(RequestError, match="distance_threshold") as caught:
        query(text="tea", search_mode=mode, distance_threshold=0.3)
    assert caught.value.status == 400


def test_recency_counts_where_it_is_asked_for() -> None:
    """By the reference's defaults in its modes; memproxy's own ranking does without, unless told."""
    assert query(text="tea").recency is None
    assert query(text="tea", search_mode="semantic").recency == Recency(NOW)
    assert query(text="tea", search_mode="semantic", recency_boost=False).recency is None
    assert query(text="tea", recency_boost=True).recency == Recency(NOW)
    assert query(text="tea", recency_boost=False, recency_novelty_weight=0.9).recency is None
    assert query(
        text="tea",
        recency_semantic_weight=0.1,
        recency_recency_weight=0.2,
        recency_freshness_weight=0.3,
        recency_novelty_weight=0.4,
        recency_half_life_last_access_days=5,
        recency_half_life_created_days=6,
        server_side_recency=True,
    ).recency == Recency(NOW, 0.1, 0.2, 0.3, 0.4, 5, 6)


def test_path_and_headers_narrow_what_the_request_leaves_open() -> None:
    """An agent with `/u/alice/v1` as its address finds alice's memories, unless it says whose it wants."""
    caller = Caller("t", "alice", "work", default_user="me")
    alice, work = any_of(TagField.USER, ["alice"]), any_of(TagField.NAMESPACE, ["work"])
    assert query(caller, text="x").where == Filter((alice, work))
    assert query(caller, text="x", user_id={}, namespace=None).where == Filter((alice, work))
    assert query(caller, text="x", user_id={"ne": "bob"}).where == Filter((none_of(TagField.USER, ["bob"]), work))
    assert query(Caller("t", default_user="me"), text="x").where == Filter()


def test_filters_are_dropped_only_for_who_asks_for_it() -> None:
    """`Nothing found` must be possible."""
    assert query(text="x", topics={"any": ["a"]}).relaxes is False
    assert query(text="x", topics={"any": ["a"]}, relax_filters=True).relaxes is True


def test_the_answer_counts_all_pages() -> None:
    """A caller can page through it."""
    record = MemoryRecord("1", Scope("t", None), "x", MemoryType.SEMANTIC, NOW)
    answer = found_json(Found([Match(record, 0.5, 0.2)], total=7, next_offset=1, mode=None))
    assert (answer["total"], answer["next_offset"], len(answer["memories"])) == (7, 1, 1)
    assert "relaxed" not in answer
    assert found_json(Found([], 0, None, None, relaxed=("topics",)))["relaxed"] == ("topics",)
