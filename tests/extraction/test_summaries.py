"""Rolling summaries: what a long session was about before the part that still fits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from memproxy.demo.scripted_model import Reply
from memproxy.errors import BudgetSpentError, ModelCallError
from memproxy.extraction.extract import Extractor, Means
from memproxy.extraction.spending import Budget
from memproxy.extraction.summaries import FULL, KEPT, RollingSummaries, target_of, words_for
from memproxy.llm import JsonModel
from memproxy.memory.long_term import LongTermMemory
from memproxy.records import JsonObject
from memproxy.storage import schema
from memproxy.storage.session_summaries import SessionSummaries, SummaryState
from memproxy.storage.spent_tokens import SpentTokens
from memproxy.storage.working import RESULT, USER, IndexEntry
from tests.fakes.learning import MONDAY, Answers, learning
from tests.fakes.talks import OTHERS, TALK, facts_of, said, session_store, set_facts, talk, write


@asynccontextmanager
async def summarising(
    memory: LongTermMemory, redis: Redis, answers: Answers, *, budget: Budget | None = None
) -> AsyncIterator[Extractor]:
    def means(model: JsonModel) -> Means:
        rolling = RollingSummaries(SessionSummaries(redis), session_store(redis), model)
        return Means(model, model, rolling=rolling, budget=budget)

    async with learning(memory, answers, means=means) as learner:
        yield learner.extractor


def counting(shown: JsonObject) -> Any:
    """A model that says which messages it has read, in order."""
    numbers = [one["words"].rpartition(" ")[2] for one in shown["messages"]]
    return {"summary": f"{shown['previous']} Then {' '.join(numbers)} were said.".strip()}


async def test_what_was_cut_is_summed_up_in_order_and_goes_on_from_where_it_was(
    memory: LongTermMemory, redis: Redis
) -> None:
    """The oldest first, the summary so far with it, nothing twice, nothing left out."""
    await write(redis, talk(6), facts={"cut": "4"})
    async with summarising(memory, redis, Answers(rolling_summary=counting)) as extractor:
        assert await extractor.summarise(TALK) > 0
        assert (await facts_of(redis))["summary"] == "Then 0 1 2 3 were said."
        assert await extractor.summarise(TALK) == 0
        await write(redis, talk(4, first=6), expected=6, facts={"cut": "8"})
        await extractor.summarise(TALK)
    facts = await facts_of(redis)
    assert facts["summary"] == "Then 0 1 2 3 were said. Then 4 5 6 7 were said."
    assert facts["summarised"] == "8"


async def test_a_session_that_fits_costs_nothing(memory: LongTermMemory, redis: Redis) -> None:
    """Most sessions are short; one that is not there is none."""
    await write(redis, talk(6), facts={"wants_summary": "1000"})
    answers = Answers(rolling_summary=counting)
    async with summarising(memory, redis, answers) as extractor:
        assert await extractor.summarise(TALK) == await extractor.summarise(OTHERS) == 0
    assert answers.asked == []
    assert await Extractor(memory).summarise(TALK) == 0


async def test_code_that_wants_a_session_to_fit_gets_its_older_part_summed_up(
    memory: LongTermMemory, redis: Redis
) -> None:
    """Above 70 % of the window, down to 40 %, at a turn's beginning; whoever wrote the session did not wait."""
    await write(redis, talk(14), facts={"wants_summary": "200"})
    async with summarising(memory, redis, Answers(rolling_summary=counting)) as extractor:
        assert await extractor.summarise(TALK) == 0
        await write(redis, talk(2, first=14), expected=14)
        await extractor.summarise(TALK)
        facts = await facts_of(redis)
        assert (facts["summarised"], facts["summary"]) == ("8", "Then 0 1 2 3 4 5 6 7 were said.")
        assert await extractor.summarise(TALK) == 0


async def test_a_long_part_is_summed_up_piece_by_piece(memory: LongTermMemory, redis: Redis) -> None:
    """Small models read a few thousand tokens at a time, and each piece is kept at once."""
    long = [said("user", f"{'word ' * 350}number {number}", minutes=number) for number in range(60)]
    await write(redis, long, facts={"cut": "60"})
    answers = Answers(rolling_summary=counting)
    async with summarising(memory, redis, answers) as extractor:
        await extractor.summarise(TALK)
    shown = answers.shown("rolling_summary")
    assert len(shown) > 3
    numbers = [one["words"].rpartition(" ")[2] for each in shown for one in each["messages"]]
    assert numbers == [str(number) for number in range(60)]
    assert (await facts_of(redis))["summarised"] == "60"


@pytest.mark.parametrize(
    "answer", ['{"summary": ""}', "NONE", '{"summary": "None."}', "I'm sorry, I can't do that.", "N/A"]
)
async def test_an_empty_answer_never_replaces_a_summary(memory: LongTermMemory, redis: Redis, answer: str) -> None:
    """What was known stays known, and the model is asked again only when there is more to sum up."""
    await write(redis, talk(6), facts={"cut": "4", "summary": "Ann wants a boat.", "summarised": "2"})
    answers = Answers(rolling_summary=answer)
    async with summarising(memory, redis, answers) as extractor:
        await extractor.summarise(TALK)
        await extractor.summarise(TALK)
        facts = await facts_of(redis)
        assert (facts["summary"], facts["summarised"]) == ("Ann wants a boat.", "2")
        assert len(answers.asked) == 1
        await write(redis, talk(8, first=6), expected=6)
        await extractor.summarise(TALK)
    assert len(answers.asked) == 2


async def test_a_model_that_is_away_is_the_queues_concern(memory: LongTermMemory, redis: Redis) -> None:
    """The session is as it was, and is summarised when the model is back."""
    await write(redis, talk(6), facts={"cut": "4", "summary": "Ann wants a boat.", "summarised": "2"})
    answers = Answers(rolling_summary=(Reply(status=503, error="away"), {"summary": "Ann wants a big boat."}))
    async with summarising(memory, redis, answers) as extractor:
        with pytest.raises(ModelCallError):
            await extractor.summarise(TALK)
        assert (await facts_of(redis))["summary"] == "Ann wants a boat."
        await extractor.summarise(TALK)
    assert (await facts_of(redis))["summary"] == "Ann wants a big boat."


async def test_a_summary_of_a_log_that_changed_meanwhile_is_dropped(memory: LongTermMemory, redis: Redis) -> None:
    """Code that rewrote the session while the model was reading has the last word."""
    await write(redis, talk(6), facts={"cut": "4"})
    sessions = session_store(redis)

    class Rewriting:
        """Reads messages, and code rewrites the session just then."""

        async def messages(self, *place: Any) -> Any:
            await set_facts(redis, {"rewrites": "1", "summary": "Written by code.", "summarised": "0"})
            return await sessions.messages(*place)

    answers = Answers(rolling_summary=counting)

    def means(model: JsonModel) -> Means:
        return Means(model, model, rolling=RollingSummaries(SessionSummaries(redis), Rewriting(), model))

    async with learning(memory, answers, means=means) as learner:
        await learner.extractor.summarise(TALK)
    assert (await facts_of(redis))["summary"] == "Written by code."
    assert len(answers.asked) == 1


async def test_messages_that_are_gone_are_not_summed_up(memory: LongTermMemory, redis: Redis) -> None:
    """A session that ended while it waited costs no call."""
    await write(redis, talk(6), facts={"cut": "4"})
    await redis.delete(schema.session_key("log", TALK))
    answers = Answers(rolling_summary=counting)
    async with summarising(memory, redis, answers) as extractor:
        assert await extractor.summarise(TALK) == 0
    assert answers.asked == []


async def test_a_spent_budget_leaves_the_summary_for_tomorrow(memory: LongTermMemory, redis: Redis) -> None:
    """Summaries are part of what memory may cost."""
    counts = SpentTokens(redis)
    await counts.add("tenant", MONDAY.date(), 100)
    await write(redis, talk(6), facts={"cut": "4"})
    budget = Budget(counts, daily_tokens=100, now=lambda: MONDAY)
    async with summarising(memory, redis, Answers(rolling_summary=counting), budget=budget) as extractor:
        with pytest.raises(BudgetSpentError):
            await extractor.summarise(TALK)


async def test_the_model_is_shown_tools_too_but_no_pages_and_no_instructions(
    memory: LongTermMemory, redis: Redis
) -> None:
    """The agent goes on working with nothing but the summary: it has to know what its tools found."""
    call = {"id": "c", "type": "function", "function": {"name": "find_order", "arguments": '{"id": "LX-4417"}'}}
    messages = [
        said("system", "You are Bob."),
        said("user", "Where is my order?"),
        said("assistant", None, tool_calls=[call]),
        said("tool", "It ships on Friday. " + "page " * 900, tool_call_id="c"),
        said("assistant", "On Friday."),
    ]
    await write(redis, messages, facts={"cut": "5"})
    answers = Answers(rolling_summary={"summary": "The order LX-4417 ships on Friday. It has number ZZ-99999."})
    async with summarising(memory, redis, answers) as extractor:
        await extractor.summarise(TALK)
    [shown] = answers.shown("rolling_summary")
    assert [one["role"] for one in shown["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert "find_order" in shown["messages"][1]["words"]
    assert len(shown["messages"][2]["words"]) < 600
    facts = await facts_of(redis)
    assert (facts["summary"], facts["summarised"]) == ("The order LX-4417 ships on Friday.", "5")


async def test_a_summary_is_bounded(memory: LongTermMemory, redis: Redis) -> None:
    """It must leave room in the note that stands for what was cut, and in a small window."""
    await write(redis, talk(6), facts={"cut": "4"})
    async with summarising(memory, redis, Answers(rolling_summary={"summary": "So it was said. " * 500})) as extractor:
        await extractor.summarise(TALK)
    assert len((await facts_of(redis))["summary"].split()) <= 300
    assert words_for(_state(wanted=1_000)) == 80
    assert words_for(_state(wanted=100)) == 40
    assert words_for(_state(wanted=100_000)) == words_for(_state()) == 300


def _state(
    *tokens: int, cut: int = 0, summarised: int = 0, wanted: int = 0, flags: tuple[int, ...] = ()
) -> SummaryState:
    flags = flags or tuple(USER if at % 2 == 0 else 0 for at in range(len(tokens)))
    index = tuple(IndexEntry(b"", count, flag) for count, flag in zip(tokens, flags, strict=True))
    return SummaryState("", summarised, cut, wanted, 0, 0, index)


def test_a_cut_between_a_call_and_its_result_is_not_made() -> None:
    """Where no turn begins in the part that fits, the result goes with its call."""
    flags = (USER, 0, RESULT, RESULT, 0)
    assert target_of(_state(10, 10, 10, 10, 10, wanted=60, flags=flags)) == 1


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(0, 400), st.data())
def test_the_target_is_never_behind_and_leaves_the_newest(tokens: list[int], wanted: int, data: st.DataObject) -> None:
    """A summary only ever covers more; the newest message is never summed up for a window's sake."""
    cut, summarised = (data.draw(st.integers(0, len(tokens) - 1)) for _ in range(2))
    target = target_of(_state(*tokens, cut=cut, summarised=summarised, wanted=wanted))
    assert max(cut, summarised) <= target < len(tokens)
    if wanted and sum(tokens[max(cut, summarised) :]) <= FULL * wanted:
        assert target == max(cut, summarised)
    if wanted and target > max(cut, summarised):
        assert sum(tokens[target:]) <= max(int(KEPT * wanted), tokens[-1] + (tokens[-2] if len(tokens) > 1 else 0))
