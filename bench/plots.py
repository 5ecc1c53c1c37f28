"""Draw the document's plots as small SVG files, the same figures giving the same bytes."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.parts import Plot

COLOURS = ("#0b6fb8", "#d1620a", "#2a8a5f", "#8a4fb5", "#b0303c", "#6b7280", "#b58900")
"""Told apart on white, and by most people who see colours otherwise."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT, GOAL = "#24292f", "#d8dee4", "#57606a"
WIDTH_IN, HEIGHT_IN, PAD_IN = 7.6, 3.9, 0.12
LEGEND_COLUMNS = 4
MIN_GAP = 0.055
"""Of two labels below the x axis, as a share of its length."""
BAR_HEADROOM = 1.12
"""Above the highest bar, for its number."""

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "memproxy",
    "figure.constrained_layout.w_pad": PAD_IN,
    "figure.constrained_layout.h_pad": PAD_IN,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GOAL,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw(plot: Plot, file: Path) -> None:
    """Write the plot as SVG, on white: it is looked at on dark pages, too."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        (_bars if plot.is_bars else _lines)(axes, plot)
        _frame(figure, axes, plot)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _lines(axes: Any, plot: Plot) -> None:
    for number, series in enumerate(plot.series):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot(series.xs, series.ys, label=series.label, color=colour, marker=marker, markersize=5, linewidth=1.8)
    xs = sorted({x for series in plot.series for x in series.xs})
    if plot.is_log_x:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", which="minor", length=0)
    if _are_apart(xs, is_log=plot.is_log_x):
        axes.set_xticks(xs, [_short(x) for x in xs])


def _are_apart(xs: Sequence[float], *, is_log: bool) -> bool:
    """Whether each may have its own label without touching the next."""
    places = [math.log(x) for x in xs] if is_log else xs
    gaps = [after - before for before, after in itertools.pairwise(places)]
    return bool(gaps) and min(gaps) >= MIN_GAP * (places[-1] - places[0])


def _bars(axes: Any, plot: Plot) -> None:
    width = 0.8 / len(plot.series)
    for number, series in enumerate(plot.series):
        places = [at + (number - (len(plot.series) - 1) / 2) * width for at in range(len(plot.categories))]
        colour = COLOURS[number % len(COLOURS)]
        drawn = axes.bar(places, series.ys, width * 0.92, label=series.label, color=colour)
        axes.bar_label(drawn, [_short(y) for y in series.ys], padding=2, fontsize=8.5, color=INK)
    axes.set_xticks(range(len(plot.categories)), plot.categories)
    axes.tick_params(axis="x", length=0)


def _frame(figure: Figure, axes: Any, plot: Plot) -> None:
    """Everything around the points."""
    axes.set_title(plot.title, loc="left", fontsize=11.5, fontweight="bold")
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    if plot.is_log_y:
        axes.set_yscale("log")
        axes.set_ylim(*_decades(plot))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif plot.is_from_zero:
        axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * (BAR_HEADROOM if plot.is_bars else 1.0))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _short(y)))
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for goal in plot.goals:
        axes.axhline(goal.y, color=GOAL, linewidth=1.2, linestyle=(0, (5, 3)))
        axes.annotate(
            goal.label,
            (1.0, goal.y),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=GOAL,
        )
    if len(plot.series) > 1:
        _legend(figure, axes)


def _legend(figure: Figure, axes: Any) -> None:
    """Below the plot, where it hides nothing; read row by row, though it is filled column by column."""
    handles, labels = axes.get_legend_handles_labels()
    columns = len(labels) if len(labels) <= LEGEND_COLUMNS else -(-len(labels) // 2)
    order = [at for column in range(columns) for at in range(column, len(labels), columns)]
    figure.legend(
        [handles[at] for at in order],
        [labels[at] for at in order],
        loc="outside lower center",
        frameon=False,
        fontsize=9.5,
        ncols=columns,
    )


def _decades(plot: Plot) -> tuple[float, float]:
    """Bounds that leave the lowest bar some height, and the highest one room for its number."""
    shown = [y for series in plot.series for y in series.ys] + [goal.y for goal in plot.goals]
    low, high = min(shown), max(shown)
    return (low / 3, high * 2) if plot.is_bars else (low / 1.5, high * 1.5)


def _short(value: float) -> str:
    """Two or three digits that matter; thousands as `k`."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.2g}"
