"""What rules mean: the query engine's answers against a plain model of them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from memproxy.errors import InvalidInputError
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.memory_documents import IndexedMemory, memory_hash
from memproxy.storage.memory_filter import (
    Filter,
    Rule,
    TagField,
    TagRule,
    TagTest,
    TimeField,
    TimeRule,
    all_of,
    any_of,
    created_between,
    none_of,
    of_scope,
    starts_with,
    types,
)

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
TENANTS = ("one", "two")
LONG = "x" * 1_000

PLAIN = ("", "a", "A", "ab", "a b", " a", "a ", "a,b", "a|b", "a\x00", "a\x00b", "é", "e\u0301", "日本", "日本語", "🍵")
SYNTAX = ("*", "a*", "{a}", "@user:{a}", "-a", "_", "\\", '"a"', "$x", "=>[KNN 1 @v $v]", "6162", "g")
FOLDED = ("ß", "ss", "SS")
LENGTHY = (LONG, LONG + "y", LONG + "z", LONG[:-1], "y" * 5_000, "é" * 600)

VALUES = st.sampled_from([*PLAIN, *SYNTAX, *FOLDED, *LENGTHY]) | st.text(max_size=3)
"""What people call users and topics, and what somebody might who tries to read another's."""

MOMENTS = st.sampled_from([NOON + timedelta(days=day, microseconds=day) for day in (-700_000, -700, -1, 0, 1, 700)])


@st.composite
def records(draw: st.DrawFn) -> list[MemoryRecord]:
    """Several memories; of equal values many."""
    made = []
    for number in range(draw(st.integers(1, 6))):
        optional = st.none() | VALUES
        made.append(
            MemoryRecord(
                draw(st.sampled_from(["id", str(number)])),
                Scope(draw(st.sampled_from(TENANTS)), draw(optional), draw(optional)),
                f"text {number}",
                draw(st.sampled_from(MemoryType)),
                draw(MOMENTS),
                session=draw(optional),
                topics=tuple(draw(st.lists(VALUES, max_size=3))),
                entities=tuple(draw(st.lists(VALUES, max_size=2))),
                event_date=draw(st.none() | MOMENTS),
                updated_at=draw(st.none() | MOMENTS),
                strategy=draw(VALUES),
                pinned=draw(st.booleans()),
                valid_until=draw(st.none() | MOMENTS),
                turns=(f"turn {number}",),
            )
        )
    return list({(record.scope, record.id): record for record in made}.values())


def rules_about(known: Sequence[MemoryRecord]) -> st.SearchStrategy[Rule]:
    """Rules that often mean one of these memories."""

    def tag_rule(field: TagField) -> st.SearchStrategy[Rule]:
        held = sorted({value for record in known for value in values_of(record, field) if value is not None})
        values = (st.sampled_from(held) if held else st.nothing()) | VALUES
        beginnings = values.map(lambda value: value[:1]) | values.filter(lambda value: len(value.encode()) <= 900)
        of_values = st.builds(
            TagRule,
            st.just(field),
            st.sampled_from([TagTest.ANY, TagTest.ALL, TagTest.NONE]),
            st.lists(st.none() | values, max_size=3).map(tuple),
        )
        return of_values | st.lists(beginnings, max_size=2).map(lambda some: starts_with(field, *some))

    times = st.builds(
        TimeRule,
        st.sampled_from(TimeField),
        st.none() | MOMENTS,
        st.none() | MOMENTS,
        st.booleans(),
        st.booleans(),
        st.booleans(),
    )
    return st.sampled_from(TagField).flatmap(tag_rule) | times


def values_of(record: MemoryRecord, field: TagField) -> set[str | None]:
    """What a memory has under a field."""
    several = {TagField.TOPICS: record.topics, TagField.ENTITIES: record.entities}
    if field in several:
        return {value.casefold() for value in several[field]} or {None}
    single: dict[TagField, str | None] = {
        TagField.USER: record.scope.user,
        TagField.NAMESPACE: record.scope.namespace,
        TagField.SESSION: record.session,
        TagField.TYPE: record.type.value,
        TagField.STRATEGY: record.strategy,
        TagField.ID: record.id,
        TagField.HASH: memory_hash(record),
    }
    return {single[field]}


def passes(record: MemoryRecord, tenant: str, where: Filter) -> bool:
    """The model: what a filter means, one memory at a time."""
    return (
        record.scope.tenant == tenant
        and (where.superseded or record.valid_until is None)
        and (where.pinned is None or record.pinned is where.pinned)
        and all(
            tag_passes(record, rule) if isinstance(rule, TagRule) else time_passes(record, rule) for rule in where.rules
        )
    )


def tag_passes(record: MemoryRecord, rule: TagRule) -> bool:
    has = values_of(record, rule.field)
    fold: Callable[[str], str] = str.casefold if rule.field.ignores_case else str
    asked = {value if value is None else fold(value) for value in rule.values}
    match rule.test:
        case TagTest.ANY:
            return bool(has & asked)
        case TagTest.ALL:
            return asked <= has
        case TagTest.NONE:
            return not has & asked
        case TagTest.STARTSWITH:
            return any(
                value.startswith(beginning)
                for value in has
                if value is not None
                for beginning in asked
                if beginning is not None
            )


def time_passes(record: MemoryRecord, rule: TimeRule) -> bool:
    at = {
        TimeField.CREATED_AT: record.created_at,
        TimeField.LAST_ACCESSED: record.created_at,
        TimeField.EVENT_DATE: record.event_date,
        TimeField.UPDATED_AT: record.updated_at,
    }[rule.field]
    lies_within = (
        at is not None
        and (rule.first is None or at > rule.first or (rule.first_counts and at == rule.first))
        and (rule.last is None or at < rule.last or (rule.last_counts and at == rule.last))
    )
    return lies_within is not rule.excluded


@pytest.fixture
async def store(redis: Redis) -> LongTermStore:
    store = LongTermStore(redis, model="test", dims=2)
    await store.ensure_index()
    return store


async def write(store: LongTermStore, known: Sequence[MemoryRecord]) -> None:
    vector = np.array([1, 0], np.float32)
    await store.write([IndexedMemory(record, ["tea"], [], vector) for record in known])


def name(record: MemoryRecord) -> str:
    """What tells a memory from all others here, though its scope may not be encodable."""
    return record.turns[0]


async def found(store: LongTermStore, tenant: str, where: Filter) -> set[str]:
    total, keys = await store.listing(tenant, where, offset=0, limit=100)
    memories = await store.fetch(keys)
    assert total == len(keys) == len(memories)
    return {name(memory.record) for memory in memories.values()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data(), known=records())
async def test_a_filter_finds_exactly_what_it_means(
    store: LongTermStore, redis: Redis, data: st.DataObject, known: list[MemoryRecord]
) -> None:
    """Nothing of another tenant, user or namespace, whatever they are called, and nothing missing."""
    keys = await redis.keys("mp:m:*")
    await store.delete_keys([key.decode() for key in keys])  # type: ignore[union-attr]  # the client gives bytes
    await write(store, known)
    for _ in range(5):
        where = Filter(
            tuple(data.draw(st.lists(rules_about(known), max_size=3))),
            superseded=data.draw(st.booleans()),
            pinned=data.draw(st.none() | st.booleans()),
        )
        if data.draw(st.booleans()):
            where = where.and_(*of_scope(data.draw(st.sampled_from(known)).scope))
        for tenant in TENANTS:
            expected = {name(record) for record in known if passes(record, tenant, where)}
            assert await found(store, tenant, where) == expected, where
            hits = await store.rank(
                tenant, where, terms=["tea"], phrases=[], vector=np.array([1, 0], np.float32), depth=100
            )
            assert len(hits.text) == len(hits.vector) == hits.total == len(expected)


async def test_long_values_are_told_apart(store: LongTermStore) -> None:
    """Ids may be whole URLs; the engine itself would cut a long tag and take two for one."""
    names = [LONG, LONG + "y", LONG + "z", "y" * 3_000 + "a", "y" * 3_000 + "b"]
    known = [
        MemoryRecord(str(at), Scope("one", user), "tea", MemoryType.SEMANTIC, NOON, turns=(str(at),))
        for at, user in enumerate(names)
    ]
    await write(store, known)
    for at, user in enumerate(names):
        assert await found(store, "one", Filter((any_of(TagField.USER, [user]),))) == {str(at)}
    assert await found(store, "one", Filter((starts_with(TagField.USER, LONG),))) == {"0", "1", "2"}
    assert await found(store, "one", Filter((starts_with(TagField.USER, "y" * 999),))) == {"3", "4"}


async def test_a_beginning_that_is_too_long_is_refused(store: LongTermStore) -> None:
    """Rather than answered with what begins alike."""
    with pytest.raises(InvalidInputError, match="at most 1000 bytes"):
        await found(store, "one", Filter((starts_with(TagField.USER, LONG + "y"),)))


def test_filters_are_put_together_from_short_words() -> None:
    """What call sites read like."""
    scope = Scope("one", "ann")
    where = Filter((types(MemoryType.MESSAGE),)).and_(*of_scope(scope), created_between(NOON, None))
    assert where.rules == (
        any_of(TagField.TYPE, ["message"]),
        any_of(TagField.USER, ["ann"]),
        any_of(TagField.NAMESPACE, [None]),
        TimeRule(TimeField.CREATED_AT, NOON, None),
    )
    assert where.without(types(MemoryType.MESSAGE), *of_scope(scope)).rules == (created_between(NOON, None),)
    assert all_of(TagField.TOPICS, ["a"]).test is TagTest.ALL
    assert none_of(TagField.TOPICS, ["a"]).test is TagTest.NONE
