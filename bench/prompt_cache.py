"""What is left of the provider's prompt cache: `python -m bench prompt-cache`.

Agents' trajectories and dialogues are replayed through the endpoint, and what the model server was sent is compared
with what it was sent just before in the same session: which share of the prompt's tokens stands at its beginning byte
for byte, and which share a provider's cache gives back, that begins at 1,024 tokens and goes in steps of 128. Every
user had earlier sittings, so that memories really are injected.

Memory off is what the agent would have by itself. Two usual designs are computed from the same conversations: what was
recalled goes into the system prompt, and the oldest messages are left out as soon as the window is full.
"""

import argparse
import hashlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import results
from bench.client import LoadError
from bench.prompt_cache_designs import newest_question, slid, with_block_in_system
from bench.prompt_cache_replay import UNBOUNDED, Manner, Replay, Stage, staged
from bench.prompt_cache_shares import Prompt, Share, prompt_of, shares_of, summary_of
from bench.prompt_cache_talks import TRAJECTORIES, Talk, read_dialogues, read_trajectories
from memproxy.errors import MemproxyError
from memproxy.identity import SINGLE_TENANT
from memproxy.proxy.compose import memory_block
from memproxy.records import JsonObject, Scope

WINDOWS = (12_000, 10_000, 8_000, 6_000)
"""The conversations have 1,200 to 18,000 tokens besides instructions of 1,200 to 5,200."""

QUICK_TALKS = 6
MEMORIES, MEMORY_TOKENS = 15, 800
"""As memproxy has it by default."""

OFF, ON, SYSTEM, SLIDING = "memory off", "memproxy", "block in the system prompt", "sliding window"
GOAL = 0.03
"""How far the share may be below memory off's."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to replay all conversations of a kind."""

    name: str
    kind: str
    manner: Manner
    design: str = ON

    @property
    def reference(self) -> Manner:
        """The same by itself: without memory, with all of the history, in a window that holds it."""
        return replace(self.manner, memory="off", window=UNBOUNDED, sends_newest=False)

    def fits(self, talk: Talk) -> bool:
        """Whether the conversation can be led so: one without a user says nothing new on its first request."""
        return talk.kind == self.kind and (talk.has_user or not self.manner.sends_newest)


def cases(windows: Sequence[int]) -> list[Case]:
    """All that is measured."""
    found = []
    for kind in ("trajectories", "dialogues"):
        whole, newest = Manner(), Manner(sends_newest=True)
        found += [Case("history resent", kind, whole, design) for design in (ON, SYSTEM)]
        found += [Case("only new messages sent", kind, newest)]
    found.append(Case("repeated calls answered inside", "trajectories", Manner(has_tools=True)))
    for window in windows:
        manner = Manner(window=window)
        found += [Case(f"window of {window:,}", "trajectories", manner, design) for design in (ON, SLIDING)]
        found.append(
            Case(f"window of {window:,}, only new messages", "trajectories", replace(manner, sends_newest=True))
        )
    return found


class Measurement:
    """All replays on one stage; each manner without memory is replayed once."""

    def __init__(self, stage: Stage, talks: Sequence[Talk], advance: Callable[[], None]) -> None:
        self._stage = stage
        self._talks = talks
        self._advance = advance
        self._plain: dict[tuple[str, Manner], Replay] = {}
        self._users: set[str] = set()

    async def row(self, case: Case) -> JsonObject:
        """The case's figures, and those of the same conversations with memory off."""
        talks = [talk for talk in self._talks if case.fits(talk)]
        shares: list[Share] = []
        reference: list[Share] = []
        answers = degraded = 0
        for talk in talks:
            plain = await self._without_memory(talk, case.reference)
            reference += shares_of(_prompts(plain))
            if case.design == ON:
                replay = await self._stage.replay(talk, case.manner, user=await self._user(talk))
                shares += shares_of(_prompts(replay))
                answers, degraded = answers + replay.answered_inside, degraded + replay.degraded
            else:
                shares += shares_of([prompt async for prompt in self._designed(case, talk, plain)])
            self._advance()
        return {
            "case": case.name,
            "kind": case.kind,
            "design": case.design,
            "window": case.manner.window,
            "conversations": len(talks),
            **asdict(summary_of(shares)),
            OFF: asdict(summary_of(reference)),
            "answered_inside": answers,
            "degraded": degraded,
        }

    async def _without_memory(self, talk: Talk, manner: Manner) -> Replay:
        if (talk.id, manner) not in self._plain:
            self._plain[talk.id, manner] = await self._stage.replay(talk, manner, user="nobody")
        return self._plain[talk.id, manner]

    async def _user(self, talk: Talk) -> str:
        """The one who leads this conversation, with memories of earlier ones."""
        user = hashlib.blake2b(f"{talk.kind} {talk.id}".encode(), digest_size=8).hexdigest()
        if user not in self._users:
            self._users.add(user)
            await self._stage.remember(talk, user)
        return user

    async def _designed(self, case: Case, talk: Talk, plain: Replay) -> AsyncIterator[Prompt]:
        user, blocks = await self._user(talk), dict[str, str]()
        for body in plain.sent:
            messages = body["messages"]
            if case.design == SLIDING:
                yield prompt_of({"messages": slid(messages, case.manner.window)})
                continue
            question = newest_question(messages)
            if question not in blocks:
                blocks[question] = await self._block(user, question)
            yield prompt_of({"messages": with_block_in_system(messages, blocks[question])})

    async def _block(self, user: str, question: str) -> str:
        found = await self._stage.memories.search(Scope(SINGLE_TENANT, user), question[:600], limit=MEMORIES)
        pin = memory_block(found, max_memories=MEMORIES, max_tokens=MEMORY_TOKENS, seen=frozenset())
        return pin.block if pin else ""


def _prompts(replay: Replay) -> list[Prompt]:
    return [prompt_of(body) for body in replay.sent]


async def measure(talks: Sequence[Talk], windows: Sequence[int], progress: Progress) -> list[JsonObject]:
    """A row for each case."""
    planned = cases(windows)
    total = sum(case.fits(talk) for case in planned for talk in talks)
    task = progress.add_task("starting", total=total)
    rows = []
    async with staged(windows) as stage:
        measurement = Measurement(stage, talks, lambda: progress.advance(task))
        for case in planned:
            progress.update(task, description=f"{case.kind}: {case.name}, {case.design}")
            rows.append(await measurement.row(case))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 when a request was refused, `NOT_HERE` without conversations."""
    parser = argparse.ArgumentParser(prog="python -m bench prompt-cache", description="Measure prompt caching.")
    results.add_arguments(parser, "prompt-cache")
    chosen = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150)
    if not TRAJECTORIES.exists():
        console.print(f"bench: there are no conversations at {Path(TRAJECTORIES).parent}", style="yellow", markup=False)
        return results.NOT_HERE
    talks = [*read_trajectories(), *read_dialogues()]
    windows: Sequence[int] = WINDOWS
    if chosen.quick:
        talks, windows = [*talks[:QUICK_TALKS:2], *talks[-2:]], WINDOWS[-1:]
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            rows = uvloop.run(measure(talks, windows, progress))
    except (LoadError, MemproxyError) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        return 1
    _show(console, rows)
    results.write(chosen, "prompt-cache", {"goal": GOAL, "rows": rows})
    return 0


def _show(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="Prompt tokens that the provider's cache gives back", title_justify="left", box=SIMPLE_HEAD)
    for name in ("conversations", "case", "design"):
        table.add_column(name, no_wrap=True)
    for name in ("requests", "tokens each", "same", "cached", "memory off", "points"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row["kind"], row["case"], row["design"], *_cells(row))
    console.print(table)
    console.print("same: byte for byte as in the request before; cached: of that, from 1,024 tokens on in steps of 128")


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    off = row[OFF]
    yield f"{row['requests']:,}"
    yield f"{row['tokens'] / max(1, row['requests']):,.0f}"
    yield f"{row['same']:.1%}"
    yield f"{row['cached']:.1%}"
    yield f"{off['cached']:.1%}"
    yield f"{100 * (row['cached'] - off['cached']):+.1f}"


if __name__ == "__main__":
    sys.exit(main())
