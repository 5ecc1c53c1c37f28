"""Where the CPU time of a request goes: the serving process under load, sampled from outside by py-spy.

Sampling stops the process for a moment each time, so what a request costs is measured first, without it; the samples
tell how that divides. Turns are recorded, but learned elsewhere: the process does nothing but serve.
"""

import argparse
import asyncio
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import profile_stacks, results
from bench.client import LoadError
from bench.conversations import Conversations
from bench.load import Load
from bench.measure import Bench, Measured, measure
from bench.processes import ROOT
from bench.scenarios import QUICK_USERS, SCENARIOS, TARGETS, USERS, Plan, Scenario, quick
from bench.servers import running
from memproxy.errors import MemproxyError

NAME = "profile"
LOADS = ("1kb-c16", "60kb-c16", "slow-c16")
TARGET = next(target for target in TARGETS if target.name == "apart")

RATE = 200
"""Samples a second. Each takes about a millisecond, in which the process stands still."""

UNSAMPLED_S = 4.0
SAMPLED_S, QUICK_SAMPLED_S = 20, 1
LEAD_S = 3.0
"""For py-spy to begin; the load lasts so much longer than the sampling."""

WIDTH = 160

TOP = 15
SHOWN_PARTS = 0.0005
"""A part with less is not shown."""


class NotAllowedError(Exception):
    """The system does not let us look into the process."""


@dataclass(frozen=True, slots=True)
class Profiled:
    """One load."""

    scenario: Scenario
    measured: Measured
    """Without sampling."""
    stacks: str
    """As py-spy folded them."""

    @property
    def samples(self) -> Sequence[profile_stacks.Sample]:
        return profile_stacks.read(self.stacks, root=str(ROOT))


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample and print; the exit code is 1 when a load failed. Where sampling is not possible, nothing is measured."""
    parser = argparse.ArgumentParser(prog="python -m bench profile", description=__doc__.partition("\n")[0])
    results.add_arguments(parser, NAME)
    parser.add_argument("--folded", type=Path, metavar="FOLDER", help="write the stacks there, for flame graphs")
    chosen = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    pyspy = _pyspy()
    if pyspy is None:
        console.print("bench: profiles need py-spy (pip install py-spy); skipped", style="yellow", markup=False)
        return 0
    try:
        profiled = uvloop.run(_profiled(pyspy, is_quick=chosen.quick))
    except NotAllowedError as error:
        console.print(f"bench: profiles skipped: {error}", style="yellow", markup=False)
        return 0
    except (LoadError, MemproxyError) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        return 1
    figures = summary(profiled)
    _show(console, figures)
    if chosen.folded:
        chosen.folded.mkdir(parents=True, exist_ok=True)
        for each in profiled:
            (chosen.folded / f"{each.scenario.name}.folded").write_text(each.stacks, "utf-8")
    results.write(chosen, NAME, figures)
    return 0


def summary(profiled: Sequence[Profiled]) -> dict[str, Any]:
    """What is kept: for each load its cost, how that divides among the parts, and the functions on top."""
    return {"rate": RATE, "loads": {each.scenario.name: _summed_up(each) for each in profiled}}


def _summed_up(each: Profiled) -> dict[str, Any]:
    samples = each.samples
    return {
        "title": each.scenario.title,
        "cpu_ms": each.measured.cpu_ms,
        "store_cpu_ms": each.measured.store_cpu_ms,
        "samples": sum(sample.count for sample in samples),
        "parts": profile_stacks.shares_of_parts(samples),
        "hottest": profile_stacks.hottest(samples, limit=TOP),
        "heaviest": profile_stacks.heaviest(samples, limit=TOP),
    }


def _pyspy() -> str | None:
    """The program, beside this Python or on the path."""
    beside = Path(sysconfig.get_path("scripts")) / "py-spy"
    return str(beside) if beside.exists() else shutil.which("py-spy")


async def _profiled(pyspy: str, *, is_quick: bool) -> list[Profiled]:
    seconds = QUICK_SAMPLED_S if is_quick else SAMPLED_S
    scenarios = [scenario for name in LOADS for scenario in SCENARIOS if scenario.name == name]
    users = QUICK_USERS if is_quick else USERS
    profiled = []
    plan = Plan(scenarios, [TARGET], rounds=1, users=users, in_all=0, settings={})
    async with running(plan) as bench:
        for scenario in scenarios:
            print(f"{scenario.title} ...", file=sys.stderr)
            alone = quick(scenario) if is_quick else replace(scenario, slice_s=UNSAMPLED_S)
            measured = await measure(bench, alone, TARGET, number=0)
            stacks = await _sampled(bench, replace(scenario, slice_s=seconds + LEAD_S), pyspy=pyspy, seconds=seconds)
            await bench.stores[TARGET.host].restore()
            profiled.append(Profiled(scenario, measured, stacks))
    return profiled


async def _sampled(bench: Bench, scenario: Scenario, *, pyspy: str, seconds: int) -> str:
    """Folded stacks of the serving process under this load."""
    server = bench.servers[TARGET.host]
    body, words = bench.answers[scenario.model, scenario.is_stream]
    users, seed = bench.users[TARGET.memories], f"{scenario.name}-sampled"
    conversations = Conversations(scenario, TARGET, answer=words, users=users, seed=seed)
    load = Load(scenario, TARGET, conversations=conversations, expected=body)
    try:
        await load.connect(server.port)
        await bench.stores[TARGET.host].settled()
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(_record(pyspy, server.pid, seconds=seconds))
            _ = group.create_task(load.run())
    except ExceptionGroup as failures:
        server.check_alive()
        raise _first(failures) from None
    finally:
        load.close()
    return sampling.result()


def _first(failures: BaseExceptionGroup[Any]) -> BaseException:
    """What went wrong first; groups may lie in groups."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _record(pyspy: str, pid: int, *, seconds: int) -> str:
    """Raises NotAllowedError, LoadError."""
    options = ["--pid", str(pid), "--rate", str(RATE), "--duration", str(seconds)]
    with tempfile.TemporaryDirectory(prefix="mpb-") as folder:
        stacks = Path(folder) / "stacks"
        process = await asyncio.create_subprocess_exec(
            pyspy,
            "record",
            *options,
            *("--format", "raw", "--full-filenames", "--output", str(stacks)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        told = errors.decode("utf-8", "replace")
        if "ermission" in told:
            raise NotAllowedError("the system does not let py-spy look into another process (ptrace)")
        if process.returncode:
            raise LoadError(f"py-spy ended with {process.returncode}: {told[:500]}")
        return stacks.read_text("utf-8", "replace")


def _show(console: Console, figures: Mapping[str, Any]) -> None:
    loads = figures["loads"]
    parts = Table(title="CPU by part, ms a request", title_justify="left", box=SIMPLE_HEAD, header_style="dim")
    parts.add_column("part", no_wrap=True)
    for load in loads.values():
        parts.add_column(load["title"], justify="right")
    for part in next(iter(loads.values()))["parts"]:
        if any(load["parts"][part] >= SHOWN_PARTS for load in loads.values()):
            parts.add_row(part, *(f"{load['parts'][part] * load['cpu_ms']:.3f}" for load in loads.values()))
    parts.add_row("all", *(f"{load['cpu_ms']:.3f}" for load in loads.values()), style="bold")
    console.print(parts)
    for load in loads.values():
        for key, title in (("hottest", "by themselves"), ("heaviest", "with what they call")):
            top = Table(title=f"{load['title']}: functions {title}", title_justify="left", box=SIMPLE_HEAD)
            top.add_column("function", no_wrap=True)
            top.add_column("share", justify="right")
            for name, share in load[key].items():
                top.add_row(name, f"{share:.1%}")
            console.print(top)


if __name__ == "__main__":
    sys.exit(main())
