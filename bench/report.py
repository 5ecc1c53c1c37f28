"""Medians over the rounds, ratios within a round, and how they are shown."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.measure import Measured
from bench.scenarios import Scenario, Target

Rounds = Mapping[str, Sequence[Measured]]
"""By target, the measurements of its rounds."""

RATIOS = ("requests_per_s", "p50_ms", "p95_ms", "p99_ms", "first_byte_p50_ms", "cpu_ms", "total_cpu_ms")
REFERENCES = ("upstream", "floor")
FEW = 0.005
"""A share below this is not worth a remark."""


def machine() -> dict[str, Any]:
    """On what was measured."""
    return {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}


def summary(rounds: Rounds) -> dict[str, Any]:
    """For each target the medians of its rounds, and the medians of its ratios to the references."""
    return {
        name: {
            "median": medians(measured),
            "ratio": {of: ratios(measured, rounds[of]) for of in REFERENCES if of in rounds and of != name},
            "added_p50_ms": _added(measured, rounds.get("upstream")),
            "rounds": [asdict(each) for each in measured],
        }
        for name, measured in rounds.items()
    }


def medians(measured: Sequence[Measured]) -> dict[str, float | None]:
    """The median of each figure; None where no round has one."""
    figures = {}
    for name in asdict(measured[0]):
        values = [value for each in measured if (value := getattr(each, name)) is not None]
        figures[name] = statistics.median(values) if values else None
    return figures


def ratios(measured: Sequence[Measured], reference: Sequence[Measured]) -> dict[str, float | None]:
    """How many times the reference's figure each figure is: the median of the rounds' ratios."""
    return {name: _ratio(name, measured, reference) for name in RATIOS}


def _ratio(name: str, measured: Sequence[Measured], reference: Sequence[Measured]) -> float | None:
    pairs = [(getattr(each, name), getattr(other, name)) for each, other in zip(measured, reference, strict=True)]
    found = [mine / theirs for mine, theirs in pairs if theirs > 0]
    return statistics.median(found) if found else None


def _added(measured: Sequence[Measured], reference: Sequence[Measured] | None) -> float | None:
    """Milliseconds that a request takes longer than at the bare upstream."""
    if reference is None:
        return None
    return statistics.median(each.p50_ms - other.p50_ms for each, other in zip(measured, reference, strict=True))


def table(scenario: Scenario, targets: Sequence[Target], figures: Mapping[str, Any]) -> Table:
    """One scenario's figures for reading."""
    shown = Table(title=scenario.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, header_style="dim")
    shown.add_column("target", no_wrap=True)
    columns = [
        "req/s",
        "p50 ms",
        "p95",
        "p99",
        *(["1st byte"] if scenario.is_stream else []),
        "added p50",
        "p50 ÷ bare",
    ]
    columns += ["CPU ms/req", "store", "sum", "CPU ÷ floor", "sum ÷ floor", "peak MB", "store"]
    for column in columns:
        shown.add_column(column, justify="right", no_wrap=True)
    for target in targets:
        shown.add_row(target.title, *_cells(scenario, figures[target.name]))
    return shown


def _cells(scenario: Scenario, figures: Mapping[str, Any]) -> list[str]:
    median, ratio = figures["median"], figures["ratio"]
    has_store = median["store_peak_mb"] > 0
    return [
        f"{median['requests_per_s']:,.0f}",
        f"{median['p50_ms']:.2f}",
        f"{median['p95_ms']:.2f}",
        f"{median['p99_ms']:.2f}",
        *([f"{median['first_byte_p50_ms']:.2f}"] if scenario.is_stream else []),
        _number(figures["added_p50_ms"], "{:+.2f}"),
        _number(ratio.get("upstream", {}).get("p50_ms"), "{:.2f}"),
        f"{median['cpu_ms']:.3f}",
        f"{median['store_cpu_ms']:.3f}" if has_store else "",
        f"{median['total_cpu_ms']:.3f}" if has_store else "",
        _number(ratio.get("floor", {}).get("cpu_ms"), "{:.2f}"),
        _number(ratio.get("floor", {}).get("total_cpu_ms"), "{:.2f}") if has_store else "",
        f"{median['peak_mb']:.0f}",
        f"{median['store_peak_mb']:.0f}" if has_store else "",
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def remarks(targets: Sequence[Target], figures: Mapping[str, Any]) -> list[str]:
    """What must be known beside the figures of targets with memory."""
    found = []
    for target in targets:
        median = figures[target.name]["median"]
        if not target.remembers:
            continue
        parts = [f"{median['memories']:.1f} memories put into a request"]
        if median["degraded"] > FEW:
            parts.append(f"{median['degraded']:.1%} of answers degraded: memory was left out to be in time")
        if median["recognised"] is not None and median["recognised"] < 1 - FEW:
            parts.append(f"only {median['recognised']:.1%} of conversations recognised")
        if median["recorded"] < 1 - FEW:
            parts.append(f"only {median['recorded']:.1%} of turns recorded")
        found.append(f"{target.title}: {'; '.join(parts)}")
    return found


def show(console: Console, scenario: Scenario, targets: Sequence[Target], figures: Mapping[str, Any]) -> None:
    """Print one scenario's table and remarks."""
    console.print(table(scenario, targets, figures))
    for remark in remarks(targets, figures):
        console.print(remark, style="dim")
    console.print()
