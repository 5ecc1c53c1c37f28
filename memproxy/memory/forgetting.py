"""Which memories a policy gives up. Pure. Rule: the forget rule of agent-memory-server, specification section 1.3."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from memproxy.memory.ranking import DAY_S, with_recency
from memproxy.memory.search import Recency
from memproxy.records import MemoryRecord, MemoryType


@dataclass(frozen=True, slots=True)
class ForgetPolicy:
    """What may be forgotten; None restricts nothing. Pinned memories never are."""

    max_age_days: float | None = None
    max_inactive_days: float | None = None
    """Since the last access; of a memory that nobody looked at, since its creation."""
    budget: int | None = None
    """How many memories are kept at most: the most recent ones, by age and last access."""
    types: tuple[MemoryType, ...] | None = None
    """The kinds that may be forgotten; None for all."""
    hard_age_multiplier: float = 12.0
    """With both limits set, a memory of so many times the age is forgotten however active it is."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What became of the memories that were looked at."""

    scanned: int
    deleted_ids: tuple[str, ...]
    """In a dry run, those that would be."""


def given_up(
    records: Iterable[MemoryRecord], policy: ForgetPolicy, *, pinned_ids: Collection[str], now: datetime
) -> list[MemoryRecord]:
    """The memories that the policy gives up, in their order.

    Looking at a part of all memories gives up none that would be kept if all were looked at: who is not among the
    most recent of a part is not among the most recent of all.
    """
    pinned = frozenset(pinned_ids)
    eligible = [
        record
        for record in records
        if not record.pinned and record.id not in pinned and (policy.types is None or record.type in policy.types)
    ]
    expired = [_is_expired(record, policy, now) for record in eligible]
    rest = [record for record, is_expired in zip(eligible, expired, strict=True) if not is_expired]
    over = {id(record) for record in _over_budget(rest, policy, now)}
    return [record for record, is_expired in zip(eligible, expired, strict=True) if is_expired or id(record) in over]


def _is_expired(record: MemoryRecord, policy: ForgetPolicy, now: datetime) -> bool:
    age = _days(record.created_at, now)
    inactive = _days(record.last_accessed or record.created_at, now)
    if policy.max_age_days is not None and policy.max_inactive_days is not None:
        is_old, is_idle = age > policy.max_age_days, inactive > policy.max_inactive_days
        return age > policy.max_age_days * policy.hard_age_multiplier or (is_old and is_idle)
    if policy.max_age_days is not None:
        return age > policy.max_age_days
    return policy.max_inactive_days is not None and inactive > policy.max_inactive_days


def _over_budget(rest: Sequence[MemoryRecord], policy: ForgetPolicy, now: datetime) -> Sequence[MemoryRecord]:
    """Those behind the most recent; of equally recent ones, the smaller id goes first. What holds no longer goes
    before what does."""
    if policy.budget is None:
        return ()
    recency = Recency(now)

    def rank(record: MemoryRecord) -> tuple[bool, float, str]:
        accessed = record.last_accessed or record.created_at
        recent = with_recency(
            0.0, created_at=record.created_at.timestamp(), accessed_at=accessed.timestamp(), recency=recency
        )
        return record.valid_until is None, recent, record.id

    return sorted(rest, key=rank, reverse=True)[max(policy.budget, 0) :]


def _days(since: datetime, now: datetime) -> float:
    return (now - since).total_seconds() / DAY_S
