"""Which of the words that were said a memory rests on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.extraction.grounding import denies, invents, quoted_from, spoken_of, squashed
from memproxy.extraction.spoken import Utterance, utterances
from memproxy.words import Terms
from tests.fakes.learning import stored

SAID = utterances(
    [
        stored("user", "I'm allergic to peanuts, by the way. Yesterday I met Bob.", name="Ann"),
        stored("assistant", "Noted! I booked table 12 at Luigi's for Friday, your order is LX-4417.", minutes=2),
        stored("user", "I don't eat meat, and my sister Eve never drinks coffee in the evening at home.", minutes=3),
    ]
)


@pytest.mark.parametrize(
    ("evidence", "is_believed"),
    [
        ("I'm allergic to peanuts, by the way.", True),
        ("im ALLERGIC to   peanuts", True),
        ("“I\u2019m allergic to peanuts”", True),
        ("I'm allergic ... I met Bob", True),
        ("I'm allergic […] I met Bob", True),
        ("I'm allergic … booked table 12", False),
        ("my sister Eve never drinks coffee at evening at home", True),
        ("I have booked table 12 at Luigis for friday", True),
        ("my sister Eve drinks coffee in the evening at home", False),
        ("I booked table 13 at Luigi's for Friday, your order", False),
        ("I booked nothing at Luigi's for Friday", False),
        ("I booked champagne at Luigi's for Friday", False),
        ("Im alergic to peanuts by the way", True),
        ("peanuts by way I'm allergic to the", False),
        ("She said she was allergic", False),
        ("I am really very allergic to all kinds of nuts", False),
        ("", False),
        ("...", False),
        ("I", False),
    ],
)
def test_evidence_may_slip_but_not_be_made_up(evidence: str, *, is_believed: bool) -> None:
    """Small models quote carelessly; a number, a "not" or an order that differs is no carelessness."""
    assert (quoted_from(evidence, SAID) is not None) is is_believed


def test_a_number_is_quoted_exactly() -> None:
    """One digit else is another order, however alike the two look."""
    said = utterances([stored("user", "My new customer number with the railway is 99012341 since today.")])
    assert quoted_from("my new customer number with railway is 99012341", said) is not None
    assert quoted_from("my new customer number with railway is 99012342", said) is None


def test_words_that_stand_far_apart_are_no_quotation() -> None:
    """A long message has all words somewhere."""
    words = "I booked a room. " + "It rained a lot there. " * 9 + "Then we took the table by the window in Rome."
    said = [Utterance("user", "Ann", words, SAID[0].at)]
    assert quoted_from("I booked the table by the window in Rome", said) is None


def test_who_said_it_last_is_the_source() -> None:
    """A memory's time is that of the newest words that say so."""
    said = [*SAID, Utterance("assistant", "Assistant", "So you are allergic to peanuts.", SAID[-1].at)]
    source = quoted_from("allergic to peanuts", said)
    assert source is not None
    assert source.said is said[-1]


def test_evidence_in_scripts_without_blanks_is_found() -> None:
    """Users who write Chinese have a memory too."""
    said = utterances([stored("user", "我对花生过敏。")])
    assert quoted_from("花生过敏", said) is not None
    assert quoted_from("花生喜欢", said) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Ann is allergic to peanuts.", "I'm allergic to peanuts, by the way."),
        ("The user met Bob yesterday.", "Yesterday I met Bob."),
        (
            "The user's sister Eve never drinks coffee in the evening.",
            "I don't eat meat, and my sister Eve never drinks",
        ),
        ("Ann eats meat.", None),
        ("Ann is not allergic to peanuts.", None),
        ("Ann is afraid of spiders.", None),
        ("Bob works at the harbour in Hull.", None),
        ("The user.", None),
    ],
)
def test_a_memory_without_quotation_consists_of_what_was_said(text: str, sentence: str | None) -> None:
    """A model that forgets the evidence is not useless, and one that dreams is not believed."""
    source = spoken_of(text, SAID, around=(), terms=Terms())
    assert (None if source is None else source.quotation.startswith(sentence or "")) is (
        None if sentence is None else True
    )


def test_names_may_come_from_around() -> None:
    """ "My wife" is Carla because the talk before said so."""
    said = utterances([stored("user", "My wife loves sailing on cold lakes.")])
    text = "Carla loves sailing on cold lakes with Otto."
    assert spoken_of(text, said, around=(), terms=Terms()) is None
    assert spoken_of(text, said, around=("My wife Carla has a dog called Otto.",), terms=Terms()) is not None


@pytest.mark.parametrize(
    ("text", "is_invented"),
    [
        ("The order is LX-4417.", False),
        ("The order is lx4417.", False),
        ("The order is LX-4418.", True),
        ("Call +49 170 1234567.", True),
        ("It was on 7 May 2023, 2023-05-07, 07.05.2023.", False),
        ("It cost 12 euros.", False),
        ("It cost 5000 euros.", False),
        ("Room 3817 is taken.", True),
        ("Ann is allergic to peanuts.", False),
    ],
)
def test_identifiers_that_nobody_mentioned_are_inventions(text: str, *, is_invented: bool) -> None:
    """A wrong order number is worse than none; dates and round numbers can be concluded."""
    assert invents(text, [one.words for one in SAID]) is is_invented


@pytest.mark.parametrize(
    "text", ["I don't know", "never", "No tea", "Er isst kein Fleisch", "can\u2019t", "without sugar"]
)
def test_denials_are_seen(text: str) -> None:
    """ "Eats meat" and "doesn't eat meat" must never be taken for the same."""
    assert denies(text)
    assert not denies("I know that another note is knotted")


def test_squashing_keeps_letters_and_digits_of_every_script() -> None:
    """Quotation marks, blanks and case differ between a text and its quotation; letters do not."""
    assert squashed(" “Ünï-Code”\t№ 5, \uff21\uff22\uff23 花生 ") == "ünïcodeno5abc花生"


@given(st.text(max_size=80))
def test_any_part_of_what_was_said_is_evidence_and_nothing_breaks(text: str) -> None:
    """Whatever a model quotes, the worker goes on."""
    words = f"{text} and so on, said Ann."
    said = [Utterance("user", "Ann", words, SAID[0].at)]
    assert quoted_from(words, said) is not None
    quoted_from(text, SAID)
    spoken_of(text, SAID, around=(), terms=Terms())
    invents(text, ())
