"""Storing memories as code gives them, once, and in the place of others."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis
from typing_extensions import override

from memproxy.clock import SystemClock
from memproxy.embedding import LocalEmbedder, Vector
from memproxy.errors import StoreError
from memproxy.memory.long_term import LongTermMemory
from memproxy.memory.search import Query
from memproxy.memory.writing import Created
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.memory_changes import Change
from memproxy.storage.memory_filter import Filter

ALICE = Scope("tenant", "alice")
BOB = Scope("tenant", "bob")
AT_WORK = Scope("tenant", "alice", "work")
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(days=1)


class Noon(SystemClock):
    """It is an hour past noon."""

    @override
    def now(self) -> datetime:
        return NOON + timedelta(hours=1)


class CountingEmbedder(LocalEmbedder):
    """Counts how often documents are embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    @override
    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        self.calls.append(len(texts))
        return await super().embed_documents(texts)


@pytest.fixture(scope="module")
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


@pytest.fixture
async def store(redis: Redis, embedder: CountingEmbedder) -> LongTermStore:
    store = LongTermStore(redis, model=embedder.name, dims=embedder.dims)
    await store.ensure_index()
    return store


@pytest.fixture
def memory(store: LongTermStore, embedder: CountingEmbedder) -> LongTermMemory:
    embedder.calls.clear()
    return LongTermMemory(store, embedder, clock=Noon())


def record(memory_id: str, text: str = "tea", *, scope: Scope = ALICE, at: datetime = NOON) -> MemoryRecord:
    return MemoryRecord(memory_id, scope, text, MemoryType.SEMANTIC, at, is_explicit=True)


async def stored(memory: LongTermMemory, scope: Scope = ALICE) -> dict[str, MemoryRecord]:
    """Everything of a user, by id; also what holds no longer."""
    _, records = await memory.newest(scope, limit=100, where=Filter(superseded=True))
    return {each.id: each for each in records}


async def test_near_identical_texts_stay_memories_of_their_own(memory: LongTermMemory) -> None:
    """Who creates a memory finds it under its id."""
    records = [record(str(number), f"Test memory {number} for deletion") for number in range(3)]
    assert await memory.create(records, deduplicate=True) == [Created(each.id, is_new=True) for each in records]
    assert await stored(memory) == {each.id: each for each in records}


async def test_the_same_again_is_known(memory: LongTermMemory) -> None:
    """Under another id it is not stored twice; that it was said again is an access."""
    await memory.create([record("first")], deduplicate=True)
    again = await memory.create([record("second", at=LATER), record("third", at=LATER)], deduplicate=True)
    assert again == [Created("first", is_new=False)] * 2
    assert await stored(memory) == {
        "first": replace(record("first"), access_count=1, last_accessed=NOON + timedelta(hours=1))
    }


async def test_the_same_twice_at_once_is_stored_once(memory: LongTermMemory) -> None:
    made = await memory.create([record("first"), record("second"), record("other", "milk")], deduplicate=True)
    assert made == [Created("first", is_new=True), Created("first", is_new=False), Created("other", is_new=True)]
    assert (await stored(memory)).keys() == {"first", "other"}


async def test_without_deduplication_all_are_stored(memory: LongTermMemory) -> None:
    made = await memory.create([record("first"), record("second")], deduplicate=False)
    assert made == [Created("first", is_new=True), Created("second", is_new=True)]
    assert (await stored(memory)).keys() == {"first", "second"}


async def test_the_same_of_another_scope_session_or_type_is_another(memory: LongTermMemory) -> None:
    """What Bob likes says nothing of Alice."""
    first = record("0")
    others = [
        replace(first, id="1", scope=BOB),
        replace(first, id="2", scope=AT_WORK),
        replace(first, id="3", session="s"),
        replace(first, id="4", type=MemoryType.EPISODIC),
        replace(first, id="5", scope=Scope("other", "alice")),
        replace(first, id="6", scope=Scope("tenant", None)),
    ]
    await memory.create([first], deduplicate=True)
    assert await memory.create(others, deduplicate=True) == [Created(each.id, is_new=True) for each in others]


async def test_an_id_that_is_known_is_replaced_in_its_scope_only(memory: LongTermMemory) -> None:
    """It keeps when it was created and persisted; who has the same id elsewhere does not notice."""
    first = replace(record("m"), persisted_at=NOON)
    await memory.create([first, replace(record("m"), scope=BOB)], deduplicate=True)
    (made,) = await memory.create([replace(record("m", "milk", at=LATER), persisted_at=LATER)], deduplicate=True)
    assert made == Created("m", is_new=False)
    assert await stored(memory) == {"m": replace(first, text="milk")}
    assert await stored(memory, BOB) == {"m": record("m", scope=BOB)}


async def test_an_id_is_replaced_even_by_what_another_says(memory: LongTermMemory) -> None:
    """Whoever names an id means that memory."""
    await memory.create([record("a"), record("b", "milk")], deduplicate=True)
    assert await memory.create([record("b")], deduplicate=True) == [Created("b", is_new=False)]
    assert {each.id: each.text for each in (await stored(memory)).values()} == {"a": "tea", "b": "tea"}


async def test_what_was_superseded_can_be_said_anew(memory: LongTermMemory) -> None:
    """Who moved away may come back."""
    await memory.create([record("porto", "lives in Porto")], deduplicate=True)
    await memory.supersede([record("lisbon", "lives in Lisbon", at=LATER)], {"lisbon": ["porto"]})
    (made,) = await memory.create([record("again", "lives in Porto")], deduplicate=True)
    assert made == Created("again", is_new=True)


async def test_many_records_are_embedded_in_one_call(memory: LongTermMemory, embedder: CountingEmbedder) -> None:
    """A service asks a price for each call, and a second."""
    records = [record(str(number), f"tea {number}", scope=Scope("tenant", str(number % 40))) for number in range(2_500)]
    assert sum(made.is_new for made in await memory.create(records, deduplicate=True)) == 2_500
    assert embedder.calls == [2_500]
    assert (await memory.find("tenant", Query(None))).total == 2_500
    assert await memory.create([], deduplicate=True) == []


async def test_an_edit_of_labels_embeds_nothing(memory: LongTermMemory, embedder: CountingEmbedder) -> None:
    await memory.create([record("m")], deduplicate=True)
    await memory.edit(ALICE, "m", lambda known: replace(known, topics=("drinks",)))
    await memory.edit(ALICE, "m", lambda known: replace(known, text="milk"))
    assert embedder.calls == [1, 1]


async def test_what_was_done_once_is_not_done_again(memory: LongTermMemory, redis: Redis) -> None:
    """A turn may be learned from twice, with other words the second time."""
    assert await memory.remember([record("a"), record("b", scope=BOB)], done="turn") == 2
    assert await memory.remember([record("c")], done="turn") == 0
    assert await memory.remember([record("d")], done="next turn") == 1
    assert await memory.remember([], done="empty turn") == 0
    assert (await stored(memory)).keys() == {"a", "d"}
    marks = await redis.keys("mp:done:*")
    assert len(marks) == 3
    assert all([0 < await redis.ttl(mark) <= 7 * 86_400 for mark in marks])


async def test_a_memory_takes_the_place_of_others(memory: LongTermMemory) -> None:
    """The old ones stay as history and say until when they held."""
    await memory.remember([record("porto"), record("faro"), record("else"), record("porto", scope=BOB)])
    new = record("lisbon", at=LATER)
    assert await memory.supersede([new, record("also", at=LATER)], {"lisbon": ["porto", "faro", "unknown"]}) == 2
    history = {"valid_until": LATER, "superseded_by": "lisbon"}
    assert await stored(memory) == {
        "porto": replace(record("porto"), **history),
        "faro": replace(record("faro"), **history),
        "else": record("else"),
        "lisbon": replace(new, supersedes=("porto", "faro")),
        "also": record("also", at=LATER),
    }
    assert {each.id for each in (await memory.newest(ALICE, limit=9))[1]} == {"else", "lisbon", "also"}
    assert await stored(memory, BOB) == {"porto": record("porto", scope=BOB)}


async def test_superseding_twice_is_superseding_once(memory: LongTermMemory) -> None:
    """With a mark or without."""
    await memory.remember([record("old")])
    for _ in range(2):
        await memory.supersede([record("new", at=LATER)], {"new": ["old"]})
    await memory.supersede([record("newer", at=LATER)], {"newer": ["new"]}, done="turn")
    assert await memory.supersede([record("newest", at=LATER)], {"newest": ["newer"]}, done="turn") == 0
    chain = await stored(memory)
    assert {each.id: (each.superseded_by, each.supersedes) for each in chain.values()} == {
        "old": ("new", ()),
        "new": ("newer", ("old",)),
        "newer": ("", ("new",)),
    }


async def test_the_first_successor_stays_the_successor(memory: LongTermMemory) -> None:
    await memory.remember([record("old")])
    both = {"one": ["old"], "two": ["old", "one"]}
    await memory.supersede([record("one", at=LATER), record("two", at=LATER)], both)
    known = await stored(memory)
    assert known["old"].superseded_by == "one"
    assert (known["one"].superseded_by, known["two"].supersedes) == ("", ())


async def test_a_superseded_memory_keeps_its_words_and_accesses(memory: LongTermMemory, store: LongTermStore) -> None:
    """Nothing is embedded again for it, and it can still be searched for."""
    await memory.remember([record("old", "lives in Porto")])
    await memory.touch([record("old")], now=LATER)
    await memory.supersede([record("new", "lives in Lisbon")], {"new": ["old"]})
    found = await memory.find("tenant", Query("Porto", where=Filter(superseded=True)))
    assert found.memories[0].record.access_count == 1
    assert found.memories[0].record.superseded_by == "new"
    assert found.memories[0].distance < 0.5


class Interfered(LongTermStore):
    """Somebody else changes a memory just before this one does."""

    def __init__(self, redis: Redis, embedder: CountingEmbedder, *, memory_id: str, times: int) -> None:
        super().__init__(redis, model=embedder.name, dims=embedder.dims)
        self._other = LongTermMemory(LongTermStore(redis, model=embedder.name, dims=embedder.dims), embedder)
        self._memory_id = memory_id
        self._times = times

    @override
    async def change(self, changes: Sequence[Change], *, mark: str | None = None) -> int | None:
        if self._times > 0:
            self._times -= 1
            await self._other.edit(ALICE, self._memory_id, lambda known: replace(known, topics=(*known.topics, "x")))
        return await super().change(changes, mark=mark)


async def test_nothing_is_lost_when_memories_change_meanwhile(
    memory: LongTermMemory, redis: Redis, embedder: CountingEmbedder
) -> None:
    """Another worker edits what is about to be superseded: then it is read again."""
    await memory.remember([record("old")])
    beside = LongTermMemory(Interfered(redis, embedder, memory_id="old", times=2), embedder)
    assert await beside.supersede([record("new")], {"new": ["old"]}) == 1
    old = (await stored(memory))["old"]
    assert (old.superseded_by, old.topics) == ("new", ("x", "x"))


async def test_a_change_that_is_never_in_time_ends(
    memory: LongTermMemory, redis: Redis, embedder: CountingEmbedder
) -> None:
    """With an error, and nothing half done."""
    await memory.remember([record("old")])
    beside = LongTermMemory(Interfered(redis, embedder, memory_id="old", times=100), embedder)
    with pytest.raises(StoreError, match="kept changing"):
        await beside.supersede([record("new")], {"new": ["old"]})
    known = await stored(memory)
    assert known.keys() == {"old"}
    assert known["old"].valid_until is None


async def test_what_was_deleted_meanwhile_is_not_superseded(
    memory: LongTermMemory, redis: Redis, embedder: CountingEmbedder
) -> None:
    """Nor does it come back."""

    class Deleting(LongTermStore):
        @override
        async def change(self, changes: Sequence[Change], *, mark: str | None = None) -> int | None:
            await self.delete(ALICE, ["old"])
            return await super().change(changes, mark=mark)

    await memory.remember([record("old")])
    beside = LongTermMemory(Deleting(redis, model=embedder.name, dims=embedder.dims), embedder)
    assert await beside.supersede([record("new")], {"new": ["old"]}) == 1
    assert await stored(memory) == {"new": record("new")}
