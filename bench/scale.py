"""How CPU and latency grow: with the history, a user's memories, users, and streams at a time.

The points of a curve take turns, so that whatever else the machine does hits all alike. CPU is that of the serving
process, told apart from its store; turns are recorded and learned elsewhere.
"""

import argparse
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import results, scale_history, scale_points, scale_stores, scale_streams
from bench.client import LoadError
from bench.scale_points import MEMORIES, SETTINGS, USERS, Recording, Stand
from bench.scale_servers import floor, memproxy, upstream
from bench.scale_verdicts import Verdict, verdicts
from bench.streams import allow_files
from memproxy.errors import MemproxyError

NAME = "scale"
WIDTH = 160
FILES = 3_000

CURVES: Mapping[str, Callable[[Stand], Coroutine[Any, Any, dict[str, Any]]]] = {
    "history": scale_history.curve,
    "memories": scale_stores.memories,
    "users": scale_stores.users,
    "streams": scale_streams.curve,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 when an answer was not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m bench scale", description=(__doc__ or "").partition("\n")[0])
    results.add_arguments(parser, NAME)
    parser.add_argument("--curve", action="append", choices=list(CURVES), help="only this one; repeatable")
    chosen = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    names = [name for name in CURVES if not chosen.curve or name in chosen.curve]
    try:
        allow_files(FILES)
        curves = uvloop.run(_measured(names, is_quick=chosen.quick))
    except (LoadError, MemproxyError) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        return 1
    found = verdicts(curves)
    for curve in curves.values():
        console.print(_table(curve))
    console.print(_judged(found))
    results.write(
        chosen, NAME, {"curves": curves, "verdicts": [{**asdict(each), "is_met": each.is_met} for each in found]}
    )
    return 0


async def _measured(names: Sequence[str], *, is_quick: bool) -> dict[str, Any]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting servers, storing memories", total=None)
        async with _stand(is_quick=is_quick, told=lambda text: progress.update(task, description=text)) as stand:
            return {name: await CURVES[name](stand) for name in names}


@asynccontextmanager
async def _stand(*, is_quick: bool, told: Callable[[str], None]) -> AsyncIterator[Stand]:
    users = {MEMORIES: USERS, **scale_stores.known(is_quick=is_quick)}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mpb-")))
        behind = await stack.enter_async_context(upstream(folder))
        relay = await stack.enter_async_context(floor(folder, behind))
        proxy = await stack.enter_async_context(memproxy("memproxy", folder, behind, users=users, settings=SETTINGS))
        recording = Recording(proxy.server)
        await scale_points.warmed_up(relay)
        await scale_points.warmed_up(proxy.server, recording)
        yield Stand(folder, behind, relay, proxy.server, recording, is_quick=is_quick, told=told)


def _table(curve: Mapping[str, Any]) -> Table:
    shown = Table(title=f"{curve['title']}: by {curve['x_label']}", title_justify="left", title_style="bold")
    shown.box, shown.header_style = SIMPLE_HEAD, "dim"
    shown.add_column("", no_wrap=True)
    for column in ("at", "KB", "CPU ms", "from", "to", "store", "p50 ms", "p95", "memories", "degraded"):
        shown.add_column(column, justify="right", no_wrap=True)
    for series in curve["series"].values():
        for point in series["points"]:
            shown.add_row(
                series["title"],
                f"{point['x']:,}",
                f"{point['bytes'] / 1024:.1f}",
                f"{point['cpu_ms']:.3f}",
                *(f"{each:.3f}" for each in point["cpu_ms_range"]),
                f"{point['store_cpu_ms']:.3f}",
                f"{point['p50_ms']:.2f}",
                f"{point['p95_ms']:.2f}",
                f"{point['memories']:.1f}",
                f"{point['degraded']:.1%}" if point["degraded"] else "",
            )
        shown.add_section()
    return shown


def _judged(found: Sequence[Verdict]) -> Table:
    shown = Table(box=SIMPLE_HEAD, header_style="dim")
    shown.add_column("claim")
    for column in ("value", "goal", ""):
        shown.add_column(column, justify="right", no_wrap=True)
    for each in found:
        goal = "" if each.goal is None else f"≤ {each.goal:g}"
        mark = {None: "", True: "met", False: "missed"}[each.is_met]
        shown.add_row(each.claim, f"{each.value:.2f} {each.unit}".strip(), goal, mark)
    return shown


if __name__ == "__main__":
    sys.exit(main())
