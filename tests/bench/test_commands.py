"""`python -m bench` knows its commands, and one that fails is told at the end and stops no other."""

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import pytest

import bench.__main__ as program
from bench.document import PARTS
from bench.results import NOT_HERE


@pytest.mark.parametrize("command", program.COMMANDS, ids=lambda command: command.name)
def test_every_command_is_there(command: program.Command) -> None:
    """A name in the list of commands that can't be run is a promise that nobody keeps."""
    assert importlib.util.find_spec(f"bench.{command.module}") is not None


def test_every_measurement_has_its_chapter() -> None:
    """What is measured is told in the document, and in the same order."""
    assert [chapter.command for chapter in PARTS] == [each.name for each in program.COMMANDS if each.keeps]


def test_an_unknown_command_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    """A slip of the pen gets an answer that helps."""
    assert program.main(["relai"]) == 2
    shown = capsys.readouterr().out
    assert "no command 'relai'" in shown
    assert "prompt-cache" in shown


@pytest.mark.parametrize(("given", "option"), [([], "--keep"), (["--quick"], "--quick")])
def test_everything_runs_though_one_fails(
    given: list[str], option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An hour of measuring is not lost because one part breaks, and it is not hidden either."""
    codes = {"streams": 1, "retrieval": NOT_HERE}
    run: list[list[str]] = []

    def start(command: list[str], *, cwd: Path, check: bool) -> Any:
        run.append(command[3:])
        return subprocess.CompletedProcess(command, codes.get(command[3], 0))

    monkeypatch.setattr(subprocess, "run", start)
    assert program.main(given) == 1
    wanted = [[each.name, option] for each in program.COMMANDS if each.keeps]
    assert run == wanted + ([] if given else [["document"]])
    shown = capsys.readouterr().out
    assert "failed: streams" in shown
    assert "left out, their data is not here: retrieval" in shown
