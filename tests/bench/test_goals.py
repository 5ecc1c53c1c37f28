"""Goals are judged by the figures they are about, round by round."""

from dataclasses import fields
from typing import Any

from bench.goals import GOALS, judged, limit_of, outcome_of
from bench.measure import Measured
from bench.scenarios import SCENARIOS, TARGETS


def measured(**figures: float) -> Measured:
    """A measurement in which everything else is 1."""
    values: dict[str, Any] = {field.name: 1.0 for field in fields(Measured)} | {"degraded": 0.0} | figures
    return Measured(**values)


def test_goals_are_about_what_is_measured() -> None:
    """A goal that names nobody would never be missed."""
    usual = {scenario.name: scenario for scenario in SCENARIOS if scenario.is_usual}
    targets = {target.name for target in TARGETS if target.is_usual}
    figures = {field.name for field in fields(Measured)}
    for goal in GOALS:
        scenario = usual[goal.scenario]
        assert {goal.target, goal.reference} <= set(scenario.targets or targets)
        reference = usual[goal.reference_scenario or goal.scenario]
        assert goal.reference in (reference.targets or targets)
        assert goal.figure in figures


def test_a_ratio_is_the_median_of_the_rounds_and_not_a_ratio_of_medians() -> None:
    """In a round the machine was the same for both; between rounds it was not."""
    memory = [measured(cpu_ms=4.0), measured(cpu_ms=40.0), measured(cpu_ms=8.0)]
    floor = [measured(cpu_ms=1.0), measured(cpu_ms=10.0), measured(cpu_ms=1.0)]
    (goal,) = judged({"1kb-c16": {"apart": memory, "floor": floor}})
    assert (goal["value"], goal["rounds"], goal["is_reached"]) == (4.0, [4.0, 4.0, 8.0], True)
    assert limit_of(goal) == "≤ 5"


def test_a_goal_that_is_missed_says_so_in_either_direction() -> None:
    """The document must not call a miss a hit."""
    slow = {"apart": [measured(cpu_ms=2.0)], "floor": [measured(cpu_ms=0.1)], "litellm": [measured(cpu_ms=10.0)]}
    missed = {goal["about"]: goal for goal in judged({"1kb-c16": slow})}
    assert not missed["memory ÷ floor relay, CPU"]["is_reached"]
    assert not missed["LiteLLM's plain relay ÷ memory, CPU"]["is_reached"]
    assert limit_of(missed["LiteLLM's plain relay ÷ memory, CPU"]) == "≥ 10"


def test_added_time_is_a_difference_and_history_compares_two_loads() -> None:
    """These two goals read other figures than the rest."""
    single = {"apart": [measured(p50_ms=3.5)], "upstream": [measured(p50_ms=1.0)]}
    found = judged(
        {
            "1kb-c1": single,
            "60kb-c16": {"apart": [measured(cpu_ms=3.0)]},
            "4-messages-c16": {"apart": [measured(cpu_ms=2.0)]},
        }
    )
    assert [(goal["value"], goal["is_reached"]) for goal in found] == [(2.5, True), (1.5, True)]


def test_what_was_cheap_because_memory_was_left_out_is_no_success() -> None:
    """An overloaded run degrades, and would look better than it is."""
    rounds = {"1kb-c16": {"apart": [measured(cpu_ms=2.0, degraded=0.14)], "floor": [measured(cpu_ms=1.0)]}}
    (goal,) = judged(rounds)
    assert not goal["is_reached"]
    assert outcome_of(goal) == "no, 14% without memory"
