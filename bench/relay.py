"""What memproxy costs: added latency and CPU a request, against the bare upstream, a floor and other proxies.

`python -m bench relay` starts everything itself on free ports, measures, prints, and stops it again: the scripted model
server, a minimal relay on memproxy's own server and transport (the floor), nginx and LiteLLM's proxy where they are
installed, and memproxy, once with its workers and once as if they ran elsewhere. Figures depend on the machine; the
ratios, all taken in one run, are what counts.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench import results
from bench.client import LoadError
from bench.goals import judged
from bench.goals import table as goals_table
from bench.measure import Bench, Measured, measure
from bench.peers import PEERS, missing
from bench.report import show, summary
from bench.scenarios import (
    IN_ALL,
    QUICK_IN_ALL,
    QUICK_USERS,
    SCENARIOS,
    TARGETS,
    USERS,
    Plan,
    Scenario,
    Target,
    quick,
)
from bench.servers import running
from memproxy.errors import MemproxyError
from memproxy.records import JsonObject

NAME = "relay"
WIDTH = 160


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 when a target did not answer as it must."""
    chosen = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    plan = _plan(chosen, console)
    try:
        figures = uvloop.run(_run(console, plan))
    except (LoadError, MemproxyError) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        return 1
    results.write(chosen, NAME, figures)
    return 0


async def _run(console: Console, plan: Plan) -> JsonObject:
    scenarios, rounds = {}, {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        stores = len({target.host for target in plan.all_targets() if target.remembers})
        task = progress.add_task("starting servers, loading memories", total=stores * plan.in_all)
        async with running(plan, progress=lambda count: progress.advance(task, count)) as bench:
            steps = sum(len(plan.targets_of(scenario)) for scenario in plan.scenarios) * plan.rounds
            progress.reset(task, total=steps)
            for scenario in plan.scenarios:
                shown = Shown(console, progress, task)
                rounds[scenario.name] = measured = await measured_rounds(bench, scenario, plan, shown)
                scenarios[scenario.name] = summary(measured)
                targets = [target for target in plan.targets_of(scenario) if target.name in measured]
                show(console, scenario, targets, scenarios[scenario.name])
    reached = judged(rounds)
    if reached:
        console.print(goals_table(reached, {scenario.name: scenario.title for scenario in plan.scenarios}))
    settings = {"rounds": plan.rounds, "memories_in_all": plan.in_all, "settings": dict(plan.settings)}
    return {**settings, "goals": reached, "scenarios": scenarios}


@dataclass(frozen=True, slots=True)
class Shown:
    """Where the progress is told."""

    console: Console
    progress: Progress
    task: TaskID


async def measured_rounds(bench: Bench, scenario: Scenario, plan: Plan, shown: Shown) -> dict[str, list[Measured]]:
    """All rounds of one scenario, by target. A peer that fails is left out of it; memproxy must not fail."""
    measured: dict[str, list[Measured]] = {target.name: [] for target in plan.targets_of(scenario)}
    for number, target in plan.order(scenario):
        shown.progress.update(shown.task, description=f"{scenario.title}: {target.title}")
        shown.progress.advance(shown.task)
        if target.name not in measured:
            continue
        try:
            measured[target.name].append(await measure(bench, scenario, target, number=number))
        except LoadError as error:
            if target.host not in PEERS:
                raise
            shown.console.print(f"{scenario.title}, one target less: {error}", style="yellow", markup=False)
            del measured[target.name]
    return measured


def _plan(chosen: argparse.Namespace, console: Console) -> Plan:
    """What was asked for, as far as it is installed; what is not is named."""
    scenarios = [quick(each) if chosen.quick else each for each in _scenarios(chosen.scenario)]
    targets = _targets(chosen.target)
    for target in targets:
        if hint := missing(target.host):
            console.print(hint, style="yellow", markup=False)
    return Plan(
        scenarios,
        [target for target in targets if missing(target.host) is None],
        rounds=chosen.rounds or (1 if chosen.quick else 3),
        users=QUICK_USERS if chosen.quick else USERS,
        in_all=QUICK_IN_ALL if chosen.quick else IN_ALL,
        settings={f"MEMPROXY_{name.upper()}": value for name, value in chosen.set},
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench relay", description="Measure what memproxy costs.")
    results.add_arguments(parser, NAME)
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="only this one; may be repeated")
    targets = [target.name for target in TARGETS]
    only = "only this one and the references; repeatable"
    parser.add_argument("--target", action="append", choices=targets, help=only)
    setting = "a setting of memproxy, such as recall_deadline_s=1; repeatable"
    parser.add_argument("--set", action="append", type=_pair, default=[], metavar="NAME=VALUE", help=setting)
    parser.add_argument("--rounds", type=int, help="measurements of each target and scenario; default 3")
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError("takes NAME=VALUE")
    return name, value


def _scenarios(names: Sequence[str] | None) -> list[Scenario]:
    return [each for each in SCENARIOS if (each.name in names if names else each.is_usual)]


def _targets(names: Sequence[str] | None) -> list[Target]:
    """Those named with the two references, or the usual ones."""
    wanted = {"upstream", "floor", *names} if names else {each.name for each in TARGETS if each.is_usual}
    return [each for each in TARGETS if each.name in wanted]


if __name__ == "__main__":
    sys.exit(main())
