"""What memproxy costs: added latency and CPU a request, against the bare upstream and against the least a relay costs.

`python -m bench` starts everything itself on free ports, measures, prints, and stops it again: the scripted model
server, a minimal relay on the same server and transport (the floor), and memproxy, once with its workers and once as if
they ran elsewhere. Figures depend on the machine; the ratios, all taken in one run, are what counts.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.client import LoadError
from bench.measure import Measured, measure
from bench.report import machine, show, summary
from bench.scenarios import QUICK_USERS, SCENARIOS, TARGETS, USERS, Plan, Scenario, Target, quick
from bench.servers import running
from memproxy.errors import MemproxyError

WIDTH = 160


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 when a target did not answer as it must."""
    chosen = _parser().parse_args(arguments)
    scenarios = [quick(each) if chosen.quick else each for each in _scenarios(chosen.scenario)]
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    plan = Plan(
        scenarios,
        _targets(chosen.target),
        rounds=chosen.rounds or (1 if chosen.quick else 3),
        users=QUICK_USERS if chosen.quick else USERS,
        settings={f"MEMPROXY_{name.upper()}": value for name, value in chosen.set},
    )
    try:
        results = uvloop.run(_run(console, plan))
    except (LoadError, MemproxyError) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        return 1
    if chosen.json:
        chosen.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    return 0


async def _run(console: Console, plan: Plan) -> dict[str, Any]:
    results = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        steps = len(plan.scenarios) * len(plan.targets) * plan.rounds
        task = progress.add_task("starting servers, loading memories", total=steps)
        async with running(plan) as bench:
            for scenario in plan.scenarios:
                measured: dict[str, list[Measured]] = {target.name: [] for target in plan.targets}
                for number, target in plan.order():
                    progress.update(task, description=f"{scenario.title}: {target.title}")
                    measured[target.name].append(await measure(bench, scenario, target, number=number))
                    progress.advance(task)
                results[scenario.name] = summary(measured)
                show(console, scenario, plan.targets, results[scenario.name])
    return {"machine": machine(), "rounds": plan.rounds, "settings": dict(plan.settings), "scenarios": results}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure what memproxy costs.")
    parser.add_argument("--quick", action="store_true", help="about 25 s: shows that all works, not how fast it is")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="only this one; may be repeated")
    targets = [target.name for target in TARGETS]
    parser.add_argument(
        "--target", action="append", choices=targets, help="only this one and the references; repeatable"
    )
    setting = "a setting of memproxy, such as recall_deadline_s=1; repeatable"
    parser.add_argument("--set", action="append", type=_pair, default=[], metavar="NAME=VALUE", help=setting)
    parser.add_argument("--rounds", type=int, help="measurements of each target and scenario; default 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
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
