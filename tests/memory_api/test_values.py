"""The bounds of what clients may send."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from memproxy.memory_api.values import MAX_JSON_CHARS, Label, Moment, Name, SmallJson, Text

NAME: TypeAdapter[str] = TypeAdapter(Name)
TEXT: TypeAdapter[str] = TypeAdapter(Text)
MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)
SMALL_JSON: TypeAdapter[dict[str, Any]] = TypeAdapter(SmallJson)


def test_a_name_has_one_form() -> None:
    """What the proxy stored under a user's name is found under it over REST: both compose and trim it."""
    assert NAME.validate_python(" re\u0301my ") == "r\u00e9my"


@pytest.mark.parametrize("value", ["", " ", "a\nb", "a\x00", "x" * 257, "\ud800"])
def test_what_can_be_no_name_is_refused(value: str) -> None:
    """An empty name is an unset variable, and must not mean everybody."""
    with pytest.raises(ValidationError):
        NAME.validate_python(value)


@pytest.mark.parametrize("value", ["", " \n", "x" * 100_001])
def test_a_memory_says_something_and_not_a_whole_book(value: str) -> None:
    """What can't be found helps nobody, and what is immense slows every search."""
    with pytest.raises(ValidationError):
        TEXT.validate_python(value)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("2024-05-01T10:00:00Z", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("2024-05-01T10:00:00+02:00", datetime(2024, 5, 1, 8, tzinfo=UTC)),
        ("2024-05-01T10:00:00", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("2024-05-01", datetime(2024, 5, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_any_iso_time_is_taken_and_naive_means_utc(given_: str, expected: datetime) -> None:
    """Clients in any language write times in their own way."""
    found = MOMENT.validate_python(given_)
    assert found == expected
    assert found.tzinfo is UTC


@pytest.mark.parametrize("value", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon", 1e30])
def test_times_that_utc_does_not_have_are_refused(value: object) -> None:
    """They are the caller's mistake, and no internal error."""
    with pytest.raises(ValidationError):
        MOMENT.validate_python(value)


@pytest.mark.parametrize(
    "value", [{"a": 2**63}, {"a": [{"b": -(2**63) - 1}]}, {"a": float("inf")}, {"a": "x" * MAX_JSON_CHARS}]
)
def test_metadata_that_not_every_reader_understands_is_refused(value: dict[str, Any]) -> None:
    """What is stored must come back as it was, in every language."""
    with pytest.raises(ValidationError):
        SMALL_JSON.validate_python(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_all_other_metadata_is_kept_as_it_is(value: dict[str, Any]) -> None:
    """Metadata is the caller's own."""
    assert SMALL_JSON.validate_python(value) == value


def test_labels_may_have_commas() -> None:
    """`Paris, Texas` is one place; nothing here is split at commas."""
    assert TypeAdapter(Label).validate_python("Paris, Texas") == "Paris, Texas"
