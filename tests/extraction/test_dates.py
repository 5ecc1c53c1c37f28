"""What "yesterday" meant when it was said."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.extraction.dates import explained, meanings, the_day, told

MONDAY = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("yesterday", "7 May 2023"),
        ("Yesterday evening", "7 May 2023"),
        ("last night", "7 May 2023"),
        ("today", "8 May 2023"),
        ("this morning", "8 May 2023"),
        ("tomorrow", "9 May 2023"),
        ("the day before yesterday", "6 May 2023"),
        ("the day after tomorrow", "10 May 2023"),
        ("three days ago", "5 May 2023"),
        ("10 days from now", "18 May 2023"),
        ("two weeks ago", "the week of 24 April 2023"),
        ("in two weeks' time", "the week of 22 May 2023"),
        ("a month ago", "April 2023"),
        ("five months ago", "December 2022"),
        ("8 months from now", "January 2024"),
        ("3 years ago", "2020"),
        ("last week", "the week of 1 May 2023"),
        ("this week", "the week of 8 May 2023"),
        ("next weekend", "the weekend of 20 May 2023"),
        ("last month", "April 2023"),
        ("next year", "2024"),
        ("last Friday", "5 May 2023"),
        ("last Monday", "1 May 2023"),
    ],
)
def test_a_relative_time_is_counted_from_when_it_was_said(words: str, meant: str) -> None:
    """A memory is read on another day; small models can't count days."""
    assert told(f"I saw her {words}, in Rome.", MONDAY) == {words: meant}


@pytest.mark.parametrize(
    "words",
    [
        "next Friday",
        "on Friday",
        "in two weeks",
        "over the last year",
        "recently",
        "soon",
        "2023-05-07",
        "9999 years ago",
    ],
)
def test_what_may_mean_several_things_is_left_alone(words: str) -> None:
    """A wrong date is worse than none."""
    assert told(f"It happened {words}.", MONDAY) == {}


def test_what_a_text_leaves_relative_is_explained_behind_it() -> None:
    """Where the model copied "yesterday", the memory stays true."""
    assert explained("Ann met Bob yesterday.", MONDAY) == "Ann met Bob yesterday (7 May 2023)."
    assert explained("Ann wrote today's report.", MONDAY) == "Ann wrote today's (8 May 2023) report."
    both = explained("Ann came last week and leaves tomorrow.", MONDAY)
    assert both == "Ann came last week (the week of 1 May 2023) and leaves tomorrow (9 May 2023)."


@pytest.mark.parametrize(
    "text",
    [
        "Ann met Bob yesterday, 7 May 2023.",
        "Ann met Bob yesterday (2023-05-07).",
        "Ann met Bob yesterday, on May 7.",
        "Ann left last year (2022).",
        "Ann came last week, the week of 1 May 2023.",
        "Ann likes tea.",
    ],
)
def test_what_a_text_says_itself_is_not_said_again(text: str) -> None:
    """A good model's sentence stays as it is."""
    assert explained(text, MONDAY) == text


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("I met Bob yesterday", datetime(2023, 5, 7, tzinfo=UTC)),
        ("yesterday and last night", datetime(2023, 5, 7, tzinfo=UTC)),
        ("yesterday and today", None),
        ("last week", None),
        ("in May", None),
    ],
)
def test_the_day_of_an_event_is_told_only_where_it_is_one(text: str, day: datetime | None) -> None:
    """A filter by date must not find what nobody dated."""
    assert the_day(text, MONDAY) == day


@given(st.text(max_size=80), st.datetimes(timezones=st.just(UTC)))
def test_no_text_and_no_time_break_it(text: str, at: datetime) -> None:
    """Meanings never overlap, and lie in the text."""
    words = f"{text} 300 years ago yesterday {text} 99 months ago"
    found = meanings(words, at)
    assert [words[one.start : one.end] for one in found] == [one.expression for one in found]
    assert all(one.end <= other.start for one, other in pairwise(found))
    explained(words, at)
