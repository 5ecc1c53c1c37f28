"""What clients may send about sessions, and what is refused before anything is read."""

import json
from typing import Any

import pytest

from memproxy.errors import InvalidInputError
from memproxy.memory_api.requests import read_body, read_query
from memproxy.memory_api.session_schemas import (
    ListQuery,
    PromptRequest,
    SessionInput,
    SessionQuery,
    StrategyInput,
)

MESSAGE = {"role": "user", "content": "hi"}


def body(**fields: Any) -> SessionInput:
    return read_body(SessionInput, json.dumps(fields).encode())


def place_of(**fields: Any) -> list[Any]:
    """Where the first problem with this body is."""
    with pytest.raises(InvalidInputError) as caught:
        body(**fields)
    found: list[Any] = caught.value.problems[0]["loc"]
    return found


def test_everything_may_be_left_out() -> None:
    """An empty document is one that changes nothing but the messages; unknown fields are passed over."""
    empty = body(session_id="other", more=1)
    assert (empty.messages, empty.memories, empty.data, empty.context) == ([], [], None, None)
    assert empty.long_term_memory_strategy == StrategyInput()
    assert "ttl_seconds" not in empty.model_fields_set


def test_any_role_and_any_words_are_taken() -> None:
    """Whether a message may be without words is known only beside the session."""
    document = body(messages=[{"role": "narrator", "content": ""}, {**MESSAGE, "id": None}, {**MESSAGE, "id": ""}])
    assert [message.role for message in document.messages] == ["narrator", "user", "user"]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"messages": [{"role": "user"}]}, ["body", "messages", 0, "content"]),
        ({"messages": [{"content": "x"}]}, ["body", "messages", 0, "role"]),
        ({"messages": [MESSAGE, {**MESSAGE, "role": ""}]}, ["body", "messages", 1, "role"]),
        ({"messages": [{**MESSAGE, "content": [{"type": "text"}]}]}, ["body", "messages", 0, "content"]),
        ({"messages": [{**MESSAGE, "id": "x" * 513}]}, ["body", "messages", 0, "id"]),
        ({"messages": [{**MESSAGE, "created_at": "soon"}]}, ["body", "messages", 0, "created_at"]),
        (
            {"messages": [{**MESSAGE, "discrete_memory_extracted": "x"}]},
            ["body", "messages", 0, "discrete_memory_extracted"],
        ),
        ({"memories": [{"id": "m"}]}, ["body", "memories", 0, "text"]),
        ({"memories": [{"text": "x"}]}, ["body", "memories", 0, "id"]),
        ({"data": [1]}, ["body", "data"]),
        ({"user_id": " "}, ["body", "user_id"]),
        ({"ttl_seconds": 0}, ["body", "ttl_seconds"]),
        ({"ttl_seconds": 10**12}, ["body", "ttl_seconds"]),
        ({"long_term_memory_strategy": {"strategy": "none"}}, ["body", "long_term_memory_strategy", "strategy"]),
        ({"long_term_memory_strategy": {"strategy": "custom"}}, ["body", "long_term_memory_strategy"]),
        ({"last_accessed": "then"}, ["body", "last_accessed"]),
    ],
)
def test_what_can_not_be_meant_is_refused_where_it_stands(fields: dict[str, Any], place: list[Any]) -> None:
    """A client's author finds the mistake, and a strategy that could never work is not found out in the background."""
    assert place_of(**fields) == place


def test_windows_may_be_strings() -> None:
    """As agent-memory-client sends them; any model's name is taken."""
    query = read_query(SessionQuery, b"context_window_max=4000&model_name=of-next-year&recent_messages_limit=5")
    assert (query.context_window_max, query.model_name, query.recent_messages_limit) == (4_000, "of-next-year", 5)
    request = b'{"query":"x","session":{"session_id":"s","context_window_max":"4000"}}'
    session = read_body(PromptRequest, request).session
    assert session is not None
    assert session.context_window_max == 4_000


@pytest.mark.parametrize("query", [b"context_window_max=0", b"context_window_max=many", b"recent_messages_limit=x"])
def test_windows_are_numbers(query: bytes) -> None:
    """A limit that can't be one is not taken for none."""
    with pytest.raises(InvalidInputError):
        read_query(SessionQuery, query)


@pytest.mark.parametrize("query", [b"limit=0", b"limit=101", b"limit=x", b"offset=-1"])
def test_pages_have_bounds(query: bytes) -> None:
    """The reference's: more than a hundred sessions at a time are several pages."""
    with pytest.raises(InvalidInputError):
        read_query(ListQuery, query)
    assert (read_query(ListQuery, b"").limit, read_query(ListQuery, b"limit=100&offset=7").offset) == (20, 7)


@pytest.mark.parametrize("search", [True, False, None, {"topics": {"any": ["a"]}, "limit": 5}])
def test_a_prompt_asks_for_memories_in_one_word_or_many(search: Any) -> None:
    """`true` is what the proxy does; an object is a search of its own."""
    request = read_body(PromptRequest, json.dumps({"query": "x", "long_term_search": search}).encode())
    assert request.long_term_search == search or request.long_term_search is not None
