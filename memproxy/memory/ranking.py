"""Blend the two ranked lists of a search into one, and tell what is about the question from what merely came first.

Blending is linear: 0.8 of BM25 relative to the best hit, 0.2 of the cosine relative to the list's span. Such a score
says which memory is best, not whether it is any good: of three memories one is always best. So there is a floor, which
judges each memory by itself:

    relevance = share of the question's informative words that the memory or its context has + cosine

A memory needs at least `Floor.threshold(n)` of it, which grows with the logarithm of the number of memories that were
candidates, since among many some resemble anything.

Code that pages through what it found needs a score that is the same on every page, and that says how good a memory is:
`blend` takes the cosine as it is, and BM25 relative to the best hit times the share of the question that this best hit
covers. With the same weights that finds as much: recall@10 is 0.777 either way. Pure arithmetic.
"""

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from memproxy.memory.search import Recency
from memproxy.records import MemoryType, ScoredMemory

TEXT_SHARE = 0.8
"""Measured: 0.7 to 0.9 are equally good; reciprocal rank fusion of the same lists loses 12 points of recall@10."""

LIST_LIMIT = 50
"""How much of each list takes part."""

FULL_QUESTION = 6
"""So many average words of a question are enough to cover it: a long message is about more than any memory is."""

LEAST_QUESTION = 1.0
"""The weight of one ordinary word. A question of less, such as "want more", is not covered by the word it has."""

DAY_S = 86_400.0

TIE = 0.01
"""Scores that round to the same multiple of this are a tie."""


@dataclass(frozen=True, slots=True)
class Fused:
    """One candidate's scores, as `ScoredMemory` defines them."""

    key: str
    score: float
    text_score: float
    vector_score: float


@dataclass(frozen=True, slots=True)
class Floor:
    """How relevant a memory must be to be told. Chosen on five conversations and 63 messages (`bench/retrieval.py`)."""

    few: float = 0.2
    """For `few_memories` or less. At 0.15 coincidences get in, at 0.25 nearly half of the relevant ones stay out."""
    few_memories: int = 8
    few_messages: float = 0.4
    """The least for a raw message of a conversation: it talks about more than it says, and resembles more by chance.
    At 0.4, 98 % of what answers a question among ten messages is told, at 0.23 twice as much that does not."""
    slope: float = 0.15
    """Added each time the number of memories grows by e: what the best of so many unrelated ones reaches by chance."""
    most: float = 0.75
    """Never more; costs 1 point of recall@10 among 600 memories."""

    @property
    def counted(self) -> int:
        """More memories than this need not be counted: the threshold grows no further."""
        return math.ceil(self.few_memories * math.exp((self.most - self.few) / self.slope))

    def threshold(self, candidates: int, kind: MemoryType) -> float:
        """The least relevance, given how many memories the user has."""
        least = self.few_messages if kind is MemoryType.MESSAGE else self.few
        return max(least, min(self.few + self.slope * math.log(max(candidates / self.few_memories, 1.0)), self.most))


def fuse(
    text: Mapping[str, float], vector: Mapping[str, float], *, limit: int, text_share: float = TEXT_SHARE
) -> list[Fused]:
    """The best `limit` candidates of both lists, best first.

    `text`: key to BM25 score, `vector`: key to cosine similarity. A candidate that only one list has gets nothing from
    the other; its similarity counts as the list's lowest, which it can't exceed.
    """
    best_text = max(text.values(), default=0.0)
    lowest = min(vector.values(), default=0.0)
    spread = max(vector.values(), default=0.0) - lowest
    of_best = {key: score / best_text for key, score in text.items()} if best_text > 0 else {}
    nearness = {key: (cosine - lowest) / spread if spread > 0 else 1.0 for key, cosine in vector.items()}
    scores = [
        (text_share * of_best.get(key, 0.0) + (1 - text_share) * nearness.get(key, 0.0), key)
        for key in {**text, **vector}
    ]
    scores.sort(key=lambda scored: scored[0], reverse=True)
    return [Fused(key, score, of_best.get(key, 0.0), vector.get(key, lowest)) for score, key in scores[:limit]]


@dataclass(frozen=True, slots=True)
class Blended:
    """One candidate's scores, the same on every page."""

    key: str
    score: float
    """0..1."""
    cosine: float

    @property
    def rank(self) -> tuple[float, float]:
        """What decides the order: of those that mean nothing like the question, the nearer still come first."""
        return self.score, self.cosine


def blend(
    text: Mapping[str, float], vector: Mapping[str, float], *, alpha: float, best_text: float, covered: float
) -> list[Blended]:
    """All candidates, best first, ties in the order of keys.

    `text`: key to BM25 score, of which `best_text` is the best and has the share `covered` of the question. `vector`:
    key to cosine. `alpha`: what the cosine counts against the words.
    """
    words = (1 - alpha) * covered
    of_best = {key: score / best_text for key, score in text.items()} if best_text > 0 else {}
    blended = [
        Blended(key, alpha * max(vector.get(key, 0.0), 0.0) + words * of_best.get(key, 0.0), vector.get(key, 0.0))
        for key in {**text, **vector}
    ]
    blended.sort(key=lambda each: (-each.score, -each.cosine, each.key))
    return blended


def with_recency(score: float, *, created_at: float, accessed_at: float, recency: Recency) -> float:
    """The score with what it counts that a memory is new or was looked at; times in seconds since 1970."""
    now = recency.now.timestamp()
    fresh = _halved(now - accessed_at, recency.half_life_access_days)
    novel = _halved(now - created_at, recency.half_life_created_days)
    recent = min(max(recency.freshness_weight * fresh + recency.novelty_weight * novel, 0.0), 1.0)
    return recency.semantic_weight * score + recency.recency_weight * recent


def _halved(seconds: float, half_life_days: float) -> float:
    """What is left of 1 after so long."""
    return float(2.0 ** -(max(seconds, 0.0) / (half_life_days * DAY_S)))


def coverage(weights: Mapping[str, float], terms: AbstractSet[str]) -> float:
    """The share of a question, 0..1, that stands in `terms`.

    `weights`: the question's terms and how much each says, about 1 for an ordinary word.
    """
    if not weights:
        return 0.0
    full = max(sum(weights.values()) * min(1.0, FULL_QUESTION / len(weights)), LEAST_QUESTION)
    return min(sum(weight for term, weight in weights.items() if term in terms) / full, 1.0)


def relevance(covered: float, cosine: float, *, unrelated: float) -> float:
    """What the floor judges; `unrelated` is the cosine that texts with nothing in common have in this model."""
    return covered + max((cosine - unrelated) / (1 - unrelated), 0.0)


def newer_first(memories: Iterable[ScoredMemory]) -> list[ScoredMemory]:
    """Best first, and among ties the newer first. Recency counts no more than that: measured, it gains nothing."""
    return sorted(memories, key=lambda memory: (-round(memory.score / TIE), -memory.record.created_at.timestamp()))
