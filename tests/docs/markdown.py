"""Documents as the tests look at them: blocks, code spans, links and anchors."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.rules.source import ROOT

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

OTHERS = frozenset({"memproxy", "tests", "node_modules", "build", "dist"})
"""Folders whose texts are for models, for the tests, or not ours."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    language: str
    text: str


def documents() -> list[Path]:
    """Every document of the repository that is for people."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in OTHERS and not name.startswith(".")]
        found += [Path(folder) / name for name in names if name.endswith(".md")]
    return sorted(found)


def blocks(text: str) -> list[Block]:
    """Its fenced blocks in order."""
    return [Block(language, body) for language, body in _BLOCK.findall(text)]


def commands(text: str) -> Iterator[str]:
    """What a reader may type: the lines of shell blocks, continued ones as one, and spans of code."""
    for block in blocks(text):
        if block.language == "sh":
            for line in block.text.replace("\\\n", "").splitlines():
                yield from (part.strip() for part in line.partition(" #")[0].split("&&"))
    yield from _SPAN.findall(_BLOCK.sub("", text))


def links(text: str) -> list[str]:
    """Where its links and images lead."""
    return [link or image for link, image in _LINK.findall(_BLOCK.sub("", text))]


def anchors(text: str) -> set[str]:
    """What a link can name behind `#`, as GitHub makes it of headings."""
    headings = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in _HEADING.findall(_BLOCK.sub("", text))]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
