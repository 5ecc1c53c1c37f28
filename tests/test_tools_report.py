"""The report of tool calls."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from memproxy.errors import SettingsError
from memproxy.memory.tool_policy import ToolPolicy
from memproxy.settings import settings_without_environment
from memproxy.tools_report import read_totals, replayed, show_replayed, show_totals
from tests.compat.test_tool_answers import QUESTIONS, Agent, support
from tests.fakes.serving import Serve
from tests.fakes.shared_data import FOLDER


def shown(print_it: object, *arguments: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_it(console, *arguments)  # type: ignore[operator]  # one of the two functions under test
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    return re.sub(r" +", " ", text)


@pytest.mark.parametrize(("mode", "row"), [("answer", "search_orders 2 1 0 0"), ("observe", "search_orders 0 1 0 2")])
async def test_the_report_tells_what_was_saved_or_could_be(serve: Serve, redis_url: str, mode: str, row: str) -> None:
    """Three questions, one look-up needed: the report says two were saved, or would have been."""
    async with serve(support, tool_cache=mode) as served:
        async with served.openai("/s/one/v1") as client:
            agent = Agent(client, stream=True)
            for question in QUESTIONS:
                await agent.ask(question)
        await served.instance.services.tasks.drain(0.5)
    totals = await read_totals(settings_without_environment({"redis_url": redis_url}))
    assert row in shown(show_totals, totals)


def test_recorded_conversations_are_replayed() -> None:
    """The table over real trajectories: nothing is ever answered wrongly."""
    path = FOLDER / "trajectories.jsonl"
    if not path.exists():
        pytest.skip("the trajectories are not beside this checkout")
    text = shown(show_replayed, replayed([path], ToolPolicy()))
    assert re.search(r"all 416 49 \d+ 0 ", text)


def test_a_line_that_is_no_conversation_is_named(tmp_path: Path) -> None:
    """The operator finds the line."""
    path = tmp_path / "some.jsonl"
    path.write_text('{"messages": []}\n[]\n')
    with pytest.raises(SettingsError, match="Line 2 of"):
        list(replayed([path], ToolPolicy()))
