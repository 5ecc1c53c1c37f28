"""Medians over the rounds, ratios within a round, and how they are shown."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
LEAST = 0.0005
"""What is less is shown as nothing."""

FEW = 0.005
"""A share below this is not worth a remark."""


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


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a target, and when it is shown."""

    title: str
    text: Callable[[Mapping[str, Any]], str]
    """From a target's figures; empty where there is nothing to tell."""
    fits: Callable[[Scenario], bool] = lambda _: True


def _time(milliseconds: float) -> str:
    """Three digits at least, and no more behind the point than mean something."""
    digits = 0 if abs(milliseconds) >= 100 else 1 if abs(milliseconds) >= 10 else 2
    return f"{milliseconds:,.{digits}f}"


Form = str | Callable[[float], str]


def _median(name: str, form: Form) -> Callable[[Mapping[str, Any]], str]:
    return lambda figures: _number(figures["median"][name], form)


def _beside(name: str, form: str) -> Callable[[Mapping[str, Any]], str]:
    """A figure of what only targets with memory have beside the process that serves; empty where it is nothing."""

    def text(figures: Mapping[str, Any]) -> str:
        median = figures["median"]
        return form.format(median[name]) if median["recorded"] is not None and median[name] >= LEAST else ""

    return text


def _to_floor(figures: Mapping[str, Any]) -> str:
    return _number(figures["ratio"].get("floor", {}).get("cpu_ms"), "{:.2f}")


COLUMNS = (
    Column("req/s", _median("requests_per_s", "{:,.0f}"), lambda scenario: not scenario.runs_tools),
    Column("turns/s", _median("requests_per_s", "{:,.0f}"), lambda scenario: scenario.runs_tools),
    Column("p50 ms", _median("p50_ms", _time)),
    Column("p95", _median("p95_ms", _time)),
    Column("p99", _median("p99_ms", _time)),
    Column("1st byte p50", _median("first_byte_p50_ms", _time), lambda scenario: scenario.is_stream),
    Column("added p50", lambda figures: _number(figures["added_p50_ms"], _time)),
    Column("tools run", _median("tools_run", "{:.2f}"), lambda scenario: scenario.runs_tools),
    Column("CPU ms", _median("cpu_ms", "{:.3f}")),
    Column("÷ floor", _to_floor, lambda scenario: not scenario.runs_tools),
    Column("learning", _beside("learning_cpu_ms", "{:.3f}")),
    Column("store CPU", _beside("store_cpu_ms", "{:.3f}")),
    Column("sum", _beside("total_cpu_ms", "{:.3f}")),
    Column("client", _median("client_cpu_ms", "{:.3f}"), lambda scenario: scenario.runs_tools),
    Column("peak MB", _median("peak_mb", "{:.0f}")),
    Column("store MB", _beside("store_peak_mb", "{:.0f}")),
)


def columns_of(scenario: Scenario) -> list[Column]:
    """What is told about a scenario; where it is about an agent, of a turn in place of a request."""
    return [column for column in COLUMNS if column.fits(scenario)]


def table(scenario: Scenario, targets: Sequence[Target], figures: Mapping[str, Any]) -> Table:
    """One scenario's figures for reading."""
    shown = Table(title=scenario.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, header_style="dim")
    shown.padding, shown.pad_edge = (0, 1, 0, 0), False
    shown.add_column("target", no_wrap=True)
    columns = columns_of(scenario)
    for column in columns:
        shown.add_column(column.title, justify="right")
    for target in targets:
        shown.add_row(target.title, *(column.text(figures[target.name]) for column in columns))
    return shown


def _number(value: float | None, form: Form) -> str:
    if value is None:
        return ""
    return form.format(value) if isinstance(form, str) else form(value)


def remarks(targets: Sequence[Target], figures: Mapping[str, Any]) -> list[str]:
    """What must be known beside the figures of targets with memory."""
    found = []
    for target in targets:
        median = figures[target.name]["median"]
        if not target.remembers:
            continue
        parts = [f"{median['memories']:.1f} memories put into a request"] if median["memories"] else []
        if median["degraded"] > FEW:
            parts.append(f"{median['degraded']:.1%} of answers degraded: memory was left out to be in time")
        if median["recognised"] is not None and median["recognised"] < 1 - FEW:
            parts.append(f"only {median['recognised']:.1%} of conversations recognised")
        if median["recorded"] < 1 - FEW:
            parts.append(f"only {median['recorded']:.1%} of turns recorded")
        if parts:
            found.append(f"{target.title}: {'; '.join(parts)}")
    return found


def show(console: Console, scenario: Scenario, targets: Sequence[Target], figures: Mapping[str, Any]) -> None:
    """Print one scenario's table and remarks."""
    console.print(table(scenario, targets, figures))
    for remark in remarks(targets, figures):
        console.print(remark, style="dim")
    console.print()
