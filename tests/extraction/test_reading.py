"""A model's answer to what it says."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.extraction.reading import MAX_ITEMS, MAX_LABELS, Item, labels, read_date, read_items

FACT = Item("Ann likes tea.", "I like tea")


@pytest.mark.parametrize(
    "answer",
    [
        '{"memories": [{"text": "Ann likes tea.", "evidence": "I like tea"}]}',
        '{"facts": [{"fact": " Ann  likes tea.", "quote": "I like tea"}]}',
        '{"data": {"memories": {"text": "Ann likes tea.", "source_text": "I like tea"}}}',
        '{"memories": {"1": {"content": "Ann likes tea.", "Supporting quote": "I like tea"}}}',
        '[{"Memory": "Ann likes tea.", "evidence": "I like tea", "evidences": ""}]',
        '{"memory": {"preference": "Ann likes tea.", "proof": "I like tea"}}',
        '{"text": "", "statement": "Ann likes tea.", "evidence": "I like tea"}',
        '{"preferences": [], "facts": [{"text": "Ann likes tea.", "evidence": "I like tea"}], "events": []}',
    ],
)
def test_names_and_frames_of_any_kind_are_understood(answer: str) -> None:
    """What a small model found out is not lost for a wrong name."""
    assert read_items(answer) == [FACT]


def test_all_fields_are_read() -> None:
    """What the model found out can be searched and filtered by."""
    answer = {
        "text": "Ann likes\ntea.",
        "memory_type": "Episodic",
        "tags": "food, drinks; food",
        "entities": [{"name": "Ann", "type": "person"}, "Tea, green", 7],
        "Event Date": " 2023-05-07 ",
        "evidence": ["I like", "tea"],
    }
    assert read_items(f"[{answer}]") == [
        Item("Ann likes tea.", "I like ... tea", "episodic", ("food", "drinks"), ("Ann", "Tea green"), "2023-05-07")
    ]


@pytest.mark.parametrize(
    "answer",
    [
        *("[]", '{"memories": []}', '{"memories": null}', '{"memories": "none"}', "NONE", "N/A.", "nothing"),
        *("No new memories to extract.", "There is nothing worth remembering here.", "I did not find any facts."),
        "<think>Hm.</think>No relevant information found.",
    ],
)
def test_nothing_may_be_said_in_many_ways(answer: str) -> None:
    """A model that says "nothing" in prose is not asked again, and again, and laid aside."""
    assert read_items(answer) == []


@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        '{"ok": true}',
        "Ann likes tea, and has no sugar in it.",
        '{"memories": 3}',
        '{"memories": [{"title": 1}]}',
        "[3]",
    ],
)
def test_an_answer_of_another_form_is_no_answer(answer: str) -> None:
    """It is asked for again, not taken for "nothing to remember"."""
    with pytest.raises(ValueError, match=r"memories|object or list"):
        read_items(answer)


def test_an_answer_is_bounded() -> None:
    """A model that runs in circles does not fill the store."""
    assert len(read_items(str([{"text": f"fact {n}"} for n in range(99)]))) == MAX_ITEMS
    assert len(labels([str(n) for n in range(99)])) == MAX_LABELS
    assert labels(["x" * 999]) == ("x" * 100,)


@pytest.mark.parametrize(
    ("value", "found"),
    [("travel", ("travel",)), (None, ()), ({"a": 1}, ()), ([None, "a\n b"], ("a b",)), (["x"] * 50, ("x",)), (7, ())],
)
def test_labels_of_any_form_are_tidied(value: object, found: tuple[str, ...]) -> None:
    """A model that sends one topic as a word is understood."""
    assert labels(value) == found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2023-05-07", datetime(2023, 5, 7, tzinfo=UTC)),
        (" 2023-05-07T23:30:00-02:00 ", datetime(2023, 5, 8, 1, 30, tzinfo=UTC)),
        ("2023-05-07T10:00:00Z", datetime(2023, 5, 7, 10, tzinfo=UTC)),
        ("2023-05-07T10:00:00", datetime(2023, 5, 7, 8, tzinfo=UTC)),
        ("0001-01-01T00:00:00+05:00", None),
        ("May 2023", None),
        ("2023", None),
        ("", None),
    ],
)
def test_a_date_is_a_whole_date_or_none(value: str, expected: datetime | None) -> None:
    """A filter by date must not find what nobody dated; a time without a zone is the user's."""
    assert read_date(value, ZoneInfo("Europe/Berlin")) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["memories", "text", "evidence", "topics", "facts", "event_date", "x"]), inner
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_no_answer_breaks_the_reader(value: Any) -> None:
    """Whatever a model sends, it is understood or a ValueError."""
    try:
        items = read_items(str(value))
    except ValueError:
        return
    assert all(item.text for item in items)
