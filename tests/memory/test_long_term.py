"""Remembering and finding, with the real store and the real local embedding."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed
from redis.asyncio import Redis
from typing_extensions import override

from memproxy.embedding import LocalEmbedder
from memproxy.errors import AmbiguousIdError, StoreError
from memproxy.memory.long_term import LongTermMemory
from memproxy.memory.ranking import Floor
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.memory_documents import FoundMemory, IndexedMemory, UnreadMemory
from memproxy.storage.memory_filter import Filter, TagField, any_of, none_of, of_scope
from memproxy.storage.schema import digest_of, memory_key

ALICE = Scope("tenant", "alice")
BOB = Scope("tenant", "bob")
AT_WORK = Scope("tenant", "alice", "work")
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
NOBODY = Scope("tenant", None)

FACTS = (
    "Alice prefers vegetarian food and dislikes mushrooms",
    "Alice likes hiking in the mountains on weekends",
    "Alice ordered a laptop, order number LX-4417",
    "Alice is learning Spanish for a trip to Peru",
)


@pytest.fixture(scope="module")
def embedder() -> LocalEmbedder:
    return LocalEmbedder()


@pytest.fixture
async def memory(redis: Redis, embedder: LocalEmbedder) -> LongTermMemory:
    store = LongTermStore(redis, model=embedder.name, dims=embedder.dims)
    await store.ensure_index()
    return LongTermMemory(store, embedder)


def fact(text: str, *, scope: Scope = ALICE, at: datetime = NOON, session: str | None = None) -> MemoryRecord:
    return MemoryRecord(text, scope, text, MemoryType.SEMANTIC, at, session=session)


async def texts(memory: LongTermMemory, query: str, *, scope: Scope = ALICE, limit: int = 10) -> list[str]:
    return [found.record.text for found in await memory.search(scope, query, limit=limit)]


async def test_what_was_remembered_is_found(memory: LongTermMemory) -> None:
    """The point of it all."""
    assert await memory.remember([fact(text) for text in FACTS]) == len(FACTS)
    assert await texts(memory, "When will LX-4417 arrive?") == [FACTS[2]]
    assert await texts(memory, "any news about the laptop?") == [FACTS[2]]


async def test_a_preference_is_found_by_a_message_with_none_of_its_words(memory: LongTermMemory) -> None:
    """Nobody asks "what vegetarian food do I prefer?"."""
    await memory.remember([fact(text) for text in FACTS])
    assert await texts(memory, "Suggest a restaurant for dinner") == [FACTS[0]]
    assert await texts(memory, "What should I cook tonight?") == [FACTS[0]]


@pytest.mark.parametrize(
    "message",
    [
        "What is the capital of Australia?",
        "Write a Python function that reverses a linked list",
        "Thanks!",
        "Who won the world cup in 1998?",
        "How do I convert miles to kilometres?",
    ],
)
async def test_nothing_irrelevant_is_told(memory: LongTermMemory, message: str) -> None:
    """Memories that have nothing to do with the question cost tokens and mislead the model."""
    await memory.remember([fact(text) for text in FACTS])
    assert await texts(memory, message) == []


async def test_the_best_of_few_is_not_told_for_being_the_best(memory: LongTermMemory) -> None:
    """With one memory, that one is always the best match."""
    await memory.remember([fact("Alice likes hiking")])
    assert await texts(memory, "What laptop should I buy?") == []


async def test_a_rest_search_sees_everything_that_compares(memory: LongTermMemory) -> None:
    """An operator who searches wants candidates, not judgement."""
    await memory.remember([fact(text) for text in FACTS])
    found = await memory.search(ALICE, "What is the capital of Australia?", limit=10, relevant_only=False)
    assert len(found) == len(FACTS)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


async def test_a_lower_floor_tells_more(redis: Redis, embedder: LocalEmbedder) -> None:
    store = LongTermStore(redis, model=embedder.name, dims=embedder.dims)
    await store.ensure_index()
    memory = LongTermMemory(store, embedder, floor=Floor(few=0.0, few_messages=0.0, most=0.0))
    await memory.remember([fact("Alice likes hiking")])
    assert await texts(memory, "What laptop should I buy?") == ["Alice likes hiking"]


async def test_what_was_said_in_the_same_sitting_comes_before_what_was_not(memory: LongTermMemory) -> None:
    """The question is about that afternoon."""
    said = {
        "trip 1": ("In Bergen we took the boat to the fjord", "trip"),
        "trip 2": ("Bergen was wet, and the boat late", "trip"),
        "trip 3": ("The boat had the best waffles", "trip"),
        "fair": ("The boat fair has the best stands", "fair"),
    }
    await memory.remember(
        [MemoryRecord(name, ALICE, text, MemoryType.MESSAGE, NOON, session=at) for name, (text, at) in said.items()]
    )
    found = await memory.search(ALICE, "How was the boat in Bergen?", limit=4)
    assert [one.record.id for one in found][2:] == ["trip 3", "fair"]


async def test_a_question_about_somebody_unknown_is_told_nothing(memory: LongTermMemory) -> None:
    """Alice's days at the beach are no answer to where Melanie goes; a name is told by its capital."""
    await memory.remember([fact(f"Alice took the kids to the beach on holiday {number}") for number in range(300)])
    assert await texts(memory, "When did Alice go to the beach?") != []
    assert await texts(memory, "When did Melanie go to the beach?") == []
    assert await texts(memory, "When did we all go to the beach?") != []


async def test_the_words_before_a_message_help_to_find_it(memory: LongTermMemory) -> None:
    """ "Yes, the blue one" is found by what was asked before."""
    record = MemoryRecord(
        "m", ALICE, "Yes, the blue one", MemoryType.MESSAGE, NOON, context="Would you like the blue kettle or the red?"
    )
    await memory.remember([record])
    assert await texts(memory, "Which kettle did I like?") == ["Yes, the blue one"]


async def test_without_a_user_nothing_is_found(memory: LongTermMemory) -> None:
    """Strangers must not share a memory: only code that asks for those of nobody gets them."""
    await memory.remember([fact("tea", scope=NOBODY), fact("milk")])
    assert await texts(memory, "tea", scope=NOBODY) == []
    assert await memory.newest(NOBODY, limit=5) == (0, [])
    assert await memory.forget_user(NOBODY) == 0
    assert await memory.get(NOBODY, ["tea"]) == [fact("tea", scope=NOBODY)]
    edited = await memory.edit(NOBODY, "tea", lambda known: changed(known, text="green tea"))
    assert edited == changed(fact("tea", scope=NOBODY), text="green tea")
    assert await memory.forget(NOBODY, ["tea"]) == 1


async def test_remembering_twice_is_remembering_once(memory: LongTermMemory) -> None:
    """A turn may be learned from more than once."""
    assert await memory.remember([fact("Alice likes tea")]) == 1
    assert await memory.remember([fact("Alice likes tea", at=NOON + timedelta(days=1))]) == 0
    assert await memory.newest(ALICE, limit=5) == (1, [fact("Alice likes tea")])


async def test_the_current_session_and_known_ids_are_left_out(memory: LongTermMemory) -> None:
    """What stands in the request, or was injected before, is not told again."""
    await memory.remember([fact("green tea", session="now"), fact("black tea", session="then"), fact("white tea")])
    where = Filter((none_of(TagField.SESSION, ["now"]),))
    found = await memory.search(ALICE, "which tea?", limit=5, where=where, excluded_ids=["white tea"])
    assert [one.record.text for one in found] == ["black tea"]


async def test_a_memory_deleted_meanwhile_is_not_told(redis: Redis, embedder: LocalEmbedder) -> None:
    """Somebody may erase it between the two round trips."""

    class Forgetful(LongTermStore):
        @override
        async def unread(self, keys: Sequence[str]) -> dict[str, UnreadMemory]:
            await self.delete(ALICE, ["green tea"])
            return await super().unread(keys)

    store = Forgetful(redis, model=embedder.name, dims=embedder.dims)
    await store.ensure_index()
    memory = LongTermMemory(store, embedder)
    for relevant_only in (True, False):
        await memory.remember([fact("green tea"), fact("black tea")])
        found = await memory.search(ALICE, "which tea?", limit=5, relevant_only=relevant_only)
        assert [one.record.text for one in found] == ["black tea"]


async def test_of_two_equal_memories_the_newer_comes_first(memory: LongTermMemory) -> None:
    """The last address is the right one."""
    old, new = (
        MemoryRecord(name, ALICE, "Alice lives in Lisbon", MemoryType.SEMANTIC, NOON + timedelta(days=age))
        for name, age in (("old", 0), ("new", 9))
    )
    await memory.remember([old, new])
    found = await memory.search(ALICE, "Where in Lisbon does Alice live?", limit=5)
    assert [one.record.id for one in found] == ["new", "old"]


async def test_scores_say_how_it_was_found(memory: LongTermMemory) -> None:
    """Receipts show them."""
    await memory.remember([fact(text) for text in FACTS])
    (found,) = await memory.search(ALICE, "order LX-4417", limit=5)
    assert found.text_score == pytest.approx(1.0)
    assert found.score == pytest.approx(1.0)
    assert 0.3 < found.vector_score < 1.0


async def test_no_more_than_asked_for_comes(memory: LongTermMemory) -> None:
    await memory.remember([fact(f"tea number {number}") for number in range(20)])
    assert len(await texts(memory, "tea", limit=3)) == 3
    assert len(await texts(memory, "tea", limit=20)) == 20


async def test_forgetting_and_reading_by_id(memory: LongTermMemory) -> None:
    await memory.remember([fact("a"), fact("b"), fact("c", scope=AT_WORK)])
    assert await memory.get(ALICE, ["b"]) == [fact("b")]
    assert await memory.forget(ALICE, ["b"]) == 1
    assert await memory.forget_user(ALICE) == 2
    assert await memory.newest(AT_WORK, limit=5) == (0, [])


async def test_an_edited_memory_is_found_by_its_new_words(memory: LongTermMemory) -> None:
    """What was wrong is not told again."""
    await memory.remember([fact("Alice plays the violin")])
    name = "Alice plays the violin"
    edited = await memory.edit(ALICE, name, lambda known: changed(known, text="Alice studies chemistry"))
    assert edited == changed(fact(name), text="Alice studies chemistry")
    assert await memory.get(ALICE, [name]) == [edited]
    assert await texts(memory, "Where can I study chemistry?") == ["Alice studies chemistry"]
    assert await texts(memory, "How much is a violin?") == []


async def test_an_edit_changes_neither_whose_memory_it_is_nor_its_time(memory: LongTermMemory) -> None:
    """Whatever a caller's function gives back."""
    await memory.remember([fact("tea"), fact("tea", scope=BOB)])
    edited = await memory.edit(
        ALICE, "tea", lambda known: changed(fact("milk", scope=BOB), created_at=datetime.now(UTC))
    )
    assert edited == changed(fact("tea"), text="milk")
    assert await memory.get(BOB, ["tea", "milk"]) == [fact("tea", scope=BOB)]


async def test_only_what_is_there_and_ones_own_can_be_edited(memory: LongTermMemory) -> None:
    await memory.remember([fact("tea", scope=BOB)])
    for scope in (ALICE, NOBODY):
        assert await memory.edit(scope, "tea", lambda known: changed(known, text="milk")) is None
    assert await memory.newest(ALICE, limit=5) == (0, [])


async def test_edits_at_the_same_time_are_all_kept(memory: LongTermMemory) -> None:
    """A model may call a tool several times in one answer."""
    await memory.remember([fact("tea")])

    def adding(label: str) -> Callable[[MemoryRecord], MemoryRecord]:
        return lambda known: changed(known, topics=(*known.topics, label))

    await asyncio.gather(*(memory.edit(ALICE, "tea", adding(label)) for label in "abc"))
    (record,) = await memory.get(ALICE, ["tea"])
    assert set(record.topics) == set("abc")


async def test_an_edit_does_not_bring_a_deleted_memory_back(redis: Redis, embedder: LocalEmbedder) -> None:
    """Erasing a user while a model edits leaves nothing; and an edit that is never in time ends."""

    class Interfering(LongTermStore):
        deletes = True

        @override
        async def rewrite(self, memory: IndexedMemory, *, known: FoundMemory) -> bool:
            if self.deletes:
                await self.delete(ALICE, ["tea"])
            else:
                await self.write([replace(memory, record=changed(memory.record, text=known.record.text + "!"))])
            return await super().rewrite(memory, known=known)

    store = Interfering(redis, model=embedder.name, dims=embedder.dims)
    await store.ensure_index()
    memory = LongTermMemory(store, embedder)
    await memory.remember([fact("tea")])
    assert await memory.edit(ALICE, "tea", lambda known: changed(known, text="milk")) is None
    assert await memory.get(ALICE, ["tea"]) == []
    store.deletes = False
    await memory.remember([fact("tea")])
    with pytest.raises(StoreError, match="kept changing"):
        await memory.edit(ALICE, "tea", lambda known: changed(known, text="milk"))


SYNTAX = st.text(alphabet="@{}()|~-=>$*%\"'\\:;,.<>[]!#^&+/? \t\n\x00\x1fabñ中ก👍_0", max_size=80)
SURROGATES = st.text(alphabet=st.characters(codec=None), max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(query=st.one_of(st.text(max_size=200), SYNTAX, SURROGATES))
async def test_no_query_fails_or_finds_anothers_memory(memory: LongTermMemory, query: str) -> None:
    """Whatever a client sends as a message."""
    await memory.remember(
        [fact(f"bob's {query}", scope=BOB), fact(f"work {query}", scope=AT_WORK), fact("alice's own")]
    )
    for relevant_only in (True, False):
        found = await memory.search(ALICE, query, limit=10, relevant_only=relevant_only)
        assert {one.record.scope for one in found} <= {ALICE}
    await memory.forget_user(BOB)
    await memory.forget_user(ALICE)


@pytest.mark.parametrize(
    "query",
    [
        "",
        " ",
        "the",
        "what is it?",
        "a" * 10_000,
        "tea, " * 2_000,
        "@user:{*}",
        "*",
        "*=>[KNN 10 @vec $v]",
        "tea|bread",
        "-tea",
        "~tea",
        '"tea bread"',
        "te*",
        "%tea%",
        "tea}=>{$weight: 0}",
        "\x00\x01\x02",
        "\ud800",
        "中文" * 3_000,
        " ".join(str(number) for number in range(3_000)),
    ],
)
async def test_awkward_queries_are_answered(memory: LongTermMemory, query: str) -> None:
    """Each is a thing that people paste, or that means something to a query parser."""
    await memory.remember([fact("bread", scope=BOB), fact("tea")])
    found = await memory.search(ALICE, query, limit=10, relevant_only=False)
    assert {one.record.scope for one in found} <= {ALICE}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(text=st.one_of(st.text(max_size=100), SYNTAX), context=st.text(max_size=50))
async def test_any_text_can_be_remembered(memory: LongTermMemory, text: str, context: str) -> None:
    """Messages hold anything."""
    record = MemoryRecord("m", ALICE, text, MemoryType.MESSAGE, NOON, context=context)
    assert await memory.remember([record]) == 1
    assert await memory.get(ALICE, ["m"]) == [record]
    assert await memory.forget_user(ALICE) == 1


async def test_memories_are_found_by_id_below_the_tenant(memory: LongTermMemory) -> None:
    """Code knows an id, and not always whose it is; several may have called something alike."""
    await memory.remember([fact("tea"), fact("tea", scope=BOB), fact("tea", scope=AT_WORK), fact("milk")])
    await memory.remember([fact("tea", scope=Scope("other", "alice"))])
    assert {found.scope for found in await memory.by_id("tenant", "tea")} == {ALICE, BOB, AT_WORK}
    assert await memory.by_id("tenant", "tea", where=Filter(of_scope(BOB))) == [fact("tea", scope=BOB)]
    assert await memory.by_id("tenant", "te") == []


async def test_a_superseded_memory_is_found_by_its_id(memory: LongTermMemory) -> None:
    """What it said can be looked up."""
    await memory.remember([fact("old")])
    await memory.supersede([fact("new")], {"new": ["old"]})
    (old,) = await memory.by_id("tenant", "old")
    assert old.superseded_by == "new"


async def test_deleting_by_id_asks_whose_it_is_when_that_is_not_clear(memory: LongTermMemory) -> None:
    """Nothing of another user goes by mistake."""
    await memory.remember([fact("tea"), fact("tea", scope=BOB), fact("milk")])
    with pytest.raises(AmbiguousIdError, match="'tea'"):
        await memory.delete_ids("tenant", ["milk", "tea"])
    assert await memory.get(ALICE, ["milk", "tea"]) == [fact("milk"), fact("tea")]
    of_alice = Filter((any_of(TagField.USER, ["alice"]),))
    assert await memory.delete_ids("tenant", ["milk", "tea", "tea", "unknown"], where=of_alice) == 2
    assert await memory.delete_ids("other", ["tea"]) == 0
    assert await memory.delete_ids("tenant", []) == 0
    assert await memory.get(BOB, ["tea"]) == [fact("tea", scope=BOB)]


async def test_looking_at_a_memory_is_noted_now_and_then(memory: LongTermMemory) -> None:
    """What is looked at stays; each note costs the index, so a busy hour counts as four."""
    await memory.remember([fact("tea"), fact("milk")])
    notes = [await memory.touch([fact("tea")], now=NOON + timedelta(minutes=minute)) for minute in (1, 2, 15, 16, 40)]
    assert notes == [1, 0, 0, 1, 1]
    (tea, milk) = await memory.get(ALICE, ["tea", "milk"])
    assert (tea.access_count, tea.last_accessed) == (3, NOON + timedelta(minutes=40))
    assert (milk.access_count, milk.last_accessed) == (0, None)
    assert await texts(memory, "tea") == ["tea"]


async def test_looking_at_what_was_deleted_does_not_bring_it_back(memory: LongTermMemory, redis: Redis) -> None:
    """The note comes after the answer; an erased user stays erased."""
    await memory.remember([fact("tea")])
    await memory.forget_user(ALICE)
    assert await memory.touch([fact("tea"), fact("milk")], now=NOON) == 0
    assert await redis.keys("mp:m:*") == []
    assert await memory.touch([], now=NOON) == 0


async def test_accesses_outlive_an_edit(memory: LongTermMemory) -> None:
    await memory.remember([fact("tea")])
    await memory.touch([fact("tea")], now=NOON + timedelta(hours=1))
    edited = await memory.edit(ALICE, "tea", lambda known: changed(known, text="green tea"))
    assert edited is not None
    assert await memory.get(ALICE, ["tea"]) == [edited]
    assert (edited.access_count, edited.last_accessed) == (1, NOON + timedelta(hours=1))


async def test_neighbours_are_the_statements_nearest_to_each(memory: LongTermMemory) -> None:
    """Of the same scope and still true: what a new one may repeat or replace."""
    await memory.remember(
        [
            *(fact(text) for text in FACTS),
            fact(FACTS[0] + "!", scope=BOB),
            fact(FACTS[0] + "!", scope=AT_WORK),
            MemoryRecord("said", ALICE, FACTS[0], MemoryType.MESSAGE, NOON),
        ]
    )
    await memory.supersede([fact("Alice eats everything")], {"Alice eats everything": [FACTS[1]]})
    new = [fact("Alice prefers vegetarian food"), fact(FACTS[2]), fact("\x00")]
    food, order, nothing = await memory.neighbours(ALICE, new)
    assert food[0].record.text == FACTS[0]
    assert food[0].vector_score > 0.8
    assert {found.record.text for found in food} == {FACTS[0], *FACTS[2:], "Alice eats everything"}
    assert FACTS[2] not in {found.record.text for found in order}, "a memory is no neighbour of itself"
    assert [found.vector_score for found in order] == sorted((found.vector_score for found in order), reverse=True)
    assert all(found.vector_score <= 1.0 for found in nothing)


async def test_erasing_a_user_takes_what_version_1_wrote_and_what_is_superseded(
    memory: LongTermMemory, redis: Redis
) -> None:
    """The right to be forgotten does not wait for an upgrade to be done."""
    await memory.remember([fact("old")])
    await memory.supersede([fact("new")], {"new": ["old"]})
    as_version_1: dict[Any, Any]
    as_version_1 = {"record": b"{}", "user": digest_of("user", "tenant", "alice"), "created_at": "1.5", "text": "tea"}
    await redis.hset(memory_key(ALICE, "from version 1"), mapping=as_version_1)
    assert await memory.forget_user(ALICE) == 3
    assert await redis.keys("mp:m:*") == []
