"""What `relay` is to reach, and whether it did: each goal compares two targets of the same run."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.measure import Measured
from memproxy.records import JsonObject

TOLERATED = 0.01
"""Share of answers without memory, which cost less: with more of them, no goal is reached."""

PLAIN, LONG, SLOW, SINGLE, SHORT = "1kb-c16", "60kb-c16", "slow-c16", "1kb-c1", "4-messages-c16"


@dataclass(frozen=True, slots=True)
class Goal:
    """How one figure of one target is to compare with another's."""

    about: str
    scenario: str
    target: str
    reference: str
    """The target compared with."""
    limit: float
    figure: str = "cpu_ms"
    """Of `Measured`."""
    is_at_least: bool = False
    """The limit is the least; otherwise it is the most."""
    is_difference: bool = False
    """The reference is taken away; otherwise it divides."""
    reference_scenario: str = ""
    """Where the reference is measured; the same scenario where there is none."""


def _relays(
    about: str, target: str, reference: str, *, limits: Sequence[float], at_least: bool = False
) -> tuple[Goal, ...]:
    """One goal for each of the three kinds of load."""
    return tuple(
        Goal(about, scenario, target, reference, limit, is_at_least=at_least)
        for scenario, limit in zip((PLAIN, LONG, SLOW), limits, strict=True)
    )


GOALS = (
    *_relays("pass-through ÷ floor relay, CPU", "passthrough", "floor", limits=(1.3, 1.3, 1.3)),
    *_relays("memory ÷ floor relay, CPU", "apart", "floor", limits=(5.0, 3.5, 1.4)),
    *_relays("LiteLLM's plain relay ÷ memory, CPU", "litellm", "apart", limits=(10.0, 28.0, 9.0), at_least=True),
    Goal("memory, added p50, ms", SINGLE, "apart", "upstream", 3.0, "p50_ms", is_difference=True),
    Goal("memory with learning, added p50, ms", SINGLE, "memory", "upstream", 3.0, "p50_ms", is_difference=True),
    Goal("memory, 114 messages ÷ 4 messages, CPU", LONG, "apart", "apart", 2.0, reference_scenario=SHORT),
)


def judged(rounds: Mapping[str, Mapping[str, Sequence[Measured]]]) -> list[JsonObject]:
    """Every goal with its value, the median over the rounds; a goal whose targets were not measured is left out.

    `rounds`: by scenario and target, the measurements of its rounds.
    """
    return [asdict(goal) | verdict for goal in GOALS if (verdict := _verdict(goal, rounds))]


def _verdict(goal: Goal, rounds: Mapping[str, Mapping[str, Sequence[Measured]]]) -> JsonObject:
    mine = rounds.get(goal.scenario, {}).get(goal.target)
    theirs = rounds.get(goal.reference_scenario or goal.scenario, {}).get(goal.reference)
    if not mine or not theirs:
        return {}
    values = [_compared(goal, one, other) for one, other in zip(mine, theirs, strict=True)]
    value = statistics.median(values)
    is_within = value >= goal.limit if goal.is_at_least else value <= goal.limit
    degraded = max(statistics.median(each.degraded for each in measured) for measured in (mine, theirs))
    return {"value": value, "rounds": values, "degraded": degraded, "is_reached": is_within and degraded <= TOLERATED}


def _compared(goal: Goal, one: Measured, other: Measured) -> float:
    mine, theirs = getattr(one, goal.figure), getattr(other, goal.figure)
    return float(mine - theirs if goal.is_difference else mine / theirs)


def table(goals: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Table:
    """The goals for reading; `titles` of the scenarios."""
    shown = Table(title="goals", title_justify="left", title_style="bold", box=SIMPLE_HEAD, header_style="dim")
    for column in ("figure", "load"):
        shown.add_column(column, no_wrap=True)
    for column in ("goal", "measured", "rounds", "reached"):
        shown.add_column(column, justify="right", no_wrap=True)
    for goal in goals:
        colour = "green" if goal["is_reached"] else "red"
        low, high = min(goal["rounds"]), max(goal["rounds"])
        span = f"{low:.2f} to {high:.2f}"
        value, outcome = f"{goal['value']:.2f}", f"[{colour}]{outcome_of(goal)}[/]"
        shown.add_row(goal["about"], titles[goal["scenario"]], limit_of(goal), value, span, outcome)
    return shown


def limit_of(goal: Mapping[str, Any]) -> str:
    """The goal's bound as a reader writes it."""
    return f"{'≥' if goal['is_at_least'] else '≤'} {goal['limit']:g}"


def outcome_of(goal: Mapping[str, Any]) -> str:
    """Whether it is reached, and why not where the figure alone would say it is."""
    if goal["is_reached"]:
        return "yes"
    return f"no, {goal['degraded']:.0%} without memory" if goal["degraded"] > TOLERATED else "no"
