"""Filters of a search, in the words of agent-memory-server and in those of its client; they differ.

The server says `eq, ne, any, all, startswith`, the client `in_, not_eq, not_in, none`; both are taken, and `in`.
Several in one filter must all hold. An empty filter restricts nothing. A name that is none of these is refused: a
restriction that is silently missing shows memories to whom they are not meant for.

What comes out are rules of `storage.memory_filter`; no value is ever a part of a query's text.
"""

import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, AliasChoices, Field, ValidationInfo, field_validator, model_validator

from memproxy.memory_api.requests import Input
from memproxy.memory_api.values import MAX_LABEL_CHARS, Label, Moment, Name
from memproxy.records import MemoryType
from memproxy.storage.memory_filter import Rule, TagField, TagRule, TagTest, TimeField, TimeRule

MAX_VALUES = 1_000
"""Of one list in a filter."""

TAG_FIELDS = {
    "session_id": TagField.SESSION,
    "namespace": TagField.NAMESPACE,
    "user_id": TagField.USER,
    "topics": TagField.TOPICS,
    "entities": TagField.ENTITIES,
    "memory_type": TagField.TYPE,
    "extraction_strategy": TagField.STRATEGY,
}
TIME_FIELDS = {
    "created_at": TimeField.CREATED_AT,
    "last_accessed": TimeField.LAST_ACCESSED,
    "event_date": TimeField.EVENT_DATE,
    "updated_at": TimeField.UPDATED_AT,
}

_TAG_TESTS = {
    "eq": TagTest.ANY,
    "any": TagTest.ANY,
    "in_": TagTest.ANY,
    "all": TagTest.ALL,
    "ne": TagTest.NONE,
    "not_eq": TagTest.NONE,
    "none": TagTest.NONE,
    "not_in": TagTest.NONE,
    "startswith": TagTest.STARTSWITH,
}

_MISTAKEN = frozenset(
    {
        "createdat", "entitie", "entity", "eventdate", "extractionstrategy", "filter", "lastaccessed", "memorytype",
        "namespace", "session", "sessionid", "strategy", "topic", "type", "updatedat", "user", "userid", "where",
    }
)  # fmt: skip
"""Letters of keys that are meant as filters and are none, as `filters`, `userId`, `memory_types`."""

ValueT = TypeVar("ValueT")


class _Strict(Input, extra="forbid"):
    """Takes no key that it does not know."""

    field: str | None = None
    """The reference's filters name their field themselves; here it is where they stand."""


class SetFilter(_Strict, Generic[ValueT]):
    """Which values a field must have, or must not have."""

    eq: ValueT | None = None
    ne: ValueT | None = None
    not_eq: ValueT | None = None
    any: Annotated[list[ValueT] | None, Field(min_length=1, max_length=MAX_VALUES)] = None
    in_: Annotated[
        list[ValueT] | None, Field(min_length=1, max_length=MAX_VALUES, validation_alias=AliasChoices("in_", "in"))
    ] = None
    all: Annotated[list[ValueT] | None, Field(min_length=1, max_length=MAX_VALUES)] = None
    none: Annotated[list[ValueT] | None, Field(max_length=MAX_VALUES)] = None
    not_in: Annotated[list[ValueT] | None, Field(max_length=MAX_VALUES)] = None

    def rules(self, field: TagField) -> Iterator[TagRule]:
        """The same as rules about this field."""
        for name, test in _TAG_TESTS.items():
            value = getattr(self, name, None)
            values = tuple(value) if isinstance(value, list) else (value,)
            if value is not None and values:
                yield TagRule(field, test, values)


def _beginning(value: str) -> str:
    return unicodedata.normalize("NFC", value)


class TagFilter(SetFilter[ValueT], Generic[ValueT]):
    """Which values a field must have or not have, or begin with."""

    startswith: Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS), AfterValidator(_beginning)] | None = (
        None
    )


class TimeFilter(_Strict):
    """When something must have happened, or not."""

    gt: Moment | None = None
    gte: Moment | None = None
    lt: Moment | None = None
    lte: Moment | None = None
    eq: Moment | None = None
    ne: Moment | None = None
    between: Annotated[list[Moment] | None, Field(min_length=2, max_length=2)] = None
    inclusive: Literal["both", "neither", "left", "right"] = "both"
    """Which ends of `between` count."""

    def rules(self, field: TimeField) -> Iterator[TimeRule]:
        """The same as rules about this field."""
        if (first := self.gt) or self.lt:
            yield TimeRule(field, first, self.lt, first_counts=False, last_counts=False)
        if (first := self.gte) or self.lte:
            yield TimeRule(field, first, self.lte)
        if self.eq:
            yield TimeRule(field, self.eq, self.eq)
        if self.ne:
            yield TimeRule(field, self.ne, self.ne, excluded=True)
        if self.between:
            ends = {
                "first_counts": self.inclusive in {"both", "left"},
                "last_counts": self.inclusive in {"both", "right"},
            }
            yield TimeRule(field, self.between[0], self.between[1], **ends)


class Filters(Input):
    """All filters of a search. Keys that are meant as one and are none are refused, others are passed over."""

    session_id: TagFilter[Name] | None = None
    namespace: TagFilter[Name] | None = None
    user_id: TagFilter[Name] | None = None
    topics: TagFilter[Label] | None = None
    entities: TagFilter[Label] | None = None
    memory_type: SetFilter[MemoryType] | None = None
    extraction_strategy: TagFilter[Label] | None = None
    created_at: TimeFilter | None = None
    last_accessed: TimeFilter | None = None
    event_date: TimeFilter | None = None
    updated_at: TimeFilter | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_no_mistaken_key(cls, given: Any) -> Any:
        for key in given if isinstance(given, dict) else ():
            plain = "".join(char for char in str(key).lower() if char.isalnum()).removesuffix("s")
            if key not in cls.model_fields and plain in _MISTAKEN:
                known = ", ".join([*TAG_FIELDS, *TIME_FIELDS])
                raise ValueError(
                    f"{key!r} would restrict nothing. Filters stand beside the text, each under its own name: {known}"
                )
        return given

    @field_validator(*TAG_FIELDS, *TIME_FIELDS)
    @classmethod
    def _is_about_its_own_field(cls, value: _Strict | None, info: ValidationInfo) -> _Strict | None:
        if value is not None and value.field not in {None, info.field_name}:
            raise ValueError(f"this filter is about {info.field_name}, and can't name another field")
        return value

    def rules(self) -> tuple[Rule, ...]:
        """All of them as rules, which must all hold."""
        found: list[Rule] = []
        for name, tag in TAG_FIELDS.items():
            if (one := getattr(self, name)) is not None:
                found += one.rules(tag)
        for name, time in TIME_FIELDS.items():
            if (one := getattr(self, name)) is not None:
                found += one.rules(time)
        return tuple(found)
