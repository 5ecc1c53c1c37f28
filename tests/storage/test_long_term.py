"""Memories in a real store."""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed
from redis.asyncio import Redis

from memproxy.errors import StoreError, StoreUnavailableError, StoreUnfitError
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage import schema
from memproxy.storage.connection import open_redis
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.memory_documents import IndexedMemory, Vector
from memproxy.storage.memory_filter import Filter, Rule, TagField, TimeField, TimeRule, any_of, none_of, of_scope, types
from memproxy.storage.query_engine import require_query_engine

ALICE = Scope("tenant", "alice")
BOB = Scope("tenant", "bob")
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
ANY = Filter()
BY_TEXT = 10


def vector(*parts: float) -> Vector:
    """Four dimensions of unit length."""
    raw = np.array([*parts, *[0.0] * (4 - len(parts))], np.float32)
    return (raw / np.linalg.norm(raw)).astype(np.float32)


NORTH = vector(1)
EAST = vector(0, 1)


def memory(
    memory_id: str,
    terms: str,
    *,
    scope: Scope = ALICE,
    context: str = "",
    at: datetime = NOON,
    session: str | None = None,
    kind: MemoryType = MemoryType.SEMANTIC,
    near: Vector = NORTH,
    topics: tuple[str, ...] = (),
    entities: tuple[str, ...] = (),
) -> IndexedMemory:
    record = MemoryRecord(
        memory_id, scope, f"text of {memory_id}", kind, at, session=session, topics=topics, entities=entities
    )
    return IndexedMemory(record, terms.split(), context.split(), near)


@pytest.fixture
async def store(redis: Redis) -> LongTermStore:
    store = LongTermStore(redis, model="test", dims=4)
    await store.ensure_index()
    return store


async def ids_by_text(store: LongTermStore, terms: str, *, scope: Scope = ALICE, where: Filter = ANY) -> list[str]:
    hits = await store.search(scope, terms.split(), vector=None, limit=BY_TEXT, where=where)
    return [found.record.id for found in (await store.fetch(list(hits.text))).values()]


async def ids_by_vector(store: LongTermStore, near: Vector, *, scope: Scope = ALICE, where: Filter = ANY) -> list[str]:
    hits = await store.search(scope, [], vector=near, limit=BY_TEXT, where=where)
    return [found.record.id for found in (await store.fetch(list(hits.vector))).values()]


async def ids_in_order(store: LongTermStore, *, scope: Scope = ALICE, where: Filter = ANY) -> list[str]:
    """The newest first."""
    total, keys = await store.listing(scope.tenant, where.and_(*of_scope(scope)), offset=0, limit=100)
    assert total == len(keys)
    return [found.record.id for found in (await store.fetch(keys)).values()]


async def test_a_memory_is_found_by_its_words_and_by_its_vector(store: LongTermStore) -> None:
    """The two ways of asking, in one round trip."""
    assert await store.write([memory("food", "vegetarian food"), memory("hike", "hike", near=EAST)]) == 2
    hits = await store.search(ALICE, ["food"], vector=vector(0.1, 1), limit=10, where=ANY)
    assert list(hits.text) == [schema.memory_key(ALICE, "food")]
    assert list(hits.vector) == [schema.memory_key(ALICE, "hike"), schema.memory_key(ALICE, "food")]
    assert hits.vector[schema.memory_key(ALICE, "hike")] == pytest.approx(0.995, abs=1e-3)
    assert hits.candidates == 2


async def test_a_record_comes_back_as_it_was(store: LongTermStore) -> None:
    """What a model reads is what was remembered."""
    record = MemoryRecord(
        id="m1",
        scope=Scope("tenant", "älice", "n"),
        text="Älice\x00 \"likes\" 'tea' 🍵",
        type=MemoryType.EPISODIC,
        created_at=datetime(2025, 3, 1, 12, 30, 15, 123456, tzinfo=UTC),
        session="s",
        speaker="Älice",
        context="before",
        topics=("tea", "a,b"),
        entities=("Älice",),
        event_date=datetime(2024, 12, 31, tzinfo=UTC),
        turns=("t1",),
    )
    await store.write([IndexedMemory(record, ["tea"], ["before"], NORTH)])
    assert await store.get(record.scope, ["unknown", "m1"]) == [record]


async def test_lone_surrogates_become_question_marks(store: LongTermStore) -> None:
    """Python's JSON reader lets them in; one must not lose the memory it stands in."""
    broken = memory("m", "tea")
    await store.write([replace(broken, record=changed(broken.record, text="tea \ud800"))])
    (record,) = await store.get(ALICE, ["m"])
    assert record.text == "tea ?"


async def test_an_equal_id_is_not_doubled_and_keeps_its_first_time(store: LongTermStore) -> None:
    """The queue delivers at least once; a turn that is learned from twice leaves one memory."""
    assert await store.write([memory("m", "old words", session="s")]) == 1
    later = memory("m", "new words", at=NOON + timedelta(days=1))
    assert await store.write([later, memory("n", "other")]) == 1
    (record,) = await store.get(ALICE, ["m"])
    assert record == changed(later.record, created_at=NOON)
    assert await ids_by_text(store, "old") == []
    assert await ids_by_text(store, "new") == ["m"]
    assert await ids_by_text(store, "new", where=Filter((any_of(TagField.SESSION, ["s"]),))) == []


async def test_the_same_id_of_another_user_or_namespace_is_another_memory(store: LongTermStore) -> None:
    scopes = [ALICE, BOB, Scope("tenant", "alice", "work"), Scope("other", "alice")]
    assert await store.write([memory("m", "tea", scope=scope) for scope in scopes]) == 4
    for scope in scopes:
        (found,) = await store.get(scope, ["m"])
        assert found.scope == scope


@pytest.mark.parametrize(
    "other",
    [
        BOB,
        Scope("other", "alice"),
        Scope("tenant", "alice", "work"),
        Scope("tenant", "alice", ""),
        Scope("tenant", None),
        Scope("tenant", ""),
        Scope("tenant", "alice\x00b"),
        Scope("tenant", " alice "),
        Scope("tenant", "ALICE"),
        Scope("tenant", "*"),
        Scope("tenant", "alice|bob"),
    ],
)
async def test_nothing_is_found_across_scopes(store: LongTermStore, other: Scope) -> None:
    """The one thing that must never happen."""
    await store.write([memory("m", "tea", scope=ALICE)])
    assert await ids_by_text(store, "tea", scope=other) == []
    assert await ids_by_vector(store, NORTH, scope=other) == []
    assert await ids_in_order(store, scope=other) == []
    assert await store.delete(other, ["m"]) == 0
    assert await ids_by_text(store, "tea") == ["m"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    users=st.lists(st.tuples(st.text(max_size=6), st.none() | st.text(max_size=6)), min_size=2, max_size=4, unique=True)
)
async def test_scopes_of_any_spelling_are_apart(store: LongTermStore, users: list[tuple[str, str | None]]) -> None:
    """User names come from clients."""
    scopes = [Scope("tenant", user, namespace) for user, namespace in users]
    await store.write([memory(str(at), "tea", scope=scope) for at, scope in enumerate(scopes)])
    for at, scope in enumerate(scopes):
        assert await ids_by_text(store, "tea", scope=scope) == [str(at)]
        assert await ids_by_vector(store, NORTH, scope=scope) == [str(at)]
    for scope in scopes:
        await store.delete_user(scope)


async def test_scores_are_exactly_bm25_of_the_words(store: LongTermStore) -> None:
    """The form of the query decides whether they are; every other form was wrong by 7 points of recall or more."""
    rng = np.random.default_rng(7)
    words = [f"w{number}" for number in range(12)]
    scopes = [ALICE, BOB, Scope("tenant", "carol"), Scope("tenant", "alice", "work")]
    memories = [
        memory(
            str(at),
            " ".join(rng.choice(words, 5)),
            context=" ".join(rng.choice(words, rng.integers(0, 12))),
            scope=scopes[at % 4],
        )
        for at in range(120)
    ]
    await store.write(memories)
    for asked in (["w1"], ["w1", "w2"], ["w3", "w4", "w5", "missing"], words):
        hits = await store.search(
            ALICE, asked, vector=None, limit=50, where=Filter((none_of(TagField.SESSION, ["none"]),))
        )
        expected = {key: score for key, score in bm25(memories, asked).items() if key in keys_of(memories, ALICE)}
        assert hits.text == pytest.approx(expected)


def keys_of(memories: Sequence[IndexedMemory], scope: Scope) -> set[str]:
    return {schema.memory_key(scope, known.record.id) for known in memories if known.record.scope == scope}


def bm25(memories: Sequence[IndexedMemory], asked: Sequence[str]) -> dict[str, float]:
    """BM25 over text three times and context once, with the engine's k1 = 1.2 and b = 0.5."""
    counts = {
        schema.memory_key(known.record.scope, known.record.id): Counter(
            [*known.text_terms] * 3 + [*known.context_terms]
        )
        for known in memories
    }
    average = sum(count.total() for count in counts.values()) / len(counts)
    scores: dict[str, float] = {}
    for term in asked:
        holding = sum(term in count for count in counts.values())
        rarity = math.log(1 + (len(counts) - holding + 0.5) / (holding + 0.5))
        for key, count in counts.items():
            if term in count:
                often = count[term]
                length = 1.2 * (0.5 + 0.5 * count.total() / average)
                scores[key] = scores.get(key, 0.0) + rarity * often * 2.2 / (often + length)
    return scores


async def test_a_namespace_that_everybody_has_does_not_change_the_scores(store: LongTermStore) -> None:
    """Older engines take a tag for immensely rare that all documents have, once some were replaced or deleted."""
    await store.write([memory("good", "tea milk", context="a b c d"), memory("poor", "tea")])
    await store.write([memory(str(at), f"sugar w{at}", scope=BOB) for at in range(20)])
    before = await store.search(ALICE, ["tea", "milk"], vector=None, limit=5, where=ANY)
    await store.delete(BOB, ["1", "2", "3"])
    after = await store.search(ALICE, ["tea", "milk"], vector=None, limit=5, where=ANY)
    assert list(after.text) == list(before.text)
    assert max(after.text.values()) < 1.5 * max(before.text.values())


async def test_storing_the_same_again_changes_nothing(store: LongTermStore, redis: Redis) -> None:
    """Every replacement leaves waste in the index, and turns are learned from more than once."""
    known = memory("m", "tea", session="s", topics=("food",))
    await store.write([known])
    before = await last_document(redis)
    assert await store.write([known, known]) == 0
    assert await last_document(redis) == before
    await store.write([memory("m", "tea", topics=("food",))])
    assert await last_document(redis) > before


async def last_document(redis: Redis) -> int:
    (name,) = await redis.execute_command("FT._LIST")  # type: ignore[no-untyped-call]  # redis-py's gap
    facts = await redis.execute_command("FT.INFO", name)  # type: ignore[no-untyped-call]  # redis-py's gap
    return int(facts[facts.index(b"max_doc_id") + 1])


async def test_a_user_being_rare_does_not_change_the_scores(store: LongTermStore) -> None:
    """Otherwise everything a new user has would look equally good in a large store."""
    await store.write([memory("good", "tea milk"), memory("poor", "tea cup")])
    await store.write([memory(str(at), "sugar bread", scope=BOB) for at in range(300)])
    hits = await store.search(ALICE, ["tea", "milk"], vector=None, limit=5, where=ANY)
    good, poor = hits.text.values()
    assert poor / good < 0.6


async def test_filters_restrict_both_lists(store: LongTermStore) -> None:
    """The current session's messages stand in the request already; REST callers filter by anything."""
    await store.write(
        [
            memory("a", "tea", session="s1", kind=MemoryType.MESSAGE, topics=("Food", "x,y"), at=NOON),
            memory("b", "tea", session="s2", entities=("Emma",), at=NOON + timedelta(hours=1)),
            memory("c", "tea", at=NOON + timedelta(hours=2)),
        ]
    )
    hour = timedelta(hours=1)
    expected: list[tuple[Rule, set[str]]] = [
        (any_of(TagField.SESSION, ["s1"]), {"a"}),
        (any_of(TagField.SESSION, ["s1", "s2"]), {"a", "b"}),
        (none_of(TagField.SESSION, ["s1"]), {"b", "c"}),
        (none_of(TagField.SESSION, ["s1", "s2"]), {"c"}),
        (types(MemoryType.MESSAGE), {"a"}),
        (types(MemoryType.MESSAGE, MemoryType.SEMANTIC), {"a", "b", "c"}),
        (any_of(TagField.TOPICS, ["food"]), {"a"}),
        (any_of(TagField.TOPICS, ["x,y", "z"]), {"a"}),
        (any_of(TagField.TOPICS, ["x"]), set()),
        (any_of(TagField.ENTITIES, ["EMMA"]), {"b"}),
        (TimeRule(TimeField.CREATED_AT, NOON + hour, None), {"b", "c"}),
        (TimeRule(TimeField.CREATED_AT, None, NOON), {"a"}),
    ]
    for rule, ids in expected:
        where = Filter((rule,))
        assert set(await ids_by_text(store, "tea", where=where)) == ids
        assert set(await ids_by_vector(store, NORTH, where=where)) == ids
        assert set(await ids_in_order(store, where=where)) == ids


async def test_excluded_ids_do_not_take_the_place_of_others(store: LongTermStore) -> None:
    """What was injected before is not told again, and something else is."""
    await store.write([memory(str(at), "tea") for at in range(6)])
    hits = await store.search(ALICE, ["tea"], vector=NORTH, limit=3, where=ANY, excluded_ids=["0", "1", "2"])
    expected = {schema.memory_key(ALICE, memory_id) for memory_id in "345"}
    assert set(hits.text) == set(hits.vector) == expected


async def test_candidates_are_counted_as_far_as_asked(store: LongTermStore) -> None:
    """The floor depends on how many there are."""
    await store.write([memory(str(at), "tea") for at in range(30)])
    counts = [
        (await store.search(ALICE, ["tea"], vector=near, limit=5, where=ANY, counted=counted)).candidates
        for near, counted in ((NORTH, 0), (NORTH, 20), (NORTH, 100), (None, 0))
    ]
    assert counts == [5, 20, 30, 30]
    assert (await store.search(ALICE, [], vector=None, limit=5, where=ANY)).candidates == 0


async def test_a_memory_without_known_words_is_found_by_text_only(store: LongTermStore) -> None:
    """Its vector is all zeros, which is near to nothing and must not become "not a number"."""
    await store.write([memory("m", "xyzzy", near=np.zeros(4, np.float32)), memory("n", "tea")])
    assert await ids_by_text(store, "xyzzy") == ["m"]
    assert await ids_by_vector(store, NORTH) == ["n"]


async def test_newest_come_first_and_in_pages(store: LongTermStore) -> None:
    await store.write([memory(str(at), "tea", at=NOON + timedelta(seconds=at)) for at in range(5)])
    assert await ids_in_order(store) == ["4", "3", "2", "1", "0"]
    total, keys = await store.listing("tenant", ANY, offset=1, limit=2)
    assert (total, [found.record.id for found in (await store.fetch(keys)).values()]) == (5, ["3", "2"])
    total, keys = await store.listing("tenant", ANY, offset=3, limit=5, newest_first=False)
    assert (total, [found.record.id for found in (await store.fetch(keys)).values()]) == (5, ["3", "4"])


async def test_an_access_moves_nothing_to_another_page(store: LongTermStore) -> None:
    """What is looked at on the first page must not come again on the second, though all are of the same moment."""
    await store.write([memory(str(at), "tea") for at in range(60)])
    paged: list[str] = []
    for offset in range(0, 60, 7):
        _, keys = await store.listing("tenant", ANY, offset=offset, limit=7)
        await store.touch(keys, now=NOON + timedelta(days=1))
        paged += keys
    assert len(paged) == len(set(paged)) == 60


async def test_deleting_says_how_many_there_were(store: LongTermStore) -> None:
    await store.write([memory("a", "tea"), memory("b", "tea")])
    assert await store.delete(ALICE, ["a", "unknown"]) == 1
    assert await store.delete(ALICE, []) == 0
    assert await ids_by_text(store, "tea") == ["b"]


async def test_erasing_a_user_takes_all_namespaces_and_nobody_else(store: LongTermStore, redis: Redis) -> None:
    """The right to be forgotten, with a count to show."""
    work = Scope("tenant", "alice", "work")
    await store.write([memory(str(at), "tea") for at in range(1100)])
    await store.write([memory("w", "tea", scope=work), memory("b", "tea", scope=BOB)])
    assert await store.delete_user(ALICE) == 1101
    assert await redis.keys("mp:m:*") == [schema.memory_key(BOB, "b").encode()]
    assert await store.delete_user(ALICE) == 0


async def test_nothing_to_do_asks_nothing(store: LongTermStore) -> None:
    assert await store.write([]) == 0
    assert await store.fetch([]) == {}
    assert await store.get(ALICE, []) == []


async def test_a_vector_of_another_length_is_refused(store: LongTermStore) -> None:
    """The engine would silently leave the memory out of the index."""
    with pytest.raises(StoreError, match="does not fit"):
        await store.write([memory("m", "tea", near=np.ones(3, np.float32))])


async def test_an_index_made_over_existing_memories_knows_them(redis: Redis, store: LongTermStore) -> None:
    """After a restart without index files nothing is lost."""
    await store.write([memory(str(at), "tea") for at in range(500)])
    (name,) = await redis.execute_command("FT._LIST")  # type: ignore[no-untyped-call]  # redis-py's gap
    await redis.execute_command("FT.DROPINDEX", name)  # type: ignore[no-untyped-call]  # redis-py's gap
    await store.ensure_index()
    assert await store.count("tenant", ANY) == 500


async def test_a_lost_index_is_noticed_and_made_anew(redis: Redis, store: LongTermStore) -> None:
    """Somebody runs FLUSHALL while the proxy runs; memory works again from the next request on."""
    await store.write([memory("m", "tea")])
    await redis.flushall()
    with pytest.raises(StoreError, match="made anew"):
        await ids_by_text(store, "tea")
    await store.write([memory("n", "tea")])
    assert await ids_by_text(store, "tea") == ["n"]


async def test_two_models_stand_side_by_side(redis: Redis, store: LongTermStore) -> None:
    """Another model sees the same memories by their words until its own vectors are there."""
    other = LongTermStore(redis, model="other", dims=4)
    await other.ensure_index()
    await store.write([memory("m", "tea")])
    assert await ids_by_text(other, "tea") == ["m"]
    assert await ids_by_vector(other, NORTH) == []


async def test_a_search_cut_short_leaves_no_answer_for_the_next(redis_url: str, store: LongTermStore) -> None:
    """Deadlines cancel searches all the time; another user must never read the reply that came too late."""
    await store.write([memory("m", "tea"), memory("b", "bread", scope=BOB)])
    client = open_redis(redis_url, connect_timeout_s=5.0, max_connections=1)
    single = LongTermStore(client, model="test", dims=4)
    for number in range(100):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(search_for_ever(single), number * 1e-5)
        assert await ids_by_text(single, "bread", scope=BOB) == ["b"]
    await client.aclose()


async def search_for_ever(store: LongTermStore) -> None:
    while True:
        await ids_by_text(store, "tea")


async def test_a_store_that_is_gone_is_said_to_be(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The caller goes on without memory."""
    socket = tmp_path_factory.mktemp("none") / "s.sock"
    async with open_redis(f"unix://{socket}", connect_timeout_s=1.0, max_connections=1) as client:
        store = LongTermStore(client, model="test", dims=4)
        attempts: list[Callable[[], Awaitable[object]]] = [
            lambda: require_query_engine(client),
            store.ensure_index,
            lambda: store.write([memory("m", "tea")]),
            lambda: store.search(ALICE, ["tea"], vector=NORTH, limit=1, where=ANY),
            lambda: store.get(ALICE, ["m"]),
            lambda: store.delete(ALICE, ["m"]),
        ]
        for attempt in attempts:
            with pytest.raises(StoreUnavailableError):
                await attempt()


async def test_errors_do_not_quote_what_was_asked(redis: Redis, store: LongTermStore) -> None:
    """Messages end in logs."""
    await redis.set(schema.memory_key(ALICE, "m"), "no hash")
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: store.search(ALICE, ["secret("], vector=None, limit=1, where=ANY),
        lambda: store.write([memory("m", "secret")]),
        lambda: store.get(ALICE, ["m"]),
    ]
    for attempt in attempts:
        with pytest.raises(StoreError) as caught:
            await attempt()
        assert "secret" not in str(caught.value)


async def test_a_record_from_the_future_is_said_to_be_unreadable(redis: Redis, store: LongTermStore) -> None:
    await store.write([memory("m", "tea")])
    await redis.hset(schema.memory_key(ALICE, "m"), "record", "{}")
    with pytest.raises(StoreError, match="newer memproxy"):
        await store.get(ALICE, ["m"])


async def test_a_rewrite_takes_the_place_of_what_was_read(store: LongTermStore) -> None:
    """An edited memory is found by its new words only."""
    await store.write([memory("m", "old words", session="s")])
    (known,) = (await store.fetch([schema.memory_key(ALICE, "m")])).values()
    edited = memory("m", "new words", near=EAST, topics=("tea",))
    assert await store.rewrite(edited, known=known) is True
    assert await store.get(ALICE, ["m"]) == [edited.record]
    assert await ids_by_text(store, "old") == []
    assert await ids_by_text(store, "new", where=Filter((any_of(TagField.TOPICS, ["tea"]),))) == ["m"]
    assert await ids_by_text(store, "new", where=Filter((any_of(TagField.SESSION, ["s"]),))) == []
    hits = await store.search(ALICE, [], vector=EAST, limit=1, where=ANY)
    assert list(hits.vector.values()) == pytest.approx([1.0])


async def test_a_rewrite_of_what_changed_meanwhile_is_refused(store: LongTermStore) -> None:
    """Else one of two edits would be lost, and a memory that was erased would come back."""
    await store.write([memory("m", "first", topics=("a",))])
    (known,) = (await store.fetch([schema.memory_key(ALICE, "m")])).values()
    await store.write([memory("m", "second", topics=("b",))])
    assert await store.rewrite(memory("m", "third"), known=known) is False
    assert await ids_by_text(store, "second") == ["m"]
    await store.delete(ALICE, ["m"])
    assert await store.rewrite(memory("m", "third"), known=known) is False
    assert await store.get(ALICE, ["m"]) == []


async def test_what_nobody_could_find_is_not_stored(store: LongTermStore, redis: Redis) -> None:
    """Without a query engine memories are refused with the reason, in place of filling the store unseen."""
    store.turn_off("There is no query engine.")
    before = await redis.dbsize()
    for refused in (store.write([memory("a", "tea")]), store.count(ALICE.tenant, ANY), store.delete(ALICE, ["a"])):
        with pytest.raises(StoreUnfitError, match="no query engine"):
            await refused
    assert await redis.dbsize() == before
