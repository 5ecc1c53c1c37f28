"""Summary views and their summaries in the store.

A tenant's views are one hash, the summaries of a view another, and a sorted set a partition says which views are kept
fresh and when each is looked at next. All of a tenant's lie in one partition, so that each change is one script or one
transaction: a summary can't outlive its view, and of two that were made at the same time, the one that saw the newer
memories stays.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib import resources
from typing import Any

import msgspec
from redis.asyncio import Redis

from memproxy.errors import StoreError
from memproxy.records import JsonObject, Scope
from memproxy.storage import schema
from memproxy.storage.connection import translated

MAX_VIEWS = 100
"""Views a tenant may have."""

MAX_SUMMARIES = 1_000
"""Summaries a view may have: with a group per user, users of one tenant."""


@dataclass(frozen=True, slots=True)
class SummaryView:
    """What is summarised: which memories, in which groups, and with which wishes."""

    id: str
    created_at: datetime
    group_by: tuple[str, ...] = ()
    """Names of fields; memories that have the same values there make a group. Empty: all are one group."""
    filters: JsonObject = field(default_factory=dict)
    """As they were given, by field."""
    name: str | None = None
    time_window_days: int | None = None
    """Only memories that were created in the last so many days count."""
    is_continuous: bool = False
    """It is kept fresh in the background."""
    prompt: str | None = None
    """What its owner wants of a summary, in words."""
    model: str | None = None
    """The model that its owner wants it made by."""


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """The summary of one group of memories. Without memories it has no text."""

    group: Mapping[str, str]
    """The value of each field that the view groups by."""
    text: str
    memory_count: int
    read_at: datetime
    """When its memories were read."""
    computed_at: datetime
    covers: str = ""
    """Digest of the memories that it rests on, in their order; see `memory/summary_views`."""


class Put(enum.StrEnum):
    """What became of a summary that was to be stored."""

    STORED = "stored"
    GONE = "gone"
    """Its view was deleted meanwhile."""
    OLDER = "older"
    """There is one that has seen newer memories."""
    FULL = "full"
    """The view has as many as it may have."""


@dataclass(frozen=True, slots=True)
class DueView:
    """A view that is kept fresh, by address."""

    tenant: str
    view_id: str


class SummaryViewStore:
    """Keeps views and summaries. Every method raises `StoreError` and has the deadline that its caller sets."""

    def __init__(self, redis: Redis, *, max_views: int = MAX_VIEWS, max_summaries: int = MAX_SUMMARIES) -> None:
        self._redis = redis
        self.max_views = max_views
        self.max_summaries = max_summaries
        scripts = resources.files("memproxy.storage") / "lua"
        self._put_view = redis.register_script((scripts / "put_view.lua").read_text("utf-8"))
        self._put_summary = redis.register_script((scripts / "put_summary.lua").read_text("utf-8"))
        self._claim = (scripts / "claim_due_views.lua").read_text("utf-8")

    async def add(self, tenant: str, view: SummaryView, *, due: datetime) -> bool:
        """Store a new view; False when the tenant has as many as it may have. One that is kept fresh is due then."""
        keys = [schema.views_key(tenant), _due_key(tenant)]
        name = _due_name(tenant, view.id) if view.is_continuous else b""
        with translated("storing a summary view"):
            arguments: list[Any] = [view.id, msgspec.json.encode(view), self.max_views, name, _ms(due)]
            return bool(await self._put_view(keys=keys, args=arguments))

    async def view(self, tenant: str, view_id: str) -> SummaryView | None:
        """The view with this id, or None."""
        with translated("reading a summary view"):
            raw = await self._redis.hget(schema.views_key(tenant), view_id)
        return _view(raw) if raw is not None else None

    async def views(self, tenant: str) -> list[SummaryView]:
        """All views of the tenant, the oldest first."""
        with translated("reading summary views"):
            rows = await self._redis.hvals(schema.views_key(tenant))
        return sorted(map(_view, rows), key=lambda view: (view.created_at, view.id))

    async def delete(self, tenant: str, view_id: str) -> bool:
        """Remove a view with all its summaries, and say whether there was one."""
        with translated("deleting a summary view"):
            pipe: Any = self._redis.pipeline(transaction=True)
            pipe.hdel(schema.views_key(tenant), view_id)
            pipe.execute_command("UNLINK", schema.summaries_key(tenant, view_id))  # its method waits in a cluster
            pipe.zrem(_due_key(tenant), _due_name(tenant, view_id))
            known, *_ = await pipe.execute()
        return bool(known)

    async def put(self, tenant: str, view: SummaryView, summary: GroupSummary) -> Put:
        """Store a group's summary in place of an older one."""
        return await self._put(tenant, view, summary.group, summary.read_at, msgspec.json.encode(summary))

    async def drop(self, tenant: str, view: SummaryView, group: Mapping[str, str], *, read_at: datetime) -> Put:
        """Remove a group's summary, unless newer memories than those read then have given it."""
        return await self._put(tenant, view, group, read_at, b"")

    async def _put(
        self, tenant: str, view: SummaryView, group: Mapping[str, str], read_at: datetime, value: bytes
    ) -> Put:
        keys = [schema.views_key(tenant), schema.summaries_key(tenant, view.id)]
        arguments: list[Any] = [view.id, _field(view, group), _us(read_at), value, self.max_summaries]
        with translated("storing a summary"):
            reply = await self._put_summary(keys=keys, args=arguments)
        return Put(reply.decode())

    async def summary(self, tenant: str, view: SummaryView, group: Mapping[str, str]) -> GroupSummary | None:
        """The stored summary of one group, or None."""
        with translated("reading a summary"):
            raw = await self._redis.hget(schema.summaries_key(tenant, view.id), _field(view, group))
        return _summary(raw) if raw is not None else None

    async def summaries(self, tenant: str, view_id: str) -> list[GroupSummary]:
        """All stored summaries of a view, in the order of their groups' values."""
        with translated("reading summaries"):
            rows = await self._redis.hvals(schema.summaries_key(tenant, view_id))
        return sorted(map(_summary, rows), key=lambda summary: sorted(summary.group.items()))

    async def claim_due(self, *, now: datetime, again: timedelta, limit: int) -> list[DueView]:
        """At most `limit` views of each partition that are due; nobody else gets them before `again` is over."""
        pipe: Any = self._redis.pipeline(transaction=False)
        for partition in schema.partitions():
            pipe.eval(self._claim, 1, schema.due_key(partition), _ms(now), _ms(now + again), limit)
        with translated("looking for summary views that are due"):
            replies = await pipe.execute()
        return [DueView(*msgspec.json.decode(name)) for reply in replies for name in reply]

    async def forget_due(self, due: DueView) -> None:
        """Look at this view no more: it is gone."""
        with translated("forgetting a summary view"):
            await self._redis.zrem(_due_key(due.tenant), _due_name(due.tenant, due.view_id))


def _field(view: SummaryView, group: Mapping[str, str]) -> str:
    return schema.digest_of(*(group[name] for name in view.group_by))


def _due_key(tenant: str) -> str:
    return schema.due_key(schema.partition_of(Scope(tenant, None)))


def _due_name(tenant: str, view_id: str) -> bytes:
    return msgspec.json.encode([tenant, view_id])


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1_000)


def _us(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


_VIEW = msgspec.json.Decoder(SummaryView)
_SUMMARY = msgspec.json.Decoder(GroupSummary)


def _view(raw: Any) -> SummaryView:
    try:
        return _VIEW.decode(raw)
    except msgspec.DecodeError as error:
        raise StoreError("A stored summary view can't be read; was it written by a newer memproxy?") from error


def _summary(raw: Any) -> GroupSummary:
    """Any: bytes, which the client's types don't say."""
    try:
        return _SUMMARY.decode(raw.partition(b" ")[2])
    except msgspec.DecodeError as error:
        raise StoreError("A stored summary can't be read; was it written by a newer memproxy?") from error
