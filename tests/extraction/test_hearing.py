"""What was said in turns, as far as memories may come from it."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from memproxy.extraction.hearing import Hearing
from memproxy.memory.long_term import LongTermMemory
from memproxy.records import JsonObject, Scope, Turn
from memproxy.storage.repeated_lines import RepeatedLines
from memproxy.words import Terms
from tests.fakes.learning import Answers, everything, fact, learning, stored, turn_of

BOB = Scope("tenant", "bob")

SEEDS = (
    "Ann is allergic to peanuts.",
    "Ann's wife is called Carla.",
    "Ann ordered a laptop, order number LX-4417.",
    "Ann prefers window seats on trains.",
    "Ann works as a nurse at St Mary's hospital.",
    "Ann's daughter Mia plays the violin.",
    "Ann lives at 12 Rose Street in Leeds.",
    "Ann is learning Spanish for a trip to Peru.",
)
ECHOES = (
    "As you told me before, you are allergic to peanuts.",
    "I remember that your wife is called Carla.",
    "From my notes: you ordered a laptop, order number LX-4417.",
    "You mentioned earlier that you prefer window seats on trains.",
    "According to my memory you work as a nurse at St Mary's hospital.",
    "Your daughter Mia plays the violin, as you said.",
    "You live at 12 Rose Street in Leeds.",
    "You are learning Spanish for a trip to Peru, and you are allergic to peanuts.",
)
PAGE = " ".join(
    f"Paragraph {number} of the catalogue says that model MX-{number}00 weighs {number} kilograms and ships in May."
    for number in range(1, 60)
)
TEMPLATE = (
    "Please answer as briefly as you can, use metric units only, and never mention competitors by their names.\n"
    "The customer below belongs to the platinum tier and expects an answer within four working hours of asking.\n"
)
PROMPT = (
    "You are an expert support agent for Acme Corporation and you must follow the instructions below.\n\n"
    "- Always greet the customer by their first name.\n- Never reveal internal pricing.\n"
    "- Return the answer as plain text only.\n\n"
)
SYSTEM = "You are Bob, the assistant of Acme. Acme was founded in 1987 and sells anvils in forty countries."
QUESTIONS = ("What do you know about me?", "Which seat do I like?", "When does my order come?", "Any news for me?")


def junk(number: int, chance: random.Random) -> Turn:
    """A turn of which nothing is worth remembering but the user's own question."""
    echo = " ".join(chance.sample(ECHOES, 2))
    question = chance.choice(QUESTIONS)
    calls = [{"id": "c1", "type": "function", "function": {"name": "read_page", "arguments": "{}"}}]
    tool = (stored("assistant", None, tool_calls=calls), stored("tool", PAGE, tool_call_id="c1"))
    kinds = (
        (stored("user", question), stored("assistant", echo, minutes=1)),
        (stored("system", SYSTEM), stored("user", question), stored("assistant", echo, minutes=1)),
        (stored("user", question), *tool, stored("assistant", PAGE, minutes=1)),
        (stored("user", f"<system-reminder>\n{PAGE}\n</system-reminder>\n{question}"), stored("assistant", echo)),
        (stored("user", PROMPT + question), stored("assistant", "Okay.")),
        (stored("user", TEMPLATE + question), stored("assistant", "Sure.")),
        (stored("user", f"{question}\n```\n{PAGE}\n```"), stored("assistant", "Okay.")),
        (stored("user", question), stored("assistant", f'```json\n{{"page": "{PAGE}"}}\n```\n{echo}', minutes=1)),
    )
    messages = [replace(one, at=one.at + timedelta(hours=number)) for one in kinds[number % len(kinds)]]
    return turn_of(*messages, id=f"t{number}", session=f"s{number // 4}")


def greedy(shown: JsonObject) -> Any:
    """A bad model: makes a memory of each sentence it sees, of all that is junk, and of what it knows already."""
    seen = [sentence for one in shown["messages"] for sentence in one["words"].replace("\n", " ").split(". ")]
    never = [PAGE[:90], SYSTEM[:60], TEMPLATE[:80], PROMPT[:80], *shown.get("known", ())]
    quoted = [{"text": f"{words[:300]}.", "evidence": words} for words in (*seen, *never)]
    return {"memories": [*quoted, *({"text": words} for words in never)]}


def parts_of_junk() -> Iterator[str]:
    """Words by which junk is known again."""
    yield from ("catalogue", "kilograms", "founded in 1987", "Never reveal", "greet the customer", "metric units")
    yield from ("platinum tier", "As you told me", "From my notes", "According to my memory", "as you said")


@pytest.mark.timeout(300)
async def test_five_hundred_turns_of_junk_leave_no_memory(memory: LongTermMemory, redis: Redis) -> None:
    """Memory that feeds on what it injected, on prompts and on tools' pages drowns in itself within a week."""
    await memory.remember([fact(text) for text in SEEDS])
    seeds = await everything(memory)
    chance = random.Random(7)
    lines = RepeatedLines(redis)
    async with learning(memory, Answers(discrete_memories=greedy, decisions="{}"), lines=lines) as learner:
        for number in range(3):  # until then nobody can know that it is a template
            first = turn_of(
                stored("user", TEMPLATE + f"Question {number}?"), id=f"f{number}", session=f"first {number}"
            )
            await Hearing(memory, lines, Terms()).hear([first])
        for number in range(500):
            await learner.learn(junk(number, chance))
        records = await learner.records()
    others = [record.text for record in records if record.text not in SEEDS]
    assert not [text for text in others for part in parts_of_junk() if part in text]
    assert {text.partition(": ")[2] for text in others if text.startswith("User (")} <= set(QUESTIONS)
    assert not [text for text in others if not text.startswith("User (")]
    assert [record for record in records if record.text in SEEDS] == seeds


async def heard(memory: LongTermMemory, *turns: Turn, lines: RepeatedLines | None = None) -> list[str]:
    """What is heard of these turns."""
    return [one.words for one in (await Hearing(memory, lines, Terms()).hear(turns)).said]


async def test_a_template_is_known_by_the_sessions_it_comes_in(memory: LongTermMemory, redis: Redis) -> None:
    """In the third session its lines are no longer the user's words; what the user says beside them is."""
    lines = RepeatedLines(redis)
    for number in (1, 2):
        turn = turn_of(stored("user", f"{TEMPLATE}Question {number}?"), id=f"t{number}", session=f"s{number}")
        assert await heard(memory, turn, turn, lines=lines) == [f"{TEMPLATE}Question {number}?"] * 2
    third = turn_of(stored("user", f"{TEMPLATE}I live in Rome."), id="t3", session="s3")
    assert await heard(memory, third, lines=lines) == ["I live in Rome."]
    again = turn_of(stored("user", f"{TEMPLATE}I live in Rome."), id="t4", session="s4")
    assert await heard(memory, again, lines=lines) == ["I live in Rome."]
    assert await heard(memory, replace(again, scope=BOB), lines=lines) == [f"{TEMPLATE}I live in Rome."]


async def test_short_lines_may_come_in_every_session(memory: LongTermMemory, redis: Redis) -> None:
    """People begin with the same words each day."""
    lines = RepeatedLines(redis)
    for number in range(5):
        turn = turn_of(stored("user", "Good morning, what's up today?"), session=f"s{number}")
        assert await heard(memory, turn, lines=lines) == ["Good morning, what's up today?"]


async def test_an_echo_of_what_was_injected_is_not_heard(memory: LongTermMemory) -> None:
    """The memories that an answer repeats are found by the question, as they were when they were injected."""
    await memory.remember([fact(f"Ann has visited museum number {number} in Rome.") for number in range(30)])
    await memory.remember([fact(text) for text in SEEDS])
    turn = turn_of(
        stored("user", "Can I eat satay sauce with peanuts?"),
        stored("assistant", "No: you are allergic to peanuts. Satay is made of them.", minutes=1),
    )
    assert await heard(memory, turn) == ["Can I eat satay sauce with peanuts?", "Satay is made of them."]


async def test_a_question_of_the_turn_before_counts(memory: LongTermMemory) -> None:
    """The answer may come in a turn of its own, behind tools."""
    await memory.remember([fact(text) for text in SEEDS])
    question = (stored("user", "What am I allergic to?"),)
    turn = turn_of(stored("assistant", "You are allergic to peanuts.", minutes=1), context=question)
    assert await heard(memory, turn) == []


async def test_what_is_known_comes_along(memory: LongTermMemory) -> None:
    """A model needs the names; what these turns gave themselves is nothing to know."""
    await memory.remember([fact(text) for text in SEEDS])
    await memory.remember([fact("Ann sails with Carla.", turns=("t1",), minutes=-5)])
    turn = turn_of(stored("user", "My wife and I went sailing, Carla loves it."))
    known = {record.text for record in (await Hearing(memory, None, Terms()).hear([turn], with_names=True)).known}
    assert "Ann's wife is called Carla." in known
    assert "Ann sails with Carla." not in known


async def test_the_users_name_comes_along_whatever_is_spoken_of(memory: LongTermMemory) -> None:
    """ "The user" may be anybody; a memory about Ann is about Ann."""
    await memory.remember([fact(text.replace("Ann", "The user")) for text in SEEDS])
    hearing = Hearing(memory, None, Terms())
    turn = turn_of(stored("user", "The garden fence has to be painted."))
    assert "The user's name is Ann." not in {one.text for one in (await hearing.hear([turn], with_names=True)).known}
    await memory.remember([fact("The user's name is Ann.")])
    assert "The user's name is Ann." in {one.text for one in (await hearing.hear([turn], with_names=True)).known}


async def test_words_know_the_turn_that_brought_them(memory: LongTermMemory) -> None:
    """A memory names the turn that it comes from, not the whole batch."""
    turns = (turn_of(stored("user", "I live in Rome.")), turn_of(stored("user", "I like tea."), id="t2"))
    said = (await Hearing(memory, None, Terms()).hear(turns)).said
    assert [(one.words, one.turn) for one in said] == [("I live in Rome.", "t1"), ("I like tea.", "t2")]
