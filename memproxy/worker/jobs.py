"""What is done with turns, stage by stage, and how long it is tried; pure.

    turns ──► index ──► learn ──► summarise     with a model
    turns ──► index                             without

Each stage has its own queue and its own worker. Indexing what was said needs nothing but the store, and is done and
over before a model is asked: a model that is away can neither delay it nor undo it. Nobody waits for an index in vain,
so it is made at once, of as many turns as there are; a model is asked about a session when it has become quiet.
"""

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from memproxy.errors import BudgetSpentError, ModelAwayError, ModelCallError, StoreUnfitError
from memproxy.extraction.extract import Extractor
from memproxy.records import SessionKey, Turn
from memproxy.storage.queue import Address, Claimed, Stage
from memproxy.worker.lanes import Rules
from memproxy.worker.outage import Observe, observe_nothing

INDEX_RULES = Rules(turns=32, size=250_000, lanes=32)
"""The vectors of all these turns are made in one go, and stored in one round trip."""

OnPersisted = Callable[[Turn, datetime], Awaitable[None]]
"""Told when the records that a turn brought with it have been stored."""


@dataclass(frozen=True, slots=True)
class Job:
    """One stage of learning."""

    stage: Stage
    run: Callable[[Sequence[Turn]], Awaitable[int]]
    """Does a batch, oldest first, and gives the tokens it cost. May be called twice for a turn and must not mind."""
    rules: Rules
    then: Stage | None = None
    """The stage that comes next."""
    forwarded: Callable[[Sequence[Claimed]], Mapping[Address, Turn | None]] | None = None
    """What goes to the next stage in the place of which turn; without it each turn goes on as it is."""
    asks_store_alone: bool = False
    """One batch at a time is enough: more would only make the store's queue longer, and requests wait in it, too."""


def lane_of(turn: Turn) -> Hashable:
    """The conversation of a turn: within it, order counts."""
    return turn.scope, turn.session, turn.thread


def jobs(
    extractor: Extractor,
    *,
    learn_rules: Rules,
    now: Callable[[], datetime],
    on_persisted: OnPersisted | None = None,
    observe: Observe = observe_nothing,
) -> tuple[Job, ...]:
    """The stages in order; each wants a worker of its own. `observe` is told how many memories were new."""

    async def index(turns: Sequence[Turn]) -> int:
        with suppress(StoreUnfitError):  # nothing can be kept there, today or later
            await keep(turns)
        return 0

    async def keep(turns: Sequence[Turn]) -> None:
        observe(f"{Stage.INDEX}.memories", await extractor.index(turns))
        for turn in turns:
            if turn.memories and on_persisted is not None:
                await on_persisted(turn, now())

    async def learn(turns: Sequence[Turn]) -> int:
        try:
            learned = await extractor.learn(turns)
        except StoreUnfitError:
            return 0  # as above; the session can be summarised all the same
        observe(f"{Stage.LEARN}.memories", learned.new)
        return learned.tokens

    async def summarise(turns: Sequence[Turn]) -> int:
        sessions = {SessionKey(turn.scope, turn.session, turn.thread) for turn in turns}
        return sum([await extractor.summarise(session) for session in sessions])

    if not extractor.has_model:
        return (Job(Stage.INDEX, index, INDEX_RULES, asks_store_alone=True),)
    return (
        Job(Stage.INDEX, index, INDEX_RULES, then=Stage.LEARN, asks_store_alone=True),
        Job(Stage.LEARN, learn, learn_rules, then=Stage.SUMMARISE, forwarded=one_for_all),
        Job(Stage.SUMMARISE, summarise, replace(learn_rules, quiet_s=0.0, longest_s=0.0)),
    )


def one_for_all(batch: Sequence[Claimed]) -> dict[Address, Turn | None]:
    """The newest turn without its content in the place of all: it says which session is meant, and that is enough."""
    *others, newest = batch
    bare = replace(newest.turn, messages=(), context=(), memories=(), strategies=())
    return {**{other.address: None for other in others}, newest.address: bare}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a turn is tried. By default for about ten minutes: a model server restarts in less."""

    attempts: int = 6
    """How often it is tried, all workers taken together."""
    deadline_s: float = 300.0
    """For one attempt. Learning from a long turn takes several model calls."""
    first_delay_s: float = 5.0
    factor: float = 3.0
    longest_delay_s: float = 600.0
    away_delay_s: float = 60.0
    """The longest wait for a model that can't be asked at all: whoever mends that wants to see it go on."""
    away_s: float = 86_400.0
    """How long a turn waits for such a model."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after a while."""

    delay_s: float
    reason: str
    counts: bool = True
    """The attempt was the turn's own failure."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Try no more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """What is known of an attempt that failed."""

    error: Exception
    attempt: int
    """Its number, all workers taken together."""
    retries: int = 0
    """How often in a row it was put off, for whatever reason."""
    age_s: float = 0.0
    """How long the turn has been in the queue."""


def judge(failure: Failure, *, patience: Patience, chance: float) -> Retry | GiveUp:
    """What to do after an attempt failed. `chance` in 0..1 spreads turns that failed together."""
    error, spread = failure.error, 0.5 + chance / 2
    match error:
        case BudgetSpentError():
            return Retry(error.retry_after_s * (1 + chance / 10), str(error), counts=False)
        case ModelAwayError() if failure.age_s < patience.away_s:
            longest_s = min(patience.away_delay_s, patience.longest_delay_s)
            return Retry(_delay_s(failure.retries, patience, longest_s) * spread, str(error), counts=False)
        case ModelCallError():
            reason = str(error)
        case TimeoutError():
            reason = f"not finished within {patience.deadline_s:g} s"
        case _:
            reason = f"{type(error).__name__}: {error}"
    if isinstance(error, ModelCallError) and not error.retryable:
        return GiveUp(reason)
    if failure.attempt >= patience.attempts:
        return GiveUp(f"attempt {failure.attempt}: {reason}")
    return Retry(_delay_s(failure.attempt - 1, patience, patience.longest_delay_s) * spread, reason)


def _delay_s(before: int, patience: Patience, longest_s: float) -> float:
    return float(min(patience.first_delay_s * patience.factor ** min(before, 50), longest_s))


def worn_out(attempts: int, *, patience: Patience) -> GiveUp | None:
    """Why not even to begin: a turn begun this often, and never judged, ended its workers each time."""
    if attempts < patience.attempts:
        return None
    return GiveUp(f"begun {attempts} times; its workers ended before they were done with it")
