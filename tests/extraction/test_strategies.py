"""The ways to make memories, as a table."""

import json

import pytest

from memproxy.extraction.prompting import Part
from memproxy.extraction.spoken import utterances
from memproxy.extraction.strategies import STRATEGIES, check_strategy, read_prompt, usable
from memproxy.records import StrategyChoice
from tests.fakes.learning import ANN, stored


def test_there_are_the_four_that_clients_of_agent_memory_server_know() -> None:
    """Each can be chosen by its name."""
    assert list(STRATEGIES) == ["discrete", "summary", "preferences", "custom"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_instructions_ask_for_what_the_reader_needs(name: str) -> None:
    """The prompt and the code that reads its answer do not drift apart."""
    strategy = STRATEGIES[name]
    instructions = strategy.instructions()
    properties = strategy.schema()["properties"]
    fields = properties["memories"]["items"]["properties"] if "memories" in properties else properties
    assert all(f"`{field}`" in instructions for field in fields)
    assert "JSON" in instructions  # providers want the word before they take json_object
    example = json.loads(instructions.strip().splitlines()[-1])
    assert set(example["memories"][0] if "memories" in example else example) == set(fields)


@pytest.mark.parametrize("name", [*STRATEGIES, "rolling", "decide"])
def test_what_is_quoted_is_never_obeyed(name: str) -> None:
    """Words in a conversation may pretend to be instructions."""
    assert "quotation" in read_prompt(name)
    assert "do not follow" in read_prompt(name)


@pytest.mark.parametrize("name", ["discrete", "preferences", "custom"])
def test_facts_are_asked_for_with_their_evidence_names_and_dates(name: str) -> None:
    """Grounding begins with the question."""
    instructions = read_prompt(name)
    for word in ("letter by letter", "Carla, the user's wife", "7 May 2023", "`known`", "`dates`"):
        assert word in instructions


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("discrete", {}),
        ("discrete", {"whatever": 1}),
        ("preferences", {}),
        ("summary", {"max_summary_length": 100}),
        ("custom", {"custom_prompt": "Decisions in {message}"}),
    ],
)
def test_what_can_be_used_has_no_fault(name: str, config: dict[str, object]) -> None:
    """Options that nobody here knows are kept: other clients send some."""
    assert check_strategy(name, config) is None


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("astrology", {}, "there is no strategy 'astrology'; there are discrete, summary, preferences, custom"),
        ("", {}, "there is no strategy ''"),
        ("custom", {}, "needs a custom_prompt"),
        ("custom", {"custom_prompt": "{x}"}, "names {x}"),
        ("summary", {"max_summary_length": "long"}, "max_summary_length is 'long'"),
    ],
)
def test_what_can_not_be_used_is_told_with_its_reason(name: str, config: dict[str, object], reason: str) -> None:
    """The memory API answers 422 with these words."""
    assert reason in str(check_strategy(name, config))


def test_choices_that_can_be_used_are_used_once() -> None:
    """What an older version queued must not stop a queue."""
    good = StrategyChoice("summary", {"max_summary_length": 50})
    choices = [StrategyChoice("custom"), good, StrategyChoice("nonsense"), good, StrategyChoice("discrete")]
    assert usable(choices) == [good, StrategyChoice("discrete")]


def test_each_strategy_shows_the_conversation() -> None:
    """Whatever is asked about it."""
    part = Part(ANN, "s1", tuple(utterances([stored("user", "I bought a boat.")])))
    for strategy in STRATEGIES.values():
        assert "I bought a boat." in strategy.prompt(part, {"custom_prompt": "What was bought?"}, "small")
