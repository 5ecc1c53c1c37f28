"""Searches of code: three ways of ranking and our own, pages that fit together, scores that mean something."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from typing_extensions import override

from memproxy.embedding import LocalEmbedder, Vector
from memproxy.memory.finding import Finder
from memproxy.memory.long_term import LongTermMemory
from memproxy.memory.search import Found, Match, Query, Recency, SearchMode
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.memory_documents import FoundMemory
from memproxy.storage.memory_filter import (
    Filter,
    Rule,
    TagField,
    TimeField,
    TimeRule,
    any_of,
    created_between,
    none_of,
    of_scope,
    types,
)
from memproxy.storage.schema import memory_key
from memproxy.words import Terms

ALICE = Scope("tenant", "alice")
BOB = Scope("tenant", "bob")
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
MODES = (*SearchMode, None)

FACTS = {
    "food": "Alice prefers vegetarian food and dislikes mushrooms",
    "hike": "Alice likes hiking in the mountains on weekends",
    "order": "Alice ordered a laptop, order number LX-4417",
    "learn": "Alice is learning Spanish for a trip to Peru",
}


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


def fact(memory_id: str, text: str, *, scope: Scope = ALICE, at: datetime = NOON, **given: object) -> MemoryRecord:
    return MemoryRecord(memory_id, scope, text, MemoryType.SEMANTIC, at, **given)  # type: ignore[arg-type]  # as given


def ids(found: Found | Sequence[Match]) -> list[str]:
    return [match.record.id for match in (found.memories if isinstance(found, Found) else found)]


async def all_pages(finder: Finder, query: Query) -> list[Match]:
    """Everything a query finds, page by page as a client reads it."""
    matches: list[Match] = []
    offset: int | None = 0
    while offset is not None:
        found = await finder.find("tenant", replace(query, offset=offset))
        matches += found.memories
        offset = found.next_offset
    return matches


@pytest.mark.parametrize("mode", MODES)
async def test_the_best_comes_first_in_every_mode(memory: LongTermMemory, mode: SearchMode | None) -> None:
    """Whichever way code asks."""
    await memory.remember([fact(name, text) for name, text in FACTS.items()])
    found = await memory.find("tenant", Query("vegetarian food", mode))
    assert ids(found)[0] == "food"
    assert found.mode is mode


async def test_a_semantic_score_is_the_cosine(memory: LongTermMemory, embedder: LocalEmbedder) -> None:
    """And the distance what is missing to 1; both are the memory's own, whatever else was found."""
    await memory.remember([fact(name, text) for name, text in FACTS.items()])
    asked = await embedder.embed_query("trips")
    found = await memory.find("tenant", Query("trips"))
    assert found.total == len(found.memories) == len(FACTS)
    for match in found.memories:
        (vector,) = await embedder.embed_documents([match.record.text])
        assert match.score == pytest.approx(max(float(vector @ asked), 0.0), abs=1e-5)
        assert match.distance == pytest.approx(1 - float(vector @ asked), abs=1e-5)


async def test_a_keyword_score_says_how_much_of_the_question_the_best_hit_has(memory: LongTermMemory) -> None:
    """The best of bad hits is no perfect one."""
    await memory.remember([fact("tea", "green tea leaves"), fact("pot", "tea pot")])
    whole, half = [
        (await memory.find("tenant", Query(text, SearchMode.KEYWORD))).memories
        for text in ("green tea leaves", "green zebras")
    ]
    assert ids(whole) == ["tea", "pot"]
    assert whole[0].score == pytest.approx(1.0)
    assert ids(half) == ["tea"]
    assert half[0].score is not None
    assert 0.3 < half[0].score < 0.7


async def test_only_words_count_in_keyword_mode(memory: LongTermMemory) -> None:
    """The total is the number of memories with one of the words at least."""
    await memory.remember([fact(name, text) for name, text in FACTS.items()])
    found = await memory.find("tenant", Query("laptop hiking", SearchMode.KEYWORD))
    assert (set(ids(found)), found.total) == ({"order", "hike"}, 2)
    assert (await memory.find("tenant", Query("zebra", SearchMode.KEYWORD))).total == 0
    assert (await memory.find("tenant", Query("the", SearchMode.KEYWORD))).total == 0


@pytest.mark.parametrize("mode", [SearchMode.KEYWORD, SearchMode.HYBRID])
async def test_quoted_words_stand_side_by_side(memory: LongTermMemory, mode: SearchMode) -> None:
    """Who puts words in quotes means them together."""
    await memory.remember(
        [
            fact("together", "she rode the white horse to town"),
            fact("apart", "the horse ran past the white house"),
            fact("cjk", "我喜欢北京烤鸭"),
            fact("code", "order LX-4417 arrived"),
        ]
    )
    for text, expected in (
        ('"white horses"', ["together"]),
        ('town "white horse" ran', ["together"]),
        ('"北京烤鸭"', ["cjk"]),
        ('"LX-4417"', ["code"]),
        ('"order LX-4417"', ["code"]),
        ('"horse white"', []),
        ('"white horse', ["apart", "together"]),
    ):
        found = await memory.find("tenant", Query(text, mode))
        assert sorted(ids(found)) == expected or (mode is SearchMode.HYBRID and text == '"white horse')


async def test_alpha_weighs_meaning_against_words(memory: LongTermMemory) -> None:
    """A hybrid search of one side alone orders as that side does."""
    await memory.remember([fact(name, text) for name, text in FACTS.items()])
    text = "learning to hike"
    semantic = await memory.find("tenant", Query(text))
    only_meaning = await memory.find("tenant", Query(text, SearchMode.HYBRID, alpha=1.0))
    assert [(each.record.id, each.score) for each in only_meaning.memories] == [
        (each.record.id, each.score) for each in semantic.memories
    ]
    keyword = await memory.find("tenant", Query(text, SearchMode.KEYWORD))
    only_words = await memory.find("tenant", Query(text, SearchMode.HYBRID, alpha=0.0))
    assert ids(only_words)[: keyword.total] == ids(keyword)
    half = await memory.find("tenant", Query(text, SearchMode.HYBRID, alpha=0.5))
    scores = {each.record.id: [each.score or 0.0] for each in semantic.memories}
    for each in only_words.memories:
        scores[each.record.id].append(each.score or 0.0)
    for each in half.memories:
        assert each.score == pytest.approx(sum(scores[each.record.id]) / 2, abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
async def test_every_hit_tells_its_true_distance(
    memory: LongTermMemory, embedder: LocalEmbedder, mode: SearchMode | None
) -> None:
    """Also one that only its words have found."""
    await memory.remember([fact(str(at), f"tea {at} {'cup ' * at}") for at in range(40)])
    asked = await embedder.embed_query("tea cup")
    for match in (await memory.find("tenant", Query("tea cup", mode, limit=40))).memories:
        (vector,) = await embedder.embed_documents([match.record.text])
        assert match.distance == pytest.approx(1 - float(vector @ asked), abs=1e-5)


WORDS = ("tea", "green", "cup", "horse", "laptop", "order", "hike", "the", "zebra", "LX-4417", "中文", "xyzzyq")
TEXTS = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=60),
    text=TEXTS,
    limit=st.integers(1, 25),
    alpha=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    recent=st.booleans(),
)
async def test_pages_are_slices_of_one_ranking(
    memory: LongTermMemory,
    store: LongTermStore,
    embedder: LocalEmbedder,
    texts: list[str],
    text: str,
    limit: int,
    alpha: float,
    recent: bool,
) -> None:
    """Nothing is told twice or left out, however alike memories are, and each has one score and one distance.

    What reads as little as it can tells the same as what reads everything.
    """
    await memory.forget_user(ALICE)
    at = [NOON - timedelta(days=number % 7) for number in range(len(texts))]
    await memory.remember([fact(str(n), each, at=at[n]) for n, each in enumerate(texts)])
    recency = Recency(NOON) if recent else None
    sparing, thorough = (
        Finder(store, embedder, terms=Terms(), least_depth=depth, recency_pool=10) for depth in (1, 1_000)
    )
    for mode in MODES:
        query = Query(text, mode, alpha, limit=limit, recency=recency)
        paged = await all_pages(sparing, query)
        found = await thorough.find("tenant", replace(query, limit=100))
        assert paged == found.memories
        assert len(paged) == found.total == len(set(ids(paged)))
        if not recent:
            scores = [match.score or 0.0 for match in paged]
            assert scores == sorted(scores, reverse=True)
        assert all(match.score is None or 0.0 <= match.score <= 1.0 for match in paged)


PLACES = ["horse", "mountain", "river", "city", "train", "hotel", "garden", "beach", "school", "library", "winter"]
THINGS = ["tea", "cup", "laptop", "ticket", "recipe", "guitar", "piano", "coffee", "bread", "cheese", "wine", "novel"]
WORK = ["order", "doctor", "teacher", "exam", "project", "deadline", "meeting", "budget", "salary", "holiday", "match"]
VOCABULARY = [*PLACES, *THINGS, *WORK]


async def test_reading_little_finds_the_same_as_reading_everything(
    memory: LongTermMemory, store: LongTermStore, embedder: LocalEmbedder
) -> None:
    """A memory may stand far down both lists, or in one alone, and still be the best."""
    rng = np.random.default_rng(5)

    def words(least: int, most: int) -> str:
        return " ".join(rng.choice(VOCABULARY, rng.integers(least, most)))

    await memory.remember([fact(str(at), words(2, 9)) for at in range(400)])
    sparing, thorough = (Finder(store, embedder, terms=Terms(), least_depth=depth) for depth in (1, 1_000))
    for mode, alpha in ((None, 0.0), *((SearchMode.HYBRID, alpha) for alpha in (0.1, 0.3, 0.5, 0.7, 0.9))):
        for _ in range(12):
            query = Query(words(1, 7), mode, alpha, limit=int(rng.integers(1, 6)), offset=int(rng.integers(0, 4)))
            expected = (await thorough.find("tenant", replace(query, limit=100, offset=0))).memories
            assert (await sparing.find("tenant", query)).memories == expected[query.offset : query.offset + query.limit]


async def test_late_pages_are_there_and_end(memory: LongTermMemory) -> None:
    """A client that reads everything gets everything; one that goes too far gets nothing, and no error."""
    await memory.remember([fact(str(at), f"tea cup {WORDS[at % 6]} {at % 50}") for at in range(6_000)])
    for mode in MODES:
        whole = ids(await memory.find("tenant", Query("tea horse", mode, limit=6_000)))
        assert len(set(whole)) == len(whole) == 6_000
        for offset in (0, 100, 1_900, 5_000, 5_950):
            page = await memory.find("tenant", Query("tea horse", mode, limit=100, offset=offset))
            assert (ids(page), page.total) == (whole[offset : offset + 100], 6_000)
            assert page.next_offset == (offset + 100 if offset < 5_900 else None)
        for offset in (6_000, 10**7, 10**12):
            past = await memory.find("tenant", Query("tea horse", mode, limit=100, offset=offset))
            assert (past.memories, past.total, past.next_offset) == ([], 6_000, None)
    listed = await memory.find("tenant", Query(None, limit=100, offset=10**12))
    assert (listed.memories, listed.total) == ([], 6_000)


async def test_without_a_text_everything_is_listed(memory: LongTermMemory) -> None:
    """The newest first, without a score, since nothing was asked."""
    await memory.remember([fact(str(at), "tea", at=NOON + timedelta(hours=at)) for at in range(5)])
    for text in (None, "", " \n"):
        found = await memory.find("tenant", Query(text, limit=2, offset=1, recency=Recency(NOON)))
        assert (ids(found), found.total, found.next_offset) == (["3", "2"], 5, 3)
        assert {(match.score, match.distance) for match in found.memories} == {(None, 0.0)}


@pytest.mark.parametrize("mode", MODES)
async def test_a_text_that_says_nothing_finds_nothing(store: LongTermStore, mode: SearchMode | None) -> None:
    """A text without words or known pieces is near to nothing."""

    class Blank(LocalEmbedder):
        @override
        async def embed_query(self, text: str) -> Vector:
            return np.zeros(self.dims, np.float32)

    memory = LongTermMemory(store, Blank())
    await memory.remember([fact(name, text) for name, text in FACTS.items()])
    found = await memory.find("tenant", Query("the", mode, limit=5))
    assert (found.memories, found.total, found.next_offset) == ([], 0, None)
    by_words = await memory.find("tenant", Query("laptop", mode))
    assert ids(by_words) == ([] if mode is SearchMode.SEMANTIC else ["order"])


async def test_what_cannot_be_read_fails_no_page_that_it_is_not_on(memory: LongTermMemory, redis: Redis) -> None:
    """A document of a later version, seen by whoever is not upgraded yet, must not end all searches."""
    await memory.remember([fact("best", "oolong tea"), fact("broken", "tea and many other words to drink")])
    await redis.hset(memory_key(ALICE, "broken"), "record", "{")
    query = Query("oolong tea", mode=None, limit=1, where=Filter(of_scope(ALICE)))
    assert ids(await memory.find("tenant", query)) == ["best"]


async def test_without_a_mode_what_stands_in_a_good_sitting_rises(memory: LongTermMemory) -> None:
    """As for the proxy; and pages fit together all the same."""
    said = [
        fact("trip 1", "In Bergen we took the boat to the fjord", session="trip"),
        fact("trip 2", "Bergen was wet, and the boat late", session="trip"),
        fact("trip 3", "The boat had the best waffles", session="trip"),
        fact("fair", "The boat fair has the best stands", session="fair"),
    ]
    await memory.remember(said)
    query = Query("How was the boat in Bergen?", None, where=Filter(of_scope(ALICE)))
    whole = (await memory.find("tenant", query)).memories
    assert ids(whole)[2:] == ["trip 3", "fair"]
    assert ids(whole) == [one.record.id for one in await memory.search(ALICE, query.text or "", limit=4)]
    pages = [(await memory.find("tenant", replace(query, limit=1, offset=at))).memories[0] for at in range(4)]
    assert [(one.record.id, one.score) for one in pages] == [(one.record.id, one.score) for one in whole]


@pytest.mark.parametrize("mode", MODES)
async def test_a_search_stays_within_its_filter_and_tenant(memory: LongTermMemory, mode: SearchMode | None) -> None:
    """The one thing that must never fail; without a user it sees the whole tenant, and no other."""
    await memory.remember(
        [
            fact("alice", "tea"),
            fact("bob", "tea", scope=BOB),
            fact("nobody", "tea", scope=Scope("tenant", None)),
            fact("work", "tea", scope=Scope("tenant", "alice", "work")),
            fact("other", "tea", scope=Scope("other", "alice")),
        ]
    )
    assert set(ids(await memory.find("tenant", Query("tea", mode)))) == {"alice", "bob", "nobody", "work"}
    for scope, expected in ((ALICE, "alice"), (BOB, "bob"), (Scope("tenant", None), "nobody")):
        found = await memory.find("tenant", Query("tea", mode, where=Filter(of_scope(scope))))
        assert (ids(found), found.total) == ([expected], 1)
    assert (await memory.find("nobody", Query("tea", mode))).total == 0


async def test_a_threshold_bounds_a_semantic_search(memory: LongTermMemory) -> None:
    """And the total, however many there are."""
    near = [fact(f"near {at}", "green tea leaves", at=NOON - timedelta(days=at)) for at in range(150)]
    await memory.remember([*near, *(fact(name, text) for name, text in FACTS.items())])
    found = await memory.find("tenant", Query("green tea", distance_threshold=0.5, limit=100))
    assert (found.total, found.next_offset, len(found.memories)) == (150, 100, 100)
    rest = await memory.find("tenant", Query("green tea", distance_threshold=0.5, limit=100, offset=100))
    assert len({*ids(found), *ids(rest)}) == 150
    assert (await memory.find("tenant", Query("green tea", distance_threshold=0.0))).memories == []
    assert (await memory.find("tenant", Query("green tea", distance_threshold=2.0))).total == 154


TOPIC, ENTITY = any_of(TagField.TOPICS, ["none of these"]), any_of(TagField.ENTITIES, ["nobody"])
EVENT = TimeRule(TimeField.EVENT_DATE, NOON, None)
OTHER_TYPE = types(MemoryType.EPISODIC)


@pytest.mark.parametrize("mode", [SearchMode.SEMANTIC, None])
async def test_where_nothing_fits_descriptions_are_relaxed(memory: LongTermMemory, mode: SearchMode | None) -> None:
    """A model guesses topics; a memory that fits but for that is better than none. What was left out is told."""
    await memory.remember([fact("tea", "green tea"), fact("bob", "green tea", scope=BOB)])
    where = Filter((TOPIC, ENTITY, EVENT, OTHER_TYPE)).and_(*of_scope(ALICE))
    found = await memory.find("tenant", Query("tea", mode, where=where, relaxes=True))
    assert (ids(found), found.total) == (["tea"], 1)
    assert found.relaxed == ("topics", "entities", "event_date", "type")
    assert (await memory.find("tenant", Query("tea", mode, where=where))).relaxed == ()


async def test_what_fits_is_not_relaxed(memory: LongTermMemory) -> None:
    await memory.remember([fact("tea", "green tea", topics=("drinks",)), fact("pot", "tea pot")])
    where = Filter((any_of(TagField.TOPICS, ["drinks"]),))
    found = await memory.find("tenant", Query("tea", where=where, relaxes=True))
    assert (ids(found), found.relaxed) == (["tea"], ())


@pytest.mark.parametrize(
    "rule",
    [
        any_of(TagField.USER, ["carol"]),
        any_of(TagField.NAMESPACE, ["work"]),
        any_of(TagField.SESSION, ["s"]),
        any_of(TagField.STRATEGY, ["summary"]),
        created_between(NOON + timedelta(days=1), None),
        TimeRule(TimeField.LAST_ACCESSED, NOON + timedelta(days=1), None),
        none_of(TagField.TOPICS, ["private"]),
        TimeRule(TimeField.EVENT_DATE, NOON, NOON, excluded=True),
    ],
)
async def test_whose_it_is_and_what_is_ruled_out_is_never_relaxed(memory: LongTermMemory, rule: Rule) -> None:
    """An empty namespace has no memories, whatever another has."""
    await memory.remember([fact("tea", "green tea", topics=("private",), event_date=NOON)])
    found = await memory.find("tenant", Query("tea", where=Filter((TOPIC, rule)), relaxes=True))
    assert (found.memories, found.total) == ([], 0)


async def test_only_searches_by_meaning_are_relaxed(memory: LongTermMemory) -> None:
    """Who asks for words wants these words."""
    await memory.remember([fact("tea", "green tea")])
    for mode in (SearchMode.KEYWORD, SearchMode.HYBRID):
        assert (await memory.find("tenant", Query("tea", mode, where=Filter((TOPIC,)), relaxes=True))).total == 0


async def test_recent_memories_come_first_among_equals(memory: LongTermMemory) -> None:
    """And one that was looked at before one that was not; the score stays what it was."""
    texts = {"old": 400, "older": 401, "new": 1}
    records = [fact(name, "green tea", at=NOON - timedelta(days=age)) for name, age in texts.items()]
    await memory.remember([*records, fact("far", "the tea was green with envy", at=NOON)])
    found = await memory.find("tenant", Query("green tea", recency=Recency(NOON)))
    assert ids(found)[0] == "new"
    await memory.touch([records[1]], now=NOON)
    touched = await memory.find("tenant", Query("green tea", recency=Recency(NOON, freshness_weight=1.0)))
    assert ids(touched)[:2] == ["older", "new"]
    assert {match.record.id: match.score for match in touched.memories} == pytest.approx(
        {match.record.id: match.score for match in found.memories}
    )
    without = await memory.find("tenant", Query("green tea", recency=Recency(NOON, recency_weight=0.0)))
    assert ids(without) == ids(await memory.find("tenant", Query("green tea")))


async def test_superseded_memories_are_found_when_asked_for(memory: LongTermMemory) -> None:
    """What was true once is history, not knowledge."""
    await memory.remember([fact("old", "Alice lives in Porto")])
    await memory.supersede([fact("new", "Alice lives in Lisbon")], {"new": ["old"]})
    assert ids(await memory.find("tenant", Query("Where does Alice live?"))) == ["new"]
    with_past = await memory.find("tenant", Query("Where does Alice live?", where=Filter(superseded=True)))
    assert set(ids(with_past)) == {"new", "old"}


async def test_a_memory_deleted_meanwhile_is_left_out(redis: Redis, embedder: LocalEmbedder) -> None:
    """Between ranking and reading."""

    class Forgetful(LongTermStore):
        @override
        async def fetch(
            self, keys: Sequence[str], *, with_vectors: bool = False, only_readable: bool = False
        ) -> dict[str, FoundMemory]:
            await self.delete(ALICE, ["gone"])
            return await super().fetch(keys, with_vectors=with_vectors, only_readable=only_readable)

    store = Forgetful(redis, model=embedder.name, dims=embedder.dims)
    await store.ensure_index()
    memory = LongTermMemory(store, embedder)
    for mode in MODES:
        await memory.remember([fact("gone", "green tea"), fact("there", "black tea")])
        assert ids(await memory.find("tenant", Query("green tea", mode))) == ["there"]
