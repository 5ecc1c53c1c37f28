"""Results of tool calls that may be given again, kept for one session, one user or one tenant.

One hash holds all results of an owner: a field a result, and the field `index` with each one's key, size, end and
groups, oldest first. So an owner's results are bounded in number and in bytes, a change that drops half of them is one
atomic script, and erasing an owner is one DEL. What to keep and what to drop is decided elsewhere (`memory/tool_cache`)
and arrives as operations in order.

Isolation is by the owner's key alone (`schema.tool_key`): who reads says which session asks, never which key to read.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any, assert_never

import msgspec
from redis.asyncio import Redis

from memproxy.errors import StoreError
from memproxy.records import Scope, SessionKey
from memproxy.storage import schema
from memproxy.storage.connection import translated

ToolContent = str | list[Any]
"""The content of a tool message: text, or a list of parts."""


class CacheScope(enum.StrEnum):
    """Who may be answered with a result."""

    SESSION = "session"
    USER = "user"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep this result; it takes the place of an earlier one with the same key."""

    key: str
    """Of the call: tool, definition, arguments. 32 hexadecimal digits."""
    name: str
    content: ToolContent
    at: datetime
    ttl_s: float
    scope: CacheScope = CacheScope.SESSION
    groups: frozenset[str] = frozenset()
    """What it belongs to; empty: it falls with every `Clear`."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget the result with this key: what the tool says by now is not to be kept."""

    key: str
    scope: CacheScope = CacheScope.SESSION


@dataclass(frozen=True, slots=True)
class Clear:
    """Something may have changed: forget results, in every scope."""

    groups: frozenset[str] | None = None
    """Forget those that belong to one of these, or to none; None: forget all."""

    def drops(self, groups: frozenset[str]) -> bool:
        """Whether a result that belongs to these groups is forgotten."""
        return self.groups is None or not groups or not groups.isdisjoint(self.groups)


Operation = Keep | Drop | Clear


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a conversation teaches about tool results, in its order."""

    operations: tuple[Operation, ...]
    at: datetime
    scopes: frozenset[CacheScope] = frozenset({CacheScope.SESSION})
    """The scopes in use: all that a `Clear` has to reach."""

    @property
    def forgetting(self) -> "Lessons":
        """The same without keeping anything: where nothing may be stored, what happened still counts."""
        operations = [Drop(one.key, one.scope) if isinstance(one, Keep) else one for one in self.operations]
        return Lessons(tuple(operations), self.at, self.scopes)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call that may be answered with a kept result, and where that would be."""

    key: str
    name: str
    scope: CacheScope = CacheScope.SESSION


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result as it was kept."""

    name: str
    content: ToolContent
    """Equal to what the tool message held."""
    at: datetime
    ttl_s: float

    def is_live(self, now: datetime) -> bool:
        return now < self.at + timedelta(seconds=self.ttl_s)


class ToolResultStore:
    """Keeps and gives results. Every method raises `StoreError` and has the deadline that its caller sets.

    `max_results` and `max_bytes` bound what each owner has, the oldest going first: a session, a user, a tenant.
    """

    def __init__(self, redis: Redis, *, max_results: int, max_bytes: int) -> None:
        self._redis = redis
        self._bounds = (max_results, max_bytes)
        self._source = (files("memproxy.storage") / "lua" / "learn_results.lua").read_text("utf-8")
        self._learn = redis.register_script(self._source)

    async def apply(self, session: SessionKey, lessons: Lessons) -> None:
        """Carry out all operations, those of one owner all or nothing. One round trip; none for no operations."""
        if not lessons.operations:
            return
        shards = _shards(session, lessons)
        with translated("storing tool results"):
            if len(shards) == 1:
                await self._learn(keys=shards[0], args=self._arguments(session, lessons, shards[0]))
                return
            pipeline: Any = self._redis.pipeline(transaction=False)
            for owners in shards:
                # EVAL, since redis-py asks whether a script is loaded in a round trip of its own before a pipeline.
                pipeline.eval(self._source, len(owners), *owners, *self._arguments(session, lessons, owners))
            _replies(await pipeline.execute(raise_on_error=False))

    def _arguments(self, session: SessionKey, lessons: Lessons, owners: Sequence[str]) -> list[Any]:
        arguments: list[Any] = [_ms(lessons.at), *self._bounds]
        for operation in lessons.operations:
            arguments += _encoded(operation, session, owners)
        return arguments

    async def get(
        self, session: SessionKey, key: str, *, now: datetime, scope: CacheScope = CacheScope.SESSION
    ) -> StoredResult | None:
        """The result of this call, if it is kept and still good. One round trip."""
        return (await self.get_all(session, [Wanted(key, "", scope)], now=now))[0]

    async def get_all(
        self, session: SessionKey, wanted: Sequence[Wanted], *, now: datetime
    ) -> tuple[StoredResult | None, ...]:
        """The result of each call, in order. One round trip; none for no calls."""
        if not wanted:
            return ()
        pipeline: Any = self._redis.pipeline(transaction=False)
        for one in wanted:
            pipeline.hget(schema.tool_key(session, one.scope), one.key)
        with translated("reading tool results"):
            rows = _replies(await pipeline.execute(raise_on_error=False))
        return tuple(_live(row, now) for row in rows)

    async def forget(self, session: SessionKey) -> None:
        """Forget what this session alone may be answered with."""
        with translated("forgetting tool results"):
            await self._redis.delete(schema.tool_key(session))

    async def forget_shared(self, scope: Scope) -> None:
        """Forget what all sessions of this user may be answered with; of the tenant where there is no user."""
        shared_by = CacheScope.TENANT if scope.user is None else CacheScope.USER
        with translated("forgetting tool results"):
            await self._redis.delete(schema.tool_key(SessionKey(scope, ""), shared_by))


def _replies(replies: list[Any]) -> list[Any]:
    """The replies, or the first error among them: the pipeline's own error would quote the command with its content."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _shards(session: SessionKey, lessons: Lessons) -> list[list[str]]:
    """The owners' keys, those that live on one shard together: a script may touch no others."""
    used = {one.scope for one in lessons.operations if not isinstance(one, Clear)}
    if any(isinstance(one, Clear) for one in lessons.operations):
        used |= lessons.scopes
    near = {schema.tool_key(session, scope) for scope in used if scope is not CacheScope.TENANT}
    far = {schema.tool_key(session, CacheScope.TENANT)} if CacheScope.TENANT in used else set()
    return [sorted(owners) for owners in (near, far) if owners]


def _encoded(operation: Operation, session: SessionKey, owners: Sequence[str]) -> list[Any]:
    """As the script reads it; nothing if it is about an owner that is not among these."""
    match operation:
        case Clear():
            return ["clear", "*" if operation.groups is None else _tags(operation.groups)]
        case Drop():
            owner = schema.tool_key(session, operation.scope)
            return ["drop", owner, operation.key] if owner in owners else []
        case Keep():
            owner = schema.tool_key(session, operation.scope)
            if owner not in owners:
                return []
            value = msgspec.json.encode(StoredResult(operation.name, operation.content, operation.at, operation.ttl_s))
            ends_ms = _ms(operation.at) + int(operation.ttl_s * 1000)
            return ["keep", owner, operation.key, ends_ms, _tags(operation.groups), value]
        case _:
            assert_never(operation)


def _tags(groups: frozenset[str]) -> str:
    """Digests, since a group's name may hold anything."""
    return " ".join(sorted(schema.digest_of(group) for group in groups))


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


_RESULT = msgspec.json.Decoder(StoredResult)


def _live(row: bytes | None, now: datetime) -> StoredResult | None:
    if row is None:
        return None
    try:
        result = _RESULT.decode(row)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"The store holds a tool result in a form that is not understood: {error}") from error
    return result if result.is_live(now) else None
