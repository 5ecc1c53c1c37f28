"""Blend the two ranked lists of a search into one, and tell what is about the question from what merely came first.

Blending is linear: 0.8 of BM25 relative to the best hit, 0.2 of the cosine relative to the list's span. What was said
in a sitting that has several good hits is moved up, since people stay with a subject (`by_sitting`).

Such a score says which memory is best, not whether it is any good: of three memories one is always best. So there is a
floor, which goes by what each memory has by itself:

    relevance = share of the question's informative words that the memory or its context has + cosine

Where a question names somebody or something, that name counts twice: whoever asks about Melanie is not answered by what
knows no Melanie. The floor judges in two steps. The best memory decides whether the question is about anything that is
known: it needs `Floor.threshold(n)`, which grows with the logarithm of the number of memories that were candidates,
since among many some resemble anything. The surer that is, the less is asked of what comes behind it, since an answer
may share few words with its question. Together that keeps 99.7 % of the recall@10; asking the threshold of each memory
by itself kept 98.7 %, and let through twice as many questions about other people's conversations.

Code that pages through what it found needs a score that is the same on every page, and that says how good a memory is:
`blend` takes the cosine as it is, and BM25 relative to the best hit times the share of the question that this best hit
covers. With the same weights that finds as much. Pure arithmetic.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from memproxy.memory.search import Recency
from memproxy.records import MemoryType, ScoredMemory

TEXT_SHARE = 0.8
"""Measured: 0.7 to 0.9 are equally good; reciprocal rank fusion of the same lists loses 12 points of recall@10."""

LIST_LIMIT = 50
"""How much of each list takes part."""

SITTING_HITS = 10
"""So many of the best hits tell which sittings a question is about."""

SITTING_SHARE = 0.25
"""Of what a memory lacks to a perfect score, given to it for standing in the best sitting. Measured: recall@10 rises by
1.2 points, recall@20 by 1.3; 0.15 to 0.3 are equally good."""

POOL = 2
"""Candidates looked at, for each that is asked for: a good sitting may bring up the others."""

FULL_QUESTION = 6
"""So many average words of a question are enough to cover it: a long message is about more than any memory is."""

NAME_WEIGHT = 2.0
"""How often a name counts in a question. Measured: where 1 % of one's own questions find nothing, 96 % of those about
other people's conversations do; where names count once, 89 %."""

LEAST_QUESTION = 1.0
"""The weight of one ordinary word. A question of less, such as "want more", is not covered by the word it has."""

DAY_S = 86_400.0

TIE = 0.01
"""Scores that round to the same multiple of this are a tie."""


class Fused(NamedTuple):
    """One candidate's scores, as `ScoredMemory` defines them."""

    key: str
    score: float
    text_score: float
    vector_score: float


@dataclass(frozen=True, slots=True)
class Floor:
    """How relevant memories must be to be told. Chosen on three conversations and 63 messages, tried on two others
    (`bench/retrieval.py`)."""

    few: float = 0.2
    """For `few_memories` or less. At 0.15 coincidences get in, at 0.25 nearly half of the relevant ones stay out."""
    few_memories: int = 8
    few_messages: float = 0.4
    """The least for a raw message of a conversation: it talks about more than it says, and resembles more by chance.
    98 % of what answers a question that names somebody has as much, however many messages there are."""
    slope: float = 0.15
    """Added each time the number of memories grows by e: what the best of so many unrelated ones reaches by chance."""
    most: float = 0.8
    """Never more. Of questions about others 92 % stay below it among 600 memories, of one's own 0.5 %; at 0.85 it is
    96 % and 1 %."""
    trust: float = 2.0
    """By how much less than the threshold is enough, for each unit that the best lies above it; 1 to 3 are alike."""

    @property
    def counted(self) -> int:
        """More memories than this need not be counted: the threshold grows no further."""
        return math.ceil(self.few_memories * math.exp((self.most - self.few) / self.slope))

    def threshold(self, candidates: int, kind: MemoryType) -> float:
        """What the best memory must have at least, given how many memories the user has."""
        rises = self.few + self.slope * math.log(max(candidates / self.few_memories, 1.0))
        return max(self._least(kind), min(rises, self.most))

    def passed(self, judged: Mapping[str, tuple[float, MemoryType]], *, candidates: int) -> list[str]:
        """Which of the memories may be told, in their order; `judged`: key to relevance and kind."""
        thresholds = {kind: self.threshold(candidates, kind) for kind in MemoryType}
        best = max((has - thresholds[kind] for has, kind in judged.values()), default=-1.0)
        if best < 0:
            return []
        enough = {kind: max(self._least(kind), asked - self.trust * best) for kind, asked in thresholds.items()}
        return [key for key, (has, kind) in judged.items() if has >= enough[kind]]

    def _least(self, kind: MemoryType) -> float:
        return self.few_messages if kind is MemoryType.MESSAGE else self.few


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
    scores = {
        key: text_share * of_best.get(key, 0.0) + (1 - text_share) * nearness.get(key, 0.0)
        for key in {**text, **vector}
    }
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:limit]
    return [Fused(key, scores[key], of_best.get(key, 0.0), vector.get(key, lowest)) for key in best]


def with_sittings(scores: Mapping[str, float], sittings: Mapping[str, str | None]) -> dict[str, float]:
    """What each score is with what it counts that others of its sitting were found, too; none falls, all stay in 0..1.

    `scores`: by key, best first. `sittings`: key to the session in which it was said; what has none stays as it is.
    """
    hits: dict[str, float] = {}
    for key in islice(scores, SITTING_HITS):
        sitting = sittings.get(key)
        if sitting is not None:
            hits[sitting] = hits.get(sitting, 0.0) + scores[key]
    best = max(hits.values(), default=0.0)
    if best <= 0.0:
        return dict(scores)
    shares: dict[str | None, float] = {sitting: SITTING_SHARE * hit / best for sitting, hit in hits.items()}
    return {key: score + shares.get(sittings.get(key), 0.0) * (1.0 - score) for key, score in scores.items()}


def by_sitting(fused: Sequence[Fused], sittings: Mapping[str, str | None], *, limit: int) -> list[Fused]:
    """The best `limit` candidates, best first, once those of the best sittings have risen."""
    scores = with_sittings({candidate.key: candidate.score for candidate in fused}, sittings)
    best = sorted(fused, key=lambda candidate: scores[candidate.key], reverse=True)[:limit]
    return [each._replace(score=scores[each.key]) for each in best]


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


def question_weights(terms: Iterable[str], names: AbstractSet[str], weigh: Callable[[str], float]) -> dict[str, float]:
    """What each term of a question says about what it is about; `weigh`: of an ordinary word about 1."""
    return {term: weigh(term) * (NAME_WEIGHT if term in names else 1.0) for term in terms}


def coverage(weights: Mapping[str, float], terms: AbstractSet[str]) -> float:
    """The share of a question, 0..1, that stands in `terms`.

    `weights`: the question's terms and how much each says, about 1 for an ordinary word.
    """
    if not weights:
        return 0.0
    full = max(sum(weights.values()) * min(1.0, FULL_QUESTION / len(weights)), LEAST_QUESTION)
    return min(sum(weights[term] for term in weights.keys() & terms) / full, 1.0)


def relevance(covered: float, cosine: float, *, unrelated: float) -> float:
    """What the floor judges; `unrelated` is the cosine that texts with nothing in common have in this model."""
    return covered + max((cosine - unrelated) / (1 - unrelated), 0.0)


def newer_first(memories: Iterable[ScoredMemory]) -> list[ScoredMemory]:
    """Best first, and among ties the newer first. Recency counts no more than that: measured, it gains nothing."""
    return sorted(memories, key=lambda memory: (-round(memory.score / TIE), -memory.record.created_at.timestamp()))
