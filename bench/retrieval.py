"""How often memproxy puts the right evidence before the model: `python -m bench retrieval`.

Recorded dialogues are said through the HTTP endpoint, turn by turn, and questions about them are asked there, too. What
counts is what stood in the block that the model server got: recall is the share of a question's evidence turns that it
told. First with what was said alone, then with the dataset's facts stored beside it, as a model would have extracted
them; at several limits on memories and on tokens. No model is asked anywhere.

Questions about other people's dialogues show what the relevance floor holds back, and the same questions without it,
straight at the engine, what it costs.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import results
from bench.client import LoadError
from bench.dialogue_turns import DIALOGUES
from bench.retrieval_dialogues import Asked, Dialogue, foreign_questions, own_questions, read_dialogues
from bench.retrieval_few import measure_few
from bench.retrieval_part import KINDS, tables
from bench.retrieval_replay import Limits, Proxy, Stage, proxy, staged
from bench.retrieval_scores import Evidence, Received, foreign_scores, own_scores, search_ms
from memproxy.errors import MemproxyError
from memproxy.records import JsonObject

NAME = "retrieval"
WIDTH = 130

AT_MEMORIES, AT_TOKENS = (5, 10, 20), (400, 500, 800, 1_000, 1_600, 2_000)
FLOOR_AT = 10
"""Memories told at most, where the floor is measured."""

FOREIGN = 200
"""Questions about others, for each dialogue."""

QUICK_QUESTIONS, QUICK_FOREIGN, QUICK_TOKENS = 15, 15, (800,)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    dialogues: Sequence[Dialogue]
    own: Sequence[Asked]
    foreign: Sequence[Asked]
    at_memories: Sequence[int] = AT_MEMORIES
    at_tokens: Sequence[int] = AT_TOKENS

    @property
    def limits(self) -> Iterator[tuple[str, int, Limits]]:
        """By what is limited, to how much."""
        for memories in self.at_memories:
            yield "memories", memories, Limits(memories=memories)
        for tokens in self.at_tokens:
            yield "tokens", tokens, Limits(tokens=tokens)

    @property
    def steps(self) -> int:
        """Requests in all."""
        said = sum(len(dialogue.turns) for dialogue in self.dialogues)
        once = len(self.own) * (len(self.at_memories) + len(self.at_tokens) + 1) + len(self.foreign)
        return said + len(KINDS) * once


Step = Callable[[], None]


async def measure(plan: Plan, *, step: Step) -> JsonObject:
    """All figures. Raises LoadError, MemproxyError."""
    evidence = Evidence(plan.dialogues)
    kinds: JsonObject = {}
    async with staged() as stage:
        async with proxy(stage, Limits(), learns=True) as talked:
            for dialogue in plan.dialogues:
                async for _ in talked.say(dialogue):
                    step()
            await talked.learned()
        kinds["said"] = await _measure_kind(plan, stage, evidence, step=step)
        async with proxy(stage, Limits()) as noting:
            for dialogue in plan.dialogues:
                await noting.note(dialogue)
        kinds["noted"] = await _measure_kind(plan, stage, evidence, step=step)
        async with proxy(stage, Limits()) as other:
            few = await measure_few(other.instance.services.long_term)
    return {
        "dialogues": len(plan.dialogues),
        "turns": sum(len(dialogue.turns) for dialogue in plan.dialogues),
        "facts": sum(len(dialogue.facts) for dialogue in plan.dialogues),
        "kinds": kinds,
        "few": few,
    }


async def _measure_kind(plan: Plan, stage: Stage, evidence: Evidence, *, step: Step) -> JsonObject:
    figures: JsonObject = {"memories": {}, "tokens": {}}
    for limited, value, limits in plan.limits:
        async with proxy(stage, limits) as asked:
            received = [await _ask(asked, each, step) for each in plan.own]
            figures[limited][str(value)] = own_scores(received, evidence, plan.dialogues)
            if limited == "memories" and value == FLOOR_AT:
                figures["search_ms"] = search_ms(received)
                figures["foreign"] = foreign_scores([await _ask(asked, each, step) for each in plan.foreign])
                figures["unfloored"] = own_scores(
                    [await _unfloored(asked, each, step) for each in plan.own], evidence, plan.dialogues
                )
    return figures


async def _ask(asked: Proxy, question: Asked, step: Step) -> Received:
    step()
    return await asked.ask(question)


async def _unfloored(asked: Proxy, question: Asked, step: Step) -> Received:
    step()
    return await asked.unfloored(question, limit=FLOOR_AT)


def show(console: Console, figures: JsonObject) -> None:
    """Print the tables of the document's part."""
    for title, columns, rows in tables(figures):
        shown = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, header_style="dim")
        for number, column in enumerate(columns):
            shown.add_column(column, justify="right" if number else "left", no_wrap=True)
        for row in rows:
            shown.add_row(*row)
        console.print(shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 when something did not answer as it must."""
    parser = argparse.ArgumentParser(prog="python -m bench retrieval", description=__doc__)
    results.add_arguments(parser, NAME)
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many questions of each dialogue")
    parser.add_argument("--dialogues", type=Path, default=DIALOGUES, metavar="FILE", help="whose turns and questions")
    chosen = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if not chosen.dialogues.exists():
        about = f"bench: left out: the dialogues are no part of the project, and not at {chosen.dialogues}"
        console.print(about, style="yellow", markup=False)
        return results.NOT_HERE
    plan = _plan(read_dialogues(chosen.dialogues), limit=chosen.limit, is_quick=chosen.quick)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("saying and asking", total=plan.steps)
            figures = uvloop.run(measure(plan, step=lambda: progress.advance(task)))
    except (LoadError, MemproxyError) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        return 1
    show(console, figures)
    results.write(chosen, NAME, figures)
    return 0


def _plan(dialogues: Sequence[Dialogue], *, limit: int | None, is_quick: bool) -> Plan:
    if not is_quick:
        foreign = foreign_questions(dialogues, count=min(limit or FOREIGN, FOREIGN))
        return Plan(dialogues, own_questions(dialogues, limit=limit), foreign)
    one = dialogues[:1]
    foreign = [each for each in foreign_questions(dialogues, count=QUICK_FOREIGN) if each.user == one[0].user]
    own = own_questions(one, limit=limit or QUICK_QUESTIONS)
    return Plan(one, own, foreign, at_memories=(FLOOR_AT,), at_tokens=QUICK_TOKENS)


if __name__ == "__main__":
    sys.exit(main())
