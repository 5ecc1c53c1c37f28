"""The order of work: each session's turns one after the other, together where they fit, none forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from memproxy.records import Outcome, Scope, StrategyChoice, Turn
from memproxy.storage.queue import Claimed
from memproxy.worker.lanes import Batch, Lanes, Rules

SPOKEN = datetime(2023, 5, 8, tzinfo=UTC)


def claimed(
    number: int, *, session: str = "s", partition: str = "p00", size: int = 100, attempts: int = 0, way: str = ""
) -> Claimed:
    ways = (StrategyChoice(way),) if way else ()
    turn = Turn(f"t{number}", Scope("tenant", "ann"), session, SPOKEN, Outcome.COMPLETED, (), strategies=ways)
    return Claimed(partition, f"{number}-0", turn, size, attempts)


def lanes_with(rules: Rules, *turns: Claimed, since_s: float = 0.0) -> Lanes:
    lanes = Lanes(rules)
    for each in turns:
        assert lanes.admit(each, each.turn.session, since_s=since_s)
    return lanes


def names(batch: Batch | None) -> list[str]:
    return [each.turn.id for each in batch.claimed] if batch is not None else []


def batch_of(lanes: Lanes, now_s: float = 0.0, *, hurry: bool = False) -> Batch:
    batch = lanes.next_batch(now_s, hurry=hurry)
    assert batch is not None
    return batch


def test_consecutive_turns_are_done_together_and_the_next_ones_after_them() -> None:
    """One model call reads what would otherwise be ten, and reads it in order."""
    lanes = lanes_with(Rules(turns=3), *(claimed(number) for number in range(5)))
    first = batch_of(lanes)
    assert names(first) == ["t0", "t1", "t2"]
    assert lanes.next_batch(0) is None
    lanes.finished(first)
    assert names(lanes.next_batch(0)) == ["t3", "t4"]


def test_sessions_do_not_wait_for_each_other() -> None:
    """One slow conversation holds up no other."""
    lanes = lanes_with(Rules(), claimed(1, session="a"), claimed(2, session="b"), claimed(3, session="a"))
    assert names(lanes.next_batch(0)) == ["t1", "t3"]
    assert names(lanes.next_batch(0)) == ["t2"]


def test_turns_that_are_big_are_not_put_together() -> None:
    """A prompt has its limits; a turn that is beyond them by itself is still done."""
    lanes = lanes_with(Rules(size=250), claimed(1), claimed(2), claimed(3), claimed(4, size=900), claimed(5))
    seen = []
    while (batch := lanes.next_batch(0)) is not None:
        seen.append(names(batch))
        lanes.finished(batch)
    assert seen == [["t1", "t2"], ["t3"], ["t4"], ["t5"]]


def test_a_session_is_left_alone_until_it_is_quiet() -> None:
    """A model that is asked once about a whole exchange understands more, and costs less."""
    lanes = Lanes(Rules(quiet_s=10, longest_s=25))
    for number, since_s in enumerate((0.0, 5.0)):
        lanes.admit(claimed(number), "s", since_s=since_s)
    assert lanes.next_batch(14.9) is None
    assert lanes.next_due_s() == 15
    assert names(lanes.next_batch(15)) == ["t0", "t1"]


def test_a_session_that_is_never_quiet_does_not_wait_for_ever() -> None:
    """Who talks all day is remembered before the evening."""
    lanes = Lanes(Rules(quiet_s=10, longest_s=25))
    for number in range(6):
        lanes.admit(claimed(number), "s", since_s=number * 5.0)
    assert lanes.next_due_s() == 25
    assert len(names(lanes.next_batch(25))) == 6


def test_as_many_turns_as_fit_are_not_waited_for() -> None:
    """Waiting for more would change nothing."""
    lanes = lanes_with(Rules(turns=2, quiet_s=10, longest_s=25), claimed(1), claimed(2), claimed(3))
    assert names(lanes.next_batch(0)) == ["t1", "t2"]
    assert lanes.next_batch(0) is None


def test_in_a_hurry_nothing_waits_for_quiet() -> None:
    """A worker that can hold no more makes room."""
    lanes = lanes_with(Rules(quiet_s=10, longest_s=25), claimed(1))
    assert lanes.next_batch(0) is None
    assert names(lanes.next_batch(0, hurry=True)) == ["t1"]


def test_a_turn_that_comes_during_another_is_due_without_anything_else_happening() -> None:
    """What is said while the model reads is read next, though nobody says anything more."""
    lanes = lanes_with(Rules(quiet_s=10, longest_s=25), claimed(1))
    first = batch_of(lanes, 10)
    lanes.admit(claimed(2), "s", since_s=11.0)
    assert lanes.next_due_s() is None
    lanes.finished(first)
    assert lanes.next_due_s() == 21
    assert names(lanes.next_batch(21)) == ["t2"]


def test_what_failed_comes_again_as_it_was_and_not_too_soon() -> None:
    """Its session's order holds, and what was stored of it by then is known by its company."""
    lanes = lanes_with(Rules(quiet_s=10, longest_s=25), claimed(1), claimed(2))
    failed = batch_of(lanes, 10)
    lanes.admit(claimed(3), "s", since_s=10.0)
    lanes.put_off(failed, until_s=12)
    assert lanes.retries(failed) == 0
    assert lanes.next_batch(11.9, hurry=True) is None
    again = batch_of(lanes, 12)
    assert names(again) == ["t1", "t2"]
    assert again.attempts == 1
    assert lanes.retries(again) == 1
    lanes.finished(again)
    assert names(lanes.next_batch(20)) == ["t3"]


def test_who_takes_over_makes_the_same_batch_again() -> None:
    """A worker that died between storing and finishing costs no second model call."""
    lanes = lanes_with(Rules(), claimed(1, attempts=1), claimed(2, attempts=1), claimed(3), claimed(4))
    again = batch_of(lanes)
    assert names(again) == ["t1", "t2"]
    lanes.finished(again)
    assert names(lanes.next_batch(0)) == ["t3", "t4"]


def test_turns_that_failed_together_are_then_tried_one_by_one() -> None:
    """One poisonous turn does not take the others with it."""
    lanes = lanes_with(Rules(attempts_together=2), *(claimed(number) for number in range(3)))
    for _ in range(2):
        lanes.put_off(batch_of(lanes), until_s=0)
    lanes.admit(claimed(3), "s", since_s=0.0)
    seen = []
    while (batch := lanes.next_batch(0)) is not None:
        seen.append(names(batch))
        lanes.finished(batch)
    assert seen == [["t0"], ["t1"], ["t2"], ["t3"]]


def test_a_batch_can_be_split_at_once() -> None:
    """What was refused as a whole may be taken in parts; the attempt is nobody's fault."""
    lanes = lanes_with(Rules(), claimed(1), claimed(2))
    lanes.put_off(batch_of(lanes), until_s=0, attempted=False, alone=True)
    alone = batch_of(lanes)
    assert names(alone) == ["t1"]
    assert alone.attempts == 0


def test_an_attempt_that_does_not_count_is_not_counted() -> None:
    """An outage of the model wears no turn out and splits nothing, but it is waited for longer each time."""
    lanes = lanes_with(Rules(attempts_together=2), claimed(1), claimed(2))
    for number in range(5):
        batch = batch_of(lanes)
        assert (names(batch), lanes.retries(batch)) == (["t1", "t2"], number)
        lanes.put_off(batch, until_s=0, attempted=False)
        lanes.admit(claimed(10 + number), "s", since_s=0.0)


def test_turns_for_different_ways_of_learning_are_not_put_together() -> None:
    """Each is read as whoever wrote it asked."""
    lanes = lanes_with(Rules(), claimed(1), claimed(2, way="custom"), claimed(3, way="custom"))
    first = batch_of(lanes)
    assert names(first) == ["t1"]
    lanes.finished(first)
    assert names(lanes.next_batch(0)) == ["t2", "t3"]


def test_several_sessions_may_be_gathered_but_for_what_failed_before() -> None:
    """Vectors are made for many turns at once; a turn that spoilt a batch spoils no other session's again."""
    rules = Rules(turns=4, lanes=10)
    lanes = lanes_with(rules, *(claimed(number, session=name) for number, name in enumerate("abcd")))
    lanes.admit(claimed(9, session="a"), "a", since_s=0.0)
    gathered = batch_of(lanes)
    assert names(gathered) == ["t0", "t9", "t1", "t2"]
    lanes.put_off(gathered, until_s=0)
    assert [names(lanes.next_batch(0)) for _ in range(4)] == [["t0", "t9"], ["t1"], ["t2"], ["t3"]]


def test_what_is_somebody_elses_is_dropped() -> None:
    """A partition that went to another worker is not worked on here."""
    lanes = lanes_with(Rules(), claimed(1, session="a"), claimed(2, session="b", partition="p01"))
    running = batch_of(lanes)
    lanes.forget("p00")
    assert len(lanes) == 1
    lanes.put_off(running, until_s=0)
    lanes.finished(running)
    assert names(lanes.next_batch(0)) == ["t2"]
    assert lanes.next_batch(99) is None


def test_what_comes_back_to_a_forgotten_lane_is_not_taken_for_the_old_batch() -> None:
    """A worker that lost a partition and got it again does its turns again, or it would lose them."""
    lanes = lanes_with(Rules(), claimed(1))
    old = batch_of(lanes)
    lanes.forget("p00")
    lanes.admit(claimed(1), "s", since_s=0.0)
    new = batch_of(lanes)
    lanes.finished(old)
    assert len(lanes) == 1
    lanes.finished(new)
    assert len(lanes) == 0


def test_of_a_batch_only_what_is_still_held_is_done() -> None:
    """The store has the last word about whose a turn is."""
    lanes = lanes_with(Rules(), claimed(1), claimed(2), claimed(3))
    batch = batch_of(lanes)
    kept = lanes.keep(batch, {("p00", "2-0")})
    assert names(kept) == ["t2"]
    assert len(lanes) == 1
    assert kept is not None
    assert lanes.keep(kept, set()) is None
    assert len(lanes) == 0
    assert lanes.size == 0


def test_turns_taken_over_late_stand_at_their_place() -> None:
    """What a dead worker had claimed comes before what was claimed since."""
    lanes = lanes_with(Rules(), claimed(2), claimed(10))
    lanes.admit(claimed(9), "s", since_s=0.0)
    assert not lanes.admit(claimed(2), "s", since_s=0.0)
    assert names(lanes.next_batch(0)) == ["t2", "t9", "t10"]


@dataclass
class Expected:
    """What a session has been through."""

    admitted: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    running: Batch | None = None


class AnyOrder(RuleBasedStateMachine):
    """Turns come, are done, fail, and time passes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes(Rules(turns=3, size=350, quiet_s=5, longest_s=12, attempts_together=2))
        self.now_s = 0.0
        self.number = 0
        self.sessions = {name: Expected() for name in "abc"}

    @rule(session=st.sampled_from("abc"), size=st.sampled_from([50, 100, 400]))
    def comes(self, session: str, size: int) -> None:
        self.number += 1
        turn = claimed(self.number, session=session, size=size)
        assert self.lanes.admit(turn, session, since_s=self.now_s)
        self.sessions[session].admitted.append(turn.turn.id)

    @rule(seconds=st.sampled_from([0.5, 3.0, 12.0]))
    def passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(hurry=st.booleans())
    def begins(self, hurry: bool) -> None:
        batch = self.lanes.next_batch(self.now_s, hurry=hurry)
        if batch is not None:
            [session] = {each.turn.session for each in batch.claimed}
            expected = self.sessions[session]
            assert expected.running is None, "two batches of one session at once"
            begin = len(expected.done)
            assert names(batch) == expected.admitted[begin : begin + len(batch.claimed)], "out of order"
            assert len(batch.claimed) <= 3
            assert len(batch.claimed) == 1 or sum(each.size for each in batch.claimed) <= 350
            assert len(batch.claimed) == 1 or batch.attempts < 2
            expected.running = batch

    def running(self) -> Sequence[Expected]:
        return [each for each in self.sessions.values() if each.running is not None]

    @precondition(lambda self: self.running())
    @rule(data=st.data(), succeeds=st.booleans(), counts=st.booleans(), delay_s=st.sampled_from([0.0, 4.0]))
    def ends(self, data: st.DataObject, succeeds: bool, counts: bool, delay_s: float) -> None:
        expected = data.draw(st.sampled_from(self.running()))
        batch = expected.running
        assert batch is not None
        expected.running = None
        if succeeds:
            expected.done += names(batch)
            self.lanes.finished(batch)
        else:
            self.lanes.put_off(batch, until_s=self.now_s + delay_s, attempted=counts)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        left = sum(len(each.admitted) - len(each.done) for each in self.sessions.values())
        assert len(self.lanes) == left
        waits = any(each.running is None and len(each.admitted) > len(each.done) for each in self.sessions.values())
        assert (self.lanes.next_due_s() is not None) == waits

    @override
    def teardown(self) -> None:
        """Everything is done in the end, in order."""
        for expected in self.running():
            batch, expected.running = expected.running, None
            assert batch is not None
            expected.done += names(batch)
            self.lanes.finished(batch)
        while (batch := self.lanes.next_batch(self.now_s + 1_000)) is not None:
            self.sessions[batch.claimed[0].turn.session].done += names(batch)
            self.lanes.finished(batch)
        assert all(each.done == each.admitted for each in self.sessions.values())
        assert (len(self.lanes), self.lanes.size) == (0, 0)


TestAnyOrder = AnyOrder.TestCase


def test_batches_are_values() -> None:
    """What is being done does not change under the one who does it."""
    batch = batch_of(lanes_with(Rules(), claimed(1)))
    assert replace(batch, number=7).held == batch.held
    assert batch.partitions == {"p00"}
