"""Which memories a search considers, in words that are not the query engine's. Pure.

A filter is a list of rules that must all hold, below one tenant. `memory_index` makes a query of it; what a rule means
is said here. A memory *has* a value under a field: one user, namespace and session or none (None), one type, strategy,
id and hash, any number of topics and entities. Topics and entities are compared without case, all else exactly.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from memproxy.records import MemoryType, Scope


class TagField(enum.StrEnum):
    """What can be compared with given values; the value is the field's name in the index."""

    USER = "user"
    NAMESPACE = "namespace"
    SESSION = "session"
    TYPE = "type"
    TOPICS = "topics"
    ENTITIES = "entities"
    STRATEGY = "strategy"
    ID = "id"
    HASH = "hash"

    @property
    def ignores_case(self) -> bool:
        return self in {TagField.TOPICS, TagField.ENTITIES}


class TimeField(enum.StrEnum):
    """What can be compared with moments; the value is the field's name in the index."""

    CREATED_AT = "created_at"
    LAST_ACCESSED = "last_accessed"
    """Of a memory that nobody looked at yet, when it was created."""
    EVENT_DATE = "event_date"
    UPDATED_AT = "updated_at"


class TagTest(enum.StrEnum):
    """How a memory's values are compared with a rule's."""

    ANY = "any"
    """The memory has one of them at least. Of no values: never."""
    ALL = "all"
    """It has every one of them. Of no values: always."""
    NONE = "none"
    """It has none of them. Of no values: always."""
    STARTSWITH = "startswith"
    """It has a value that begins with one of them; None can't be asked for. Of no values: never."""


@dataclass(frozen=True, slots=True)
class TagRule:
    """A test of one field's values; None among them stands for "has no user, namespace, session, topic, entity"."""

    field: TagField
    test: TagTest
    values: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class TimeRule:
    """A span that a moment must lie in, or with `excluded` must not; what has no such moment lies in no span."""

    field: TimeField
    first: datetime | None
    last: datetime | None
    first_counts: bool = True
    last_counts: bool = True
    excluded: bool = False


Rule = TagRule | TimeRule


@dataclass(frozen=True, slots=True)
class Filter:
    """Which of a tenant's memories to consider. No rules: all that still hold."""

    rules: tuple[Rule, ...] = ()
    superseded: bool = False
    """Also those that a newer memory took the place of."""
    pinned: bool | None = None
    """Only those that are pinned, or only those that are not."""

    def and_(self, *rules: Rule) -> "Filter":
        """The same with more rules."""
        return replace(self, rules=(*self.rules, *rules))

    def without(self, *rules: Rule) -> "Filter":
        """The same without these rules."""
        return replace(self, rules=tuple(rule for rule in self.rules if rule not in rules))


EVERYTHING = Filter()
"""All memories that still hold."""


def any_of(field: TagField, values: Iterable[str | None]) -> TagRule:
    """Those that have one of these values."""
    return TagRule(field, TagTest.ANY, tuple(values))


def all_of(field: TagField, values: Iterable[str | None]) -> TagRule:
    """Those that have each of these values."""
    return TagRule(field, TagTest.ALL, tuple(values))


def none_of(field: TagField, values: Iterable[str | None]) -> TagRule:
    """Those that have none of these values."""
    return TagRule(field, TagTest.NONE, tuple(values))


def starts_with(field: TagField, *beginnings: str) -> TagRule:
    """Those that have a value with one of these beginnings."""
    return TagRule(field, TagTest.STARTSWITH, beginnings)


def types(*kinds: MemoryType) -> TagRule:
    """Those of these kinds."""
    return any_of(TagField.TYPE, kinds)


def created_between(first: datetime | None, last: datetime | None) -> TimeRule:
    """Those created in this span, both ends included; an open end is None."""
    return TimeRule(TimeField.CREATED_AT, first, last)


def of_scope(scope: Scope) -> tuple[TagRule, ...]:
    """Exactly this user and this namespace, which may be none."""
    return any_of(TagField.USER, [scope.user]), any_of(TagField.NAMESPACE, [scope.namespace])
