"""Blending, the floor and the tie-break."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.memory.ranking import (
    NAME_WEIGHT,
    Floor,
    Fused,
    blend,
    by_sitting,
    coverage,
    fuse,
    newer_first,
    question_weights,
    relevance,
    with_recency,
)
from memproxy.memory.search import Recency
from memproxy.records import MemoryRecord, MemoryType, Scope, ScoredMemory

NOW = datetime(2025, 6, 1, tzinfo=UTC)
LISTS = st.dictionaries(st.text(max_size=2), st.floats(0, 100), max_size=50)
COSINES = st.dictionaries(st.text(max_size=2), st.floats(-1, 1), max_size=50)


def scored(memory_id: str, score: float, *, age: timedelta) -> ScoredMemory:
    record = MemoryRecord(memory_id, Scope("t", "alice"), "text", MemoryType.SEMANTIC, NOW - age)
    return ScoredMemory(record, score, 0.0, 0.0)


def numbers(candidate: Fused) -> tuple[float, float, float]:
    return candidate.score, candidate.text_score, candidate.vector_score


def test_blend_is_eight_parts_text_and_two_parts_vector() -> None:
    """The shares were measured."""
    best, second, third = fuse({"a": 10.0, "b": 5.0}, {"b": 0.6, "c": 0.4, "a": 0.2}, limit=3)
    assert [candidate.key for candidate in (best, second, third)] == ["a", "b", "c"]
    assert numbers(best) == pytest.approx((0.8, 1.0, 0.2))
    assert numbers(second) == pytest.approx((0.4 + 0.2, 0.5, 0.6))
    assert numbers(third) == pytest.approx((0.1, 0.0, 0.4))


def test_what_only_words_found_is_kept() -> None:
    """An order number is nowhere near anything, and exactly what was asked for."""
    (only,) = fuse({"a": 3.0}, {}, limit=10)
    assert numbers(only) == pytest.approx((0.8, 1.0, 0.0))


def test_what_only_meaning_found_is_kept() -> None:
    (only,) = fuse({}, {"a": 0.3}, limit=10)
    assert numbers(only) == pytest.approx((0.2, 0.0, 0.3))


def test_a_hit_that_is_not_among_the_nearest_counts_as_the_farthest_of_them() -> None:
    assert fuse({"a": 1.0}, {"b": 0.5, "c": 0.2}, limit=1)[0].vector_score == 0.2


def test_nothing_found_is_nothing() -> None:
    assert fuse({}, {}, limit=10) == []


@given(LISTS, COSINES, st.integers(0, 20), st.floats(0, 1))
def test_scores_stay_between_0_and_1_and_fall(
    text: dict[str, float], vector: dict[str, float], limit: int, share: float
) -> None:
    """Receipts and clients read them as shares."""
    fused = fuse(text, vector, limit=limit, text_share=share)
    scores = [candidate.score for candidate in fused]
    assert scores == sorted(scores, reverse=True)
    assert len(fused) == min(limit, len({**text, **vector}))
    assert all(-1e-9 <= score <= 1 + 1e-9 for score in scores)
    assert all(0 <= candidate.text_score <= 1 + 1e-9 for candidate in fused)


def found(key: str, score: float) -> Fused:
    return Fused(key, score, score, 0.0)


def test_what_was_said_in_a_sitting_of_several_hits_rises() -> None:
    """People stay with a subject: what stands beside two good hits is likelier meant than what stands alone."""
    fused = [found("a", 1.0), found("b", 0.5), found("c", 0.48), found("d", 0.4)]
    risen = by_sitting(fused, {"a": "monday", "b": "friday", "c": "monday", "d": None}, limit=4)
    assert [candidate.key for candidate in risen] == ["a", "c", "b", "d"]
    assert risen[-1] == fused[-1]
    assert risen[0].score == pytest.approx(1.0)


def test_without_sittings_nothing_moves() -> None:
    """Facts that code stored may belong to none."""
    fused = [found("a", 0.9), found("b", 0.5)]
    assert by_sitting(fused, {"a": None}, limit=5) == fused
    assert by_sitting(fused, {}, limit=1) == fused[:1]
    assert by_sitting([], {}, limit=5) == []


@given(LISTS, st.dictionaries(st.text(max_size=2), st.sampled_from(["x", "y", None])))
def test_risen_scores_stay_between_0_and_1_and_fall(text: dict[str, float], sittings: dict[str, str | None]) -> None:
    """Nothing is lost or lowered on the way."""
    fused = fuse(text, {}, limit=50)
    risen = by_sitting(fused, sittings, limit=50)
    before = {candidate.key: candidate.score for candidate in fused}
    assert {candidate.key for candidate in risen} == before.keys()
    assert all(before[each.key] - 1e-9 <= each.score <= 1 + 1e-9 for each in risen)
    assert [each.score for each in risen] == sorted((each.score for each in risen), reverse=True)


def test_a_name_counts_twice() -> None:
    """Who asks what Melanie painted is not answered by somebody else's paintings."""
    weights = question_weights(["melani", "paint"], {"melani"}, lambda _: 1.0)
    assert weights == {"melani": NAME_WEIGHT, "paint": 1.0}
    assert coverage(weights, {"paint"}) == pytest.approx(1 / 3)


def test_coverage_is_the_weighted_share_of_the_question() -> None:
    """ "want" says less than "penicillin"."""
    weights = {"want": 0.4, "penicillin": 1.6}
    assert coverage(weights, {"penicillin", "allergic"}) == pytest.approx(0.8)
    assert coverage(weights, {"want"}) == pytest.approx(0.2)
    assert coverage(weights, set()) == 0.0
    assert coverage({}, {"x"}) == 0.0


def test_a_long_message_needs_no_more_than_six_words_in_common() -> None:
    """No single memory covers a whole paragraph."""
    weights = {f"w{number}": 1.0 for number in range(60)}
    assert coverage(weights, {f"w{number}" for number in range(6)}) == pytest.approx(1.0)
    assert coverage(weights, set(weights)) == 1.0


def test_a_single_vague_word_is_no_question() -> None:
    """ "Go on" must not bring up every memory that has "on" or "go"."""
    assert coverage({"want": 0.4}, {"want"}) == pytest.approx(0.4)


def test_relevance_counts_similarity_above_what_unrelated_texts_have() -> None:
    """Models differ: for some, 0.7 is nothing."""
    assert relevance(0.5, 0.7, unrelated=0.7) == pytest.approx(0.5)
    assert relevance(0.0, 0.85, unrelated=0.7) == pytest.approx(0.5)
    assert relevance(0.3, -0.5, unrelated=0.0) == pytest.approx(0.3)


def test_the_floor_rises_with_the_number_of_memories() -> None:
    """Among many memories, some resemble any question."""
    floor = Floor()
    thresholds = [floor.threshold(count, MemoryType.SEMANTIC) for count in (0, 1, 8, 30, 100, floor.counted, 10_000)]
    assert thresholds == sorted(thresholds)
    assert thresholds[:3] == [floor.few] * 3
    assert thresholds[-2:] == [pytest.approx(floor.most)] * 2


def test_a_raw_message_needs_more_than_an_extracted_fact() -> None:
    floor = Floor()
    assert floor.threshold(3, MemoryType.MESSAGE) == floor.few_messages > floor.threshold(3, MemoryType.EPISODIC)
    assert floor.threshold(9_999, MemoryType.MESSAGE) == floor.most


def judged(*relevances: float) -> dict[str, tuple[float, MemoryType]]:
    return {str(number): (has, MemoryType.MESSAGE) for number, has in enumerate(relevances)}


def test_nothing_passes_where_the_best_does_not() -> None:
    """The best of what is all beside the point is beside the point."""
    floor = Floor()
    assert floor.passed(judged(0.79, 0.7, 0.5), candidates=600) == []
    assert floor.passed({}, candidates=600) == []


def test_a_sure_hit_lets_weaker_ones_pass_behind_it() -> None:
    """The question is about what is known; an answer may share few words with it."""
    floor = Floor()
    assert floor.passed(judged(0.8, 0.7, 0.5, 0.3), candidates=600) == ["0"]
    assert floor.passed(judged(0.5, 0.9, 0.65, 0.3), candidates=600) == ["1", "2"]
    assert floor.passed(judged(1.2, 0.7, 0.45, 0.39), candidates=600) == ["0", "1", "2"]


def test_a_sure_fact_helps_messages_and_the_other_way_round() -> None:
    """They are about the same life; yet a message still needs what a message needs."""
    floor = Floor()
    mixed = {"fact": (0.9, MemoryType.SEMANTIC), "near": (0.45, MemoryType.MESSAGE), "far": (0.3, MemoryType.MESSAGE)}
    assert floor.passed(mixed, candidates=3) == ["fact", "near"]


@given(st.lists(st.floats(0, 2), max_size=20), st.integers(0, 10_000), st.sampled_from(MemoryType))
def test_who_passes_is_as_good_as_the_worst_that_does(
    relevances: list[float], candidates: int, kind: MemoryType
) -> None:
    """Two steps, but no memory is told before a better one of its kind."""
    given_ = {str(number): (has, kind) for number, has in enumerate(relevances)}
    passed = Floor().passed(given_, candidates=candidates)
    worst = min((given_[key][0] for key in passed), default=3.0)
    assert all(has < worst for key, (has, _) in given_.items() if key not in passed)


def test_the_newer_of_two_equally_good_goes_first() -> None:
    """A moved user's newer address is the right one."""
    old = scored("old", 0.702, age=timedelta(days=300))
    new = scored("new", 0.699, age=timedelta(days=1))
    best = scored("best", 0.9, age=timedelta(days=900))
    assert newer_first([old, new, best]) == [best, new, old]


@given(text=LISTS, vector=COSINES, alpha=st.floats(0, 1), covered=st.floats(0.01, 1))
def test_a_blended_score_depends_on_nothing_else_that_was_found(
    text: dict[str, float], vector: dict[str, float], alpha: float, covered: float
) -> None:
    """So it is the same on every page."""
    best = max(text.values(), default=0.0)
    blended = blend(text, vector, alpha=alpha, best_text=best, covered=covered)
    assert {each.key for each in blended} == {*text, *vector}
    assert [each.rank for each in blended] == sorted((each.rank for each in blended), reverse=True)
    for each in blended:
        alone = blend(
            {key: score for key, score in text.items() if key == each.key},
            {key: cosine for key, cosine in vector.items() if key == each.key},
            alpha=alpha,
            best_text=best,
            covered=covered,
        )
        assert alone == [each]
        assert 0.0 <= each.score <= 1.0 + 1e-9


def test_a_blended_score_is_made_of_meaning_and_words() -> None:
    """Words count relative to the best hit, and no more than that hit covers of the question."""
    first, second = blend({"a": 4.0, "b": 2.0}, {"a": 0.5, "b": -0.2}, alpha=0.25, best_text=4.0, covered=0.5)
    assert [first.key, second.key] == ["a", "b"]
    assert [first.score, second.score] == pytest.approx([0.25 * 0.5 + 0.75 * 0.5, 0.75 * 0.25])
    assert [first.cosine, second.cosine] == [0.5, -0.2]


def test_recency_follows_its_formula() -> None:
    """Half is left of an access after a week, and of a creation after a month; nothing is newer than now."""
    now, day = NOW.timestamp(), 86_400.0

    def score(accessed_days: float, created_days: float, base: float = 0.5) -> float:
        times = {"accessed_at": now - accessed_days * day, "created_at": now - created_days * day}
        return with_recency(base, **times, recency=Recency(NOW))

    assert score(0, 0) == pytest.approx(0.8 * 0.5 + 0.2)
    assert score(7, 30) == pytest.approx(0.8 * 0.5 + 0.2 * 0.5)
    assert score(14, 0) == pytest.approx(0.8 * 0.5 + 0.2 * (0.6 * 0.25 + 0.4))
    assert score(-5, -5) == score(0, 0)
    assert score(10_000, 100_000, base=0.0) == pytest.approx(0.0)
    assert score(0, 10**7) == pytest.approx(0.8 * 0.5 + 0.2 * 0.6)
