"""Forgetting, merging and bringing up to date, with the real store."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis
from typing_extensions import override

from memproxy.embedding import LocalEmbedder, Vector
from memproxy.memory import upkeep
from memproxy.memory.forgetting import ForgetPolicy, Forgotten
from memproxy.memory.long_term import LongTermMemory
from memproxy.memory.search import Query
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage import schema
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.memory_changes import Change
from memproxy.storage.memory_filter import EVERYTHING, Filter, of_scope
from memproxy.storage.memory_index import Made

ALICE = Scope("tenant", "alice")
BOB = Scope("tenant", "bob")
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def embedder() -> LocalEmbedder:
    return LocalEmbedder()


@pytest.fixture
async def store(redis: Redis, embedder: LocalEmbedder) -> LongTermStore:
    store = LongTermStore(redis, model=embedder.name, dims=embedder.dims)
    await store.ensure_index()
    return store


@pytest.fixture
def memory(store: LongTermStore, embedder: LocalEmbedder) -> LongTermMemory:
    return LongTermMemory(store, embedder)


def fact(memory_id: str, text: str = "tea", *, scope: Scope = ALICE, age: int = 0, **given: Any) -> MemoryRecord:
    at = NOON - timedelta(days=age)
    return MemoryRecord(memory_id, scope, text, MemoryType.SEMANTIC, at, **given)


async def ids(memory: LongTermMemory, where: Filter = EVERYTHING) -> set[str]:
    found = await memory.find("tenant", Query(None, where=where, limit=1_000))
    return {match.record.id for match in found.memories}


async def forget(memory: LongTermMemory, policy: ForgetPolicy, **given: Any) -> Forgotten:
    wanted: dict[str, Any] = {"where": EVERYTHING, "pinned_ids": (), "limit": 1_000, "dry_run": False, "now": NOON}
    return await memory.forget_by_policy("tenant", policy, **wanted | given)


async def test_a_dry_run_tells_what_would_go(memory: LongTermMemory) -> None:
    """And nothing goes, nor does anything of another user or tenant."""
    await memory.remember([fact("new"), fact("old", age=50), fact("pinned", age=50, pinned=True)])
    await memory.remember([fact("bob", age=50, scope=BOB), fact("other", age=50, scope=Scope("other", "alice"))])
    policy, of_alice = ForgetPolicy(max_age_days=30), Filter(of_scope(ALICE))
    assert await forget(memory, policy, where=of_alice, dry_run=True) == Forgotten(3, ("old",))
    assert await ids(memory) == {"new", "old", "pinned", "bob"}
    assert await forget(memory, policy, where=of_alice) == Forgotten(3, ("old",))
    assert await ids(memory) == {"new", "pinned", "bob"}
    assert len(await memory.by_id("other", "other")) == 1


async def test_forgetting_looks_at_the_oldest_first(memory: LongTermMemory) -> None:
    """A limit bounds the work of one call; the next goes on, and all are looked at in the end."""
    await memory.remember([fact(f"{at:03}", age=at) for at in range(60)])
    budget = ForgetPolicy(budget=5)
    assert (await forget(memory, budget, limit=20)).scanned == 20
    assert await ids(memory) == {f"{at:03}" for at in range(45)}
    while (await forget(memory, budget, limit=20)).deleted_ids:
        pass
    assert await ids(memory) == {f"{at:03}" for at in range(5)}


async def test_what_is_used_stays(memory: LongTermMemory) -> None:
    """An access counts, wherever it came from."""
    await memory.remember([fact("used", age=50), fact("idle", age=50), fact("past", age=50)])
    await memory.supersede([fact("new")], {"new": ["past"]})
    await memory.touch([fact("used")], now=NOON)
    forgotten = await forget(memory, ForgetPolicy(max_inactive_days=10), pinned_ids=["pinned"])
    assert set(forgotten.deleted_ids) == {"idle", "past"}
    assert await ids(memory) == {"used", "new"}


async def test_what_changes_meanwhile_is_not_forgotten(redis: Redis, embedder: LocalEmbedder) -> None:
    """Somebody pins it just before it would go."""

    class Pinned(LongTermStore):
        @override
        async def change_each(self, changes: Sequence[Change]) -> list[bool]:
            other = LongTermStore(redis, model=embedder.name, dims=embedder.dims)
            await LongTermMemory(other, embedder).edit(ALICE, "a", lambda known: replace(known, pinned=True))
            return await super().change_each(changes)

    store = Pinned(redis, model=embedder.name, dims=embedder.dims)
    await store.ensure_index()
    memory = LongTermMemory(store, embedder)
    await memory.remember([fact("a", age=9), fact("b", age=9)])
    assert await forget(memory, ForgetPolicy(max_age_days=1)) == Forgotten(2, ("b",))
    assert await ids(memory) == {"a"}


async def test_compaction_leaves_one_memory_of_each_statement(memory: LongTermMemory) -> None:
    """In each scope by itself; what the merged one knew is searchable."""
    peru = "User is learning Spanish for a trip to Peru"
    again = "The user is learning Spanish for an upcoming trip to Peru"
    await memory.remember(
        [
            fact("old", peru, age=3, topics=("travel",), session="s1"),
            fact("new", again, age=1, session="s2"),
            fact("tea", "User likes tea"),
            fact("bob", peru, scope=BOB),
            fact("work", peru, scope=Scope("tenant", "alice", "work")),
        ]
    )
    await memory.touch([fact("old")], now=NOON)
    assert await memory.compact("tenant") == 4
    (merged,) = await memory.by_id("tenant", "new")
    assert (merged.text, merged.topics, merged.created_at) == (again, ("travel",), NOON - timedelta(days=3))
    assert (merged.access_count, merged.last_accessed) == (1, NOON)
    assert await ids(memory) == {"new", "tea", "bob", "work"}
    found = await memory.find("tenant", Query("Spanish", where=Filter(of_scope(ALICE))))
    assert found.memories[0].record == merged
    assert await memory.compact("tenant", where=Filter(of_scope(ALICE))) == 2
    assert await memory.compact("nobody") == 0


async def test_history_leads_to_what_a_merge_left(memory: LongTermMemory) -> None:
    """What took a place may itself be merged into another."""
    await memory.remember([fact("porto", "User lives in Porto", age=9)])
    await memory.supersede([fact("lisbon", "User lives in Lisbon", age=5, session="s")], {"lisbon": ["porto"]})
    await memory.remember([fact("again", "User lives in Lisbon", age=1, session="t")])
    assert await memory.compact("tenant") == 1
    (porto, again) = await memory.get(ALICE, ["porto", "again"])
    assert (porto.superseded_by, again.supersedes) == ("again", ("porto",))


async def test_compaction_embeds_nothing(store: LongTermStore, embedder: LocalEmbedder) -> None:
    """The vectors are there."""

    class Costly(LocalEmbedder):
        @override
        async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
            pytest.fail("embedded again")

    await LongTermMemory(store, embedder).remember([fact("a", session="s"), fact("b", age=1, session="t")])
    assert await LongTermMemory(store, Costly()).compact("tenant") == 1


async def test_compaction_keeps_what_was_created(memory: LongTermMemory) -> None:
    await memory.create([fact("a", is_explicit=True), fact("b", is_explicit=True)], deduplicate=False)
    await memory.remember([fact("learned")])
    assert await memory.compact("tenant") == 2
    assert await ids(memory) == {"a", "b"}


def as_version_1(record: MemoryRecord) -> dict[str, str]:
    """A document as the version before wrote it."""
    scope, written = record.scope, record.created_at.isoformat().replace("+00:00", "Z")
    return {
        "record": f'{{"id":"{record.id}","scope":{{"tenant":"{scope.tenant}","user":"{scope.user}","namespace":null}},'
        f'"text":"{record.text}","type":"{record.type}","created_at":"{written}"}}',
        "user": schema.digest_of("user", scope.tenant, scope.user),
        "namespace": schema.digest_of("namespace", scope.tenant, scope.namespace),
        "type": record.type.value,
        "text": "tea",
        "ctx": "",
        "created_at": repr(record.created_at.timestamp()),
    }


async def put_as_version_1(redis: Redis, records: Sequence[MemoryRecord]) -> None:
    for record in records:
        await redis.hset(schema.memory_key(record.scope, record.id), mapping=as_version_1(record))  # type: ignore[arg-type]  # redis-py's mapping is invariant


async def test_memories_of_version_1_are_brought_up_to_date(
    memory: LongTermMemory, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """An upgrade loses nothing: each is found by words, by meaning and by filters, as old as it was."""
    known = [fact(str(at), f"tea number {at}", age=at, scope=(ALICE, BOB)[at % 2]) for at in range(30)]
    await put_as_version_1(redis, known)
    assert await memory.get(ALICE, ["0"]) == [known[0]]
    assert await ids(memory) == set()
    with caplog.at_level(logging.INFO):
        assert await memory.backfill(batch=7) == 30
    assert "bringing 30 memories up to date" in caplog.text
    assert "brought 30 memories up to date" in caplog.text
    assert {
        match.record.id: match.record for match in (await memory.find("tenant", Query(None, limit=50))).memories
    } == {record.id: record for record in known}
    for where, expected in ((Filter(of_scope(ALICE)), 15), (EVERYTHING, 30)):
        assert (await memory.find("tenant", Query("tea", where=where))).total == expected
    assert [found.record.id for found in await memory.search(ALICE, "tea number 4", limit=1)] == ["4"]
    assert await memory.backfill(batch=7) == 0


async def test_a_backfill_can_be_broken_off(memory: LongTermMemory, store: LongTermStore, redis: Redis) -> None:
    """And goes on where it was; what is done twice is done once."""
    await put_as_version_1(redis, [fact(str(at)) for at in range(20)])

    class Stops(LocalEmbedder):
        calls = 0

        @override
        async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
            self.calls += 1
            if self.calls > 2:
                raise RuntimeError("stopped")
            return await super().embed_documents(texts)

    with pytest.raises(RuntimeError, match="stopped"):
        await LongTermMemory(store, Stops()).backfill(batch=5)
    assert len(await ids(memory)) == 10
    assert await memory.backfill(batch=5) == 10
    assert len(await ids(memory)) == 20


async def test_one_process_at_a_time_brings_memories_up_to_date(
    store: LongTermStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service is paid once for each text; who waits goes on where the other stopped."""
    monkeypatch.setattr(upkeep, "OTHER_WORKS_S", 0.01)
    known = [fact(str(at)) for at in range(40)]
    await put_as_version_1(redis, known)

    class Counting(LocalEmbedder):
        texts = 0

        @override
        async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
            Counting.texts += len(texts)
            return await super().embed_documents(texts)

    stores = [store, *(LongTermStore(redis, model=LocalEmbedder().name, dims=256) for _ in range(2))]
    made = await asyncio.gather(*(LongTermMemory(each, Counting()).backfill(batch=7) for each in stores))
    assert (sum(made), Counting.texts) == (40, 40)


async def test_a_document_that_cannot_be_read_holds_up_no_other(
    memory: LongTermMemory, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays as it is, for whoever can."""
    await put_as_version_1(redis, [fact(str(at)) for at in range(10)])
    broken = schema.memory_key(ALICE, "3")
    await redis.hset(broken, "record", "{")
    with caplog.at_level(logging.WARNING):
        assert await memory.backfill(batch=2) == 9
    assert broken in caplog.text
    assert await redis.hget(broken, "record") == b"{"
    assert await memory.backfill(batch=2) == 0


class OtherModel(LocalEmbedder):
    """Another model of other vectors."""

    name = "other"
    dims = 3

    @override
    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        return [np.array([1, 0, 0], np.float32)] * len(texts)

    @override
    async def embed_query(self, text: str) -> Vector:
        return np.array([1, 0, 0], np.float32)


async def test_another_embedding_model_takes_over(memory: LongTermMemory, redis: Redis) -> None:
    """Found by words from the start and by meaning as the work goes on; then the old index goes."""
    await memory.remember([fact(str(at), f"tea number {at}") for at in range(10)])
    other = OtherModel()
    store = LongTermStore(redis, model=other.name, dims=other.dims)
    await store.ensure_index()
    later = LongTermMemory(store, other)
    assert len(await later.search(ALICE, "tea number", limit=20, relevant_only=False)) == 10
    assert (await later.find("tenant", Query("tea"))).total == 0
    assert await later.backfill() == 10
    assert (await later.find("tenant", Query("tea"))).total == 10
    assert await later.backfill() == 0
    names = await redis.execute_command("FT._LIST")  # type: ignore[no-untyped-call]  # redis-py's gap
    assert names == [Made("other", 3).index_name.encode()]


async def test_vectors_that_are_there_are_not_made_again(store: LongTermStore, redis: Redis) -> None:
    """A new version of the same model's documents costs no calls of a service."""
    embedder = LocalEmbedder()
    (vector,) = await embedder.embed_documents(["tea"])
    await put_as_version_1(redis, [fact("m")])
    field = Made(embedder.name, embedder.dims).vector_field
    await redis.hset(schema.memory_key(ALICE, "m"), field, vector.tobytes())

    class Costly(LocalEmbedder):
        @override
        async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
            pytest.fail("embedded again")

    assert await LongTermMemory(store, Costly()).backfill() == 1
    assert (await LongTermMemory(store, embedder).find("tenant", Query("tea"))).total == 1
