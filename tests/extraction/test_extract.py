"""Turns to stored memories: what was said, and what a model makes of it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from memproxy.errors import ModelCallError
from memproxy.extraction.extract import Extractor, message_memories
from memproxy.records import JsonObject, MemoryRecord, MemoryType, Outcome, Scope, StoredMessage, Turn

MONDAY = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)


class Memory:
    """Remembers by id, as long-term memory does."""

    def __init__(self) -> None:
        self.records: dict[str, MemoryRecord] = {}

    async def remember(self, records: Sequence[MemoryRecord]) -> int:
        assert records
        new = {record.id for record in records} - self.records.keys()
        self.records |= {record.id: record for record in records}
        return len(new)

    @property
    def texts(self) -> list[str]:
        return [record.text for record in self.records.values()]


class Model:
    """Gives its answers in order, and the last one again and again; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[JsonObject] = []

    async def ask(self, *, system: str, user: str, schema_name: str, schema: JsonObject) -> Any:
        self.asked.append({"system": system, "user": json.loads(user), "name": schema_name, "schema": schema})
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def stored(role: str, words: str, *, minutes: int = 0, **fields: Any) -> StoredMessage:
    message = {"role": role, "content": words, **fields}
    return StoredMessage(message, digest="", tokens=0, at=MONDAY + timedelta(minutes=minutes))


def turn_of(*messages: StoredMessage, context: tuple[StoredMessage, ...] = (), user: str | None = "ann") -> Turn:
    return Turn("t1", Scope("tenant", user), "s1", MONDAY, Outcome.COMPLETED, messages=messages, context=context)


PEANUTS = turn_of(
    stored("user", "I'm allergic to peanuts.", name="Ann"),
    stored("assistant", "I will keep that in mind, Ann.", minutes=1),
    context=(stored("user", "Hello!"), stored("assistant", "What should I know?")),
)
FACT = {"text": "Ann is allergic to peanuts.", "evidence": "allergic to peanuts"}


def test_messages_become_memories_with_speaker_and_day() -> None:
    """Who said it and when is part of what is searched and read."""
    first, second = message_memories(PEANUTS)
    assert first == MemoryRecord(
        id=first.id,
        scope=PEANUTS.scope,
        text="Ann (8 May 2023): I'm allergic to peanuts.",
        type=MemoryType.MESSAGE,
        created_at=MONDAY,
        session="s1",
        speaker="Ann",
        context="Hello!\nWhat should I know?",
        turns=("t1",),
    )
    assert second.text == "Assistant (8 May 2023): I will keep that in mind, Ann."
    assert second.context == "What should I know?\nI'm allergic to peanuts."


def test_trivial_replies_are_context_but_no_memories() -> None:
    """ "Yes" is worth nothing alone, and everything to what comes after it."""
    turn = turn_of(
        stored("assistant", "Shall I cancel order 4711?"),
        stored("user", "Yes, please"),
        stored("assistant", "Cancelled."),
    )
    memories = message_memories(turn)
    assert [memory.text.partition(": ")[2] for memory in memories] == ["Shall I cancel order 4711?", "Cancelled."]
    assert memories[1].context == "Shall I cancel order 4711?\nYes, please"


def test_tools_and_instructions_are_not_indexed() -> None:
    """They would drown what people said."""
    turn = turn_of(
        stored("system", "You are a clerk."), stored("tool", "laptop: shipped"), stored("user", "Where is it?")
    )
    assert [memory.text for memory in message_memories(turn)] == []
    turn = turn_of(stored("tool", "laptop: shipped"), stored("user", "Where is my laptop?"))
    assert [memory.speaker for memory in message_memories(turn)] == ["User"]
    assert message_memories(turn)[0].context == ""


def test_a_redelivered_turn_gives_the_same_memories() -> None:
    """At least once must not mean twice."""
    assert message_memories(PEANUTS) == message_memories(PEANUTS)


def test_the_same_words_again_in_a_session_are_the_same_memory() -> None:
    """A client that sends its history under a new turn doubles nothing; another session or speaker is another one."""
    later = replace(
        PEANUTS,
        id="t2",
        messages=tuple(replace(message, at=MONDAY + timedelta(days=1)) for message in PEANUTS.messages),
    )
    ids = [memory.id for memory in message_memories(PEANUTS)]
    assert [memory.id for memory in message_memories(later)] == ids
    twice = turn_of(*PEANUTS.messages, *PEANUTS.messages)
    assert [memory.id for memory in message_memories(twice)] == ids
    elsewhere = message_memories(replace(PEANUTS, session="s2"))
    quoted = message_memories(turn_of(stored("assistant", "I'm allergic to peanuts.")))
    assert not {memory.id for memory in [*elsewhere, *quoted]} & set(ids)


def test_a_long_message_becomes_several_memories_in_order() -> None:
    """What stands at the end of a long message is found as well as its beginning."""
    sentences = [f"This is sentence number {number} of a long story." for number in range(80)]
    memories = message_memories(turn_of(stored("user", " ".join(sentences))))
    assert len(memories) > 2
    assert all(memory.text.startswith("User (8 May 2023): This is sentence") for memory in memories)
    assert memories[2].context.startswith("This is sentence number 0 ")
    words = " ".join(memory.text.partition(": ")[2] for memory in memories)
    assert words == " ".join(sentences)


async def test_without_a_user_nothing_is_stored() -> None:
    """Nobody's words are not kept as somebody's memory."""
    memory, model = Memory(), Model({"memories": [FACT]})
    extractor = Extractor(memory, model=model)
    nobody = replace(PEANUTS, scope=Scope("tenant", None))
    assert (await extractor.index(nobody), await extractor.learn(nobody)) == (0, 0)
    assert not memory.records
    assert not model.asked


async def test_indexing_needs_no_model() -> None:
    """Memory works without a key."""
    memory = Memory()
    extractor = Extractor(memory)
    assert not extractor.has_model
    assert await extractor.index(PEANUTS) == 2
    assert await extractor.index(PEANUTS) == 0
    assert await extractor.learn(PEANUTS) == 0
    assert len(memory.records) == 2


async def test_a_turn_without_words_is_no_trouble() -> None:
    """A turn of tool calls alone is indexed as nothing."""
    assert await Extractor(Memory()).index(turn_of(stored("tool", "result"))) == 0


async def test_the_model_is_shown_the_turn_and_its_facts_are_stored_beside_the_words() -> None:
    """Both kinds together recall most."""
    memory, model = Memory(), Model({"memories": [FACT]})
    extractor = Extractor(memory, model=model)
    assert extractor.has_model
    await extractor.index(PEANUTS)
    assert await extractor.learn(PEANUTS) == 1
    assert await extractor.learn(PEANUTS) == 0
    assert memory.texts[-1] == "Ann is allergic to peanuts."
    assert len(memory.records) == 3
    asked = model.asked[0]
    assert asked["name"] == "discrete_memories"
    assert "evidence" in asked["system"]
    assert [one["words"] for one in asked["user"]["context"]] == ["Hello!", "What should I know?"]


async def test_an_empty_answer_stores_nothing() -> None:
    """Most turns hold nothing for ever."""
    memory = Memory()
    assert await Extractor(memory, model=Model({"memories": []})).learn(PEANUTS) == 0
    assert not memory.records


@pytest.mark.parametrize("answer", [ModelCallError("away", retryable=True), {"unexpected": 1}])
async def test_a_failing_model_is_the_queues_concern(answer: Any) -> None:
    """The extractor neither hides a failure nor tries again by itself."""
    memory, model = Memory(), Model(answer)
    with pytest.raises(ModelCallError):
        await Extractor(memory, model=model).learn(PEANUTS)
    assert len(model.asked) == 1


async def test_what_the_first_parts_gave_is_kept_when_a_later_part_fails() -> None:
    """A long history is not learned from all or nothing."""
    long = turn_of(*PEANUTS.messages, *(stored("user", f"{number} " + "word " * 1000) for number in range(6)))
    memory, model = Memory(), Model({"memories": [FACT]}, ModelCallError("away", retryable=True))
    with pytest.raises(ModelCallError):
        await Extractor(memory, model=model).learn(long)
    assert memory.texts == ["Ann is allergic to peanuts."]
