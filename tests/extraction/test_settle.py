"""What becomes of new facts beside those that are remembered."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any

import pytest
from msgspec.structs import replace

from memproxy.extraction.decide import MAX_PAIRS, Pair, Relation
from memproxy.extraction.facts import fact_id
from memproxy.extraction.settle import PAIRS_EACH, Doubts, Settlement, held_at, settle, settled_by, told_before, united
from memproxy.memory.long_term import LongTermMemory
from memproxy.records import MemoryRecord, Scope
from memproxy.words import Terms
from tests.fakes.learning import MONDAY, everything, fact
from tests.fakes.shared_data import dialogues

SAME, REPLACES, DIFFERENT = Relation.SAME, Relation.REPLACES, Relation.DIFFERENT


class Judge:
    """Decides by the old statement, and otherwise says that all is different."""

    def __init__(self, **relations: Relation) -> None:
        self._relations = relations
        self.asked: list[Sequence[Pair]] = []

    async def __call__(self, pairs: Sequence[Pair]) -> Sequence[Relation]:
        self.asked.append(pairs)
        return [self._relations.get(pair.old.id, DIFFERENT) for pair in pairs]


def said(text: str, *, minutes: float = 0, **fields: Any) -> MemoryRecord:
    """A new fact, as a strategy makes it."""
    return fact(text, minutes=minutes, **{"id": fact_id(text), "turns": (f"t{minutes}",), **fields})


async def settled(memory: LongTermMemory, judge: Judge, *new: MemoryRecord) -> Settlement:
    return await settle(new, memory=memory, decide=judge, terms=Terms(), unrelated=0.0)


async def test_what_nobody_knows_is_new(memory: LongTermMemory) -> None:
    """The usual case: no question, nothing changed."""
    judge = Judge()
    new = said("Ann plays the violin.")
    assert await settled(memory, judge, new) == Settlement((new,))
    assert judge.asked == []
    assert await settled(memory, judge) == Settlement()


async def test_what_is_there_word_for_word_is_merged(memory: LongTermMemory) -> None:
    """By its id, or, under another id, by its words."""
    known, reworded = said("Ann likes tea."), fact("Ann has two cats.", id="older")
    await memory.remember([known, reworded])
    again, same = said("Ann likes tea", minutes=5), said("Ann really has 2 cats!", minutes=5)
    made = await settled(memory, Judge(), again, same)
    assert made == Settlement(merged=((known.id, again), ("older", same)))


async def test_one_that_code_made_or_pinned_makes_the_same_fact_unnecessary(memory: LongTermMemory) -> None:
    """It is not changed, and nothing is put beside it."""
    explicit = fact("Ann likes tea.", is_explicit=True, id=fact_id("Ann likes tea."))
    pinned = fact("Ann has two cats.", pinned=True, id="p")
    await memory.remember([explicit, pinned])
    assert await settled(memory, Judge(), said("Ann likes tea."), said("Ann has 2 cats.")) == Settlement()


async def test_what_is_true_again_after_something_else_is_a_fact_of_its_own(memory: LongTermMemory) -> None:
    """Paris, Berlin, Paris: both times in Paris are kept, each with its own time."""
    paris = fact("Ann lives in Paris.", id=fact_id("Ann lives in Paris."))
    berlin = fact("Ann lives in Berlin.", id="berlin", minutes=-500)
    await memory.remember([paris])
    await memory.supersede([berlin], {"berlin": [paris.id]})
    back = said("Ann lives in Paris.")
    made = await settled(memory, Judge(berlin=REPLACES), back)
    [record] = made.new
    assert record.id != paris.id
    assert made.replaced == {record.id: ["berlin"]}
    late = said("Ann lives in Paris.", minutes=-800)
    assert await settled(memory, Judge(), late) == Settlement()


async def test_a_replaced_fact_is_named_and_nothing_is_deleted(memory: LongTermMemory) -> None:
    """ "Where did Ann live before?" has an answer."""
    await memory.remember([fact("Ann lives in Paris.", id="paris")])
    new = said("Ann moved to Berlin.")
    made = await settled(memory, Judge(paris=REPLACES), new)
    assert made.replaced == {new.id: ["paris"]}
    assert made.new == (replace(new, supersedes=("paris",)),)


async def test_what_a_model_calls_the_same_is_merged_with_what_is_there(memory: LongTermMemory) -> None:
    """Words put another way make no second memory; the first wording stays."""
    await memory.remember([fact("Ann is allergic to peanuts.", id="allergy")])
    again = said("Ann has a peanut allergy.")
    assert await settled(memory, Judge(allergy=SAME), again) == Settlement(merged=(("allergy", again),))


async def test_what_was_said_earlier_never_replaces_what_was_said_later(memory: LongTermMemory) -> None:
    """A turn that is learned late, or imported, does not turn time back; it is kept as what held then."""
    await memory.remember([fact("Ann lives in Paris.", id="paris", minutes=100)])
    old = said("Ann moved to Berlin.", minutes=50)
    made = await settled(memory, Judge(paris=REPLACES), old)
    assert made.replaced == {}
    [record] = made.new
    assert record.superseded_by == "paris"
    assert record.valid_until == MONDAY + timedelta(minutes=100)


async def test_a_fact_that_was_confirmed_later_is_as_new_as_its_confirmation(memory: LongTermMemory) -> None:
    """Ann said in June that she still lives in Paris: what she said in May does not replace it."""
    confirmed = fact("Ann lives in Paris.", id="paris", updated_at=MONDAY + timedelta(minutes=100))
    await memory.remember([confirmed])
    made = await settled(memory, Judge(paris=REPLACES), said("Ann moved to Berlin.", minutes=50))
    assert made.replaced == {}
    assert made.new[0].valid_until == held_at(confirmed)


@pytest.mark.parametrize("fixed", [{"is_explicit": True}, {"pinned": True}])
async def test_fixed_records_are_never_replaced(memory: LongTermMemory, fixed: dict[str, Any]) -> None:
    """What code made stands until code changes it."""
    await memory.remember([fact("Ann lives in Paris.", id="paris", **fixed)])
    new = said("Ann moved to Berlin.")
    assert await settled(memory, Judge(paris=REPLACES), new) == Settlement((new,))
    assert await settled(memory, Judge(paris=SAME), new) == Settlement()


async def test_the_batch_is_compared_with_itself(memory: LongTermMemory) -> None:
    """Two strategies, or a talkative model, say the same twice; a talk may correct itself."""
    twice = (said("Ann has two cats.", topics=("pets",)), said("Ann has 2 cats!", minutes=3, topics=("Pets", "home")))
    made = await settled(memory, Judge(), *twice)
    [record] = made.new
    assert (record.text, record.topics, record.turns) == ("Ann has two cats.", ("pets", "home"), ("t0", "t3"))
    paris, berlin = said("Ann lives in Paris."), said("Ann moved to Berlin.", minutes=9)
    judge = Judge(**{paris.id: REPLACES})
    made = await settled(memory, judge, berlin, paris)
    records = {record.id: record for record in made.new}
    assert records[paris.id].superseded_by == berlin.id
    assert records[paris.id].valid_until == berlin.created_at
    assert records[berlin.id].supersedes == (paris.id,)
    assert made.replaced == {}


async def test_everything_doubtful_is_asked_in_one_call(memory: LongTermMemory) -> None:
    """Cost grows with batches, not with facts; each fact is compared with its nearest."""
    await memory.remember([fact(f"Ann met Bob in room {n} of the old house.", id=f"m{n}") for n in range(9)])
    judge = Judge()
    await settled(memory, judge, *(said(f"Ann met Bob in room {n} of the new house.") for n in range(20, 30)))
    [pairs] = judge.asked
    assert len(pairs) == MAX_PAIRS
    for new_id in {pair.new.id for pair in pairs}:
        own = [pair for pair in pairs if pair.new.id == new_id and pair.old.id.startswith("m")]
        assert len(own) <= PAIRS_EACH


async def test_summaries_and_what_no_longer_holds_are_compared_with_nothing(memory: LongTermMemory) -> None:
    """A summary says everything, and an old address is already replaced."""
    await memory.remember(
        [
            fact("Ann lives in Paris.", id="s", strategy="summary"),
            fact("Ann lives in Paris now.", id="o", valid_until=MONDAY, superseded_by="x"),
        ]
    )
    judge = Judge()
    assert len((await settled(memory, judge, said("Ann moved to Berlin."))).new) == 1
    assert judge.asked == []


def test_a_missing_answer_is_different() -> None:
    """A judge that says less than it was asked loses nothing."""
    known = fact("Ann lives in Paris.", id="paris")
    new = said("Ann moved to Berlin.")
    assert settled_by(Doubts((new,), (), (Pair(new, known, 0.5),)), []) == Settlement((new,))


def test_of_two_that_are_the_same_as_each_other_one_is_kept() -> None:
    """A judge that calls each the same as the other does not lose both."""
    one, other = said("Ann lives in Paris."), said("Ann has her home in Paris.", minutes=1)
    pairs = (Pair(other, one, 0.5), Pair(one, other, 0.5))
    made = settled_by(Doubts((one, other), (), pairs), [SAME, SAME])
    assert [record.text for record in made.new] == ["Ann lives in Paris."]
    assert made.new[0].turns == ("t0", "t1")
    assert made.merged == ()


def test_merging_adds_and_never_takes() -> None:
    """What the first said stays; what the second knew is added; doing it twice changes nothing."""
    first = said("Ann likes tea.", topics=("Food",), entities=("Ann",))
    second = said("Ann likes tea", minutes=5, topics=("food", "drinks"), entities=("Tea",), event_date=MONDAY)
    both = united(first, second)
    assert (both.text, both.created_at, both.updated_at) == (first.text, MONDAY, second.created_at)
    assert (both.topics, both.entities, both.turns) == (("Food", "drinks"), ("Ann", "Tea"), ("t0", "t5"))
    assert both.event_date == MONDAY
    assert united(both, second) == both


def test_what_was_told_before_is_told_apart_by_when() -> None:
    """The three cases of an id that is known."""
    there = said("Ann likes tea.")
    gone = replace(there, valid_until=MONDAY + timedelta(minutes=10), superseded_by="x")
    again, late = said("Ann likes tea.", minutes=20), said("Ann likes tea.", minutes=5)
    assert told_before([again], {}) == ([again], [])
    assert told_before([again], {there.id: there}) == ([], [(there.id, again)])
    assert told_before([late], {gone.id: gone}) == ([], [])
    [fresh], _ = told_before([again], {gone.id: gone})
    assert fresh.id != gone.id


async def test_no_observation_of_real_people_is_lost_by_thresholds(memory: LongTermMemory) -> None:
    """1,283 observations about ten people, many of them alike: none is merged without a question, and only a part of
    the sittings asks one.
    """
    judge, count, sittings = Judge(), 0, 0
    for conversation in dialogues():
        scope = Scope("tenant", conversation["id"])
        for number, facts in groupby(conversation["facts"], key=lambda one: one["session"]):
            minutes = 1440.0 * number
            batch = [said(one["text"], minutes=minutes, scope=scope) for one in facts]
            made = await settled(memory, judge, *batch)
            assert made.merged == ()
            await memory.supersede(made.new, made.replaced)
            count, sittings = count + len(batch), sittings + 1
    stored = [await everything(memory, Scope("tenant", conversation["id"])) for conversation in dialogues()]
    assert sum(map(len, stored)) == count > 1_200
    pairs = sum(map(len, judge.asked))
    assert len(judge.asked) <= sittings
    assert pairs <= count / 3
