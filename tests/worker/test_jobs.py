"""Which stages a turn goes through, and when trying ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from typing_extensions import override

from memproxy.errors import BudgetSpentError, ModelAwayError, ModelCallError, StoreError, StoreUnfitError
from memproxy.records import MemoryRecord, MemoryType, Outcome, Scope, SessionKey, StoredMessage, Turn
from memproxy.storage.queue import Claimed, Stage
from memproxy.worker.jobs import Failure, GiveUp, Job, Patience, Retry, jobs, judge, lane_of, one_for_all, worn_out
from memproxy.worker.lanes import Rules

PATIENCE = Patience(attempts=4, deadline_s=30, first_delay_s=2, factor=3, longest_delay_s=10, away_delay_s=8)
SPOKEN = datetime(2023, 5, 8, tzinfo=UTC)
ANN = Scope("tenant", "ann")


@dataclass
class Extracting:
    """Stands for the extraction stage, and remembers what it was given."""

    has_model: bool = True
    given: list[tuple[str, Any]] = field(default_factory=list)

    async def index(self, turns: Sequence[Turn]) -> int:
        self.given.append(("index", [turn.id for turn in turns]))
        return len(turns)

    async def learn(self, turns: Sequence[Turn]) -> Any:
        self.given.append(("learn", [turn.id for turn in turns]))
        return replace(Learned(new=3, tokens=700))

    async def summarise(self, session: SessionKey) -> int:
        self.given.append(("summarise", session))
        return 50


@dataclass(frozen=True)
class Learned:
    new: int
    tokens: int


def turn(name: str, *, session: str = "s", thread: str = "", memories: tuple[MemoryRecord, ...] = ()) -> Turn:
    message = StoredMessage({"role": "user", "content": name}, digest="00", tokens=1, at=SPOKEN)
    return Turn(name, ANN, session, SPOKEN, Outcome.COMPLETED, (message,), memories=memories, thread=thread)


def stages(extractor: Extracting, **options: Any) -> dict[Stage, Job]:
    made = jobs(extractor, learn_rules=Rules(turns=5, quiet_s=10), now=lambda: SPOKEN, **options)  # type: ignore[arg-type]  # stands for it
    return {job.stage: job for job in made}


def test_without_a_model_turns_are_indexed_and_done() -> None:
    """Turns do not pile up before a stage that nobody works on."""
    [job] = stages(Extracting(has_model=False)).values()
    assert (job.stage, job.then) == (Stage.INDEX, None)


class Refused(Extracting):
    """Memory that can keep nothing: a store without a query engine."""

    @override
    async def index(self, turns: Sequence[Turn]) -> int:
        raise StoreUnfitError("There is no query engine.")

    @override
    async def learn(self, turns: Sequence[Turn]) -> Any:
        raise StoreUnfitError("There is no query engine.")


async def test_where_nothing_can_be_kept_turns_are_done_with_and_sessions_summarised() -> None:
    """A queue that nobody ever empties would fill the store; long conversations need their summaries all the same."""
    extractor, noted = Refused(), []
    made = stages(extractor, on_persisted=lambda turn, at: noted.append(turn))
    for stage in (Stage.INDEX, Stage.LEARN):
        assert await made[stage].run([turn("a")]) == 0
    assert await made[Stage.SUMMARISE].run([turn("a")]) == 50
    assert not noted, "what is not stored is not called stored"


async def test_with_a_model_turns_are_learned_from_once_they_are_indexed() -> None:
    """A model that is away does not keep words from being found."""
    extractor = Extracting()
    made = stages(extractor)
    assert [(job.stage, job.then) for job in made.values()] == [
        (Stage.INDEX, Stage.LEARN),
        (Stage.LEARN, Stage.SUMMARISE),
        (Stage.SUMMARISE, None),
    ]
    batch = [turn("a"), turn("b")]
    assert [await job.run(batch) for job in made.values()] == [0, 700, 50]
    assert extractor.given == [
        ("index", ["a", "b"]),
        ("learn", ["a", "b"]),
        ("summarise", SessionKey(ANN, "s", "")),
    ]


def test_only_asking_a_model_waits_for_quiet() -> None:
    """What was said is found at once."""
    made = stages(Extracting())
    assert [job.rules.quiet_s for job in made.values()] == [0, 10, 0]
    assert made[Stage.INDEX].rules.lanes > 1


async def test_the_caller_is_told_when_what_it_brought_is_stored() -> None:
    """A session shows when its memories became findable."""
    told: list[tuple[str, datetime]] = []

    async def on_persisted(about: Turn, at: datetime) -> None:
        told.append((about.id, at))

    extractor = Extracting()
    brought = MemoryRecord("m", ANN, "Ann likes tea.", MemoryType.SEMANTIC, SPOKEN)
    made = stages(extractor, on_persisted=on_persisted)
    await made[Stage.INDEX].run([turn("a"), turn("b", memories=(brought,))])
    assert told == [("b", SPOKEN)]
    assert extractor.given == [("index", ["a", "b"])]


def test_conversations_under_one_name_are_lanes_of_their_own() -> None:
    """Order counts within a conversation, and only there."""
    lanes = {lane_of(turn("a")), lane_of(turn("b")), lane_of(turn("c", thread="t")), lane_of(turn("d", session="r"))}
    assert len(lanes) == 3


def test_only_which_session_it_was_goes_on_to_the_summaries() -> None:
    """The words of a turn are not kept longer than they are needed."""
    first, second = (Claimed("p00", f"{number}-0", turn(str(number), thread="t"), 10, 0) for number in (1, 2))
    forwarded = one_for_all([first, second])
    assert forwarded[first.address] is None
    bare = forwarded[second.address]
    assert bare is not None
    assert (bare.id, bare.session, bare.thread, bare.messages) == ("2", "s", "t", ())


def judged(
    error: Exception, attempt: int, *, chance: float = 1.0, retries: int = 0, age_s: float = 0
) -> Retry | GiveUp:
    return judge(Failure(error, attempt, retries, age_s), patience=PATIENCE, chance=chance)


@pytest.mark.parametrize(("attempt", "delay_s"), [(1, 2), (2, 6), (3, 10)])
def test_waits_grow_and_are_bounded(attempt: int, delay_s: float) -> None:
    """A model server that is overloaded is left in peace, but not forgotten."""
    assert judged(ModelCallError("busy", retryable=True), attempt) == Retry(delay_s, "busy")


def test_turns_that_failed_together_are_not_tried_together() -> None:
    """Else they would fail together again."""
    waits = [judged(ModelCallError("busy", retryable=True), 1, chance=chance) for chance in (0.0, 0.5, 1.0)]
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
    assert judged(error, 4) == GiveUp(reason)
    assert isinstance(judged(error, 3), Retry)


def test_what_will_never_work_is_not_tried_again() -> None:
    """A model that refuses this request refuses it the next time as well."""
    assert judged(ModelCallError("context too long", retryable=False), 1) == GiveUp("context too long")


def test_a_model_that_is_away_wears_no_turn_out() -> None:
    """After a night without the provider, or with a wrong key, nothing has to be brought back by hand."""
    error = ModelAwayError("no connection", retryable=False)
    waits = [judged(error, 100, retries=retries) for retries in range(4)]
    assert waits == [Retry(delay_s, "no connection", counts=False) for delay_s in (2, 6, 8, 8)]
    assert judged(error, 1, age_s=PATIENCE.away_s) == GiveUp("no connection")


def test_a_spent_budget_is_waited_for() -> None:
    """What may not be asked today is asked tomorrow."""
    error = BudgetSpentError("1,000 tokens a day are spent", retry_after_s=3_600)
    for attempt in (1, 100):
        verdict = judged(error, attempt, age_s=1e9, chance=0.0)
        assert verdict == Retry(3_600, "1,000 tokens a day are spent", counts=False)


def test_a_turn_that_ends_its_workers_is_not_begun_for_ever() -> None:
    """One turn must not take down all workers, one after the other."""
    assert worn_out(3, patience=PATIENCE) is None
    verdict = worn_out(4, patience=PATIENCE)
    assert verdict is not None
    assert "4 times" in verdict.reason
