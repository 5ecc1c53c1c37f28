"""Render docs/performance.md, its plots and the README's numbers from the kept results: `python -m bench document`."""

import argparse
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench import results
from bench.parts import Part, plot_marker
from bench.plots import draw
from bench.processes import ROOT
from bench.readme_numbers import with_numbers
from memproxy.records import JsonObject

TARGET = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
PLOTS = "plots"

INTRODUCTION = """\
<!-- Rendered by `make bench ARGS=document` from bench/results; changes belong into bench/*_part.py. -->

# Performance

Three numbers belong together and are seldom told together: what memproxy **adds to a request** (relay, scale, streams,
profile), how often it **puts the right evidence** before the model (retrieval), and what it does to the **provider's
prompt cache** (prompt cache, truncation). The last part is about not losing anything on the way (extraction faults).

Everything here is measured by the repository's own tool against a scripted model server on loopback, so that it can be
repeated anywhere, without a key:

```sh
make bench-peers            # once: LiteLLM's proxy, in an environment of its own
make bench                  # everything, half an hour, and this document anew
make bench ARGS=relay       # one part, only printed
make bench ARGS=--quick     # everything, a few minutes: that it works, not how well
```

nginx is measured beside memproxy where it is installed.

Absolute figures are those of a small shared machine and noisy. **Ratios are what counts:** all targets of a table are
measured in turns, in the same run, and a ratio is taken within a round and then the median over the rounds. CPU is read
from the operating system's accounts of the processes, not from a clock on the wall.
"""


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of the document, and whose figures it tells."""

    command: str
    """Whose kept results it is made of."""
    module: str
    """Below `bench`, with a pure `part(results) -> Part`."""


PARTS = (
    Chapter("relay", "relay_part"),
    Chapter("scale", "scale_part"),
    Chapter("streams", "streams_part"),
    Chapter("profile", "profile_part"),
    Chapter("retrieval", "retrieval_part"),
    Chapter("prompt-cache", "prompt_cache_part"),
    Chapter("truncation", "truncation_part"),
    Chapter("extraction-faults", "extraction_faults_part"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Render what there is; parts that were never measured are named and left out."""
    parser = argparse.ArgumentParser(prog="python -m bench document", description="Render docs/performance.md.")
    parser.add_argument("--results", type=Path, default=results.RESULTS, metavar="FOLDER", help="figures to render")
    parser.add_argument("--output", type=Path, default=TARGET, metavar="FILE", help="the document; plots go beside it")
    chosen = parser.parse_args(arguments)
    console = Console()
    kept = {chapter.command: results.read(chapter.command, folder=chosen.results) for chapter in PARTS}
    missing = [command for command, figures in kept.items() if figures is None]
    parts = [
        (_part_of(chapter)(figures), figures) for chapter in PARTS if (figures := kept[chapter.command]) is not None
    ]
    render(parts, chosen.output)
    if chosen.output == TARGET:
        README.write_text(with_numbers(README.read_text("utf-8"), kept), "utf-8")
    console.print(f"rendered {len(parts)} parts to {chosen.output}", markup=False)
    if missing:
        console.print(f"never measured with --keep, so left out: {', '.join(missing)}", style="yellow", markup=False)
    return 0


def render(parts: Sequence[tuple[Part, JsonObject]], target: Path) -> None:
    """Write the document, and its plots in a folder beside it; plots of nothing that is in it go away."""
    folder = target.parent / PLOTS
    folder.mkdir(parents=True, exist_ok=True)
    for part, _ in parts:
        for plot in part.plots:
            draw(plot, folder / f"{plot.name}.svg")
    for stale in set(folder.glob("*.svg")) - {folder / f"{plot.name}.svg" for part, _ in parts for plot in part.plots}:
        stale.unlink()
    target.write_text(text_of(parts), "utf-8")


def text_of(parts: Sequence[tuple[Part, JsonObject]]) -> str:
    """The document as markdown."""
    return "\n".join([INTRODUCTION, *(_chapter(part, figures) for part, figures in parts)])


def _chapter(part: Part, figures: JsonObject) -> str:
    """Plots stand where the text has their marker; those that it does not speak of stand at its end."""
    text = part.text.strip()
    for plot in part.plots:
        image = f"![{plot.title}]({PLOTS}/{plot.name}.svg)"
        marker = plot_marker(plot.name)
        text = text.replace(marker, image) if marker in text else f"{text}\n\n{image}"
    return f"## {part.title}\n\n{_measured(figures)}\n\n{text}\n"


def _measured(figures: JsonObject) -> str:
    machine = figures.get("machine", {})
    processors = f"{machine.get('processors')} processors {machine.get('processor', '')}".strip()
    on = f"{processors}, Python {machine.get('python')}, {machine.get('system')}"
    commit = f", commit `{figures['commit']}`" if figures.get("commit") else ""
    return f"*Measured on {figures.get('measured_at')} ({on}{commit}).*"


def _part_of(chapter: Chapter) -> Callable[[JsonObject], Part]:
    found: Callable[[JsonObject], Part] = importlib.import_module(f"bench.{chapter.module}").part
    return found
