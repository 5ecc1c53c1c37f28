"""Whether two statements are the same, doubtful, or different, as far as words tell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.embedding import LocalEmbedder
from memproxy.extraction.likeness import Likeness, gist, likeness
from memproxy.words import Terms

TERMS = Terms()


async def between(new: str, old: str, embedder: LocalEmbedder) -> Likeness:
    """What a new statement is to an old one, by the real vectors."""
    one, other = await embedder.embed_documents([new, old])
    return likeness(gist(new, TERMS), gist(old, TERMS), cosine=float(one @ other))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Ann is allergic to peanuts.", "ann is really allergic to the peanuts!"),
        ("Ann has two cats.", "Ann has 2 cats"),
        ("Ann's dog is called Rex.", "Ann\u2019s dog is called  Rex"),
        ("The user likes window seats.", "The user likes the window seat."),
    ],
)
async def test_equal_words_are_the_same(old: str, new: str, embedder: LocalEmbedder) -> None:
    """Nobody has to be asked, and nothing is lost."""
    assert await between(new, old, embedder) is Likeness.SAME


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Ann likes dogs.", "Ann doesn't like dogs."),
        ("Ann eats meat.", "Ann eats no meat."),
        ("Ann has two cats.", "Ann has three cats."),
        ("Ann gave Bob a book.", "Bob gave Ann a book."),
        ("Ann likes tea, not coffee.", "Ann likes coffee, not tea."),
        ("Ann is a teacher.", "Ann was a teacher."),
        ("Ann's phone number is 555-1234.", "Ann's phone number is 555-9876."),
        ("Ann visited Rome in May.", "Ann visited Rome in June."),
        ("Ann leaves before noon.", "Ann leaves after noon."),
        ("Order 4711 is in transit.", "Order 4712 is in transit."),
        ("Ann volunteers at a shelter.", "Ann volunteers at a shelter and leads its kitchen."),
        ("Evan plans a session with Sam.", "Sam plans a session with Evan."),
    ],
)
async def test_what_is_near_and_differs_where_it_counts_is_never_the_same(
    old: str, new: str, embedder: LocalEmbedder
) -> None:
    """Each of these pairs has a cosine of 0.75 to 1: by that alone, one of two memories would be lost."""
    assert await between(new, old, embedder) is not Likeness.SAME
    assert await between(old, new, embedder) is not Likeness.SAME


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Ann lives in Paris.", "Ann moved to Berlin."),
        ("Ann lives in Paris.", "Ann lives in Berlin."),
        ("Ann works at Acme as an engineer.", "Ann started a new job at Globex."),
        ("The user is vegetarian.", "The user eats meat again."),
        ("Ann prefers tea.", "Ann prefers coffee now."),
        ("Ann is allergic to peanuts.", "Ann has a peanut allergy."),
        ("The user's favourite colour is blue.", "The user's favorite color is green."),
        ("The meeting is on Monday at 10.", "The meeting was moved to Tuesday at 11."),
        ("Ann is married to Carl.", "Ann got divorced and is single now."),
        ("Ann drives a Toyota Prius.", "Ann sold her car and bought a bike."),
        ("The user is allergic to peanuts.", "Ann is allergic to peanuts."),
        ("Order 4711 is in transit.", "Order 4711 was delivered."),
    ],
)
async def test_what_may_repeat_or_replace_is_doubtful(old: str, new: str, embedder: LocalEmbedder) -> None:
    """These are worth a question: half of them have a cosine that unrelated statements reach as well."""
    assert await between(new, old, embedder) is Likeness.UNSURE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Ann lives in Paris.", "Ann is allergic to peanuts."),
        ("Ann's daughter plays the violin.", "Ann ordered a laptop."),
        ("Bob lives in Paris.", "Ann moved to Berlin."),
        ("John loves his old boat.", "Maria loves her new boat."),
        ("Ann likes hiking in the mountains.", "Ann met her boss for lunch."),
    ],
)
async def test_the_rest_is_different(old: str, new: str, embedder: LocalEmbedder) -> None:
    """No call is made for what has nothing to do with each other, or is about somebody else."""
    assert await between(new, old, embedder) is Likeness.DIFFERENT


def test_texts_without_a_word_are_not_the_same() -> None:
    """Nothing equals nothing, and yet a rocket is no party."""
    assert likeness(gist("\U0001f389", TERMS), gist("\U0001f680", TERMS), cosine=0.0) is not Likeness.SAME


@given(st.text(max_size=60), st.text(max_size=60), st.floats(-1, 1))
def test_any_texts_can_be_compared(one: str, other: str, cosine: float) -> None:
    """What is equal to the letter is the same, whatever the language; nothing breaks."""
    likeness(gist(one, TERMS), gist(other, TERMS), cosine=cosine)
    assert likeness(gist(one, TERMS), gist(one, TERMS), cosine=1.0) is Likeness.SAME
