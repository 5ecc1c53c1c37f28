"""Sessions as the proxy and code leave them, for tests of what is done with them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis

from memproxy.clock import Clock
from memproxy.memory.session_merge import Sent
from memproxy.memory.working import shown_text
from memproxy.memory_api.sessions import Sessions
from memproxy.records import WRITTEN_TURN, JsonObject, Scope, SessionKey, StoredMessage
from memproxy.storage.session_documents import SessionDocuments
from memproxy.storage.session_index import SessionIndex
from memproxy.storage.session_state import Change, Document
from memproxy.storage.working import NewTurn, SessionStore, index_entry
from memproxy.tokens import Windows
from memproxy.wire import chat_completions as chat

NOON = datetime(2025, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
ANN = Scope("tenant", "ann", "shop")
CHAT = SessionKey(ANN, "chat-1")


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        return self.at

    def monotonic_s(self) -> float:
        return self.at.timestamp()

    def move(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def said(text: Any, role: str = "user", *, at: datetime = NOON, tokens: int = 10, **more: Any) -> StoredMessage:
    """A message as the proxy keeps it."""
    message: JsonObject = {"role": role, "content": text, **more}
    return StoredMessage(message, digest=chat.digest(message).hex(), tokens=tokens, at=at)


def written(name: str, text: str, role: str = "user", *, at: datetime = NOON, turn: str = "1") -> StoredMessage:
    """A message as code has put it there."""
    return replace(said(text, role, at=at), id=name, turn=WRITTEN_TURN + turn)


def calling(name: str, arguments: str = "{}") -> StoredMessage:
    """A message of the model that calls a tool."""
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return said(None, "assistant", tool_calls=[call])


def answered(text: str) -> StoredMessage:
    """What that tool gave."""
    return said(text, "tool", tool_call_id="call_1")


def sent(message: StoredMessage, **given: Any) -> Sent:
    """A message as somebody who read it sends it back."""
    shown = {"role": str(message.message["role"]), "text": shown_text(message.message), "at": message.at}
    return Sent(message.id, **{**shown, **given})


def new(name: str, text: str = "", *, minute: int = 60, **given: Any) -> Sent:
    """One that is not in the session yet."""
    return Sent(name, "user", text or f"words of {name}", NOON + timedelta(minutes=minute), **given)


def document_of(messages: Sequence[StoredMessage], *, versions: Sequence[int] = (), **given: Any) -> Document:
    """A session as it is read, of which each message came with a change of its own, unless it is said otherwise."""
    counted = versions or range(1, len(messages) + 1)
    index = [index_entry(message, version=version) for message, version in zip(messages, counted, strict=True)]
    version = max(counted, default=0)
    facts: JsonObject = {"version": version, "length": len(messages), "created_at": NOON, "updated_at": NOON, **given}
    return Document(CHAT, "base", messages=tuple(messages), index=tuple(index), **facts)


def documents_on(redis: Redis, *, named_ttl_s: float = 0) -> SessionDocuments:
    return SessionDocuments(redis, SessionIndex(redis), named_ttl_s=named_ttl_s, unnamed_ttl_s=600)


def sessions_on(redis: Redis, clock: Clock) -> Sessions:
    documents = documents_on(redis)
    return Sessions(documents, SessionIndex(redis), Windows({}, default=1_000), clock)


def store_on(redis: Redis, *, named_ttl_s: float = 0) -> SessionStore:
    return SessionStore(redis, named_ttl_s=named_ttl_s, unnamed_ttl_s=600, receipt_ttl_s=60)


async def say(
    store: SessionStore, turn: str, messages: Sequence[StoredMessage], *, key: SessionKey = CHAT, **given: Any
) -> None:
    """A turn goes through the proxy: it is appended to whatever the session is by now.

    With a thread that is not the current one, it begins as a branch of that.
    """
    found = await store.load(key.scope, key.session, chains=[], want_index=True, tail=0)
    length = found.length if found else 0
    target = found.key if found is not None and key.thread in {"", found.key.thread} else key
    facts = {
        "session": key.session,
        "thread": target.thread,
        "updated_at": messages[-1].at.isoformat(),
        "tokens": str((found.tokens if found else 0) + sum(message.tokens for message in messages)),
        **({} if found else {"created_at": messages[0].at.isoformat()}),
    }
    new: JsonObject = {
        "key": target,
        "turn_id": turn,
        "expected_length": length,
        "keep": length,
        "messages": tuple(replace(message, turn=turn) for message in messages),
        "flags": (0,) * len(messages),
        "facts": facts,
        "pins": {},
        "queued": b"",
        "chain": "",
        "is_named": True,
        "rewrites": found.rewrites if found else 0,
    }
    if found is not None and target != found.key:
        new |= {"expected_length": 0, "keep": 0, "parent": found.key, "copied": 1}
    assert await store.record(NewTurn(**{**new, **given}))


def rewritten(document: Document, messages: Sequence[StoredMessage], *, keep: int, **given: Any) -> Change:
    """A change that leaves these messages, of which the first so many are as they were."""
    new = document.version + 1
    added = [index_entry(one, version=new) for one in messages[keep:]]
    after = replace(
        document,
        version=new,
        length=len(messages),
        messages=tuple(messages),
        index=(*document.index[:keep], *added),
        created_at=document.created_at or NOON,
        updated_at=(document.updated_at or NOON) + timedelta(seconds=1),
        is_there=True,
        **given.pop("after", {}),
    )
    return Change(document, after, keep, **given)
