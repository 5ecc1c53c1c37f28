"""What was said, as it was said, as memories."""

from datetime import timedelta
from zoneinfo import ZoneInfo

from memproxy.extraction.message_memories import message_memories
from memproxy.extraction.spoken import utterances
from memproxy.records import MemoryRecord, MemoryType, StoredMessage
from tests.fakes.learning import ANN, MONDAY, stored, turn_of

UTC = ZoneInfo("UTC")
PEANUTS = (
    stored("user", "I'm allergic to peanuts.", name="Ann"),
    stored("assistant", "I will keep that in mind, Ann.", minutes=1),
)
BEFORE = (stored("user", "Hello!"), stored("assistant", "What may you not eat?"))


def memories(
    *messages: StoredMessage, before: tuple[StoredMessage, ...] = (), session: str = "s1"
) -> list[MemoryRecord]:
    said = utterances(turn_of(*messages).messages)
    return message_memories(said, utterances(before), scope=ANN, session=session, zone=UTC)


def test_messages_become_memories_with_speaker_and_day() -> None:
    """Who said it and when is part of what is searched and read."""
    first, second = memories(*PEANUTS, before=BEFORE)
    assert first == MemoryRecord(
        id=first.id,
        scope=ANN,
        text="Ann (8 May 2023): I'm allergic to peanuts.",
        type=MemoryType.MESSAGE,
        created_at=MONDAY,
        session="s1",
        speaker="Ann",
        context="What may you not eat?",
        turns=("t1",),
    )
    assert second.text == "Assistant (8 May 2023): I will keep that in mind, Ann."
    assert second.context == "What may you not eat?\nI'm allergic to peanuts."


def test_the_day_is_the_users_own() -> None:
    """Shortly after midnight in Auckland it is still yesterday in London."""
    said = utterances(PEANUTS)
    [first, _] = message_memories(said, (), scope=ANN, session="s1", zone=ZoneInfo("Pacific/Auckland"))
    assert first.text.startswith("Ann (9 May 2023)")


def test_trivial_replies_are_neither_memories_nor_context() -> None:
    """ "Yes" tells nobody what comes after it is about, and would take the place of what does."""
    found = memories(
        stored("user", "The blue kettle is broken"),
        stored("assistant", "Shall I cancel order 4711?"),
        stored("user", "Yes, please"),
        stored("assistant", "Cancelled."),
    )
    said = ["The blue kettle is broken", "Shall I cancel order 4711?", "Cancelled."]
    assert [memory.text.partition(": ")[2] for memory in found] == said
    assert found[2].context == "The blue kettle is broken\nShall I cancel order 4711?"


def test_tools_and_instructions_are_not_indexed() -> None:
    """They would drown what people said."""
    found = memories(
        stored("system", "You are a clerk."), stored("tool", "laptop: shipped"), stored("user", "Where is my laptop?")
    )
    assert [(memory.speaker, memory.context) for memory in found] == [("User", "")]


def test_the_same_words_again_in_a_session_are_the_same_memory() -> None:
    """A client that sends its history under a new turn doubles nothing; another session or speaker is another one."""
    ids = [memory.id for memory in memories(*PEANUTS)]
    later = (stored("user", "I'm allergic to peanuts.", name="Ann", minutes=9),)
    assert [memory.id for memory in memories(*later)] == ids[:1]
    assert [memory.id for memory in memories(*PEANUTS, *PEANUTS)] == ids
    elsewhere = memories(*PEANUTS, session="s2")
    quoted = memories(stored("assistant", "I'm allergic to peanuts."))
    assert not {memory.id for memory in [*elsewhere, *quoted]} & set(ids)


def test_a_long_message_becomes_several_memories_in_order() -> None:
    """What stands at the end of a long message is found as well as its beginning."""
    sentences = [f"This is sentence number {number} of a long story." for number in range(80)]
    found = memories(stored("user", " ".join(sentences)))
    assert len(found) > 2
    assert all(memory.text.startswith("User (8 May 2023): This is sentence") for memory in found)
    assert found[2].context.startswith("This is sentence number 0 ")
    words = " ".join(memory.text.partition(": ")[2] for memory in found)
    assert words == " ".join(sentences)
    assert found[0].created_at - MONDAY == timedelta()
