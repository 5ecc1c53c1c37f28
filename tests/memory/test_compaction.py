"""Which memories say the same, and what becomes of them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from memproxy.embedding import LocalEmbedder
from memproxy.memory.compaction import DUPLICATE_COSINE, Merge, merges, says_the_same
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.memory_documents import FoundMemory

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
ALICE = Scope("tenant", "alice")


@pytest.fixture(scope="module")
def embedder() -> LocalEmbedder:
    return LocalEmbedder()


def fact(memory_id: str, text: str = "Alice likes tea", *, day: int = 0, **given: object) -> MemoryRecord:
    kind = given.pop("type", MemoryType.SEMANTIC)
    at = NOON + timedelta(days=day)
    return MemoryRecord(memory_id, ALICE, text, kind, at, **given)  # type: ignore[arg-type]  # as given


async def merged(embedder: LocalEmbedder, records: Sequence[MemoryRecord]) -> list[Merge]:
    vectors = await embedder.embed_documents([record.text for record in records])
    return merges([FoundMemory(record, b"", b"", vector) for record, vector in zip(records, vectors, strict=True)])


async def dropped(embedder: LocalEmbedder, *records: MemoryRecord) -> dict[str, set[str]]:
    """What is kept, and what goes for it."""
    return {
        merge.kept.record.id: {memory.record.id for memory in merge.dropped}
        for merge in await merged(embedder, records)
    }


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (
            "User is learning Spanish for a trip to Peru",
            "The user is learning Spanish for an upcoming trip to Peru",
            True,
        ),
        ("Alice's brother Tom works at Google", "Tom, Alice's brother, works at Google", True),
        ("User's flight to Lisbon is at 5 pm", "User's flight to Lisbon is at 6 pm", False),
        ("Order LX-4417 was delivered", "Order LX-4418 was delivered", False),
        ("User ordered a laptop on 2025-03-01", "User ordered a laptop on 2025-03-02", False),
        ("User likes the green tea from the shop", "User doesn\u2019t like the green tea from the shop", False),
        ("User likes tea", "User likes green tea", False),
        ("User lives in Lisbon", "User lives in Porto", False),
    ],
)
async def test_statements_are_the_same_in_words_numbers_and_denials(
    embedder: LocalEmbedder, one: str, other: str, is_same: bool
) -> None:
    """Vectors alone take 5 pm for 6 pm."""
    first, second = await embedder.embed_documents([one, other])
    cosine = float(first @ second)
    assert says_the_same(fact("a", one), fact("b", other), cosine=cosine) is is_same
    assert bool(await dropped(embedder, fact("a", one), fact("b", other, day=1))) is is_same


def test_other_events_and_kinds_are_not_the_same() -> None:
    """Who went to the dentist twice went twice."""
    event = fact("a", type=MemoryType.EPISODIC, event_date=NOON)
    assert says_the_same(event, event, cosine=1.0)
    assert not says_the_same(event, fact("b", type=MemoryType.EPISODIC), cosine=1.0)
    assert not says_the_same(fact("a"), fact("b", type=MemoryType.EPISODIC), cosine=1.0)
    assert not says_the_same(fact("a", type=MemoryType.MESSAGE), fact("b", type=MemoryType.MESSAGE), cosine=1.0)
    assert not says_the_same(fact("a"), fact("b"), cosine=DUPLICATE_COSINE - 0.001)


async def test_the_newest_text_wins_and_gets_what_all_had(embedder: LocalEmbedder) -> None:
    """Nothing that was known about a statement is lost with its older wording."""
    old, mid, new = (
        "Alice's brother Tom works at Google",
        "Tom, Alice's brother, works at Google",
        "Alice's brother Tom works at Google.",
    )
    records = [
        fact("new", new, day=2, topics=("work", "family"), turns=("t3",), access_count=1),
        fact("old", old, topics=("family",), entities=("Tom",), turns=("t1",), access_count=2, last_accessed=NOON),
        fact("mid", mid, day=1, entities=("Google",), extracted_from=("m2",), supersedes=("x",)),
    ]
    (merge,) = await merged(embedder, records)
    assert merge.merged == fact(
        "new",
        new,
        topics=("family", "work"),
        entities=("Tom", "Google"),
        turns=("t1", "t3"),
        extracted_from=("m2",),
        supersedes=("x",),
        access_count=3,
        last_accessed=NOON,
    )
    assert {memory.record.id for memory in merge.dropped} == {"old", "mid"}


async def test_what_was_created_is_kept_as_it_was_given(embedder: LocalEmbedder) -> None:
    """An explicit memory is neither changed nor dropped; what was learned and says exactly the same goes."""
    given = [fact("one", is_explicit=True), fact("two", day=1, is_explicit=True)]
    assert await dropped(embedder, *given) == {}
    (merge,) = await merged(embedder, [*given, fact("learned", day=2, topics=("tea",))])
    assert merge.merged == merge.kept.record == given[0]
    assert [memory.record.id for memory in merge.dropped] == ["learned"]
    similar = fact("similar", "Alice likes the tea", is_explicit=True)
    assert await dropped(embedder, similar, fact("learned")) == {}


async def test_messages_are_the_same_only_word_for_word(embedder: LocalEmbedder) -> None:
    """And in the same session: what was said was said."""
    said = [fact(str(at), type=MemoryType.MESSAGE, session="s") for at in range(2)]
    assert await dropped(embedder, *said) == {"1": {"0"}}
    elsewhere = fact("2", type=MemoryType.MESSAGE, session="t")
    assert await dropped(embedder, said[0], elsewhere) == {}


async def test_what_is_past_pinned_or_without_a_vector_is_left_alone(embedder: LocalEmbedder) -> None:
    past = fact("past", valid_until=NOON, session="s")
    pinned = fact("pinned", pinned=True, session="t")
    assert await dropped(embedder, fact("now"), past, pinned) == {}
    unknown = [FoundMemory(fact(str(at), session=str(at)), b"", b"", None) for at in range(2)]
    assert merges(unknown) == []
    assert merges([]) == []


async def test_a_pin_outlives_an_exact_merge(embedder: LocalEmbedder) -> None:
    (merge,) = await merged(embedder, [fact("a", pinned=True), fact("b", day=1)])
    assert (merge.merged.id, merge.merged.pinned) == ("b", True)


async def test_no_memory_is_merged_twice(embedder: LocalEmbedder) -> None:
    """However many there are: what goes is gone once, and each group has one survivor."""
    rng = np.random.default_rng(1)
    texts = [f"{name} likes {thing}" for name in ("Ann", "Bob", "Cleo") for thing in ("tea", "jazz", "chess", "Rome")]
    records = [
        fact(str(at), str(rng.choice(texts)), day=at % 9, session=str(at), is_explicit=bool(at % 7 == 0))
        for at in range(700)
    ]
    found = await merged(embedder, records)
    touched = [memory.record.id for merge in found for memory in (merge.kept, *merge.dropped)]
    assert len(touched) == len(set(touched))
    left = {record.id for record in records} - {memory.record.id for merge in found for memory in merge.dropped}
    assert sum(not record.is_explicit for record in records if record.id in left) == len(texts)
