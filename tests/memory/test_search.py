"""What a query is unless it says otherwise."""

from memproxy.memory.search import Query, SearchMode
from memproxy.storage.memory_filter import EVERYTHING


def test_a_plain_query_is_what_code_expects() -> None:
    """The first ten by meaning, of all that still hold, as they are ranked."""
    query = Query("tea")
    assert (query.mode, query.where, query.limit, query.offset) == (SearchMode.SEMANTIC, EVERYTHING, 10, 0)
    assert (query.recency, query.relaxes, query.distance_threshold) == (None, False, None)
