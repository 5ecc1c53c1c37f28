"""The README's numbers, from the results that were kept; what was never measured is left out. Pure."""

import re
from collections.abc import Iterator, Mapping

from bench.goals import PLAIN, SINGLE
from memproxy.records import JsonObject

COMMANDS = ("relay", "retrieval", "prompt-cache")
"""Whose results they are taken from."""

NOTHING = "Not measured yet."

_MARKED = re.compile(r"(<!-- numbers -->\n).*?(<!-- /numbers -->)", re.DOTALL)


def with_numbers(text: str, kept: Mapping[str, JsonObject | None]) -> str:
    """The README with the numbers between its markers; `kept` are results by command."""
    return _MARKED.sub(lambda found: found[1] + "\n".join(lines(kept)) + "\n" + found[2], text)


def lines(kept: Mapping[str, JsonObject | None]) -> list[str]:
    """The lines between the markers: one row for each of the three numbers that was measured."""
    rows = [
        f"| {about} | {said} | {results['measured_at']} |"
        for command, (about, tell) in _TOLD.items()
        if (results := kept.get(command)) is not None and (said := "; ".join(tell(results)))
    ]
    return ["| memproxy | | measured on |", "|---|---|---|", *rows] if rows else [NOTHING]


def _added(results: JsonObject) -> Iterator[str]:
    goals = {(goal["about"], goal["scenario"]): goal["value"] for goal in results.get("goals", ())}
    if (added := goals.get(("memory, added p50, ms", SINGLE))) is not None:
        yield f"**{added:.1f} ms** at the median, memory and all"
    if (times := goals.get(("memory ÷ floor relay, CPU", PLAIN))) is not None:
        yield f"{times:.1f} times the CPU of the least that a relay costs in Python"
    if (times := goals.get(("LiteLLM's plain relay ÷ memory, CPU", PLAIN))) is not None:
        yield f"LiteLLM's plain relay takes {times:.0f} times as much"


def _found(results: JsonObject) -> Iterator[str]:
    kinds = results.get("kinds", {})
    said = kinds.get("said", {}).get("memories", {}).get("10")
    noted = kinds.get("noted", {}).get("tokens", {}).get("800")
    if said is not None:
        yield f"**{said['recall']:.0%}** of the evidence, with ten memories told and no model asked (LoCoMo)"
    if noted is not None:
        yield f"{noted['recall']:.0%} within 800 tokens, where facts were noted, too"


def _cached(results: JsonObject) -> Iterator[str]:
    for row in results.get("rows", ()):
        if (row["case"], row["kind"], row["design"]) == ("history resent", "trajectories", "memproxy"):
            yield f"**{row['cached']:.1%}** of an agent's prompt tokens come from it"
            yield f"{row['memory off']['cached']:.1%} without memproxy"


_TOLD = {
    "relay": ("adds to a request", _added),
    "retrieval": ("puts before the model", _found),
    "prompt-cache": ("leaves of the provider's prompt cache", _cached),
}
"""In the order of the README: what memproxy does, and how much, by the command that measures it."""
