"""Turns to stored memories: what was said, and what a model makes of it, with the real store and the real protocol."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from redis.asyncio import Redis

from memproxy.demo.scripted_model import Reply
from memproxy.errors import BudgetSpentError, ModelCallError
from memproxy.extraction.extract import Extractor, Learned, Means
from memproxy.extraction.facts import fact_id
from memproxy.extraction.spending import Budget
from memproxy.llm import JsonModel
from memproxy.memory.long_term import LongTermMemory
from memproxy.records import MemoryType, Scope, StrategyChoice
from memproxy.storage.done_marks import DoneMarks
from memproxy.storage.spent_tokens import SpentTokens
from tests.fakes.learning import MONDAY, Answers, everything, fact, learning, stored, turn_of

PEANUTS = turn_of(
    stored("user", "I'm allergic to peanuts.", name="Ann"),
    stored("assistant", "I will keep that in mind, Ann.", minutes=1),
    context=(stored("user", "Hello!"), stored("assistant", "What should I know?")),
)
ALLERGY = {"text": "Ann is allergic to peanuts.", "evidence": "allergic to peanuts"}
NOBODY = Scope("tenant", None)


async def test_indexing_needs_no_model(memory: LongTermMemory) -> None:
    """Memory works without a key."""
    extractor = Extractor(memory)
    assert not extractor.has_model
    assert await extractor.index([PEANUTS]) == 2
    assert await extractor.index([PEANUTS]) == 0
    assert await extractor.learn([PEANUTS]) == Learned(0, 0)
    assert len(await everything(memory)) == 2


async def test_turns_of_many_sessions_are_indexed_at_once(memory: LongTermMemory) -> None:
    """A worker that has fallen behind catches up in few round trips, and nothing gets into another's memory."""
    bob = replace(PEANUTS, id="t2", scope=Scope("tenant", "bob"))
    other = replace(PEANUTS, id="t3", session="s2")
    assert await Extractor(memory).index([PEANUTS, bob, other]) == 6
    assert len(await everything(memory)) == 4
    assert len(await everything(memory, bob.scope)) == 2


async def test_records_that_came_with_a_session_are_stored_as_they_are(memory: LongTermMemory) -> None:
    """Code that puts a memory beside a session finds it under its own id, near ones notwithstanding."""
    given = (
        fact("Ann likes tea.", is_explicit=True, id="mine-1"),
        fact("Ann likes tea!", is_explicit=True, id="mine-2"),
    )
    await Extractor(memory).index([replace(PEANUTS, memories=given)])
    assert {"mine-1", "mine-2"} <= {record.id for record in await everything(memory)}


async def test_a_turn_without_words_is_no_trouble(memory: LongTermMemory) -> None:
    """A turn of tool calls alone is indexed as nothing."""
    assert await Extractor(memory).index([turn_of(stored("tool", "result"))]) == 0


async def test_the_model_is_shown_the_turn_and_its_facts_are_stored_beside_the_words(memory: LongTermMemory) -> None:
    """Both kinds together recall most."""
    async with learning(memory, Answers(discrete_memories={"memories": [ALLERGY]})) as learner:
        assert learner.extractor.has_model
        assert await learner.learn(PEANUTS) == 1
        assert await learner.facts() == ["Ann is allergic to peanuts."]
    assert len(await everything(memory)) == 3
    [shown] = learner.answers.shown("discrete_memories")
    assert [one["words"] for one in shown["context"]] == ["Hello!", "What should I know?"]
    assert shown["people"] == ["Ann"]


async def test_a_fact_says_where_it_comes_from(memory: LongTermMemory) -> None:
    """Whoever wonders about a memory can look up what it was learned from."""
    choice = StrategyChoice("discrete", {"note": 1})
    async with learning(memory, Answers(discrete_memories={"memories": [ALLERGY]})) as learner:
        await learner.learn(replace(PEANUTS, strategies=(choice,)))
        record = next(one for one in await learner.records() if one.type is MemoryType.SEMANTIC)
    assert (record.strategy, record.strategy_config, record.turns) == ("discrete", {"note": 1}, ("t1",))
    assert (record.session, record.speaker, record.created_at) == ("s1", "Ann", MONDAY)
    assert record.context == "allergic to peanuts"


async def test_a_batch_is_read_in_one_call_and_each_fact_names_its_own_turn(memory: LongTermMemory) -> None:
    """Twenty turns cost one call, and the second is not taken for the first."""
    later = turn_of(stored("user", "My dog is called Rex.", minutes=5), id="t2")
    found = {"memories": [ALLERGY, {"text": "Ann has a dog called Rex.", "evidence": "My dog is called Rex"}]}
    async with learning(memory, Answers(discrete_memories=found)) as learner:
        assert await learner.learn(PEANUTS, later) == 2
        turns = {record.text: record.turns for record in await learner.records()}
    assert learner.answers.count("discrete_memories") == 1
    assert turns["Ann is allergic to peanuts."] == ("t1",)
    assert turns["Ann has a dog called Rex."] == ("t2",)


async def test_the_model_is_shown_what_is_remembered_so_that_it_knows_the_names(memory: LongTermMemory) -> None:
    """ "My wife" becomes Carla, though nobody said Carla today."""
    await memory.remember([fact("Ann's wife is called Carla."), fact("Ann has an old boat.", minutes=-1)])
    turn = turn_of(stored("user", "My wife loves sailing."))
    said = {"text": "Carla, Ann's wife, loves sailing.", "evidence": "My wife loves sailing."}
    async with learning(memory, Answers(discrete_memories={"memories": [said]})) as learner:
        assert await learner.learn(turn) == 1
    [shown] = learner.answers.shown("discrete_memories")
    assert "Ann's wife is called Carla." in shown["known"]


async def test_times_are_those_of_the_users_zone(memory: LongTermMemory) -> None:
    """Half past eleven at night in London is the next day in Berlin."""
    late = turn_of(stored("user", "We married yesterday in Rome.", minutes=9.5 * 60))
    event = {"text": "The user married in Rome yesterday.", "type": "episodic", "evidence": "We married yesterday"}
    async with learning(memory, Answers(discrete_memories={"memories": [event]}), zone=ZoneInfo("Europe/Berlin")) as it:
        await it.learn(late)
        message, record = await it.records()
    [shown] = it.answers.shown("discrete_memories")
    assert shown["messages"][0]["time"] == "Tuesday 9 May 2023 01:26 Europe/Berlin"
    assert shown["messages"][0]["dates"] == {"yesterday": "8 May 2023"}
    assert record.text == "The user married in Rome yesterday (8 May 2023)."
    assert record.event_date == datetime(2023, 5, 8, tzinfo=UTC)
    assert message.text.startswith("User (9 May 2023): ")


async def test_several_strategies_read_the_same_session(memory: LongTermMemory) -> None:
    """One session, single facts, what the user likes, what a company wants to know, and a summary."""
    choices = (
        StrategyChoice("discrete"),
        StrategyChoice("preferences"),
        StrategyChoice("custom", {"custom_prompt": "What does {user_id} own?"}),
        StrategyChoice("summary", {"max_summary_length": 50}),
    )
    turn = replace(
        turn_of(stored("user", "I bought a boat in May. I prefer sails to motors. My boat is called Swan.")),
        strategies=choices,
    )
    answers = Answers(
        discrete_memories={"memories": [{"text": "The user bought a boat in May.", "evidence": "I bought a boat"}]},
        preferences_memories={
            "memories": [{"text": "The user prefers sails.", "type": "episodic", "evidence": "I prefer sails"}]
        },
        custom_memories={"memories": [{"text": "The user's boat is Swan.", "evidence": "called Swan"}]},
        summary_memories={"summary": "The user bought a boat called Swan and prefers sails.", "topics": ["boats"]},
    )
    async with learning(memory, answers) as learner:
        assert await learner.learn(turn) == 4
        records = {record.strategy: record for record in await learner.records() if record.type.value != "message"}
    assert set(records) == {"discrete", "preferences", "custom", "summary"}
    assert records["preferences"].type is MemoryType.SEMANTIC
    assert records["custom"].strategy_config == {"custom_prompt": "What does {user_id} own?"}
    assert records["summary"].topics == ("thread-summary", "boats")
    custom = next(body for name, body in answers.asked if name == "custom_memories")
    assert "What does ann own?" in custom["messages"][1]["content"]


async def test_a_strategy_that_can_not_be_used_stops_nobody(memory: LongTermMemory) -> None:
    """A turn that was queued before a check became stricter is learned from by the others."""
    choices = (StrategyChoice("astrology"), StrategyChoice("custom"), StrategyChoice("discrete"))
    async with learning(memory, Answers(discrete_memories={"memories": [ALLERGY]})) as learner:
        assert await learner.learn(replace(PEANUTS, strategies=choices)) == 1
    assert [name for name, _ in learner.answers.asked] == ["discrete_memories"]


async def test_the_summary_of_a_session_grows_and_stays_one(memory: LongTermMemory) -> None:
    """A session has one summary, shown to the model with what is new, and an empty answer does not wipe it."""
    choices = (StrategyChoice("summary"),)
    answers = Answers(
        summary_memories=(
            {"summary": "The user bought a boat called Swan."},
            {"summary": "The user bought a boat called Swan and sailed it to Norway."},
            {"summary": "NONE"},
            "I'm sorry, but I can't help with that.",
        )
    )
    said = ("I bought a boat called Swan.", "I sailed it to Norway.", "And what about the weather?", "Anything else?")
    async with learning(memory, answers, choices=choices) as learner:
        for number, words in enumerate(said):
            await learner.learn(turn_of(stored("user", words, minutes=number), id=f"t{number}"))
        [summary] = [record for record in await learner.records() if record.strategy == "summary"]
    assert summary.text == "The user bought a boat called Swan and sailed it to Norway."
    assert summary.created_at == MONDAY
    assert summary.turns == ("t0", "t1")
    assert [shown.get("previous", "") for shown in answers.shown("summary_memories")][1] == (
        "The user bought a boat called Swan."
    )


async def test_work_that_was_done_is_not_paid_for_twice(memory: LongTermMemory, redis: Redis) -> None:
    """A worker that died between writing and acknowledging costs no second call and no second memory."""
    answers = Answers(
        discrete_memories=(
            {"memories": [ALLERGY]},
            {"memories": [{"text": "Ann can't eat any peanuts at all.", "evidence": "allergic to peanuts"}]},
        )
    )
    nothing = turn_of(stored("user", "How is the weather in Lisbon?"), id="t9")
    async with learning(memory, answers, means=lambda model: Means(model, model, marks=DoneMarks(redis))) as learner:
        assert await learner.learn(PEANUTS) == 1
        assert await learner.learn(PEANUTS) == 0
        assert await learner.facts() == ["Ann is allergic to peanuts."]
        await learner.learn(nothing)
        await learner.learn(nothing)
    assert answers.count("discrete_memories") == 2


async def test_what_the_first_parts_gave_is_kept_and_not_asked_again_when_a_later_part_fails(
    memory: LongTermMemory, redis: Redis
) -> None:
    """A long history is not learned from all or nothing."""
    long = turn_of(*PEANUTS.messages, *(stored("user", f"{n} " + "long word " * 500) for n in range(6)))
    answers = Answers(discrete_memories=({"memories": [ALLERGY]}, Reply(status=500, error="away"), {"memories": []}))
    async with learning(memory, answers, means=lambda model: Means(model, model, marks=DoneMarks(redis))) as learner:
        with pytest.raises(ModelCallError):
            await learner.learn(long)
        assert await learner.facts() == ["Ann is allergic to peanuts."]
        await learner.learn(long)
    parts = [shown["messages"][0]["words"][:12] for shown in answers.shown("discrete_memories")]
    assert parts[0] != parts[1]
    assert parts[1] == parts[2]


@pytest.mark.parametrize("answer", ["Let me think about it.", '{"memories": [{"title": 3}]}'])
async def test_an_answer_that_can_not_be_read_twice_is_the_queues_concern(memory: LongTermMemory, answer: str) -> None:
    """It is asked for once more with the reason, then tried again later, and laid aside in the end."""
    async with learning(memory, Answers(discrete_memories=answer)) as learner:
        with pytest.raises(ModelCallError) as caught:
            await learner.learn(PEANUTS)
    assert caught.value.retryable
    first, second = learner.answers.asked
    assert len(first[1]["messages"]) == 2
    assert [message["role"] for message in second[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert second[1]["messages"][2]["content"] == answer


async def test_a_model_mends_its_answer(memory: LongTermMemory) -> None:
    """Small models do better when they are told what was wrong."""
    async with learning(memory, Answers(discrete_memories=("Sure!", {"memories": [ALLERGY]}))) as learner:
        assert await learner.learn(PEANUTS) == 1


async def test_tokens_are_counted_and_told(memory: LongTermMemory) -> None:
    """Who pays wants to see what for."""
    async with learning(memory, Answers(discrete_memories={"memories": [ALLERGY]})) as learner:
        learned = await learner.extractor.learn([PEANUTS])
    assert learned.new == 1
    assert learned.tokens > 500


async def test_a_spent_budget_asks_nobody_until_tomorrow(memory: LongTermMemory, redis: Redis) -> None:
    """A flood of turns does not cost more than was allowed, and nothing of it is lost."""
    now = datetime(2023, 5, 8, 18, tzinfo=UTC)
    counts = SpentTokens(redis)

    def means(model: JsonModel) -> Means:
        return Means(model, model, budget=Budget(counts, daily_tokens=600, now=lambda: now))

    async with learning(memory, Answers(discrete_memories={"memories": [ALLERGY]}), means=means) as learner:
        await learner.learn(PEANUTS)
        later = turn_of(stored("user", "My dog is called Rex."), id="t2")
        with pytest.raises(BudgetSpentError) as caught:
            await learner.learn(later)
        assert caught.value.retry_after_s == timedelta(hours=6).total_seconds()
        assert len(learner.answers.asked) == 1
        now += timedelta(hours=6)
        await learner.learn(later)
        bob = replace(later, id="t3", scope=Scope("other", "bob"))
        await learner.extractor.learn([bob])
    assert len(learner.answers.asked) == 3
    assert await counts.spent("tenant", MONDAY.date()) > 600


async def test_doubtful_pairs_are_decided_by_the_small_model_in_one_call(memory: LongTermMemory) -> None:
    """A new address replaces the old one, which is kept; what is only alike is kept beside it."""
    await memory.remember([fact("Ann lives in Paris."), fact("Ann drives a Toyota Prius."), fact("Ann has two cats.")])
    found = {
        "memories": [
            {"text": "Ann moved to Berlin.", "evidence": "moved to Berlin", "topics": ["home"]},
            {"text": "Ann sold the Prius and bought a bike.", "evidence": "sold the Prius and bought a bike"},
            {"text": "Ann has three cats.", "evidence": "three cats"},
        ]
    }

    def decide(shown: Any) -> Any:
        relations = {"Ann moved to Berlin.": "replaces", "Ann has three cats.": "different"}
        return {
            "decisions": [
                {"pair": pair["pair"], "relation": relations.get(pair["new"], "nonsense")}
                for pair in shown["pairs"]
                if (pair["old"], pair["new"]) != ("Ann has two cats.", "Ann moved to Berlin.")
            ]
        }

    turn = turn_of(stored("user", "I moved to Berlin, sold the Prius and bought a bike. Now I have three cats."))
    async with learning(memory, Answers(discrete_memories=found, decisions=decide)) as learner:
        await learner.learn(turn)
        records = {record.text: record for record in await learner.records()}
        facts = await learner.facts()
    assert learner.answers.count("decisions") == 1
    old, new = records["Ann lives in Paris."], records["Ann moved to Berlin."]
    assert (old.valid_until, old.superseded_by, new.supersedes) == (MONDAY, new.id, (old.id,))
    assert {"Ann has two cats.", "Ann has three cats.", "Ann drives a Toyota Prius."} <= set(facts)
    assert len(facts) == 5


@pytest.mark.parametrize("answer", ["No idea.", "{}", Reply(status=500, error="away"), '{"decisions": [{"pair": 7}]}'])
async def test_a_decision_that_fails_keeps_both(memory: LongTermMemory, answer: Any) -> None:
    """A wrong "different" costs a line; an error would cost the turn."""
    await memory.remember([fact("Ann lives in Paris.")])
    found = {"memories": [{"text": "Ann moved to Berlin.", "evidence": "I moved to Berlin"}]}
    async with learning(memory, Answers(discrete_memories=found, decisions=answer)) as learner:
        assert await learner.learn(turn_of(stored("user", "I moved to Berlin."))) == 1
        assert set(await learner.facts()) == {"Ann lives in Paris.", "Ann moved to Berlin."}


async def test_without_doubts_nothing_is_asked(memory: LongTermMemory) -> None:
    """The usual batch costs one call."""
    await memory.remember([fact("Ann lives in Paris."), fact("Bob plays the violin.")])
    async with learning(memory, Answers(discrete_memories={"memories": [ALLERGY]})) as learner:
        await learner.learn(PEANUTS)
    assert learner.answers.count("decisions") == 0


async def test_learning_stays_within_user_and_namespace(memory: LongTermMemory) -> None:
    """Another's memory is neither merged with, nor replaced, nor shown to the model."""
    others = (Scope("tenant", "bob"), Scope("other", "ann"), Scope("tenant", "ann", "work"))
    await memory.remember([fact("Ann is allergic to peanuts.", scope=scope) for scope in others])
    await memory.remember([fact("Ann lives in Paris.", scope=scope) for scope in others])
    before = {scope: await everything(memory, scope) for scope in others}
    found = {"memories": [ALLERGY, {"text": "Ann moved to Berlin.", "evidence": "I moved to Berlin"}]}
    turn = turn_of(*PEANUTS.messages, stored("user", "I moved to Berlin.", name="Ann", minutes=3))
    answers = Answers(discrete_memories=found, decisions={"decisions": [{"pair": 1, "relation": "replaces"}]})
    async with learning(memory, answers) as learner:
        assert await learner.learn(turn) == 2
    assert {scope: await everything(memory, scope) for scope in others} == before
    assert "known" not in answers.shown("discrete_memories")[0]


async def learned_twice(memory: LongTermMemory, texts: Sequence[str], *, minutes: float) -> None:
    """Learn these facts, said so many minutes after Monday, each in its own words."""
    found = {"memories": [{"text": text, "evidence": text} for text in texts]}
    turn = turn_of(stored("user", " ".join(texts), minutes=minutes), id=f"t{minutes}", session=f"s{minutes}")
    async with learning(memory, Answers(discrete_memories=found, decisions="{}")) as learner:
        await learner.extractor.learn([turn])


async def test_the_same_fact_again_is_one_memory_that_knows_both_turns(memory: LongTermMemory) -> None:
    """Saying something twice makes it no second memory, and puts off when it was said last."""
    await learned_twice(memory, ["Ann is allergic to peanuts."], minutes=0)
    await learned_twice(memory, ["Ann is really allergic to the peanuts!"], minutes=60)
    [record] = await everything(memory)
    assert record.text == "Ann is allergic to peanuts."
    assert record.turns == ("t0", "t60")
    assert record.created_at == MONDAY
    assert record.updated_at == MONDAY + timedelta(minutes=60)


async def test_explicit_records_are_never_touched(memory: LongTermMemory) -> None:
    """What code wrote stays as code wrote it, and makes the same fact from a talk unnecessary."""
    given = fact("Ann is allergic to peanuts.", id="mine", is_explicit=True)
    await memory.create([given, fact("Ann lives in Paris.", id="home", is_explicit=True)], deduplicate=False)
    before = await everything(memory)
    found = {"memories": [ALLERGY, {"text": "Ann moved to Berlin.", "evidence": "I moved to Berlin"}]}
    turn = turn_of(*PEANUTS.messages, stored("user", "I moved to Berlin.", name="Ann"))
    replaces = {"decisions": [{"pair": number, "relation": "replaces"} for number in (1, 2, 3)]}
    async with learning(memory, Answers(discrete_memories=found, decisions=replaces)) as learner:
        assert (await learner.extractor.learn([turn])).new == 1
        records = await learner.records()
    assert [record for record in records if record.is_explicit] == before
    assert [record.text for record in records if not record.is_explicit] == ["Ann moved to Berlin."]


async def test_sessions_of_nobody_are_learned_from_too(memory: LongTermMemory) -> None:
    """Code may keep sessions without a user; the proxy queues none, so a turn without one is code's."""
    turn = replace(PEANUTS, scope=NOBODY)
    async with learning(memory, Answers(discrete_memories={"memories": [ALLERGY]})) as learner:
        assert await learner.learn(turn) == 1
        assert await learner.learn(turn) == 0
    assert [record.text for record in await memory.get(NOBODY, [fact_id(ALLERGY["text"])])] == [ALLERGY["text"]]
    assert await everything(memory) == []
