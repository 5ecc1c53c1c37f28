"""Which stages a turn goes through, and when trying ends."""

from collections.abc import Sequence
from typing import Any

import pytest

from memproxy.errors import ModelCallError, StoreError
from memproxy.extraction.extract import Extractor
from memproxy.records import JsonObject, MemoryRecord
from memproxy.storage.queue import Stage
from memproxy.worker.jobs import GiveUp, Patience, Retry, jobs, judge, worn_out

PATIENCE = Patience(attempts=4, deadline_s=30, first_delay_s=2, factor=3, longest_delay_s=10)


class Nothing:
    async def remember(self, records: Sequence[MemoryRecord]) -> int:
        return 0

    async def ask(self, *, system: str, user: str, schema_name: str, schema: JsonObject) -> Any:
        return []


def test_without_a_model_turns_are_indexed_and_done() -> None:
    """Turns do not pile up before a stage that nobody works on."""
    extractor = Extractor(Nothing())
    [job] = jobs(extractor)
    assert (job.stage, job.run, job.then) == (Stage.INDEX, extractor.index, None)


def test_with_a_model_turns_are_learned_from_once_they_are_indexed() -> None:
    """A model that is away does not keep words from being found."""
    extractor = Extractor(Nothing(), model=Nothing())
    index, learn = jobs(extractor)
    assert (index.stage, index.run, index.then) == (Stage.INDEX, extractor.index, Stage.LEARN)
    assert (learn.stage, learn.run, learn.then) == (Stage.LEARN, extractor.learn, None)


@pytest.mark.parametrize(("deliveries", "delay_s"), [(1, 2), (2, 6), (3, 10)])
def test_waits_grow_and_are_bounded(deliveries: int, delay_s: float) -> None:
    """A model server that is overloaded is left in peace, but not forgotten."""
    error = ModelCallError("busy", retryable=True)
    assert judge(error, deliveries, patience=PATIENCE, chance=1.0) == Retry(delay_s, "busy")


def test_turns_that_failed_together_are_not_tried_together() -> None:
    """Else they would fail together again."""
    error = ModelCallError("busy", retryable=True)
    waits = [judge(error, 1, patience=PATIENCE, chance=chance) for chance in (0.0, 0.5, 1.0)]
    assert [wait.delay_s for wait in waits if isinstance(wait, Retry)] == [1.0, 1.5, 2.0]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModelCallError("busy", retryable=True), "attempt 4: busy"),
        (TimeoutError(), "attempt 4: not finished within 30 s"),
        (StoreError("refused"), "attempt 4: StoreError: refused"),
        (KeyError("a bug"), "attempt 4: KeyError: 'a bug'"),
    ],
)
def test_trying_ends_with_the_reason(error: Exception, reason: str) -> None:
    """The dead letter says what an operator can do about it."""
    assert judge(error, 4, patience=PATIENCE, chance=0.5) == GiveUp(reason)
    assert isinstance(judge(error, 3, patience=PATIENCE, chance=0.5), Retry)


def test_what_will_never_work_is_not_tried_again() -> None:
    """A model that refuses this request refuses it the next time as well."""
    error = ModelCallError("context too long", retryable=False)
    assert judge(error, 1, patience=PATIENCE, chance=0.5) == GiveUp("context too long")


def test_a_turn_that_ends_its_workers_is_not_begun_for_ever() -> None:
    """One turn must not take down all workers, one after the other."""
    assert worn_out(4, patience=PATIENCE) is None
    verdict = worn_out(5, patience=PATIENCE)
    assert verdict is not None
    assert "5 times" in verdict.reason
