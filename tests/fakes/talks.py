"""Sessions in the store, as the proxy writes them."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

from memproxy.proxy.conversation import flags_of
from memproxy.records import JsonObject, Scope, SessionKey, StoredMessage
from memproxy.storage import schema
from memproxy.storage.working import NewTurn, SessionStore
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from tests.fakes.learning import ANN, MONDAY

TALK = SessionKey(ANN, "talk")


def session_store(redis: Redis) -> SessionStore:
    """Sessions that stay."""
    return SessionStore(redis, named_ttl_s=0, unnamed_ttl_s=600, receipt_ttl_s=60)


def said(role: str, words: str | None, *, tokens: int = 10, minutes: float = 0, **fields: Any) -> StoredMessage:
    """A message that takes so many tokens."""
    message: JsonObject = {"role": role, "content": words, **fields}
    digest = schema.digest_of(role, words, str(minutes))
    return StoredMessage(message, digest=digest, tokens=tokens, at=MONDAY + timedelta(minutes=minutes))


def talk(count: int, *, first: int = 0, tokens: int = 10) -> list[StoredMessage]:
    """Messages of user and assistant in turn, numbered."""
    return [
        said(("user", "assistant")[number % 2], f"message number {number}", tokens=tokens, minutes=number)
        for number in range(first, first + count)
    ]


async def write(
    redis: Redis,
    messages: Sequence[StoredMessage],
    *,
    key: SessionKey = TALK,
    expected: int = 0,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Append a turn with these messages, and set facts."""
    turn = NewTurn(
        key=key,
        turn_id=f"turn {expected}",
        expected_length=expected,
        keep=expected,
        messages=tuple(messages),
        flags=tuple(flags_of(CHAT_COMPLETIONS, message.message, is_partial=False) for message in messages),
        facts={"session": key.session, "thread": key.thread, **(facts or {})},
        pins={},
        queued=b"",
        chain="",
        is_named=True,
    )
    assert await session_store(redis).record(turn)


async def set_facts(redis: Redis, facts: Mapping[str, str], *, key: SessionKey = TALK) -> None:
    """Change facts of a session, as code or a later turn would."""
    for name, value in facts.items():
        await redis.hset(schema.session_key("s", key), name, value)


async def facts_of(redis: Redis, *, key: SessionKey = TALK) -> dict[str, str]:
    """All facts of a session."""
    found: Any = await redis.hgetall(schema.session_key("s", key))
    return {name.decode(): value.decode() for name, value in found.items()}


OTHERS = SessionKey(Scope("tenant", "bob"), "talk")
