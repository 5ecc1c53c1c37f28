"""What the document is made of: parts of text with plots, told without knowing how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together: one line, or one colour of bars."""

    label: str
    xs: Sequence[float]
    """Of bars: empty; the plot's categories stand for them."""
    ys: Sequence[float]


@dataclass(frozen=True, slots=True)
class Goal:
    """What was to be reached, drawn as a dashed line across the plot."""

    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Plot:
    """One drawing."""

    name: str
    """Stem of its file; unique in the document."""
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    is_log_x: bool = False
    is_log_y: bool = False
    is_bars: bool = False
    categories: Sequence[str] = ()
    """Of bars: what stands below each group, as many as each series has values."""
    goals: Sequence[Goal] = ()
    is_from_zero: bool = True
    """The y axis begins at 0, where it is not logarithmic: differences look as large as they are."""


@dataclass(frozen=True, slots=True)
class Part:
    """One chapter of the document."""

    title: str
    text: str
    """Markdown, tables and all. Headings in it begin at `###`. A plot stands where its `plot_marker` does."""
    plots: Sequence[Plot] = ()
    """Those without a marker in the text stand behind it."""


def plot_marker(name: str) -> str:
    """Where a plot of this name stands in a part's text."""
    return f"<plot {name}>"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    """A table whose first `texts` columns are words and whose other columns are figures."""
    align = [*["---"] * texts, *["--:"] * (len(columns) - texts)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, align, *rows))
