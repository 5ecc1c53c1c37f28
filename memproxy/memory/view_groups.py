"""Which memories a summary view covers, and how they fall into groups; pure.

A group is what has the same values in the fields that the view groups by; a memory that has none there is in no group.
What was captured as it was said (type `message`, not created by code) is left out, unless the view asks for types: the
facts that were made of it are there.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from memproxy.records import MemoryRecord, MemoryType
from memproxy.storage.memory_filter import Filter, Rule, TagField, any_of, created_between
from memproxy.storage.schema import encode_parts
from memproxy.storage.summary_views import GroupSummary, SummaryView

FIELDS: Mapping[str, TagField] = MappingProxyType(
    {
        "user_id": TagField.USER,
        "namespace": TagField.NAMESPACE,
        "session_id": TagField.SESSION,
        "memory_type": TagField.TYPE,
    }
)
"""What a view may group by."""

Address = tuple[str, ...]
"""The values of a group, in the order of the view's fields."""


@dataclass(frozen=True, slots=True)
class Group:
    """One group of a view's memories."""

    values: Mapping[str, str]
    records: Sequence[MemoryRecord]
    """In the order in which they were created."""


def address_of(view: SummaryView, values: Mapping[str, str]) -> Address:
    """What tells this group from the view's others."""
    return tuple(values[name] for name in view.group_by)


def selection(view: SummaryView, rules: Iterable[Rule], *, now: datetime, values: Mapping[str, str]) -> Filter:
    """The memories that the view covers, or with `values` those of one group. `rules`: what its filters mean."""
    since = () if view.time_window_days is None else (created_between(now - timedelta(view.time_window_days), None),)
    return Filter((*rules, *since, *(any_of(FIELDS[name], [value]) for name, value in values.items())))


def counts(view: SummaryView, record: MemoryRecord) -> bool:
    """Whether the view is about a memory of this kind."""
    asks_for_types = "memory_type" in view.group_by or "memory_type" in view.filters
    return record.is_explicit or record.type is not MemoryType.MESSAGE or asks_for_types


def in_order(records: Iterable[MemoryRecord]) -> list[MemoryRecord]:
    """Each memory once, the oldest first, always in the same order."""
    once = {(record.scope, record.id): record for record in records}
    return sorted(once.values(), key=_place)


def grouped(view: SummaryView, records: Iterable[MemoryRecord], *, limit: int) -> dict[Address, Group]:
    """The view's groups; of each, the newest `limit` memories."""
    found: dict[Address, list[MemoryRecord]] = {}
    for record in in_order(records):
        values = [_value(record, FIELDS[name]) for name in view.group_by]
        if counts(view, record) and None not in values:
            found.setdefault(tuple(map(str, values)), []).append(record)
    return {
        address: Group(dict(zip(view.group_by, address, strict=True)), records[-limit:])
        for address, records in found.items()
    }


def cover(records: Iterable[MemoryRecord]) -> str:
    """Digest of these memories in this order, as far as a summary rests on them."""
    digest = hashlib.blake2b(digest_size=16)
    for record in records:
        scope, event = record.scope, record.event_date
        day = None if event is None else event.isoformat()
        digest.update(encode_parts((scope.user, scope.namespace, record.id, record.text, day)))
    return digest.hexdigest()


def is_current(summary: GroupSummary, group: Group) -> bool:
    """Whether the summary rests on just these memories."""
    return summary.covers == cover(group.records)


def added(summary: GroupSummary, group: Group) -> Sequence[MemoryRecord] | None:
    """The memories that are new since the summary; None when it rests on others than those before them."""
    before = group.records[: summary.memory_count]
    return group.records[len(before) :] if before and summary.covers == cover(before) else None


def _place(record: MemoryRecord) -> tuple[datetime, str, str, str]:
    return record.created_at, record.scope.user or "", record.scope.namespace or "", record.id


def _value(record: MemoryRecord, field: TagField) -> str | None:
    match field:
        case TagField.USER:
            return record.scope.user
        case TagField.NAMESPACE:
            return record.scope.namespace
        case TagField.SESSION:
            return record.session
        case _:
            return record.type.value
