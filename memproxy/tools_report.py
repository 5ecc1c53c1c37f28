"""The report of `memproxy tools report`: what became of tool calls, or what would have in recorded conversations."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from memproxy.errors import SettingsError
from memproxy.memory.tool_policy import ToolPolicy
from memproxy.memory.tool_report import ReplayedCall, replay, table
from memproxy.settings import Settings
from memproxy.storage.connection import open_redis
from memproxy.storage.embedded import EmbeddedStore
from memproxy.storage.tool_counts import ToolCounts

OUTCOMES = ("hit", "missed", "bypassed", "would_hit")

Totals = Mapping[tuple[str, str], int]


async def read_totals(settings: Settings) -> Totals:
    """What the store has counted. Raises StoreError."""
    if settings.redis_url:
        return await _totals(settings.store_url, settings)
    async with EmbeddedStore(settings.data_dir) as store:
        return await _totals(store.url, settings)


async def _totals(url: str, settings: Settings) -> Totals:
    redis = open_redis(url, connect_timeout_s=settings.redis_connect_timeout_s, max_connections=2)
    try:
        return await ToolCounts(redis).totals()
    finally:
        await redis.aclose()


def show_totals(console: Console, totals: Totals) -> None:
    """Print the counts: a row a tool, then what they add up to."""
    tools = sorted({tool for outcome, tool in totals if outcome in OUTCOMES})
    shown = Table("tool", *OUTCOMES, box=None, padding=(0, 2))
    for tool in tools:
        shown.add_row(tool, *(str(totals.get((outcome, tool), 0)) for outcome in OUTCOMES))
    sums = {outcome: sum(totals.get((outcome, tool), 0) for tool in tools) for outcome in OUTCOMES}
    shown.add_row("[bold]all", *(f"[bold]{sums[outcome]}" for outcome in OUTCOMES))
    console.print(shown)
    console.print(f"\ntool executions saved: {sums['hit']}; they would be with answering on: {sums['would_hit']}")
    console.print(f"tokens that agents did not have to send again: {totals.get(('tokens_saved', ''), 0)}")
    console.print(f"times that results went out of date: {totals.get(('invalidated', ''), 0)}")


def replayed(files: Sequence[Path], policy: ToolPolicy) -> Iterator[ReplayedCall]:
    """Each call in these files, one JSON object with `messages` (and `tools`, if known) a line.

    Raises:
        SettingsError: a line is something else; it names file and line.
    """
    for path in files:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            try:
                conversation = json.loads(line)
                yield from replay(conversation["messages"], tools=conversation.get("tools") or (), policy=policy)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise SettingsError(f"Line {number} of {path} is no conversation with messages: {error!r}.") from error


def show_replayed(console: Console, calls: Iterator[ReplayedCall]) -> None:
    """Print what the cache would have done."""
    heading, *rows = table(calls)
    shown = Table(*heading, box=None, padding=(0, 2))
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
