"""Single memories out of an answer."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from memproxy.extraction.facts import Maker, fact_id, facts_schema, read_facts
from memproxy.extraction.prompting import Part
from memproxy.extraction.spoken import utterances
from memproxy.records import JsonObject, MemoryRecord, MemoryType
from memproxy.words import Terms
from tests.fakes.learning import ANN, MONDAY, stored, turn_of

ALLERGY = {"text": "Ann is allergic to peanuts.", "evidence": "I'm allergic to peanuts"}
MAKER = Maker("discrete", {"a": 1}, Terms())

DINNER = turn_of(
    stored("user", "I'm allergic to peanuts, by the way. Yesterday I met Bob.", name="Ann"),
    stored("tool", "weather: 31 degrees in Lisbon", minutes=1),
    stored("assistant", "Noted! I booked table 12 at Luigi's for Friday.", minutes=2),
    context=(stored("user", "Where does Bob live? In Rome?", minutes=-5),),
)
PART = Part(ANN, "s1", tuple(utterances(DINNER.messages)), tuple(utterances(DINNER.context)), turns=("t1",))

CORPUS = Path(__file__).parents[1] / "corpus" / "model_answers"
EXPECTED: dict[str, JsonObject] = json.loads((CORPUS / "expected.json").read_text("utf-8"))


def read(answer: Any, part: Part = PART, maker: Maker = MAKER) -> list[MemoryRecord]:
    return read_facts(answer if isinstance(answer, str) else json.dumps(answer), part, maker=maker)


def one(**fields: Any) -> list[MemoryRecord]:
    return read({"memories": [{**ALLERGY, **fields}]})


def test_every_answer_of_the_corpus_is_expected() -> None:
    """A file that is not in the table would test nothing."""
    assert {path.stem for path in CORPUS.glob("*.txt")} == set(EXPECTED)
    assert len(EXPECTED) > 50


@pytest.mark.parametrize("name", EXPECTED)
def test_what_small_models_really_answer_is_read(name: str) -> None:
    """From the words on the wire to the records."""
    answer, expected = (CORPUS / f"{name}.txt").read_text("utf-8"), EXPECTED[name]["memories"]
    if expected is None:
        with pytest.raises(ValueError, match=r"."):
            read(answer)
        return
    assert [record.text for record in read(answer)] == expected, EXPECTED[name]["why"]


def test_a_memory_is_read_with_all_that_it_says() -> None:
    """What the model found out can be searched and filtered by."""
    answer = {
        "text": "The assistant booked table 12 at\nLuigi's for Friday 12 May 2023.",
        "type": "episodic",
        "topics": ["dining", " dining ", ""],
        "entities": ["Luigi's", "table 12", 7],
        "event_date": "2023-05-12",
        "evidence": "I booked TABLE 12 at Luigi\u2019s for   friday.",
    }
    [record] = read({"memories": [answer]})
    assert record == MemoryRecord(
        id=record.id,
        scope=ANN,
        text="The assistant booked table 12 at Luigi's for Friday 12 May 2023.",
        type=MemoryType.EPISODIC,
        created_at=MONDAY + timedelta(minutes=2),
        session="s1",
        speaker="Assistant",
        context="I booked TABLE 12 at Luigi\u2019s for   friday.",
        topics=("dining",),
        entities=("Luigi's", "table 12"),
        event_date=datetime(2023, 5, 12, tzinfo=UTC),
        turns=("t1",),
        strategy="discrete",
        strategy_config={"a": 1},
    )


@pytest.mark.parametrize(
    "text", ["", "  ", "ok", "Yes, thank you.", "peanuts", "x" * 1001, "!!! ... ?", "Is Ann well?"]
)
def test_junk_is_left_out(text: str) -> None:
    """An empty, meaningless, endless or asking memory only takes room from good ones."""
    assert read([{**ALLERGY, "text": text}, ALLERGY]) == one()


def test_the_same_fact_is_the_same_memory() -> None:
    """Saying something twice does not double it, whatever the punctuation."""
    [first] = one()
    [again] = one(text="Ann is allergic to peanuts")
    [other] = one(text="Ann is allergic to nuts.")
    assert first.id == again.id == fact_id("ANN is allergic to peanuts") != other.id
    assert len(read({"memories": [ALLERGY, ALLERGY, {**ALLERGY, "text": "ANN is allergic  to peanuts"}]})) == 1


@pytest.mark.parametrize("kind", ["semantic", "preference", "", "state"])
def test_an_unknown_type_is_semantic(kind: str) -> None:
    """A good fact is not lost for a wrong label."""
    assert one(type=kind)[0].type is MemoryType.SEMANTIC


def test_preferences_are_no_events() -> None:
    """A strategy that makes statements only makes statements only."""
    [record] = read([{**ALLERGY, "type": "episodic"}], maker=replace(MAKER, only_semantic=True))
    assert record.type is MemoryType.SEMANTIC


def test_a_relative_time_is_resolved_where_the_model_did_not() -> None:
    """ "Yesterday" is a day, and a day that a filter finds, seen from where and when it was said."""
    met = {"text": "Ann met Bob yesterday.", "type": "event", "evidence": "Yesterday I met Bob"}
    [record] = read([met])
    assert record.text == "Ann met Bob yesterday (7 May 2023)."
    assert record.event_date == datetime(2023, 5, 7, tzinfo=UTC)
    [record] = read([met], replace(PART, zone=ZoneInfo("Pacific/Auckland")))
    assert record.text == "Ann met Bob yesterday (8 May 2023)."
    [record] = read([{**met, "event_date": "2023-05-06"}])
    assert record.event_date == datetime(2023, 5, 6, tzinfo=UTC)


def test_events_on_different_days_are_different_memories() -> None:
    """Meeting Bob "yesterday" twice in a month is meeting him twice."""
    met = {"text": "Ann met Bob yesterday.", "evidence": "Yesterday I met Bob"}
    later = replace(PART, said=tuple(replace(said, at=said.at + timedelta(days=20)) for said in PART.said))
    assert read([met])[0].id != read([met], later)[0].id


def test_the_schema_is_strict_everywhere() -> None:
    """OpenAI's strict mode wants every property required and no others, on every level."""
    outer = facts_schema()
    for level in (outer, outer["properties"]["memories"]["items"]):
        assert level["additionalProperties"] is False
        assert level["required"] == list(level["properties"])
