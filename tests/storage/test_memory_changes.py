"""Changes that are made together or not at all, in the real store."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from memproxy.errors import StoreError
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage import schema
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.memory_changes import Change, Drop, Patch, Put, Swap, by_partition
from memproxy.storage.memory_documents import FoundMemory, IndexedMemory
from memproxy.storage.memory_filter import EVERYTHING, Filter, of_scope

ALICE = Scope("tenant", "alice")
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def store(redis: Redis) -> LongTermStore:
    store = LongTermStore(redis, model="test", dims=2)
    await store.ensure_index()
    return store


def record(memory_id: str, *, scope: Scope = ALICE, at: datetime = NOON) -> MemoryRecord:
    return MemoryRecord(memory_id, scope, f"text of {memory_id}", MemoryType.SEMANTIC, at)


def indexed(record: MemoryRecord, term: str = "tea") -> IndexedMemory:
    return IndexedMemory(record, [term], [], np.array([1, 0], np.float32))


async def known(store: LongTermStore, memory_id: str) -> FoundMemory:
    (found,) = (await store.fetch([schema.memory_key(ALICE, memory_id)])).values()
    return found


async def test_changes_are_made_together(store: LongTermStore) -> None:
    """One in place of another, one gone, one new."""
    await store.write([indexed(record(name)) for name in "abc"])
    new = replace(record("b", at=NOON - timedelta(days=1)), topics=("x",))
    changes: list[Change] = [
        Put(indexed(record("n"))),
        Drop(await known(store, "a")),
        Swap(indexed(new, "milk"), await known(store, "b")),
        Patch(replace(record("c"), valid_until=NOON, superseded_by="n"), await known(store, "c")),
    ]
    assert await store.change(changes) == 1
    assert await store.get(ALICE, list("abcn")) == [
        new,
        replace(record("c"), valid_until=NOON, superseded_by="n"),
        record("n"),
    ]
    for where, count in ((EVERYTHING, 2), (Filter(superseded=True), 3), (Filter(of_scope(ALICE)), 2)):
        assert await store.count("tenant", where) == count


@pytest.mark.parametrize("meanwhile", ["changed", "deleted"])
@pytest.mark.parametrize("kind", [Drop, Swap, Patch])
async def test_nothing_is_changed_when_one_is_not_as_it_was_read(
    store: LongTermStore, kind: type[Change], meanwhile: str
) -> None:
    """Half a change would leave a successor without its predecessor, or the other way round."""
    await store.write([indexed(record("a"))])
    read = await known(store, "a")
    if meanwhile == "changed":
        await store.rewrite(indexed(replace(record("a"), topics=("x",))), known=read)
    else:
        await store.delete(ALICE, ["a"])
    before = await store.get(ALICE, ["a"])
    stale: dict[type[Change], Change] = {
        Drop: Drop(read),
        Swap: Swap(indexed(record("a")), read),
        Patch: Patch(replace(record("a"), pinned=True), read),
    }
    assert await store.change([Put(indexed(record("n"))), stale[kind]], mark="turn") is None
    assert await store.get(ALICE, ["a", "n"]) == before
    assert await store.change([Put(indexed(record("n")))], mark="turn") == 1


async def test_each_change_by_itself_fails_by_itself(store: LongTermStore) -> None:
    """Work on many memories goes on past those that others work on."""
    await store.write([indexed(record(str(at))) for at in range(5)])
    read = [await known(store, str(at)) for at in range(5)]
    await store.delete(ALICE, ["2"])
    assert await store.change_each([Drop(each) for each in read]) == [True, True, False, True, True]
    assert await store.change_each([]) == []


async def test_memories_of_two_users_are_not_changed_in_one_step(store: LongTermStore) -> None:
    """They may lie on two shards, where no script reaches both."""
    users = [Scope("tenant", str(number)) for number in range(9)]
    with pytest.raises(StoreError, match="different users"):
        await store.change([Put(indexed(record("m", scope=scope))) for scope in users])
    assert await store.change([]) == 0


async def test_a_mark_holds_for_its_user_in_all_namespaces(store: LongTermStore) -> None:
    """A turn belongs to a user."""
    at_work = Scope("tenant", "alice", "work")
    assert await store.change([Put(indexed(record("a")))], mark="turn") == 1
    assert await store.change([Put(indexed(record("b", scope=at_work)))], mark="turn") == 0
    assert await store.change([Put(indexed(record("b", scope=Scope("tenant", "bob"))))], mark="turn") == 1


def test_keys_are_grouped_by_the_shard_they_lie_on() -> None:
    keys = [schema.memory_key(Scope("t", str(number)), "m") for number in range(50)]
    parts = by_partition((key, key) for key in keys)
    assert sorted(key for part in parts.values() for key in part) == sorted(keys)
    assert all(f"{{{partition}}}" in key for partition, part in parts.items() for key in part)
