"""What an agent still sees after its history was cut: `python -m bench truncation`.

The trajectories are replayed through the endpoint with models of small windows, by users without memories. For every
answer that calls tools, the values of the calls' arguments that stand in the conversation before are looked for in the
prompt that the model server was sent, and the prompt's tokens are compared with those of the whole history. Beside it,
what a sliding window of the same size keeps.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import results
from bench.client import LoadError
from bench.prompt_cache_designs import slid
from bench.prompt_cache_replay import Manner, Replay, Stage, staged
from bench.prompt_cache_shares import Share, prompt_of, shares_of, summary_of, tokens_of
from bench.prompt_cache_talks import TRAJECTORIES, Talk, read_trajectories
from bench.truncation_needs import Need, needs_of
from memproxy.errors import MemproxyError
from memproxy.records import JsonObject

WINDOWS = (4_000, 5_000, 6_000, 7_000, 8_000, 10_000, 12_000)
QUICK_TALKS = 5
GOAL = {"kept": 0.97, "tokens": 0.72}
"""Of the values at least, at no more than this of the whole history's tokens."""

ON, SLIDING = "memproxy", "sliding window"


@dataclass(slots=True)
class Tally:
    """What was needed and sent over all conversations of a case."""

    needs: list[Need] = field(default_factory=list)
    calls: int = 0
    """Answers with calls that needed anything."""
    whole_calls: int = 0
    """Those of them that had all they needed."""
    tokens: int = 0
    full_tokens: int = 0
    instructions_tokens: int = 0
    shares: list[Share] = field(default_factory=list)

    def add(self, talk: Talk, told: Sequence[Sequence[JsonObject]], sent: Sequence[Sequence[JsonObject]]) -> None:
        """Count one conversation: for each request what the client had by then, and what was sent."""
        lead = _tokens(talk.instructions)
        for step, history, messages in zip(talk.steps, told, sent, strict=False):
            needs = needs_of(step.answer, told=history, sent=messages)
            if not needs:
                continue
            self.needs += needs
            self.calls += 1
            self.whole_calls += all(need.is_kept for need in needs)
            self.tokens += _tokens(messages)
            self.full_tokens += lead + _tokens(history)
            self.instructions_tokens += lead
        self.shares += shares_of([prompt_of({"messages": messages}) for messages in sent])

    def figures(self) -> JsonObject:
        """Shares of the values and of the tokens."""
        needed = len(self.needs)
        return {
            "values": needed,
            "calls": self.calls,
            "kept": sum(need.is_kept for need in self.needs) / max(1, needed),
            "whole_calls": self.whole_calls / max(1, self.calls),
            "tokens": self.tokens / max(1, self.full_tokens),
            "conversation_tokens": (self.tokens - self.instructions_tokens)
            / max(1, self.full_tokens - self.instructions_tokens),
            "cached": summary_of(self.shares).cached,
        }


def _tokens(messages: Sequence[JsonObject]) -> int:
    return tokens_of([msgspec.json.encode(message) for message in messages])


async def measure(talks: Sequence[Talk], windows: Sequence[int], progress: Progress) -> list[JsonObject]:
    """A row for each window and design."""
    task = progress.add_task("replaying", total=len(talks) * len(windows))
    rows = []
    async with staged(windows) as stage:
        for window in windows:
            progress.update(task, description=f"window of {window:,}")
            rows += await _window(stage, talks, window, lambda: progress.advance(task))
    return rows


async def _window(stage: Stage, talks: Sequence[Talk], window: int, advance: Callable[[], None]) -> list[JsonObject]:
    tallies = {ON: Tally(), SLIDING: Tally()}
    for talk in talks:
        replay: Replay = await stage.replay(talk, Manner(window=window), user="nobody")
        tallies[ON].add(talk, replay.told, [body["messages"] for body in replay.sent])
        full = [[*talk.instructions, *history] for history in replay.told]
        tallies[SLIDING].add(talk, replay.told, [slid(messages, window) for messages in full])
        advance()
    return [{"window": window, "design": design, **tally.figures()} for design, tally in tallies.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 when a request was refused, `NOT_HERE` without conversations."""
    parser = argparse.ArgumentParser(prog="python -m bench truncation", description="Measure what cutting keeps.")
    results.add_arguments(parser, "truncation")
    chosen = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if not TRAJECTORIES.exists():
        console.print(f"bench: there are no conversations at {Path(TRAJECTORIES).parent}", style="yellow", markup=False)
        return results.NOT_HERE
    talks = read_trajectories()
    windows: Sequence[int] = WINDOWS
    if chosen.quick:
        talks, windows = talks[:QUICK_TALKS], WINDOWS[1:3]
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            rows = uvloop.run(measure(talks, windows, progress))
    except (LoadError, MemproxyError) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        return 1
    _show(console, rows)
    results.write(chosen, "truncation", {"goal": GOAL, "rows": rows})
    return 0


def reaches_goal(row: Mapping[str, Any]) -> bool:
    """Whether a row keeps enough at few enough tokens."""
    return bool(row["kept"] >= GOAL["kept"] and row["tokens"] <= GOAL["tokens"])


def _show(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    title = "Argument values that calls needed, still in the prompt; and the prompt's tokens"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("window", justify="right")
    table.add_column("design", no_wrap=True)
    for name in ("values", "kept", "calls with all", "tokens", "without instructions", "cached"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(f"{row['window']:,}", row["design"], *_cells(row), style="bold" if reaches_goal(row) else "")
    console.print(table)
    console.print(f"bold: at least {GOAL['kept']:.0%} kept at no more than {GOAL['tokens']:.0%} of the tokens")


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{row['values']:,}"
    for name in ("kept", "whole_calls", "tokens", "conversation_tokens", "cached"):
        yield f"{row[name]:.1%}"


if __name__ == "__main__":
    sys.exit(main())
