"""Memories between JSON and records."""

from datetime import UTC, datetime

import msgspec
from agent_memory_client.models import MemoryRecord as ClientRecord
from agent_memory_client.models import MemoryRecordResult
from msgspec.structs import replace

from memproxy.memory.search import Match, SearchMode
from memproxy.memory_api.memories import edits, memory_json, narrowed, new_scope, record_of, result_json
from memproxy.memory_api.requests import Caller
from memproxy.memory_api.schemas import EditRequest, MemoryInput
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.memory_documents import memory_hash
from memproxy.storage.memory_filter import Filter, TagField, any_of

NOW = datetime(2024, 5, 1, 10, tzinfo=UTC)
EARLIER = datetime(2023, 5, 1, tzinfo=UTC)
SCOPE = Scope("t", "alice", "work")
RECORD = MemoryRecord("1", SCOPE, "Alice likes tea", MemoryType.SEMANTIC, EARLIER)


def test_a_memory_is_kept_as_it_is_given() -> None:
    """What code creates is final: nothing reads it again, and nothing merges it."""
    given = MemoryInput.model_validate(
        {
            "id": "1", "text": "Alice likes tea", "user_id": "alice", "namespace": "work", "session_id": "s",
            "created_at": EARLIER, "topics": ["a, b"], "entities": ["c"], "pinned": True, "event_date": EARLIER,
            "extracted_from": ["m1"], "metadata": {"n": 1}, "memory_type": "episodic",
            "extraction_strategy": "custom", "extraction_strategy_config": {"x": 1}, "discrete_memory_extracted": "f",
        }
    )  # fmt: skip
    record = record_of(given, Caller("t"), now=NOW)
    assert record == MemoryRecord(
        "1", SCOPE, "Alice likes tea", MemoryType.EPISODIC, EARLIER, session="s", topics=("a, b",), entities=("c",),
        event_date=EARLIER, updated_at=NOW, persisted_at=NOW, pinned=True, extracted_from=("m1",), metadata={"n": 1},
        strategy="custom", strategy_config={"x": 1}, is_explicit=True,
    )  # fmt: skip


def test_path_and_headers_fill_in_what_a_record_does_not_say() -> None:
    """An agent with `/u/alice/n/shop/v1` as its address need not repeat it; what it does say counts."""
    caller = Caller("t", "alice", "work")
    assert record_of(MemoryInput(id="1", text="x"), caller, now=NOW).scope == SCOPE
    named = MemoryInput(id="1", text="x", user_id="bob", namespace="home")
    assert record_of(named, caller, now=NOW).scope == Scope("t", "bob", "home")
    assert record_of(MemoryInput(id="1", text="x"), Caller("t", default_user="me"), now=NOW).scope == Scope("t", "me")


def test_the_clients_models_read_what_comes_back() -> None:
    """Its fields are all there, and the times are real ones even where nothing is known."""
    written = msgspec.json.encode(memory_json(RECORD))
    read = ClientRecord.model_validate_json(written)
    assert (read.id, read.text, read.user_id, read.namespace) == ("1", "Alice likes tea", "alice", "work")
    assert read.created_at == read.updated_at == read.last_accessed == EARLIER
    assert read.memory_hash == memory_hash(RECORD)
    assert ClientRecord.model_fields.keys() <= msgspec.json.decode(written).keys()
    found = result_json(Match(RECORD, score=0.5, distance=0.3), mode=None)
    assert MemoryRecordResult.model_validate_json(msgspec.json.encode(found)).dist == 0.3


def test_the_score_says_by_what_it_was_found() -> None:
    """memproxy's own ranking goes by words and meaning; a list by filter alone has no score."""
    assert result_json(Match(RECORD, score=0.5, distance=0.3), mode=None)["score_type"] == "hybrid"
    assert result_json(Match(RECORD, score=0.5, distance=0.3), mode=SearchMode.KEYWORD)["score_type"] == "keyword"
    listed = result_json(Match(RECORD, score=None, distance=0.0), mode=SearchMode.SEMANTIC)
    assert (listed["score"], listed["score_type"], listed["dist"]) == (None, None, 0.0)


def test_what_was_replaced_says_by_what() -> None:
    """Whoever asks for an old memory by its id learns that it no longer holds."""
    assert "valid_until" not in memory_json(RECORD)
    old = memory_json(replace(RECORD, valid_until=NOW, superseded_by="2"))
    assert (old["valid_until"], old["superseded_by"]) == (NOW, "2")


def test_an_edit_changes_what_it_names() -> None:
    """Null changes nothing, an empty list clears."""
    given = EditRequest(text="x", memory_type=MemoryType.EPISODIC, topics=[], pinned=False, user_id="bob")
    assert edits(given) == {"text": "x", "type": MemoryType.EPISODIC, "topics": (), "pinned": False}
    assert new_scope(SCOPE, given) == Scope("t", "bob", "work")
    assert new_scope(SCOPE, EditRequest(text="x")) == SCOPE


def test_an_operation_sees_the_tenant_or_what_it_is_narrowed_to() -> None:
    """The request's own words count before those of its path."""
    assert narrowed(Caller("t")) == Filter()
    assert narrowed(Caller("t", "alice", default_user="me")) == Filter((any_of(TagField.USER, ["alice"]),))
    assert narrowed(Caller("t", default_user="me")) == Filter()
    assert narrowed(Caller("t", "alice", "work"), user="bob") == Filter(
        (any_of(TagField.USER, ["bob"]), any_of(TagField.NAMESPACE, ["work"]))
    )
