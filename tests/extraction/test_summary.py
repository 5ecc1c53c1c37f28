"""The summary strategy: one memory a session."""

from typing import Any

import pytest

from memproxy.extraction.prompting import Part
from memproxy.extraction.spoken import utterances
from memproxy.extraction.summary import (
    bounded,
    grown,
    max_words,
    options_fault,
    read_summary,
    says_no_summary,
    summary_id,
    summary_in,
    summary_prompt,
)
from memproxy.records import Scope
from tests.fakes.learning import ANN, MONDAY, fact, stored

PART = Part(
    ANN,
    "s1",
    tuple(
        utterances([stored("user", "I bought a boat, order LX-4417."), stored("assistant", "Nice boat!", minutes=9)])
    ),
    turns=("t1",),
    previous="Ann wanted a boat.",
)
TEXT = "Ann wanted a boat and bought one, order LX-4417."


def read(answer: str, config: Any = None) -> list[str]:
    return [record.text for record in read_summary(answer, PART, config=config or {})]


@pytest.mark.parametrize(
    "answer",
    [
        f'{{"summary": "{TEXT}", "topics": [], "entities": []}}',
        f'```json\n{{"summary": "{TEXT}"}}\n```',
        f'{{"text": "{TEXT}"}}',
        f'{{"conversation_summary": "{TEXT}"}}',
        '{"summary": ["Ann wanted a boat", "and bought one, order LX-4417."]}',
        f'[{{"summary": "{TEXT}"}}]',
        TEXT,
        f"Here is the updated summary: {TEXT}",
        f"**Summary:** {TEXT}",
        f"<think>Boats.</think>\n{TEXT}",
    ],
)
def test_a_summary_in_any_form_is_read(answer: str) -> None:
    """A small model that answers in prose has done its work."""
    assert read(answer) == [TEXT]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "  ",
            "NONE",
            "None.",
            "null",
            "N/A",
            "...",
            "Nothing to summarize.",
            "There is no new information to add.",
        ),
        *(
            "I'm sorry, but I can't help with that.",
            "I cannot summarise this conversation.",
            "As an AI, I have no view.",
        ),
        "Sorry, I am unable to do so.",
    ],
)
def test_an_answer_that_says_nothing_leaves_the_summary_as_it_is(text: str) -> None:
    """An apology in the summary's place would wipe what was known."""
    assert says_no_summary(text)
    assert read(f'{{"summary": "{text}"}}') == []
    assert summary_in(f'{{"summary": "{text}"}}')[0] == ""


@pytest.mark.parametrize(
    "text", ["Ann is sorry for the delay.", "No order was found, so Ann asked for a refund.", TEXT]
)
def test_a_summary_that_begins_like_none_is_one(text: str) -> None:
    """People apologise, and nothing is found, in real conversations."""
    assert not says_no_summary(text)


@pytest.mark.parametrize("answer", ['{"summary": 3}', "[1, 2]", '{"a": 1, "b": 2}', '{"summary": "Ann wan'])
def test_what_is_no_summary_is_asked_for_again(answer: str) -> None:
    """The model is told that the text was missing."""
    with pytest.raises(ValueError, match=r"summary|object or list"):
        read(answer)


def test_a_sentence_with_an_invented_identifier_is_left_out() -> None:
    """A wrong order number in a summary is believed for ever."""
    assert read(f'{{"summary": "{TEXT} It ships as MX-99812. Ann is happy."}}') == [f"{TEXT} Ann is happy."]


def test_the_record_is_the_sessions_own() -> None:
    """One id for ever, found by the topic that clients of agent-memory-server look for."""
    config = {"topics": ["boats", "Boats"], "max_summary_length": 50}
    [record] = read_summary(f'{{"summary": "{TEXT}", "topics": ["sea"]}}', PART, config=config)
    assert record.id == summary_id(ANN, "s1") != summary_id(ANN, "s2")
    assert summary_id(ANN, "s1") != summary_id(Scope("tenant", "ann", "work"), "s1")
    assert record.topics == ("thread-summary", "boats", "Boats", "sea")
    assert (record.created_at, record.session, record.strategy) == (MONDAY, "s1", "summary")
    assert record.strategy_config == config


def test_a_summary_is_bounded_at_a_sentences_end() -> None:
    """A model that writes on and on does not."""
    text = "One two three. Four five six. Seven eight nine."
    assert bounded(text, 7) == "One two three. Four five six."
    assert bounded(text, 50) == text
    assert bounded("word " * 99, 10) == "word " * 9 + "word"
    assert max_words({}) == 500
    assert '"max_words": 20' in summary_prompt(PART, {"max_summary_length": 20})
    assert '"previous": "Ann wanted a boat."' in summary_prompt(PART, {})


@pytest.mark.parametrize("length", [None, 20, 500, 5_000])
def test_lengths_that_can_be_used(length: int | None) -> None:
    """No length is the default one."""
    assert options_fault({"max_summary_length": length}) is None


@pytest.mark.parametrize("length", [0, 19, 5_001, -1, "500", 1.5, True])
def test_lengths_that_can_not_be_used(length: object) -> None:
    """A typo is told at once."""
    assert "max_summary_length" in str(options_fault({"max_summary_length": length}))


def test_a_summary_names_the_newest_turns() -> None:
    """A session of a thousand turns does not make a record of a thousand names."""
    before = fact("x", turns=tuple(f"t{number}" for number in range(300)))
    assert grown(fact("y", turns=("t299", "new")), before) == (*(f"t{number}" for number in range(101, 300)), "new")
    assert grown(fact("y", turns=("new",)), None) == ("new",)
