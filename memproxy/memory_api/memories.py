"""Memories as clients send them and as they get them back. Pure."""

from datetime import datetime
from typing import Any

from memproxy.memory.search import Match, SearchMode
from memproxy.memory_api.requests import Caller
from memproxy.memory_api.schemas import EditRequest, MemoryInput
from memproxy.records import JsonObject, MemoryRecord, Scope
from memproxy.storage.memory_documents import memory_hash
from memproxy.storage.memory_filter import Filter, TagField, any_of


def record_of(given: MemoryInput, caller: Caller, *, now: datetime) -> MemoryRecord:
    """The memory to keep. It is final as it is given: no model reads it again, whatever its marks say."""
    return MemoryRecord(
        id=given.id,
        scope=Scope(caller.tenant, given.user_id or caller.owner, given.namespace or caller.namespace),
        text=given.text,
        type=given.memory_type,
        created_at=given.created_at or now,
        session=given.session_id,
        topics=tuple(given.topics or ()),
        entities=tuple(given.entities or ()),
        event_date=given.event_date,
        updated_at=now,
        persisted_at=now,
        pinned=given.pinned,
        extracted_from=tuple(given.extracted_from or ()),
        metadata=given.metadata,
        strategy=given.extraction_strategy,
        strategy_config=given.extraction_strategy_config,
        is_explicit=True,
    )


_EDITED = {
    "text": "text",
    "memory_type": "type",
    "session_id": "session",
    "event_date": "event_date",
    "pinned": "pinned",
}
"""Names of fields, as clients send them and as a record has them; lists and the scope are apart."""


def edits(given: EditRequest) -> JsonObject:
    """What of a record changes within its scope, by the record's names."""
    changed: dict[str, Any] = {
        name: value for sent, name in _EDITED.items() if (value := getattr(given, sent)) is not None
    }
    for name in ("topics", "entities"):
        if (labels := getattr(given, name)) is not None:
            changed[name] = tuple(labels)
    return changed


def new_scope(scope: Scope, given: EditRequest) -> Scope:
    """Where the memory belongs after the edit."""
    return Scope(scope.tenant, given.user_id or scope.user, given.namespace or scope.namespace)


def narrowed(caller: Caller, *, user: str | None = None, namespace: str | None = None) -> Filter:
    """All of the tenant's memories, or those of the user and namespace that the request, or else its path, names."""
    named = ((TagField.USER, user or caller.user), (TagField.NAMESPACE, namespace or caller.namespace))
    return Filter(tuple(any_of(field, [value]) for field, value in named if value is not None))


def memory_json(record: MemoryRecord) -> JsonObject:
    """A memory as agent-memory-server gives it; of memproxy's own, what took its place, if something did."""
    answer: JsonObject = {
        "id": record.id,
        "text": record.text,
        "session_id": record.session,
        "user_id": record.scope.user,
        "namespace": record.scope.namespace,
        "last_accessed": record.last_accessed or record.created_at,
        "created_at": record.created_at,
        "updated_at": record.updated_at or record.created_at,
        "pinned": record.pinned,
        "access_count": record.access_count,
        "topics": record.topics,
        "entities": record.entities,
        "memory_hash": memory_hash(record),
        "discrete_memory_extracted": "t",
        "memory_type": record.type,
        "persisted_at": record.persisted_at,
        "extracted_from": record.extracted_from,
        "event_date": record.event_date,
        "extraction_strategy": record.strategy,
        "extraction_strategy_config": record.strategy_config,
        "metadata": record.metadata,
    }
    if record.valid_until is not None:
        answer |= {"valid_until": record.valid_until, "superseded_by": record.superseded_by}
    return answer


def result_json(found: Match, *, mode: SearchMode | None) -> JsonObject:
    """A memory that a search found, with what it scored in this mode; without a text there is no score."""
    score_type = None if found.score is None else mode or SearchMode.HYBRID
    scored = {"dist": found.distance, "score": found.score, "score_type": score_type}
    return {**memory_json(found.record), **scored}
