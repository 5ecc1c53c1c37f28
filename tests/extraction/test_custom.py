"""Prompts that users of the memory API write themselves."""

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.extraction.custom import VARIABLES, custom_prompt, prompt_fault
from memproxy.extraction.prompting import Part
from memproxy.extraction.spoken import utterances
from memproxy.records import Scope
from tests.fakes.learning import stored

PART = Part(
    Scope("tenant", "ann", "work"),
    "s1",
    tuple(utterances([stored("user", "We chose {user_id} and PostgreSQL {{today}}.")])),
    known=("Ann leads the team.",),
    zone=ZoneInfo("Europe/Berlin"),
)


def filled(prompt: str, **config: Any) -> str:
    return custom_prompt(PART, {"custom_prompt": prompt, **config}, model_name="small")


@pytest.mark.parametrize(
    "prompt",
    [
        "What did they decide?",
        "Of {message} by {user_id}: decisions. Known: {context}",
        'Answer like {"decision": "..."} or {} or { 1 }, please.',
        'Answer like {{"decision": "{topics}"}}.',
        "x" * 10_000,
        *(f"About {{{name}}}" for name in VARIABLES),
    ],
)
def test_what_can_be_filled_in_is_accepted(prompt: str) -> None:
    """Nothing but the form is checked: "important", "system" and "token" are words like others."""
    words = " important system token password import"
    assert prompt_fault({"custom_prompt": (prompt + words)[:10_000]}) is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "needs a custom_prompt"),
        ({"custom_prompt": ""}, "needs a custom_prompt"),
        ({"custom_prompt": "  "}, "needs a custom_prompt"),
        ({"custom_prompt": 7}, "needs a custom_prompt"),
        ({"custom_prompt": "x" * 10_001}, "10001 characters; at most 10000"),
        ({"custom_prompt": "About {password}"}, "names {password}"),
        ({"custom_prompt": "{message.__class__}"}, "names {message.__class__}"),
        ({"custom_prompt": "{message!r}"}, "names {message!r}"),
        ({"custom_prompt": "{ message }"}, "names { message }"),
        ({"custom_prompt": "{memories: []}"}, "names {memories"),
    ],
)
def test_what_can_not_be_used_is_refused_with_the_reason(config: dict[str, Any], reason: str) -> None:
    """Its author learns it at once, not from memories that never come."""
    fault = prompt_fault(config)
    assert fault is not None
    assert reason in fault


def test_what_is_named_is_filled_in_once() -> None:
    """Words of the conversation can't name a variable, and time is when it was said, in the user's zone."""
    names = "{user_id} {namespace} {session_id} {model_name} {current_datetime} {topics}|{entities} {message}"
    text = filled(names, topics=["a", "b", 3])
    head, _, message = text.partition("{")
    assert head == "ann work s1 small Monday 8 May 2023 15:56 Europe/Berlin a, b| "
    assert json.loads("{" + message)["messages"][0]["words"] == "We chose {user_id} and PostgreSQL {{today}}."


def test_what_is_known_is_filled_in_as_context() -> None:
    """The author decides where it stands."""
    assert json.loads(filled("{context}").partition("\n\nThe conversation:")[0])["known"] == ["Ann leads the team."]


def test_a_prompt_that_does_not_name_the_conversation_gets_it_all_the_same() -> None:
    """Otherwise the model would have nothing to read."""
    text = filled("What did they decide?")
    assert text.startswith("What did they decide?\n\nThe conversation:\n\n{")
    assert "PostgreSQL" in text


def test_braces_for_themselves() -> None:
    """Doubled where the author doubles them, as they are where not."""
    assert filled('{{"a": {topics}}} {message}', topics=["x"]).startswith('{"a": x} {')
    assert filled('{"a": {"b": 1}} {message}').startswith('{"a": {"b": 1}} {')


@given(st.text("{}abmessage_ \"'!:.", max_size=60))
def test_no_prompt_breaks_it(prompt: str) -> None:
    """What passes the check can be filled in."""
    if prompt_fault({"custom_prompt": prompt}) is None:
        filled(prompt)
