"""What is done with a turn, stage by stage, and how long it is tried; pure.

    turns ──► index ──► learn          with a model
    turns ──► index                    without

Each stage has its own queue and its own worker. Indexing what was said needs nothing but the store, and is done and
over before a model is asked: a model that is away can neither delay it nor undo it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from memproxy.errors import ModelCallError
from memproxy.extraction.extract import Extractor
from memproxy.records import Turn
from memproxy.storage.queue import Stage


@dataclass(frozen=True, slots=True)
class Job:
    """One stage of learning. `run` may be called twice for a turn and must not mind."""

    stage: Stage
    run: Callable[[Turn], Awaitable[object]]
    then: Stage | None = None
    """The stage that comes next."""


def jobs(extractor: Extractor) -> tuple[Job, ...]:
    """The stages in order; each wants a worker of its own."""
    if not extractor.has_model:
        return (Job(Stage.INDEX, extractor.index),)
    return (Job(Stage.INDEX, extractor.index, then=Stage.LEARN), Job(Stage.LEARN, extractor.learn))


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


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after a while."""

    delay_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Try no more."""

    reason: str


def judge(error: Exception, deliveries: int, *, patience: Patience, chance: float) -> Retry | GiveUp:
    """What to do after the attempt number `deliveries` failed. `chance` in 0..1 spreads turns that failed together."""
    match error:
        case ModelCallError():
            reason = str(error)
        case TimeoutError():
            reason = f"not finished within {patience.deadline_s:g} s"
        case _:
            reason = f"{type(error).__name__}: {error}"
    if isinstance(error, ModelCallError) and not error.retryable:
        return GiveUp(reason)
    if deliveries >= patience.attempts:
        return GiveUp(f"attempt {deliveries}: {reason}")
    delay_s = min(patience.first_delay_s * patience.factor ** (deliveries - 1), patience.longest_delay_s)
    return Retry(delay_s * (0.5 + chance / 2), reason)


def worn_out(deliveries: int, *, patience: Patience) -> GiveUp | None:
    """Why not even to begin: a turn delivered this often, and never judged, ended its workers each time."""
    if deliveries <= patience.attempts:
        return None
    return GiveUp(f"delivered {deliveries} times; its workers ended before they were done with it")
