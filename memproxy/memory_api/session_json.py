"""Sessions as agent-memory-server's clients send them and as they get them back. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from memproxy.memory.session_change import Wish
from memproxy.memory.session_merge import Sent
from memproxy.memory.working import Window, shown_role, shown_text
from memproxy.memory_api.memories import memory_json, record_of
from memproxy.memory_api.requests import Caller, invalid
from memproxy.memory_api.session_schemas import MessageInput, SessionInput, SessionMemoryInput
from memproxy.records import JsonObject, MemoryRecord, SessionKey, StoredMessage, StrategyChoice
from memproxy.storage.session_state import Document

MAX_AHEAD = timedelta(seconds=300)
"""How far a client's clock may be ahead. Source: agent-memory-server."""

DEFAULT_STRATEGY = StrategyChoice("discrete")

UNDATED = "Messages without created_at are taken to be from now; send it, a later version will ask for it."
"""What an answer says beside a document with such messages, under X-Deprecation-Warning."""


def session_json(document: Document, window: Window, *, data: JsonObject | None) -> JsonObject:
    """A session as it is shown. `data` is what is shown where the session has none."""
    total, until = window.shares(document.tokens)
    strategy = document.strategies[0] if document.strategies else DEFAULT_STRATEGY
    known = {name: msgspec.json.decode(value) for name, value in document.data.items()} if document.is_there else {}
    return {
        "messages": [message_json(message) for message in document.messages],
        "memories": [memory_json(kept.record) for kept in document.memories],
        "data": known or data,
        "context": document.summary or None,
        "user_id": document.key.scope.user,
        "tokens": document.tokens,
        "session_id": document.key.session,
        "namespace": document.key.scope.namespace,
        "long_term_memory_strategy": {"strategy": strategy.name, "config": strategy.config},
        "ttl_seconds": None if document.ttl_ms is None else document.ttl_ms // 1000,
        "last_accessed": document.updated_at,
        "created_at": document.created_at or document.updated_at,
        "updated_at": document.updated_at,
        "context_percentage_total_used": total,
        "context_percentage_until_summarization": until,
    }


def unsaved_json(key: SessionKey, window: Window, *, now: datetime) -> JsonObject:
    """A session that is not there, as older servers show it."""
    empty = Document(key, created_at=now, updated_at=now, is_there=False)
    return session_json(empty, window, data={}) | {"new_session": True, "unsaved": True}


def message_json(stored: StoredMessage) -> JsonObject:
    """A message as it is shown."""
    return {
        "role": shown_role(stored.message),
        "content": shown_text(stored.message),
        "id": stored.id,
        "created_at": stored.at,
        "persisted_at": None,
        "discrete_memory_extracted": "t" if stored.learned else "f",
    }


def wish_of(body: SessionInput, key: SessionKey, *, now: datetime, turn_id: str, window: Window) -> Wish:
    """What a document wants.

    Raises:
        InvalidInputError: a message is from the future.
    """
    given = body.model_fields_set
    strategy = StrategyChoice(body.long_term_memory_strategy.strategy, body.long_term_memory_strategy.config)
    return Wish(
        messages=tuple(_sent(one, at=at, now=now, turn_id=turn_id) for at, one in enumerate(body.messages)),
        memories=tuple(_record(one, key, now=now) for one in body.memories),
        data=None if body.data is None else _encoded(body.data),
        summary=(body.context or "") if "context" in given else None,
        # Clients build documents anew and send the default: that undoes nothing.
        strategy=None if strategy == DEFAULT_STRATEGY else strategy,
        ttl_ms=None if body.ttl_seconds is None else body.ttl_seconds * 1000,
        keeps_ttl="ttl_seconds" not in given,
        state=body.last_accessed,
        window=window,
    )


def has_undated(body: SessionInput) -> bool:
    """Some message does not say when it was created."""
    return any(message.created_at is None for message in body.messages)


def _sent(message: MessageInput, *, at: int, now: datetime, turn_id: str) -> Sent:
    if message.created_at is not None and message.created_at > now + MAX_AHEAD:
        raise invalid(
            f"created_at lies more than {MAX_AHEAD.total_seconds():g} seconds in the future",
            loc=["body", "messages", at, "created_at"],
            input_=message.created_at.isoformat(),
        )
    return Sent(
        id=message.id or f"{turn_id}-{at}",
        role=message.role,
        text=message.content,
        at=message.created_at or now,
        is_learned=message.discrete_memory_extracted == "t",
        is_named=bool(message.id),
    )


def _record(given: SessionMemoryInput, key: SessionKey, *, now: datetime) -> MemoryRecord:
    """The memory; it is the session's, unless it says otherwise."""
    owner = Caller(key.scope.tenant, key.scope.user, key.scope.namespace)
    record = record_of(given, owner, now=now)
    return replace(record, session=record.session or key.session, persisted_at=given.persisted_at)


def _encoded(data: JsonObject) -> Mapping[str, bytes]:
    return {name: msgspec.json.encode(value) for name, value in data.items()}
