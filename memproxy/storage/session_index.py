"""The listing of sessions: an index over one small document, the card, that each session has.

A card says whose the session is, what it is called, and when it was written to last. It is apart from the session's
facts, since the engine reads an indexed document again after every command on it, and a turn changes a dozen facts.
Tags are those of `memory_index`: no query reaches another tenant, and nothing that a client sent stands in a query.

If the store lost the index, the listing that notices makes it anew and raises; the next one works.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis import exceptions
from redis.commands.search.field import NumericField, TagField
from redis.commands.search.index_definition import IndexDefinition, IndexType

from memproxy.errors import StoreError, StoreUnavailableError
from memproxy.records import Scope, SessionKey
from memproxy.storage import memory_filter, schema
from memproxy.storage.connection import translated
from memproxy.storage.memory_index import tag, tenant_tag

if TYPE_CHECKING:
    from redis.asyncio import Redis

INDEX = "memproxy-sessions-1"
"""The number is raised when the fields change."""

POLL_S = 0.02
"""How often to look whether the index has read what was there before it."""

MOST_RESULTS = 1_000_000
"""How far the engine reads a sorted list, by default."""

_MISSING = ("no such index", "unknown index name", "index not found", "search_index_not_found")
"""How versions of the query engine say that the index is not there, in lower case."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of sessions, those first that were written to last."""

    total: int
    """How many there are on all pages."""
    names: tuple[str, ...]


def card_of(key: SessionKey) -> Mapping[str, str]:
    """What a session's card says of whose it is; when it changed stands beside it."""
    scope = key.scope
    card = {
        "tenant": tenant_tag(scope.tenant),
        "user": tag(scope.tenant, memory_filter.TagField.USER, scope.user),
        "namespace": tag(scope.tenant, memory_filter.TagField.NAMESPACE, scope.namespace),
        "session": key.session,
    }
    return card if scope.namespace is None else {**card, "within": scope.namespace}


class SessionIndex:
    """Lists sessions. Every method raises `StoreError` and has its caller's deadline."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    async def ensure_index(self, *, deadline_s: float = 60.0) -> None:
        """Make the index unless it is there, and wait until it has read all cards; any number may call at once."""
        await self._create()
        try:
            async with asyncio.timeout(deadline_s):
                while await self._is_reading():  # noqa: ASYNC110  the server does not tell when it is ready
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise StoreUnavailableError(f"Index {INDEX} was not ready within {deadline_s} s.") from None

    async def page(
        self, tenant: str, *, user: str | None, namespace: str | None, limit: int, offset: int = 0
    ) -> Listed:
        """One page of a tenant's sessions; of one user or in one namespace only, where these are given."""
        clauses = [f"@tenant:{{{tenant_tag(tenant)}}}"]
        if user is not None:
            clauses.append(f"@user:{{{tag(tenant, memory_filter.TagField.USER, user)}}}")
        if namespace is not None:
            clauses.append(f"@namespace:{{{tag(tenant, memory_filter.TagField.NAMESPACE, namespace)}}}")
        total, cards = await self._search(" ".join(clauses), offset=offset, limit=limit)
        return Listed(total, tuple(card["session"] for card in cards))

    async def of_user(self, scope: Scope, *, limit: int) -> list[SessionKey]:
        """Some sessions of this user, in whichever namespace."""
        user = tag(scope.tenant, memory_filter.TagField.USER, scope.user)
        _, cards = await self._search(f"@user:{{{user}}}", offset=0, limit=limit)
        return [SessionKey(Scope(scope.tenant, scope.user, card.get("within")), card["session"]) for card in cards]

    async def _search(self, query: str, *, offset: int, limit: int) -> tuple[int, list[dict[str, str]]]:
        if offset >= MOST_RESULTS:
            offset, limit = 0, 0  # the engine refuses to look so far; the number is all there is to tell
        order = ["SORTBY", "at", "DESC", "RETURN", 2, "session", "within", "LIMIT", offset, limit, "DIALECT", 2]
        try:
            with translated("listing sessions"):
                reply: Any = await self._redis.execute_command("FT.SEARCH", INDEX, query, *order)  # type: ignore[no-untyped-call]  # redis-py's gap
        except StoreError as error:
            if _is_missing(error):
                await self._create()
                raise StoreUnavailableError("The store had lost the index of sessions. It is made anew.") from error
            raise
        rows = [row or () for row in reply[2::2]]  # nothing where a session ended since the engine looked
        cards = [{row[at].decode(): row[at + 1].decode() for at in range(0, len(row), 2)} for row in rows]
        return int(reply[0]), [card for card in cards if "session" in card]

    async def _create(self) -> None:
        tags = [TagField(name, case_sensitive=True) for name in ("tenant", "user", "namespace")]
        definition = IndexDefinition(prefix=[schema.CARD_PREFIX], index_type=IndexType.HASH)  # type: ignore[no-untyped-call]  # redis-py's gap
        try:
            with translated("making the index of sessions"):
                await self._redis.ft(INDEX).create_index(
                    [*tags, NumericField("at", sortable=True)], definition=definition
                )
        except StoreError as error:
            if "already exists" not in str(error):  # another process was faster
                raise

    async def _is_reading(self) -> bool:
        with translated("looking at the index of sessions"):
            info: Any = await self._redis.execute_command("FT.INFO", INDEX)  # type: ignore[no-untyped-call]  # same
        told = dict(zip(info[::2], info[1::2], strict=True))
        return bool(int(told[b"indexing"]))


def _is_missing(error: StoreError) -> bool:
    cause = error.__cause__
    return isinstance(cause, exceptions.ResponseError) and any(words in str(cause).lower() for words in _MISSING)
