"""The README's numbers are those that were measured."""

import re
from typing import Any

import pytest

from bench import results
from bench.goals import PLAIN, SINGLE
from bench.readme_numbers import COMMANDS, NOTHING, lines, with_numbers
from tests.rules.source import ROOT

RELAY: dict[str, Any] = {
    "measured_at": "2026-11-22",
    "goals": [
        {"about": "memory, added p50, ms", "scenario": SINGLE, "value": 2.34},
        {"about": "memory ÷ floor relay, CPU", "scenario": PLAIN, "value": 4.26},
        {"about": "memory ÷ floor relay, CPU", "scenario": "60kb-c16", "value": 3.1},
        {"about": "LiteLLM's plain relay ÷ memory, CPU", "scenario": PLAIN, "value": 11.4},
    ],
}
RETRIEVAL: dict[str, Any] = {
    "measured_at": "2026-11-21",
    "kinds": {
        "said": {"memories": {"10": {"recall": 0.781}}},
        "noted": {"tokens": {"800": {"recall": 0.834}}},
    },
}
CACHE: dict[str, Any] = {
    "measured_at": "2026-11-20",
    "rows": [
        {
            "case": "history resent",
            "kind": "trajectories",
            "design": design,
            "cached": cached,
            "memory off": {"cached": 0.919},
        }
        for design, cached in (("memproxy", 0.912), ("block in the system prompt", 0.41))
    ],
}


def test_each_number_is_told_with_its_day() -> None:
    """A figure without its date is not believed."""
    rows = lines({"relay": RELAY, "retrieval": RETRIEVAL, "prompt-cache": CACHE})[2:]
    assert [re.split(r" ?\| ?|; ", row.strip("| ")) for row in rows] == [
        [
            "adds to a request",
            "**2.3 ms** at the median, memory and all",
            "4.3 times the CPU of the least that a relay costs in Python",
            "LiteLLM's plain relay takes 11 times as much",
            "2026-11-22",
        ],
        [
            "puts before the model",
            "**78%** of the evidence, with ten memories told and no model asked (LoCoMo)",
            "83% within 800 tokens, where facts were noted, too",
            "2026-11-21",
        ],
        [
            "leaves of the provider's prompt cache",
            "**91.2%** of an agent's prompt tokens come from it",
            "91.9% without memproxy",
            "2026-11-20",
        ],
    ]


@pytest.mark.parametrize("missing", COMMANDS)
def test_what_was_not_measured_is_left_out(missing: str) -> None:
    """Without LiteLLM or the dialogues the rest is still told."""
    kept = {"relay": RELAY, "retrieval": RETRIEVAL, "prompt-cache": CACHE}
    assert len(lines(kept | {missing: None})) == 4
    assert len(lines(kept | {missing: {"measured_at": "2026-11-22"}})) == 4


def test_nothing_measured_is_said() -> None:
    """An empty table would look as if it had been forgotten."""
    assert lines({}) == [NOTHING]


def test_only_what_stands_between_the_markers_changes() -> None:
    """People write around it."""
    text = "before\n<!-- numbers -->\nold\n<!-- /numbers -->\nafter\n"
    assert with_numbers(text, {}) == f"before\n<!-- numbers -->\n{NOTHING}\n<!-- /numbers -->\nafter\n"


def test_the_readme_has_the_kept_numbers() -> None:
    """`make bench ARGS=document` writes them."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert "<!-- numbers -->" in text
    assert with_numbers(text, {command: results.read(command) for command in COMMANDS}) == text
