"""The document is rendered from what was measured, whole or in part, and the same figures give the same bytes."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import results
from bench.document import PARTS, PLOTS, TARGET, main, render, text_of
from bench.parts import Goal, Part, Plot, Series, markdown_table, plot_marker
from bench.plots import draw

LINES = Plot(
    "lines",
    "Latency",
    "connections",
    "ms",
    (Series("a", (1, 16, 64), (1.0, 20.0, 300.0)), Series("b", (1, 16, 64), (2.0, 3.0, 4.0))),
    is_log_x=True,
    is_log_y=True,
    goals=(Goal(3.0, "three"),),
)
BARS = Plot(
    "bars",
    "CPU",
    "",
    "ms",
    tuple(Series(f"target {number}", (), (number, 1000.0)) for number in range(1, 7)),
    is_bars=True,
    categories=("small", "big"),
)
FIGURES = {"measured_at": "2026-11-22", "commit": "abc1234", "machine": {"processors": 2, "python": "3.11"}}


@pytest.mark.parametrize("plot", [LINES, BARS], ids=lambda plot: plot.name)
def test_a_plot_says_what_it_shows(plot: Plot, tmp_path: Path) -> None:
    """Whoever looks at it needs no text beside: axes, every series, every category, the goal."""
    draw(plot, tmp_path / "one.svg")
    words = [element.text for element in ET.parse(tmp_path / "one.svg").iter() if element.text]
    named = [plot.title, plot.y_label, *(series.label for series in plot.series), *plot.categories]
    assert {*named, *(goal.label for goal in plot.goals)} <= set(words)


def test_the_same_figures_draw_the_same_bytes(tmp_path: Path) -> None:
    """A document that is rendered again without new figures must not change in the repository."""
    for name in ("one.svg", "two.svg"):
        draw(LINES, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.svg").stat().st_size < 60_000


def test_plots_stand_where_the_text_speaks_of_them() -> None:
    """A plot far from its words is not looked at."""
    text = text_of([(Part("One", f"before\n\n{plot_marker('bars')}\n\nafter", (LINES, BARS)), FIGURES)])
    assert "before\n\n![CPU](plots/bars.svg)\n\nafter\n\n![Latency](plots/lines.svg)" in text
    assert "## One\n\n*Measured on 2026-11-22 (2 processors, Python 3.11" in text
    assert "commit `abc1234`" in text


def test_plots_that_are_no_longer_spoken_of_go_away(tmp_path: Path) -> None:
    """An old drawing beside new figures would be taken for theirs."""
    target = tmp_path / "performance.md"
    render([(Part("One", "", (LINES, BARS)), FIGURES)], target)
    render([(Part("One", "", (BARS,)), FIGURES)], target)
    assert [file.name for file in (tmp_path / "plots").iterdir()] == ["bars.svg"]


def test_what_was_never_measured_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One part can be measured and rendered without the hour that all take."""
    (tmp_path / "extraction-faults.json").write_text(json.dumps(FIGURES | FAULTS))
    target = tmp_path / "docs" / "performance.md"
    assert main(["--results", str(tmp_path), "--output", str(target)]) == 0
    assert "relay" in capsys.readouterr().out
    text = target.read_text("utf-8")
    assert "| observations stored once | 20 of 20 |" in text
    assert "## Relay" not in text


FAULTS = {
    "turns": 40,
    "said_s": 3.2,
    "degraded": 1,
    "drained_s": 9.0,
    "worker_kills": 2,
    "store_restarts": 1,
    "model_calls": {"fine": 30, "429": 2},
    "dead": {"the model answered 400": 2},
    "stored": 20,
    "observations": 20,
    "missing": [],
    "doubled": [],
    "said": 40,
    "strangers_touched": 0,
    "strangers": 60,
    "scopes": 0,
    "left": 0,
    "latency_ms": {"p50 off": 2.0, "p50 ratio": 1.1},
    "holds": True,
}


@pytest.mark.parametrize("chapter", PARTS, ids=lambda chapter: chapter.command)
def test_what_is_kept_can_be_rendered(chapter: object, tmp_path: Path) -> None:
    """Figures in the repository and the code that tells them fit each other."""
    name = next(each.command for each in PARTS if each is chapter)
    kept = results.RESULTS / f"{name}.json"
    if not kept.exists():
        pytest.skip("never measured")
    (tmp_path / kept.name).write_bytes(kept.read_bytes())
    assert main(["--results", str(tmp_path), "--output", str(tmp_path / "performance.md")]) == 0
    text = (tmp_path / "performance.md").read_text("utf-8")
    assert text.count("\n## ") == 1
    for plot in (tmp_path / "plots").iterdir():
        assert f"](plots/{plot.name})" in text
    assert "<plot " not in text


def test_a_table_aligns_figures_to_the_right() -> None:
    """Digits are compared by their place."""
    assert (
        markdown_table(["a", "b", "c"], [["x", "y", "1"]], texts=2)
        == "| a | b | c |\n| --- | --- | --: |\n| x | y | 1 |"
    )


def test_the_document_is_what_the_kept_figures_say(tmp_path: Path) -> None:
    """Nobody reads figures that were measured anew and never rendered, or a text that was mended by hand."""
    if not TARGET.exists():
        pytest.skip("never rendered")
    rendered = tmp_path / TARGET.name
    assert main(["--output", str(rendered)]) == 0
    assert rendered.read_text("utf-8") == TARGET.read_text("utf-8"), "make bench ARGS=document renders it"
    plots = {file.name for file in (TARGET.parent / PLOTS).glob("*.svg")}
    assert plots == {file.name for file in (tmp_path / PLOTS).iterdir()}
