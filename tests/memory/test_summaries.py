"""Many texts become one summary, whatever a model can read at a time."""

import asyncio
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.errors import ModelCallError
from memproxy.memory.summaries import (
    PARALLEL,
    SUMMARY_CHARS,
    TEXT_CHARS,
    Statement,
    Summariser,
    Wishes,
    packed,
    read_summary,
)
from memproxy.records import JsonObject

AT = datetime(2026, 3, 1, tzinfo=UTC)


class Scribe:
    """A model that writes down all numbers that it was shown, and remembers each request."""

    def __init__(self, *failures: ModelCallError) -> None:
        self.shown: list[JsonObject] = []
        self.systems: list[str] = []
        self.failures = list(failures)
        self.under_way = 0
        self.most_at_once = 0

    async def ask(
        self, *, system: str, user: str, schema_name: str, schema: JsonObject, read: Callable[[str], Any]
    ) -> Any:
        self.shown.append(json.loads(user))
        self.systems.append(system)
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if self.failures:
            raise self.failures.pop(0)
        return read(json.dumps({"summary": " ".join(dict.fromkeys(_numbers(user)))}))


def _numbers(text: str) -> list[str]:
    return [word for word in text.replace('"', " ").replace(",", " ").split() if word.startswith("#")]


def statements(count: int, words: int = 5) -> list[Statement]:
    return [Statement(f"#{number} " + "tea " * words, AT) for number in range(count)]


async def test_what_fits_is_one_call() -> None:
    """The common case costs one call, and shows when each thing was learned and what all have in common."""
    model = Scribe()
    text = await Summariser().summarise(statements(3), wishes=Wishes(model, {"user_id": "alice"}))
    assert text == "#0 #1 #2"
    (shown,) = model.shown
    assert shown["about"] == {"user_id": "alice"}
    assert shown["memories"][0] == {"learned": "2026-03-01", "text": statements(1)[0].text}
    assert "earlier" not in shown


async def test_a_summary_is_carried_on() -> None:
    """New memories are read with the summary so far; the old ones are not read again."""
    model = Scribe()
    text = await Summariser().summarise(statements(1), wishes=Wishes(model, {}), earlier="#old")
    assert text.split() == ["#old", "#0"] or text.split() == ["#0", "#old"]
    assert model.shown[0]["earlier"] == "#old"


async def test_wishes_stand_with_the_instructions() -> None:
    """Who orders a summary may say what it is to be like; the material may not."""
    model = Scribe()
    await Summariser().summarise(statements(1), wishes=Wishes(model, {}, prompt="As a poem."))
    await Summariser().summarise(statements(1), wishes=Wishes(model, {}))
    assert "As a poem." in model.systems[0]
    assert "As a poem." not in json.dumps(model.shown)
    assert "asks for the following" not in model.systems[1]


@given(count=st.integers(1, 60), words=st.integers(0, 60), room=st.integers(20, 400), has_earlier=st.booleans())
async def test_nothing_is_lost_however_small_the_model_is(count: int, words: int, room: int, has_earlier: bool) -> None:
    """Each statement reaches the summary, and no call holds more than it may, but for one text or two summaries."""
    model = Scribe()
    summariser = Summariser(part_tokens=room)
    earlier = "#old" if has_earlier else ""
    text = await summariser.summarise(statements(count, words), wishes=Wishes(model, {}), earlier=earlier)
    expected = {f"#{number}" for number in range(count)} | ({"#old"} if has_earlier else set())
    assert set(text.split()) == expected
    for shown in model.shown:
        assert not ("memories" in shown and "parts" in shown)
        assert len(shown.get("parts", ["", ""])) >= 2
        if len(shown.get("memories", ())) > 1:
            assert sum(len(memory["text"].split()) for memory in shown["memories"]) <= room
    assert model.most_at_once <= PARALLEL


async def test_a_passing_failure_is_tried_once_more() -> None:
    """One broken answer among twenty does not cost the nineteen."""
    model = Scribe(ModelCallError("no JSON", retryable=True))
    assert await Summariser().summarise(statements(1), wishes=Wishes(model, {})) == "#0"
    assert len(model.shown) == 2


@pytest.mark.parametrize(("retryable", "calls"), [(True, 2), (False, 1)])
async def test_a_failure_that_stays_is_told(retryable: bool, calls: int) -> None:
    """A wrong key is not asked for again, and nothing waits for ever."""
    model = Scribe(*[ModelCallError("no", retryable=retryable)] * 5)
    with pytest.raises(ModelCallError, match="no"):
        await Summariser().summarise(statements(1), wishes=Wishes(model, {}))
    assert len(model.shown) == calls


async def test_of_many_calls_the_failure_is_one_error() -> None:
    """Who catches a `ModelCallError` need not know that there were several calls."""
    model = Scribe(*[ModelCallError("no", retryable=False)] * 50)
    with pytest.raises(ModelCallError, match="no"):
        await Summariser(part_tokens=20).summarise(statements(20), wishes=Wishes(model, {}))


async def test_a_long_text_is_shown_by_its_ends() -> None:
    """One memory that is a whole document does not push the others out."""
    model = Scribe()
    long = "#begin " + "x" * 10 * TEXT_CHARS + " #end"
    assert await Summariser().summarise([Statement(long, AT)], wishes=Wishes(model, {})) == "#begin #end"


@given(st.lists(st.integers(0, 50)), st.integers(1, 100), st.integers(1, 3))
def test_parts_hold_everything_in_order(sizes: list[int], limit: int, least: int) -> None:
    """Nothing is left out, doubled or moved, and a part is as full as it may be."""
    parts = packed(sizes, int, limit=limit, least=least)
    assert [size for part in parts for size in part] == sizes
    assert all(parts)
    assert all(sum(part) <= limit or len(part) <= least for part in parts)
    assert all(len(part) >= least for part in parts[:-1])
    assert all(sum(part) + after[0] > limit for part, after in itertools.pairwise(parts))


@pytest.mark.parametrize(
    "answer", ["{}", "[]", '{"summary": ""}', '{"summary": "  "}', '{"summary": null}', '{"text": "x"}', "No.", ""]
)
def test_an_answer_without_a_summary_is_none(answer: str) -> None:
    """An empty summary must not take the place of a good one."""
    with pytest.raises(ValueError, match=r"."):
        read_summary(answer)


def test_a_summary_has_an_end() -> None:
    """A model that runs in circles does not fill the store."""
    text = read_summary(json.dumps({"summary": "  word" * SUMMARY_CHARS}))
    assert len(text) <= SUMMARY_CHARS + 2
    assert text.endswith("word …")
    assert read_summary('Here it is: {"summary": " Likes tea.\\n"}') == "Likes tea."
