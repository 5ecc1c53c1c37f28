"""Every document leads where it says, and names what there is."""

import re
from pathlib import Path

import click
import pytest

from memproxy.cli import cli
from memproxy.settings import PREFIX, Settings
from tests.docs.markdown import anchors, commands, documents, links
from tests.rules.source import ROOT

everywhere = pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())

HEADERS = frozenset({"User", "Session", "Namespace", "Memory", "Tools", "Tool-Cache"})
"""What a request may say, of `X-Memproxy-...`."""

OF_EXAMPLES = frozenset({PREFIX + "URL"})
"""Variables that the examples read, and memproxy does not."""


@everywhere
def test_links_lead_somewhere(path: Path) -> None:
    """A file that is there, and a heading in it."""
    for link in links(path.read_text("utf-8")):
        name, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = path if not name else path.parent / name
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), link


@everywhere
def test_commands_can_be_typed(path: Path) -> None:
    """Each command of memproxy that a document names exists, with its options."""
    for line in commands(path.read_text("utf-8")):
        if (found := re.match(r"(?:exec )?(?:\.venv/bin/)?memproxy(?: ([a-z-].*))?$", line)) and found[1]:
            check(found[1].split())


def check(words: list[str]) -> None:
    """Follow the words down to a command, then look at the options."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h", "--version"}
    named = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
    assert named <= known, f"{command.name} has no {', '.join(named - known)}"


@everywhere
def test_targets_of_make_exist(path: Path) -> None:
    """`make X` does something."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for line in commands(path.read_text("utf-8")):
        if found := re.match(r"make ([a-z-]+)\b", line):
            assert found[1] in targets, line


@everywhere
def test_names_of_settings_and_headers_exist(path: Path) -> None:
    """What is misspelt would be ignored without a word."""
    text = path.read_text("utf-8")
    known = {PREFIX + setting.upper() for setting in Settings.model_fields} | {PREFIX + "CONFIG"}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", text)) <= known | OF_EXAMPLES
    assert set(re.findall(r"\bX-Memproxy-([A-Z][a-z]+(?:-[A-Z][a-z]+)?)", text)) <= HEADERS


def test_every_document_is_found_from_the_readme() -> None:
    """A page that nothing leads to is not read."""
    reached, following = set[Path](), [ROOT / "README.md"]
    while following:
        path = following.pop().resolve()
        if path.suffix == ".md" and path.exists() and path not in reached:
            reached.add(path)
            following += [path.parent / link.partition("#")[0] for link in links(path.read_text("utf-8"))]
    assert {path.resolve() for path in documents()} - reached == set()
