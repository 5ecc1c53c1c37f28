"""Turns to stored memories: what was said, as it was said, and what a model makes of it.

Both kinds are kept, because together they recall most. The first kind needs no model and is a stage of its own, so that
nothing is lost while a model is away. Both listen through `hearing`, so junk gets into neither.

Everything here may happen twice. What was said has an id that is a digest of it. What a model made of a part of a batch
is written in one step with a mark, which is looked at before the model is asked: a worker that dies in between costs
neither a second memory nor a second call.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from memproxy.errors import BudgetSpentError, ModelCallError
from memproxy.extraction import hearing, settle
from memproxy.extraction.decide import Pair, Relation, decision_prompt, decision_schema, read_decisions
from memproxy.extraction.facts import Maker
from memproxy.extraction.hearing import CountsLines, Heard, Hearing
from memproxy.extraction.message_memories import message_memories
from memproxy.extraction.prompting import Part, parts_of
from memproxy.extraction.settle import Settlement, united
from memproxy.extraction.spending import Asks, Budget, Question, Spending
from memproxy.extraction.spoken import utterances
from memproxy.extraction.strategies import STRATEGIES, Strategy, read_prompt, usable
from memproxy.extraction.summaries import RollingSummaries
from memproxy.extraction.summary import grown, summary_id
from memproxy.records import MemoryRecord, MemoryType, Scope, SessionKey, StrategyChoice, Turn
from memproxy.storage.schema import digest_of
from memproxy.words import Terms

log = logging.getLogger(__name__)

KNOWN_FACTS = 8
"""Remembered facts that a model is shown: they give names to "my wife" and "the trip"."""


class Remembers(hearing.Finds, settle.Remembered, Protocol):
    """Long-term memory, as far as extraction needs it."""

    async def remember(self, records: Sequence[MemoryRecord], *, done: str | None = None) -> int:
        """Store the records, and the mark in the same step; how many were new."""

    async def create(self, records: Sequence[MemoryRecord], *, deduplicate: bool) -> object:
        """Store records as they are given."""

    async def edit(self, scope: Scope, memory_id: str, change: settle.Change) -> MemoryRecord | None:
        """Change one memory."""

    async def supersede(self, new: Sequence[MemoryRecord], old: settle.Replaced, *, done: str | None = None) -> int:
        """Store new memories, some in the place of others, and the mark in the same step; how many were new."""


class Marks(Protocol):
    """Knows which work is done."""

    async def is_done(self, scope: Scope, mark: str) -> bool: ...
    async def set_done(self, scope: Scope, mark: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of a batch."""

    new: int
    """Memories that were not there before."""
    tokens: int
    """What it cost."""


@dataclass(frozen=True, slots=True)
class Means:
    """What learning works with, besides memory and the turns."""

    model: Asks
    small_model: Asks
    """Decides what is the same as what."""
    model_name: str = ""
    marks: Marks | None = None
    budget: Budget | None = None
    rolling: RollingSummaries | None = None


class Extractor:
    """Makes memories of turns. Without a model it still indexes what was said.

    Turns without a user come from code alone, which may keep memories that are nobody's.
    """

    def __init__(
        self,
        memory: Remembers,
        *,
        means: Means | None = None,
        lines: CountsLines | None = None,
        choices: Sequence[StrategyChoice] = (),
        zone: tzinfo = UTC,
        unrelated: float = 0.0,
    ) -> None:
        """`choices`: the strategies of turns that choose none, by default discrete. `unrelated`: see `Embedder`."""
        self._memory = memory
        self._means = means
        self._choices = tuple(choices) or (StrategyChoice("discrete"),)
        self._zone = zone
        self._unrelated = unrelated
        self._terms = Terms()
        self._hearing = Hearing(memory, lines, self._terms)
        self._instructions = {name: strategy.instructions() for name, strategy in STRATEGIES.items()}
        self._decision = read_prompt("decide")

    @property
    def has_model(self) -> bool:
        """Whether `learn` and `summarise` can do anything."""
        return self._means is not None

    async def index(self, turns: Sequence[Turn]) -> int:
        """Store what user and assistant said in these turns, of any sessions, and the records that came with them.

        How many of what was said is new. Raises StoreError.
        """
        records: list[MemoryRecord] = []
        for batch in _by_session(turns):
            heard = await self._hearing.hear(batch)
            before = utterances(batch[0].context)
            first = batch[0]
            records += message_memories(heard.said, before, scope=first.scope, session=first.session, zone=self._zone)
        new = await self._memory.remember(records) if records else 0
        if given := [record for turn in turns for record in turn.memories]:
            await self._memory.create(given, deduplicate=False)
        return new

    async def learn(self, turns: Sequence[Turn]) -> Learned:
        """Store what the model finds worth keeping in a batch of one session's turns, oldest first.

        Raises ModelCallError, StoreError and BudgetSpentError; what was stored by then stays, and is not asked again.
        Cost: a model call for each strategy and part of the batch, nearly always one, and one more for doubtful pairs.
        """
        if self._means is None or not turns:
            return Learned(0, 0)
        spending = self._spending(turns[0].scope.tenant)
        heard: dict[tuple[str, ...], Heard] = {}
        new = 0
        for choice in self._chosen(turns):
            batch = [turn for turn in turns if choice in (turn.strategies or self._choices)]
            ids = tuple(turn.id for turn in batch)
            if ids not in heard:
                heard[ids] = await self._hearing.hear(batch, with_names=True)
            new += await self._learn_as(choice, batch, heard[ids], spending)
        return Learned(new, spending.tokens)

    async def summarise(self, session: SessionKey) -> int:
        """Bring the session's rolling summary up to date if it needs one; the tokens that it cost.

        Raises ModelCallError, StoreError and BudgetSpentError.
        """
        if self._means is None or self._means.rolling is None:
            return 0
        spending = self._spending(session.scope.tenant)
        await self._means.rolling.summarise(session, spending=spending)
        return spending.tokens

    def _spending(self, tenant: str) -> Spending:
        budget = self._means.budget if self._means else None
        return Spending(tenant, budget or Budget(None, daily_tokens=0, now=lambda: datetime.now(UTC)))

    def _chosen(self, turns: Sequence[Turn]) -> list[StrategyChoice]:
        return usable(choice for turn in turns for choice in turn.strategies or self._choices)

    async def _learn_as(self, choice: StrategyChoice, batch: Sequence[Turn], heard: Heard, spending: Spending) -> int:
        """What one strategy makes of a batch; how many memories were new."""
        ids = [turn.id for turn in batch]
        config = json.dumps(choice.config, sort_keys=True, default=str)
        new = 0
        for number, part in enumerate(self._parts(batch, heard)):
            mark = digest_of("learned", choice.name, config, str(number), *ids)
            if not await self._is_done(part.scope, mark):
                new += await self._learn_part(choice, part, mark=mark, spending=spending)
        return new

    def _parts(self, batch: Sequence[Turn], heard: Heard) -> Iterator[Part]:
        known = [record.text for record in heard.known if _tells_names(record)]
        for said, context in parts_of(heard.said, utterances(batch[0].context)):
            yield Part(
                scope=batch[0].scope,
                session=batch[0].session,
                said=tuple(said),
                context=tuple(context),
                known=tuple(known[:KNOWN_FACTS]),
                turns=tuple(dict.fromkeys(one.turn for one in said)),
                zone=self._zone,
            )

    async def _learn_part(self, choice: StrategyChoice, part: Part, *, mark: str, spending: Spending) -> int:
        assert self._means is not None
        strategy = STRATEGIES[choice.name]
        previous = await self._previous(strategy, part)
        if previous is not None:
            part = dataclasses.replace(part, previous=previous.text)
        maker = Maker(choice.name, choice.config, self._terms, strategy.only_semantic)
        question = Question(
            name=f"{choice.name}_memories",
            system=self._instructions[choice.name],
            user=strategy.prompt(part, choice.config, self._means.model_name),
            schema=strategy.schema(),
            read=lambda answer: strategy.read(answer, part, maker),
        )
        records: list[MemoryRecord] = await spending.ask(self._means.model, question)
        if strategy.keeps_one_text:
            whole = [replace(record, turns=grown(record, previous)) for record in records]
            return await self._write(Settlement(tuple(whole)), part.scope, mark=mark)
        settled = await settle.settle(
            records,
            memory=self._memory,
            decide=partial(self._decide, spending=spending),
            terms=self._terms,
            unrelated=self._unrelated,
        )
        return await self._write(settled, part.scope, mark=mark)

    async def _previous(self, strategy: Strategy, part: Part) -> MemoryRecord | None:
        if not strategy.keeps_one_text:
            return None
        return next(iter(await self._memory.get(part.scope, [summary_id(part.scope, part.session)])), None)

    async def _write(self, settled: Settlement, scope: Scope, *, mark: str) -> int:
        """Merge, which may happen twice, then store all that is new together with the mark."""
        for memory_id, record in settled.merged:
            await self._memory.edit(scope, memory_id, partial(united, other=record))
        if settled.new:
            return await self._memory.supersede(settled.new, settled.replaced, done=mark)
        if self._means is not None and self._means.marks is not None:
            await self._means.marks.set_done(scope, mark)
        return 0

    async def _is_done(self, scope: Scope, mark: str) -> bool:
        marks = self._means.marks if self._means else None
        return marks is not None and await marks.is_done(scope, mark)

    async def _decide(self, pairs: Sequence[Pair], *, spending: Spending) -> Sequence[Relation]:
        """What the small model says of doubtful pairs; different for all where it can't be asked: both are kept."""
        assert self._means is not None
        question = Question(
            name="decisions",
            system=self._decision,
            user=decision_prompt(pairs),
            schema=decision_schema(),
            read=partial(read_decisions, count=len(pairs)),
        )
        try:
            decided: Sequence[Relation] = await spending.ask(self._means.small_model, question)
        except (ModelCallError, BudgetSpentError) as error:
            log.info("%d doubtful pairs are kept as they are: %s", len(pairs), error)
            return [Relation.DIFFERENT] * len(pairs)
        return decided


def _tells_names(record: MemoryRecord) -> bool:
    """A single fact that holds."""
    return record.type is not MemoryType.MESSAGE and record.valid_until is None and record.strategy != "summary"


def _by_session(turns: Sequence[Turn]) -> Iterator[list[Turn]]:
    """The turns of each conversation, in their order."""
    found: dict[tuple[Scope, str, str], list[Turn]] = {}
    for turn in turns:
        found.setdefault((turn.scope, turn.session, turn.thread), []).append(turn)
    yield from found.values()
