"""Text to index terms."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.words import MAX_TERM_CHARS, STOP_WORDS, Terms, without_stop_words

SAFE = re.compile(r"[^\W_]+")
"""What `str.isalnum` calls letters and digits; marks are checked apart."""


@pytest.fixture
def terms() -> Terms:
    return Terms()


def test_inflected_words_meet(terms: Terms) -> None:
    """A question about hiking finds the memory that says "hikes"."""
    assert terms.of("Alice hikes") == ["alic", "hike"]
    assert terms.of("hiking, hiked") == ["hike", "hike"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("allergy", "allergic"),
        ("allergies", "allergic"),
        ("history", "historian"),
        ("library", "librarian"),
        ("therapy", "therapist"),
        ("music", "musician"),
        ("guitar", "guitarist"),
        ("photographs", "photography"),
    ],
)
def test_related_words_meet(terms: Terms, one: str, other: str) -> None:
    """ "Do I have any allergies?" finds the memory that says "allergic to peanuts"."""
    assert terms.of(one) == terms.of(other)


@pytest.mark.parametrize(("one", "other"), [("party", "part"), ("city", "cite"), ("artist", "art"), ("asian", "as")])
def test_short_words_stay_apart(terms: Terms, one: str, other: str) -> None:
    """What is left of a short word is somebody else's."""
    assert terms.of(one) != terms.of(other)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("What did Melanie's dog Rex do in Oslo?", {"melan", "rex", "oslo"}),
        ("Hello there. Did it work? Say so!", set()),
        ('Who is "Great Aunt (Zoë)"?', {"great", "aunt", "zoe"}),
        ("I think I am late", set()),
        ("where does anna live", set()),
        ("first line\nSecond line", set()),
        ("Где живёт Анна?", {"анна"}),
        ("我喜欢苹果", set()),
    ],
)
def test_names_are_told_by_their_capital_within_a_sentence(terms: Terms, text: str, names: set[str]) -> None:
    """They say whom a question is about."""
    assert terms.names_in(text) == names


@given(st.text(max_size=300))
def test_names_are_terms_of_the_text(text: str) -> None:
    """What is weighed must be what is searched for."""
    terms = Terms()
    ascii_only = text.encode("ascii", "ignore").decode()
    assert terms.names_in(ascii_only) <= set(terms.of(ascii_only))


def test_stop_words_are_left_out(terms: Terms) -> None:
    """A stop word inside a query crashes some versions of the query engine, and says nothing anyway."""
    assert terms.of("What is it that you don't know? I'll be there, we've said so.") == ["know", "said"]


def test_the_month_may_is_kept(terms: Terms) -> None:
    """Dates stand in the stored text, and May is a month."""
    assert "may" in terms.of("Caroline (8 May 2023): hello")


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("order LX-4417", "lx4417"),
        ("order LX-4417", "4417"),
        ("order LX-4417", "LX-4417"),
        ("order #W2378156", "W2378156"),
        ("due 2023-05-08", "20230508"),
        ("user_name99", "name99"),
        ("version 3.14", "3.14"),
        ("alice@example.com", "example"),
        ("path/to/file.txt", "file"),
    ],
)
def test_identifiers_are_found_whole_and_in_pieces(terms: Terms, stored: str, asked: str) -> None:
    """Order numbers are what support conversations are about, and people write them in several ways."""
    assert set(terms.of(asked)) & set(terms.of(stored))


def test_ordinary_compounds_have_no_whole(terms: Terms) -> None:
    """Only identifiers are worth another term."""
    assert terms.of("a well-known follow-up") == ["well", "known", "follow"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("苹果", ["苹果"]),
        ("我喜欢苹果", ["我喜", "喜欢", "欢苹", "苹果"]),
        ("猫", ["猫"]),
        ("สวัสดี", ["สว", "วั", "ัส", "สด", "ดี"]),
        ("안녕하세요", ["안녕", "녕하", "하세", "세요"]),
        ("मुझे हिन्दी पसंद", ["मुझे", "हिन्दी", "पसंद"]),
        ("Привет мир", ["привет", "мир"]),
    ],
)
def test_other_scripts_have_terms(terms: Terms, text: str, expected: list[str]) -> None:
    """Memory works in the user's language, also where no blanks stand between words."""
    assert terms.of(text) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Café", "cafe"),
        ("STRASSE", "straße"),
        ("ﬁve", "five"),
        ("\uff21\uff22\uff23", "abc"),
        ("co\u200bop", "coop"),
        ("É", "e\u0301"),
    ],
)
def test_spellings_of_the_same_word_meet(terms: Terms, one: str, other: str) -> None:
    """Keyboards and sources differ in accents, case, widths and invisible characters."""
    assert terms.of(one) == terms.of(other) != []


def test_a_query_has_each_term_once_and_keeps_both_ends(terms: Terms) -> None:
    """A long message asks its question at the beginning or at the end."""
    text = " ".join(f"word{number}" for number in range(100))
    assert terms.of_query(f"{text} word0", limit=4) == ["word0", "word1", "word98", "word99"]
    assert terms.of_query("apples and apples", limit=4) == ["appl"]


def test_a_limit_of_one_is_kept(terms: Terms) -> None:
    assert len(terms.of_query("one apple two pears", limit=1)) == 1


@given(st.text(max_size=300))
def test_no_text_makes_an_unsafe_term(text: str) -> None:
    """Terms stand bare in a query: whatever a client sends, they mean nothing to the query's parser."""
    for term in Terms().of(text):
        assert 0 < len(term) <= MAX_TERM_CHARS
        assert term == term.lower()
        assert term.encode("utf-8")
        assert not set(term) & set("_@{}()|~-=>$*%\"'\\:;,.<>[]!#^&+/? \t\n\x00")


@given(st.text(max_size=300))
def test_terms_do_not_depend_on_case(text: str) -> None:
    """Nobody remembers how a name was capitalised."""
    ascii_only = text.encode("ascii", "ignore").decode()
    assert Terms().of(ascii_only.upper()) == Terms().of(ascii_only.lower())


def test_an_absurdly_long_word_is_cut(terms: Terms) -> None:
    assert terms.of("a" * 10_000) == ["a" * MAX_TERM_CHARS]


def test_words_that_carry_meaning_keep_their_spelling() -> None:
    """The embedding model was trained on real words, so the rest must not be changed."""
    assert without_stop_words("What did Caroline's sister buy, then?") == "Caroline's sister buy,"


@pytest.mark.parametrize("text", ["", "   ", "what is that?", "...", "你好"])
def test_a_text_of_stop_words_stays(text: str) -> None:
    assert without_stop_words(text) == text


@given(st.text(max_size=300))
def test_any_text_can_be_stripped(text: str) -> None:
    assert isinstance(without_stop_words(text), str)


def test_stop_words_are_terms_themselves() -> None:
    """A stop word that no run of letters can equal would never be taken out."""
    assert all(SAFE.fullmatch(word) and word == word.lower() for word in STOP_WORDS)


@pytest.mark.parametrize(
    ("phrase", "rows"),
    [
        ("the white horses", [["white", "hors"]]),
        ("order LX-4417", [["order", "lx", "4417"]]),
        ("北京烤鸭", [["北京", "京烤", "烤鸭"]]),
        ("tea 北京 cup 茶", [["tea", "cup"], ["北京"], ["茶"]]),
        ("what is the", []),
        ("", []),
    ],
)
def test_a_phrase_is_what_stands_side_by_side(terms: Terms, phrase: str, rows: list[list[str]]) -> None:
    """In a document, too, words come first, then what is not made of words."""
    assert terms.rows_of(phrase) == rows
    indexed = " ".join(terms.of(f"before {phrase} after"))
    assert all(" ".join(row) in indexed for row in rows)
