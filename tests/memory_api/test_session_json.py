"""Sessions on their way in and out, in agent-memory-server's words."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from memproxy.errors import InvalidInputError
from memproxy.memory.session_change import Wish
from memproxy.memory.working import Window
from memproxy.memory_api.requests import read_body
from memproxy.memory_api.session_json import has_undated, message_json, session_json, unsaved_json, wish_of
from memproxy.memory_api.session_schemas import SessionInput
from memproxy.records import MemoryRecord, MemoryType, Scope, SessionKey, StrategyChoice
from memproxy.storage.session_state import KeptMemory
from tests.fakes.sessions import ANN, CHAT, NOON, answered, calling, document_of, said, written

NO_WINDOW = Window(1_000, is_given=False)
FIELDS = {
    "messages", "memories", "data", "context", "user_id", "tokens", "session_id", "namespace",
    "long_term_memory_strategy", "ttl_seconds", "last_accessed", "created_at", "updated_at",
    "context_percentage_total_used", "context_percentage_until_summarization",
}  # fmt: skip


def wish(key: SessionKey = CHAT, **fields: Any) -> Wish:
    body = read_body(SessionInput, json.dumps(fields).encode())
    return wish_of(body, key, now=NOON, turn_id="put-1", window=NO_WINDOW)


# Out


def test_a_session_has_every_field_of_the_reference() -> None:
    """Clients parse what they know."""
    document = document_of([said("hi"), said("hello", "assistant")], data={"a": b"[1]"}, summary="s", ttl_ms=9_500)
    shown = session_json(document, Window(100, is_given=True), data={})
    assert shown.keys() == FIELDS
    assert (shown["session_id"], shown["user_id"], shown["namespace"]) == ("chat-1", "ann", "shop")
    assert (shown["data"], shown["context"], shown["ttl_seconds"], shown["tokens"]) == ({"a": [1]}, "s", 9, 20)
    assert (shown["last_accessed"], shown["created_at"], shown["updated_at"]) == (NOON, NOON, NOON)
    assert (shown["context_percentage_total_used"], shown["context_percentage_until_summarization"]) == pytest.approx(
        (20.0, 20 / 70 * 100)
    )
    assert shown["long_term_memory_strategy"] == {"strategy": "discrete", "config": {}}


def test_what_a_session_does_not_have_is_null() -> None:
    """Not an empty text, not a zero."""
    shown = session_json(document_of([]), NO_WINDOW, data=None)
    assert [name for name, value in shown.items() if value is None] == [
        "data", "context", "ttl_seconds", "context_percentage_total_used", "context_percentage_until_summarization",
    ]  # fmt: skip
    assert session_json(document_of([]), NO_WINDOW, data={})["data"] == {}
    chosen = document_of([], strategies=(StrategyChoice("summary", {"max_summary_length": 50}),))
    assert session_json(chosen, NO_WINDOW, data={})["long_term_memory_strategy"] == {
        "strategy": "summary",
        "config": {"max_summary_length": 50},
    }


def test_messages_are_shown_as_text() -> None:
    """Calls and results too; code that counts or searches sees all that was said."""
    assert message_json(written("x", "hi", "narrator")) == {
        "role": "narrator",
        "content": "hi",
        "id": "x",
        "created_at": NOON,
        "persisted_at": None,
        "discrete_memory_extracted": "f",
    }
    shown = [message_json(one) for one in (calling("get_order"), answered("LX-4417"))]
    assert [(one["role"], one["content"]) for one in shown] == [
        ("assistant", "[calls get_order({})]"),
        ("tool", "LX-4417"),
    ]


def test_memories_are_shown_with_the_session() -> None:
    """As the long-term memory's own operations show them."""
    record = MemoryRecord("m1", ANN, "likes tea", MemoryType.EPISODIC, NOON, persisted_at=NOON)
    (shown,) = session_json(document_of([], memories=(KeptMemory(record, 1),)), NO_WINDOW, data={})["memories"]
    assert (shown["id"], shown["text"], shown["memory_type"], shown["persisted_at"]) == (
        "m1",
        "likes tea",
        "episodic",
        NOON,
    )


def test_an_unsaved_session_is_an_empty_one() -> None:
    """As older servers answer, and as agent-memory-client still understands."""
    shown = unsaved_json(CHAT, NO_WINDOW, now=NOON)
    assert (shown["unsaved"], shown["new_session"], shown["messages"], shown["data"]) == (True, True, [], {})
    assert shown.keys() >= FIELDS


# In


def test_a_document_says_by_its_fields_what_it_wants() -> None:
    """Null clears, where there is something to clear; what is absent stays."""
    assert wish() == Wish(window=NO_WINDOW)
    nulls = wish(context=None, ttl_seconds=None, data=None)
    assert (nulls.summary, nulls.ttl_ms, nulls.keeps_ttl, nulls.data) == ("", None, False, None)
    given = wish(
        context="s", ttl_seconds=60, data={"a": {"b": [None, 1.0]}}, last_accessed="2025-06-01T14:00:00.123456+02:00"
    )
    assert (given.summary, given.ttl_ms, given.keeps_ttl) == ("s", 60_000, False)
    assert given.data == {"a": b'{"b":[null,1.0]}'}
    assert given.state == NOON


def test_the_default_strategy_undoes_none() -> None:
    """Clients send it with every document that they build anew."""
    assert wish(long_term_memory_strategy={"strategy": "discrete"}).strategy is None
    other = {"strategy": "discrete", "config": {"a": 1}}
    assert wish(long_term_memory_strategy=other).strategy == StrategyChoice("discrete", {"a": 1})
    assert wish(long_term_memory_strategy={"strategy": "preferences"}).strategy == StrategyChoice("preferences")


def test_messages_get_what_they_lack() -> None:
    """An id that tells of the write, and the time of the write."""
    told = wish(
        messages=[
            {"role": "user", "content": "a"},
            {
                "role": "user",
                "content": "b",
                "id": "x",
                "created_at": "2025-06-01T10:00:00",
                "discrete_memory_extracted": "t",
            },
        ]
    ).messages
    assert [(one.id, one.is_named, one.at, one.is_learned) for one in told] == [
        ("put-1-0", False, NOON, False),
        ("x", True, datetime(2025, 6, 1, 10, tzinfo=UTC), True),
    ]


@pytest.mark.parametrize(("ahead_s", "is_taken"), [(300, True), (301, False), (-(10**9), True)])
def test_a_clients_clock_may_be_a_little_ahead(ahead_s: int, is_taken: bool) -> None:
    """Five minutes, as in the reference; beyond that the order of messages would be wrong."""
    at = (NOON + timedelta(seconds=ahead_s)).isoformat()
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b", "created_at": at}]
    if is_taken:
        assert wish(messages=messages).messages[1].at == NOON + timedelta(seconds=ahead_s)
        return
    with pytest.raises(InvalidInputError, match="300 seconds") as caught:
        wish(messages=messages)
    assert caught.value.problems[0]["loc"] == ["body", "messages", 1, "created_at"]


def test_messages_without_a_time_are_noticed() -> None:
    """Whoever sends them is told."""
    message = {"role": "user", "content": "a"}
    dated = {**message, "created_at": NOON.isoformat()}
    for messages, expected in (([], False), ([dated], False), ([dated, message], True)):
        assert has_undated(read_body(SessionInput, json.dumps({"messages": messages}).encode())) is expected


def test_memories_belong_to_the_session_unless_they_say_otherwise() -> None:
    """Else they would be nobody's, and everybody would be found with them."""
    plain, own, stored = wish(
        memories=[
            {"id": "m1", "text": "a", "memory_type": "message", "topics": ["t"]},
            {"id": "m2", "text": "b", "user_id": "bob", "namespace": "x", "session_id": "s"},
            {"id": "m3", "text": "c", "persisted_at": NOON.isoformat()},
        ]
    ).memories
    assert (plain.scope, plain.session, plain.type, plain.topics) == (ANN, "chat-1", MemoryType.MESSAGE, ("t",))
    assert (plain.is_explicit, plain.persisted_at) == (True, None)
    assert (own.scope, own.session) == (Scope("tenant", "bob", "x"), "s")
    assert stored.persisted_at == NOON
    (nobodys,) = wish(SessionKey(Scope("tenant", None), "s"), memories=[{"id": "m", "text": "x"}]).memories
    assert nobodys.scope == Scope("tenant", None)
