"""All measurements of memproxy: `python -m bench COMMAND`, or every one of them in order, and the document.

Each command starts what it needs on free ports of loopback, measures, prints, and stops it again. Figures depend on the
machine; ratios taken in one run are what counts.
"""

import importlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.processes import ROOT
from bench.results import NOT_HERE

QUICK = "--quick"


@dataclass(frozen=True, slots=True)
class Command:
    """One measurement."""

    name: str
    module: str
    """Below `bench`, with a `main(arguments) -> int`. Loaded when it is asked for: each needs packages of its own."""
    about: str
    keeps: bool = True
    """Understands `--quick` and `--keep`; the document only renders."""


COMMANDS = (
    Command("relay", "relay", "time and CPU of a request, against the bare upstream, nginx and LiteLLM's proxy"),
    Command("scale", "scale", "how both grow with the history, memories, users and open streams"),
    Command("streams", "streams", "a thousand open streams: memory and latency"),
    Command("profile", "profile", "where the time of a request goes"),
    Command("retrieval", "retrieval", "how often the right evidence is found"),
    Command("prompt-cache", "prompt_cache", "what is left of the provider's prompt cache"),
    Command("truncation", "truncation", "what an agent still sees after its history was cut"),
    Command("extraction-faults", "extraction_faults", "whether everything is learned once, whatever is killed"),
    Command("document", "document", "render docs/performance.md from the results that were kept", keeps=False),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, or all; the exit code is 1 when one failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    if not given or given == [QUICK]:
        return _run_all(console, is_quick=bool(given))
    name, *rest = given
    if name in {"-h", "--help"}:
        console.print(_usage())
        return 0
    command = next((each for each in COMMANDS if each.name == name), None)
    if command is None:
        console.print(f"bench: there is no command {name!r}", style="red", markup=False)
        console.print(_usage())
        return 2
    return _run(command, rest)


def _run(command: Command, arguments: Sequence[str]) -> int:
    run = importlib.import_module(f"bench.{command.module}").main
    code: int = run(arguments)
    return code


def _run_all(console: Console, *, is_quick: bool) -> int:
    """Every measurement, kept unless it is only a quick look, then the document.

    Each is a process of its own: one that breaks stops no other, and none finds memory that another has filled.
    """
    failed, left_out = [], []
    for command in COMMANDS:
        if is_quick and not command.keeps:
            continue
        console.rule(f"[bold]{command.name}[/]: {command.about}", align="left")
        arguments = ([QUICK] if is_quick else ["--keep"]) if command.keeps else []
        started = [sys.executable, "-m", "bench", command.name, *arguments]
        code = subprocess.run(started, cwd=ROOT, check=False).returncode
        if code == NOT_HERE:
            left_out.append(command.name)
        elif code:
            failed.append(command.name)
    if left_out:
        console.print(f"bench: left out, their data is not here: {', '.join(left_out)}", style="yellow", markup=False)
    if failed:
        console.print(f"bench: failed: {', '.join(failed)}", style="red", markup=False)
    return int(bool(failed))


def _usage() -> Table:
    shown = Table(title="python -m bench [--quick | COMMAND [OPTIONS]]", title_justify="left", box=None)
    shown.add_column("command", style="bold", no_wrap=True)
    shown.add_column("")
    for command in COMMANDS:
        shown.add_row(command.name, command.about)
    shown.add_row("", "Without a command: all of them, kept in bench/results and rendered; with --quick, just tried.")
    return shown


if __name__ == "__main__":
    sys.exit(main())
