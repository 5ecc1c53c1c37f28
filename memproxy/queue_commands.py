"""The commands `memproxy queue list|retry|drop`: what waits to be learned from, and what was given up."""

import json
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from memproxy.errors import SettingsError
from memproxy.settings import Settings
from memproxy.storage.dead_letters import DeadLetter, DeadLetters
from memproxy.storage.opened import opened_store
from memproxy.storage.queue import Stage
from memproxy.storage.queue_status import StageStatus, read_status


@dataclass(frozen=True, slots=True)
class QueueState:
    """What `memproxy queue list` shows."""

    stages: tuple[StageStatus, ...]
    dead: tuple[DeadLetter, ...]
    """The newest ones."""


async def read_state(settings: Settings, stages: Sequence[Stage], *, limit: int) -> QueueState:
    """The queues of these stages, and their newest dead letters. Raises StoreError."""
    async with _opened(settings) as redis:
        found = [await read_status(redis, stage) for stage in stages]
        return QueueState(tuple(found), tuple(await DeadLetters(redis).newest(stages, limit=limit)))


async def retry(settings: Settings, names: Collection[str], *, stages: Sequence[Stage]) -> int:
    """Put these dead letters, or with no names all, back into the queue; how many there were.

    Raises:
        SettingsError: no dead letter has this name.
        StoreError: the store can't be used.
    """
    async with _opened(settings) as redis:
        letters = DeadLetters(redis)
        return await letters.retry(await _chosen(letters, names, stages))


async def drop(settings: Settings, names: Collection[str], *, stages: Sequence[Stage]) -> int:
    """Delete these dead letters, or with no names all; how many there were. Raises what `retry` does."""
    async with _opened(settings) as redis:
        letters = DeadLetters(redis)
        return await letters.drop(await _chosen(letters, names, stages))


def show_state(console: Console, state: QueueState) -> None:
    """Print the stages, who works on them, and what was given up. No words of any conversation."""
    console.print(_stages_table(state.stages))
    if any(stage.workers for stage in state.stages):
        console.print()
        console.print(_workers_table(state.stages))
    if state.dead:
        console.print()
        console.print(_dead_table(state.dead))
        total = sum(stage.dead for stage in state.stages)
        if total > len(state.dead):
            console.print(f"and {total - len(state.dead)} older ones (--limit shows more)")
        console.print("\nTry again with: memproxy queue retry ID... or --all; give up for good with: queue drop")


def as_json(state: QueueState) -> str:
    """The same as one JSON document."""
    stages = [asdict(stage) for stage in state.stages]
    dead = [
        {
            "id": letter.name,
            "stage": letter.stage.value,
            "turn": letter.turn,
            "session": letter.session,
            "user": letter.user,
            "namespace": letter.namespace,
            "at": letter.at.isoformat(),
            "attempts": letter.attempts,
            "reason": letter.reason,
        }
        for letter in state.dead
    ]
    return json.dumps({"stages": stages, "dead": dead}, ensure_ascii=False, indent=1)


async def _chosen(letters: DeadLetters, names: Collection[str], stages: Sequence[Stage]) -> list[DeadLetter]:
    """The letters that go by these names: their own, or their turns'."""
    found = [letter async for letter in letters.each(stages)]
    if not names:
        return found
    known = {name for letter in found for name in (letter.name, letter.turn)}
    if unknown := sorted(set(names) - known):
        raise SettingsError(f"There is no dead letter {unknown[0]}; `memproxy queue list` shows those that there are.")
    return [letter for letter in found if letter.name in names or letter.turn in names]


def _opened(settings: Settings) -> AbstractAsyncContextManager[Any]:
    """The store that the server uses. Any: what it is stays behind the storage's door."""
    return opened_store(
        settings.store_url, data_dir=settings.data_dir, connect_timeout_s=settings.redis_connect_timeout_s
    )


def _stages_table(stages: Sequence[StageStatus]) -> Table:
    table = Table("stage", "waiting", "being worked on", "given up", "oldest", box=None, padding=(0, 2))
    for stage in stages:
        counts = (str(number) for number in (stage.waiting, stage.pending, stage.dead))
        table.add_row(stage.stage.value, *counts, _span(stage.oldest_s) if stage.oldest_s else "")
    return table


def _workers_table(stages: Sequence[StageStatus]) -> Table:
    table = Table("worker", "stage", "partitions", "turns", box=None, padding=(0, 2))
    for stage in stages:
        for worker in stage.workers:
            gone = "" if worker.partitions else " (gone: taken over soon)"
            table.add_row(worker.name + gone, stage.stage.value, str(worker.partitions), str(worker.pending))
    return table


def _dead_table(dead: Sequence[DeadLetter]) -> Table:
    table = Table("id", "age", "turn", "session", "user", "tried", "reason", box=None, padding=(0, 2))
    now = datetime.now(UTC)
    for letter in dead:
        age = _span((now - letter.at).total_seconds())
        whose = (letter.turn or "not readable", letter.session, letter.user or "")
        table.add_row(letter.name, age, *map(_plain, whose), str(letter.attempts), _plain(letter.reason))
    return table


def _plain(text: str) -> str:
    """The text as it is: no markup, no control characters that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text).replace("[", r"\[")


def _span(seconds: float) -> str:
    """A span of time in its largest unit."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
