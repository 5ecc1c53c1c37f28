"""Asking a model what new statements are to old ones."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.extraction.decide import Pair, Relation, decision_prompt, decision_schema, read_decisions
from tests.fakes.learning import fact

SAME, REPLACES, DIFFERENT = Relation.SAME, Relation.REPLACES, Relation.DIFFERENT


def test_the_model_is_shown_both_statements_and_when_they_were_said() -> None:
    """Which one is newer decides what holds."""
    pair = Pair(fact("Ann moved to Berlin.", minutes=0), fact("Ann lives in Paris."), 0.4)
    [shown] = json.loads(decision_prompt([pair]))["pairs"]
    assert shown == {
        "pair": 1,
        "old": "Ann lives in Paris.",
        "old_said": "1 May 2023",
        "new": "Ann moved to Berlin.",
        "new_said": "8 May 2023",
    }


@pytest.mark.parametrize(
    ("answer", "decided"),
    [
        ('{"decisions": [{"pair": 1, "relation": "same"}, {"pair": 2, "relation": "replaces"}]}', [SAME, REPLACES]),
        ('{"decisions": [{"pair": 2, "relation": "same"}]}', [DIFFERENT, SAME]),
        ('[{"pair": "pair 1", "relation": "Supersedes"}, {"pair": "2", "relation": "DUPLICATE"}]', [REPLACES, SAME]),
        ('[{"relation": "same"}, {"decision": "contradicts"}]', [SAME, REPLACES]),
        ('{"1": "same", "2": "different"}', [SAME, DIFFERENT]),
        ('{"decisions": {"1": "replaces", "2": "same"}}', [REPLACES, SAME]),
        ('{"decisions": ["same", "replaces"]}', [SAME, REPLACES]),
        ('{"pair": 1, "relation": "same"}\n{"pair": 2, "relation": "same"}', [SAME, SAME]),
        ('{"pair": 2, "relation": "updates"}', [DIFFERENT, REPLACES]),
        ('```json\n{"decisions": [{"pair": 1, "relation": "same"}, {"pa', [SAME, DIFFERENT]),
        ('{"decisions": [{"pair": 7, "relation": "same"}, {"pair": 0, "relation": "same"}]}', [DIFFERENT, DIFFERENT]),
        ('{"decisions": [{"pair": 1, "relation": "perhaps"}, {"pair": 1}]}', [DIFFERENT, DIFFERENT]),
        ("They are the same, I think.", [DIFFERENT, DIFFERENT]),
        ("{}", [DIFFERENT, DIFFERENT]),
        ("", [DIFFERENT, DIFFERENT]),
    ],
)
def test_what_can_be_understood_is_and_the_rest_is_different(answer: str, decided: list[Relation]) -> None:
    """A wrong "different" costs a line; a wrong "same" a memory."""
    assert read_decisions(answer, 2) == decided


@given(st.text("{}[]\"':,same1 replaces2", max_size=80), st.integers(0, 5))
def test_no_answer_is_an_error(answer: str, count: int) -> None:
    """Each pair gets a decision, whatever the model says."""
    assert len(read_decisions(answer, count)) == count


def test_the_schema_offers_what_there_is() -> None:
    """A model that can be held to a schema can't answer beside it."""
    decision = decision_schema()["properties"]["decisions"]["items"]
    assert decision["properties"]["relation"]["enum"] == ["same", "replaces", "different"]
