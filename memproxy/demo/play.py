"""Play the scenes: a scripted model server, memproxy on a throw-away store, the openai client as the agent.

Everything is real but the model's mind: HTTP on loopback, streaming, the embedded store, the background worker.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from typing_extensions import override

from memproxy.clock import SystemClock
from memproxy.demo.lookups import QUESTIONS, Format, formats, run_agent
from memproxy.demo.scenes import SCENES, USER, Line, Scene, answer
from memproxy.demo.script import ModelRequest, text_of
from memproxy.demo.scripted_model import ScriptedModel
from memproxy.server import Instance, running
from memproxy.settings import Settings, settings_without_environment
from memproxy.sockets import listening_socket

LEARN_DEADLINE_S = 30.0
POLL_S = 0.02

STYLES = {"system": "magenta", "user": "cyan", "assistant": "green", "tool": "yellow"}


class DemoClock(SystemClock):
    """The machine's clock, which can be set forward."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def advance(self, days: int) -> None:
        """Let so many days pass."""
        self._ahead += timedelta(days=days)

    @override
    def now(self) -> datetime:
        """The time of day of the play, in UTC."""
        return datetime.now(UTC) + self._ahead


@dataclass(frozen=True, slots=True)
class Stage:
    """What the scenes are played on."""

    console: Console
    model: ScriptedModel
    instance: Instance
    clock: DemoClock
    base_url: str


async def play(console: Console) -> list[str]:
    """Play all scenes; gives back what was missing, empty when all went as it should."""
    clock, missing = DemoClock(), []
    with tempfile.TemporaryDirectory(prefix="memproxy-demo-") as folder:
        async with ScriptedModel(answer).serve() as upstream:
            with listening_socket("127.0.0.1", 0) as listening:
                settings = demo_settings(Path(folder), upstream.base_url)
                async with running(settings, sockets=[listening], clock=clock) as instance:
                    base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
                    stage = Stage(console, upstream.model, instance, clock, base_url)
                    for scene in SCENES:
                        missing += await _play_scene(stage, scene)
                    for form in formats():
                        missing += await _play_lookups(stage, upstream.base_url, form)
    return missing


def demo_settings(folder: Path, upstream: str) -> Settings:
    """Settings that nothing of the machine's own configuration reaches into."""
    given: dict[str, Any] = {
        "data_dir": folder,
        "redis_url": "",
        "upstream_base_url": upstream,
        "extraction_base_url": upstream,
        "extraction_model": "scripted",
        "extraction_debounce_s": 0,
        "memory": "full",
        "tenancy": "single",
        "default_user": "",
        "session_deadline_s": 10,
        "recall_deadline_s": 10,
    }
    return settings_without_environment(given)


async def _play_scene(stage: Stage, scene: Scene) -> list[str]:
    stage.clock.advance(scene.days_later)
    address = f"{stage.base_url}/u/{USER}/s/{scene.session}/v1"
    stage.console.rule(f"[bold]{escape(scene.title)}")
    stage.console.print(f"[dim]OPENAI_BASE_URL={address}\n")
    missing: list[str] = []
    async with AsyncOpenAI(base_url=address, api_key="none-needed", max_retries=0) as client:
        for line in scene.lines:
            missing += await _say(stage, client, line)
    await _learned(stage)
    return missing


async def _play_lookups(stage: Stage, upstream: str, form: Format) -> list[str]:
    """The agent with its tool, once straight at the model server and once through memproxy."""
    stage.console.rule(f"[bold]An agent with a tool, over {form.title}: three questions, one look-up")
    through = f"{stage.base_url}/s/support-3-{form.title.replace(' ', '-')}/v1"
    stage.console.print(f"[dim]OPENAI_BASE_URL={through}\n")
    accounts = []
    for address in (upstream, through):
        async with AsyncOpenAI(base_url=address, api_key="none-needed", max_retries=0) as client:
            accounts.append(await run_agent(client, QUESTIONS, form))
    without, with_memproxy = accounts
    for question, said in zip(QUESTIONS, with_memproxy.answers, strict=True):
        stage.console.print(f"   [cyan]{escape(question)}[/]\n   [green]{escape(said)}\n")
    table = Table("", "without memproxy", "with memproxy", box=None, padding=(0, 2))
    table.add_row("tool executions", str(len(without.executed)), str(len(with_memproxy.executed)))
    table.add_row("requests of the agent", str(without.requests), str(with_memproxy.requests))
    table.add_row("tokens of the model", str(without.tokens), str(with_memproxy.tokens))
    stage.console.print(table)
    stage.console.print()
    missing = []
    if without.answers != with_memproxy.answers:
        missing.append(f"with memproxy, the agent's answers over {form.title} are not the same")
    if (len(without.executed), len(with_memproxy.executed)) != (len(QUESTIONS), 1):
        missing.append(
            f"over {form.title} the tool ran {len(with_memproxy.executed)} times with memproxy, "
            f"{len(without.executed)} without"
        )
    return missing


async def _say(stage: Stage, client: AsyncOpenAI, line: Line) -> list[str]:
    """Send one message as any agent would, streaming, and compare what the model received with what it had to."""
    seen_before = len(stage.model.requests)
    stream = await client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": line.text}], stream=True
    )
    said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    received = next(each for each in stage.model.requests[seen_before:] if "response_format" not in each.body)
    _show(stage.console, line, received, said)
    whole = "\n".join(text_of(message) for message in received.messages)
    missing = [
        f"the model was not shown {needed!r} with {line.text!r}" for needed in line.must_receive if needed not in whole
    ]
    if line.must_answer not in said:
        missing.append(f"the answer to {line.text!r} does not name {line.must_answer!r}")
    return missing


def _show(console: Console, line: Line, received: ModelRequest, said: str) -> None:
    table = Table(show_header=False, box=None, padding=(0, 1))
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("agent sends", f"[cyan]{escape(line.text)}")
    table.add_row("model receives", Panel(_messages(received), border_style="dim", expand=False))
    table.add_row("model answers", f"[green]{escape(said)}")
    console.print(table)
    console.print()


def _messages(received: ModelRequest) -> str:
    lines = []
    for message in received.messages:
        role = str(message.get("role"))
        style = STYLES.get(role, "white")
        lines.append(f"[{style}]{role:>9}[/]  {escape(text_of(message))}")
    return "\n".join(lines)


async def _learned(stage: Stage) -> None:
    """Wait until the background worker has learned from everything said so far."""
    async with asyncio.timeout(LEARN_DEADLINE_S):
        while not await stage.instance.is_quiet():  # noqa: ASYNC110  the queue lies in another process
            await asyncio.sleep(POLL_S)


def verdict(console: Console, missing: Sequence[str]) -> int:
    """Say how it went; the exit code."""
    if missing:
        for fact in missing:
            console.print(f"[bold red]missing:[/] {escape(fact)}")
        return 1
    console.print("[bold green]Everything that had to be remembered was.[/]")
    return 0
