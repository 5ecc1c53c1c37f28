"""Find memories for code: any filter below a tenant, three ways of ranking and our own, pages that fit together.

A page is a slice of one ranking of all that match, and every score is the same on whatever page it stands. Yet not all
is read: of both ranked lists only the beginnings are, as far as it takes until nothing behind them can come before the
page's end. A memory that one list's beginning lacks is looked up for the other list's sake, so each score is whole.

What is recent is moved up among the best `RECENCY_POOL` only, and what stands in a good sitting among the best
`SITTING_POOL`, whatever page is asked for, so pages fit together then, too.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from memproxy.embedding import Embedder, Vector
from memproxy.memory import ranking
from memproxy.memory.ranking import Blended
from memproxy.memory.search import Found, Match, Query, Recency, SearchMode
from memproxy.storage.long_term import LongTermStore, Ranked
from memproxy.storage.memory_filter import Rule, TagField, TagRule, TagTest, TimeField
from memproxy.words import Terms

RECENCY_POOL = 400
"""Four times the largest page."""

SITTING_POOL = 50
"""So many of the best may rise for the sitting that they stand in."""

LEAST_DEPTH = 100
"""How much of a list is read at least: a short beginning often does not tell which memories are best."""

DEEPER = 4
"""How much more is read of each list when its beginning did not tell."""

DEEP = 2_000
"""From here on it is worth a round trip to learn first whether there is anything."""

LONG = 5_000
"""More candidates than this are blended in a thread: it takes 10 ms."""

LEAST_COVERED = 0.01
"""So that words order memories, even if they say nothing."""

RELAXED_FIELDS = (TagField.TOPICS, TagField.ENTITIES, TagField.TYPE, TimeField.EVENT_DATE)
"""What describes a memory, rather than whose it is or how old: where nothing fits, these may have been guesses."""

ALPHAS: Mapping[SearchMode | None, float] = {
    SearchMode.SEMANTIC: 1.0,
    SearchMode.KEYWORD: 0.0,
    None: 1.0 - ranking.TEXT_SHARE,
}
"""What meaning counts against words; a hybrid search says so itself."""

QUERY_CHARS = 2_000
"""Of a longer text, a thousand characters of the beginning and of the end: the question stands at either."""

QUERY_TERMS = 32
"""The engine's time grows with each term; a question has 3 to 10, a paragraph 30."""

_QUOTED = re.compile(r'"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Question:
    """A query's text as the store is asked for it."""

    terms: Sequence[str]
    weights: Mapping[str, float]
    """What each term says about what the text is about."""
    phrases: Sequence[Sequence[str]]
    """Rows of terms that must stand in a memory's text side by side."""
    vector: Vector | None
    """None for a text without a known word."""
    alpha: float

    @property
    def says_nothing(self) -> bool:
        """Whether there is nothing to search by."""
        return not self.terms and self.sought is None

    @property
    def sought(self) -> Vector | None:
        """The vector by which is searched."""
        return self.vector if self.alpha > 0 else None


class Finder:
    """Answers queries."""

    def __init__(
        self,
        store: LongTermStore,
        embedder: Embedder,
        *,
        terms: Terms,
        least_depth: int = LEAST_DEPTH,
        recency_pool: int = RECENCY_POOL,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._terms = terms
        self._least_depth = least_depth
        self._recency_pool = recency_pool

    async def find(self, tenant: str, query: Query) -> Found:
        """One page of the tenant's memories that a query finds. Two to six round trips, more for late pages."""
        if query.text is None or not query.text.strip():
            return await self._listed(tenant, query)
        question = await self._question(query)
        found = await self._page(tenant, query, question)
        relaxed = _relaxed(query)
        if found.total or not relaxed:
            return found
        wider = replace(query, where=query.where.without(*relaxed))
        fields = tuple(dict.fromkeys(rule.field.value for rule in relaxed))
        return replace(await self._page(tenant, wider, question), relaxed=fields)

    async def _listed(self, tenant: str, query: Query) -> Found:
        total, keys = await self._store.listing(tenant, query.where, offset=query.offset, limit=query.limit)
        found = await self._store.fetch(keys)
        memories = [Match(memory.record, score=None, distance=0.0) for memory in found.values()]
        return Found(memories, total, _next_offset(query, total), query.mode)

    async def _question(self, query: Query) -> Question:
        text = ends(query.text or "", QUERY_CHARS)
        alpha = query.alpha if query.mode is SearchMode.HYBRID else ALPHAS[query.mode]
        terms = self._terms.of_query(text, limit=QUERY_TERMS) if alpha < 1 else []
        has_phrases = query.mode in {SearchMode.KEYWORD, SearchMode.HYBRID}
        quoted = _QUOTED.findall(text) if has_phrases else []
        vector = await self._embedder.embed_query(query.text or "")
        return Question(
            terms,
            ranking.question_weights(terms, self._terms.names_in(text), self._embedder.weigh),
            [row for phrase in quoted for row in self._terms.rows_of(phrase)],
            vector if vector.any() else None,
            alpha,
        )

    async def _page(self, tenant: str, query: Query, question: Question) -> Found:
        end = query.offset + query.limit
        upto = end if query.recency is None else max(end, self._recency_pool)
        upto = upto if query.mode is not None else max(upto, SITTING_POOL)
        ranked, total = await self._ranked(tenant, query, question, upto=upto)
        if query.mode is None and query.offset < total:
            ranked = await self._by_sitting(ranked)
        if query.recency is not None and query.offset < total:
            ranked = await self._with_recency(ranked, query.recency)
        page = {each.key: each for each in ranked[query.offset : end]}
        found = await self._store.fetch(list(page), with_vectors=question.sought is None)
        memories = []
        for key, memory in found.items():
            cosine = page[key].cosine
            if memory.vector is not None and question.vector is not None:
                cosine = float(memory.vector @ question.vector)
            memories.append(Match(memory.record, score=min(page[key].score, 1.0), distance=1.0 - cosine))
        return Found(memories, total, _next_offset(query, total), query.mode)

    async def _ranked(self, tenant: str, query: Query, question: Question, *, upto: int) -> tuple[list[Blended], int]:
        """The first `upto` of the ranking at least, as far as there are so many, and how many there are."""
        if question.says_nothing:
            return [], 0
        if upto > DEEP:
            upto = min(upto, (await self._heads(tenant, query, question, depth=1)).total)
        depth = max(2 * upto, self._least_depth)
        while True:
            heads = await self._heads(tenant, query, question, depth=depth)
            blended, bound = await self._blended(tenant, query, question, heads)
            if query.distance_threshold is not None and query.mode is SearchMode.SEMANTIC:
                near = [each for each in blended if 1.0 - each.cosine <= query.distance_threshold]
                if heads.are_whole or len(near) < len(blended):
                    return near, len(near)
            elif heads.are_whole or (len(blended) >= upto and blended[upto - 1].rank > bound):
                return blended, heads.total
            depth *= DEEPER

    async def _heads(self, tenant: str, query: Query, question: Question, *, depth: int) -> Ranked:
        return await self._store.rank(
            tenant,
            query.where,
            terms=question.terms,
            phrases=question.phrases,
            vector=question.sought,
            depth=depth,
        )

    async def _blended(
        self, tenant: str, query: Query, question: Question, heads: Ranked
    ) -> tuple[list[Blended], tuple[float, float]]:
        """All that stands in one of the heads, best first, and what nothing behind them can exceed."""
        whole = await self._store.lacking(tenant, query.where, heads, terms=question.terms, vector=question.sought)
        best = next(iter(heads.text.items()), ("", 0.0))
        covered = await self._covered(question, best[0]) if best[0] else 0.0
        blend = partial(ranking.blend, alpha=question.alpha, best_text=best[1], covered=covered)
        is_long = len(whole.text) + len(whole.vector) > LONG
        blended = (
            await asyncio.to_thread(blend, whole.text, whole.vector) if is_long else blend(whole.text, whole.vector)
        )
        (bound,) = blend(
            {} if heads.text_is_whole else {"": min(heads.text.values())},
            {"": 0.0 if heads.vector_is_whole else min(heads.vector.values())},
        )
        return blended, bound.rank

    async def _covered(self, question: Question, best: str) -> float:
        """The share of the question that the best hit by words has."""
        found = await self._store.fetch([best])
        terms = found[best].terms if best in found else frozenset(question.terms)
        return max(ranking.coverage(question.weights, terms), LEAST_COVERED)

    async def _by_sitting(self, ranked: Sequence[Blended]) -> list[Blended]:
        """The ranking as the proxy has it; what rises stays before all behind the pool, whose scores don't change."""
        pool, rest = ranked[:SITTING_POOL], ranked[SITTING_POOL:]
        found = await self._store.unread([each.key for each in pool])
        sittings = {key: memory.sitting for key, memory in found.items()}
        scores = ranking.with_sittings({each.key: each.score for each in pool}, sittings)
        risen = [Blended(each.key, scores[each.key], each.cosine) for each in pool]
        return [*sorted(risen, key=lambda each: each.rank, reverse=True), *rest]

    async def _with_recency(self, ranked: Sequence[Blended], recency: Recency) -> list[Blended]:
        pool, rest = ranked[: self._recency_pool], ranked[self._recency_pool :]
        times = await self._store.times([each.key for each in pool])

        def with_recency(each: Blended) -> float:
            created_at, accessed_at = times.get(each.key, (0.0, 0.0))
            return ranking.with_recency(each.score, created_at=created_at, accessed_at=accessed_at, recency=recency)

        return [*sorted(pool, key=with_recency, reverse=True), *rest]


def ends(text: str, limit: int) -> str:
    """The text, or of a longer one the beginning and the end, half each."""
    return text if len(text) <= limit else f"{text[: limit // 2]} {text[len(text) - limit // 2 :]}"


def _relaxed(query: Query) -> list[Rule]:
    """The rules to do without when nothing is found. One that rules something out stays."""
    if not query.relaxes or query.mode not in {SearchMode.SEMANTIC, None}:
        return []
    return [rule for rule in query.where.rules if rule.field in RELAXED_FIELDS and not _rules_out(rule)]


def _rules_out(rule: Rule) -> bool:
    return rule.test is TagTest.NONE if isinstance(rule, TagRule) else rule.excluded


def _next_offset(query: Query, total: int) -> int | None:
    end = query.offset + query.limit
    return end if end < total else None
