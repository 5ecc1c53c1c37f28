"""A Dockerfile and its build context as the tests look at them: stages, instructions, and what the context holds."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

LARGE = frozenset({".frameworks", ".git", ".venv", ".venv-peers"})
"""Folders at the top level that no build takes, and that nobody wants to wait for."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: `COPY --from=build /a /b` has the name COPY, one flag, and the words /a and /b."""

    name: str
    flags: Mapping[str, str]
    text: str
    """All that follows the flags."""

    @property
    def words(self) -> list[str]:
        return self.text.split()


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage, from its FROM to the next."""

    name: str
    image: str
    instructions: tuple[Instruction, ...]

    def of(self, name: str) -> list[Instruction]:
        """Its instructions of one kind."""
        return [each for each in self.instructions if each.name == name]

    @property
    def environment(self) -> dict[str, str]:
        """What its ENV instructions set. Values with blanks in them are not needed here."""
        return dict(word.split("=", 1) for each in self.of("ENV") for word in each.words)


def instructions(text: str) -> Iterator[Instruction]:
    """The instructions in order; continued lines are joined, comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", " ", lines).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            flags: dict[str, str] = {}
            while match := re.match(r"--([a-z-]+)(?:=(\S+))?\s+", rest):
                flags[match[1]], rest = match[2] or "", rest[match.end() :]
            yield Instruction(name.upper(), flags, rest.strip())


def arguments(text: str) -> dict[str, str]:
    """The build arguments that stand before the first stage, with their defaults."""
    head = []
    for each in instructions(text):
        if each.name == "FROM":
            break
        head.append(each)
    return dict(each.text.split("=", 1) for each in head if each.name == "ARG")


def stages(text: str) -> list[Stage]:
    """The stages in order, build arguments filled into their images."""
    found: list[tuple[Instruction, list[Instruction]]] = []
    for each in instructions(text):
        if each.name == "FROM":
            found.append((each, []))
        elif found:
            found[-1][1].append(each)
    defaults = arguments(text)
    return [
        Stage(
            name=head.words[2] if len(head.words) == 3 else "",
            image=re.sub(r"\$\{?(\w+)\}?", lambda match: defaults[match[1]], head.words[0]),
            instructions=tuple(body),
        )
        for head, body in found
    ]


def context_files(root: Path, ignore: str) -> list[Path]:
    """The files that the build sends to the engine, relative to `root`: what the .dockerignore leaves of it.

    As the engine does it: the last pattern decides that matches the path or a folder above it.
    """
    rules = [
        (line.startswith("!"), _pattern(line.lstrip("!")))
        for line in map(str.strip, ignore.splitlines())
        if line and not line.startswith("#")
    ]
    found = []
    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if name not in LARGE]
        found += [here / name for name in names if _is_sent(here / name, rules)]
    return sorted(found)


def _is_sent(path: Path, rules: list[tuple[bool, re.Pattern[str]]]) -> bool:
    places = [path.as_posix(), *(parent.as_posix() for parent in path.parents if parent != Path())]
    is_sent = True
    for brings_back, pattern in rules:
        if any(pattern.fullmatch(place) for place in places):
            is_sent = brings_back
    return is_sent


def _pattern(text: str) -> re.Pattern[str]:
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", text.strip("/"))
    return re.compile("".join(pieces.get(part, re.escape(part)) for part in parts))
