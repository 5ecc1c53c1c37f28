"""What an assistant only repeats."""

from dataclasses import replace
from datetime import timedelta

import pytest

from memproxy.extraction.echoes import known_by_terms, repeats, without_copies, without_echoes
from memproxy.extraction.grounding import squashed
from memproxy.extraction.spoken import Utterance
from memproxy.records import MemoryType
from memproxy.words import Terms
from tests.fakes.learning import MONDAY, fact

TERMS = Terms()
KNOWN = known_by_terms(
    [
        fact("Ann is allergic to peanuts."),
        fact("Ann ordered a laptop, order number LX-4417."),
        fact("Ann doesn't eat meat."),
        fact("User (1 May 2023): Book table 12 at Luigi's for Friday, please.", type=MemoryType.MESSAGE),
    ],
    TERMS,
)


def assistant(words: str) -> Utterance:
    return Utterance("assistant", "Assistant", words, MONDAY, "t1")


def heard(words: str, *, used_tools: bool = False) -> str:
    none: frozenset[str] = frozenset()
    return without_echoes(assistant(words), KNOWN, used_tools=used_tools, own_turns=none, terms=TERMS).words


@pytest.mark.parametrize(
    "sentence",
    [
        "You are allergic to peanuts.",
        "As you told me, you're allergic to peanuts!",
        "I remember your laptop order, LX-4417.",
        "You don't eat meat.",
        "You are allergic to peanuts and ordered a laptop.",
    ],
)
def test_a_sentence_that_memories_say_is_a_repetition(sentence: str) -> None:
    """Memory that is injected, said again and learned again would grow with each question."""
    assert repeats(sentence, KNOWN, TERMS)


@pytest.mark.parametrize(
    "sentence",
    [
        "Your laptop order LX-4418 is on its way.",
        "You are not allergic to peanuts.",
        "You eat meat.",
        "You are allergic to peanuts, so choose the satay without sauce.",
        "I booked a room in Rome for you.",
        "Laptop.",
        "Sure!",
    ],
)
def test_a_sentence_that_says_more_or_else_is_none(sentence: str) -> None:
    """News, corrections and other numbers are what memory is for."""
    assert not repeats(sentence, KNOWN, TERMS)


def test_a_denial_is_repeated_by_denials_only() -> None:
    """ "You eat fish" is no repetition of "doesn't eat fish"."""
    known = known_by_terms([fact("Ann doesn't eat fish on Fridays.")], TERMS)
    assert repeats("You don't eat fish on Fridays.", known, TERMS)
    assert not repeats("You eat fish on Fridays.", known, TERMS)


def test_only_the_repetition_is_left_out() -> None:
    """An answer may greet with what it knows and go on with what is new."""
    words = "As you said, you are allergic to peanuts. I found a bakery without nuts: Nora's in Mill Lane."
    assert heard(words) == "I found a bakery without nuts: Nora's in Mill Lane."


def test_a_user_may_say_everything_again() -> None:
    """What people say themselves is never taken for an echo."""
    said = replace(assistant("I am allergic to peanuts."), role="user")
    assert without_echoes(said, KNOWN, used_tools=False, own_turns=frozenset(), terms=TERMS) is said


def test_after_a_tool_was_used_a_request_is_not_what_was_done() -> None:
    """ "Table 12 is booked" after "book table 12" is news, if something was booked."""
    words = "Table 12 at Luigi's is booked for Friday."
    assert heard(words) == ""
    assert heard(words, used_tools=True) == words
    assert heard("You are allergic to peanuts.", used_tools=True) == ""


def test_what_was_learned_from_these_words_does_not_make_them_an_echo() -> None:
    """A turn that is learned from twice gives the same both times, and so does one that is learned late."""
    own = known_by_terms([fact("Ann booked a room in Rome.", turns=("t1",))], TERMS)
    later = known_by_terms([fact("Ann booked a room in Rome.", minutes=5)], TERMS)
    said = assistant("You booked a room in Rome.")
    for known in (own, later):
        assert without_echoes(said, known, used_tools=False, own_turns=frozenset({"t1"}), terms=TERMS) is said


PAGE = " ".join(
    f"Item {number} of the long catalogue weighs {number} kilograms and ships in May." for number in range(20)
)


def test_a_page_that_a_tool_gave_is_no_answer() -> None:
    """Agents print what they read; the answer around it is kept."""
    said = assistant(f"Here is the catalogue, and I ordered item 7 for you.\n{PAGE}")
    assert without_copies(said, squashed(PAGE)).words == "Here is the catalogue, and I ordered item 7 for you."


def test_a_sentence_that_a_tool_gave_is_an_answer() -> None:
    """ "Your order ships on Friday" comes from a tool, and is what the user asked for."""
    said = assistant("Item 7 of the long catalogue weighs 7 kilograms and ships in May. Shall I order it?")
    assert without_copies(said, squashed(PAGE)) is said
    assert without_copies(said, "") is said
    assert without_copies(replace(said, role="user", words=PAGE), squashed(PAGE)).words == PAGE


def test_times_decide_what_was_known() -> None:
    """A memory made a minute later was not repeated."""
    known = known_by_terms([fact("Ann booked a room in Rome.", minutes=1)], TERMS)
    said = replace(assistant("You booked a room in Rome."), at=MONDAY + timedelta(minutes=2))
    assert without_echoes(said, known, used_tools=False, own_turns=frozenset(), terms=TERMS).words == ""
