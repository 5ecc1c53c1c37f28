"""What is called kept stood in the prompt, and what is called needed stood in the conversation."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.truncation import GOAL, ON, SLIDING, reaches_goal
from bench.truncation_needs import Need, needs_of, text_of
from bench.truncation_part import part
from tests.fakes.shared_data import FOLDER

ROOT = Path(__file__).parent.parent.parent


def calling(**arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": json.dumps(arguments)}}]}


def user(words: str) -> dict[str, Any]:
    return {"role": "user", "content": words}


def test_a_value_is_needed_when_it_stood_in_the_conversation() -> None:
    """What the agent made up, or took from its instructions, can't have been lost by a cut."""
    told = [user("My order is A-1042, from Oslo."), calling(sku="6817146515")]
    asked = calling(order="A-1042", city="oslo", new="Bergen", item=6817146515, nested=[{"no": 1}])
    assert needs_of(asked, told=told, sent=told) == [Need("A-1042", True), Need("oslo", True), Need("6817146515", True)]
    assert needs_of(asked, told=told, sent=[user("from Oslo")])[0] == Need("A-1042", False)
    assert needs_of(user("hi"), told=told, sent=told) == []
    assert (
        needs_of({"role": "assistant", "tool_calls": [{"function": {"arguments": "{bro"}}]}, told=told, sent=told) == []
    )


def test_a_part_of_a_longer_word_is_not_the_value() -> None:
    """`A-10` is not kept because `A-1042` is."""
    assert needs_of(calling(order="A-10"), told=[user("A-10 or A-1042")], sent=[user("A-1042")]) == [
        Need("A-10", False)
    ]


def test_all_words_of_a_prompt_are_looked_through() -> None:
    """A value in a call's arguments or in a part of a message can be read by the model as well."""
    parts = {"role": "user", "content": [{"type": "text", "text": "in a part"}, {"type": "image_url"}]}
    assert text_of([parts, calling(a="b"), user("plain")]).splitlines() == ["in a part", '{"a": "b"}', "plain"]


@pytest.mark.timeout(180)
def test_a_quick_run_measures_memproxy_and_a_sliding_window(tmp_path: Path) -> None:
    """The goal is reached on conversations that are cut, and by more than what a sliding window keeps."""
    if not FOLDER.exists():
        pytest.skip("the conversations are not beside this checkout")
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench", "truncation", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    own, other = ([row for row in figures["rows"] if row["design"] == design] for design in (ON, SLIDING))
    assert [row["window"] for row in own] == [row["window"] for row in other]
    assert all(row["values"] > 50 and row["tokens"] < GOAL["tokens"] for row in own), "they were cut"
    assert all(map(reaches_goal, own))
    assert all(mine["kept"] > theirs["kept"] for mine, theirs in zip(own, other, strict=True))
    told = part(figures)
    assert "met, with" in told.text
    assert [series.label for series in told.plots[0].series] == [ON, SLIDING]


def test_a_goal_that_is_missed_is_told() -> None:
    """The document does not flatter."""
    row = {
        "window": 4_000,
        "design": ON,
        "kept": 0.9,
        "whole_calls": 0.8,
        "tokens": 0.7,
        "conversation_tokens": 0.4,
        "cached": 0.8,
    }
    assert "missed, with 90.0% at 70.0%" in part({"rows": [row], "goal": GOAL}).text
    assert "not measured" in part({"rows": [{**row, "tokens": 0.9}], "goal": GOAL}).text
