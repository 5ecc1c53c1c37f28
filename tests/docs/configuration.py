"""docs/configuration.md, made from the settings themselves and from what config/memproxy.toml says of them.

    python -m tests.docs.configuration

writes it; a test says when that is due.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from memproxy.cli import cli
from memproxy.settings import PREFIX, Settings
from tests.rules.source import ROOT

PAGE = ROOT / "docs" / "configuration.md"
SETTINGS_FILE = ROOT / "config" / "memproxy.toml"

WHO_NEEDS_IT: Mapping[str, str] = {
    "Listening": "Whoever serves others than themselves, or wants more than one process.",
    "The model provider": "Whoever asks another provider than OpenAI, or keeps the provider's key from the agents.",
    "The store": "Whoever runs more than one machine, has a Redis already, or is not on Linux on x86-64.",
    "Who is calling": "Whoever serves several people or teams.",
    "Sessions and receipts": "Whoever must keep conversations for a certain time only.",
    "Recall": "Whoever wants more or fewer memories in a request, or a search that may take longer.",
    "Embeddings": "Whoever wants to find by meaning better than the model inside can.",
    "Tools": "Whoever lets the model remember by itself, or has tools whose names don't tell what they do.",
    "The memory API": "Whoever reads and writes memories from code.",
    "MCP": "Whoever gives memory to another agent as tools.",
    "The context window": "Whoever asks models that memproxy does not know by name.",
    "Learning in the background": "Whoever wants facts, preferences or summaries noted, and not only what was said.",
}
"""For each section of the settings file, in its words."""

KINDS = {"integer": "whole number", "number": "number", "boolean": "`true` | `false`", "string": "text"}
LIMITS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
"""Words for what JSON schema calls so."""

HEAD = """\
# Configuration

Made from the settings and from [config/memproxy.toml](../config/memproxy.toml) by `make docs`; a test keeps it so.

Each setting has one name everywhere: `listen_port` in a file (`--config` or `MEMPROXY_CONFIG`) is
`MEMPROXY_LISTEN_PORT` in the environment. The environment wins over the file, options of the command line win over
both. Names that end in `_s` are seconds, in `_mb` mebibytes; windows and budgets are tokens. Nothing has to be set:
`memproxy serve` without any of it asks OpenAI with the agents' own keys, and keeps its memory on this machine.
`memproxy doctor` tells what is set wrong.
"""

_SECTION = re.compile(r"^# ---- (.+?) -+\n", re.MULTILINE)
_SETTING = re.compile(r"(?:# )?([a-z_]+) = (.*)")


@dataclass(frozen=True, slots=True)
class Explained:
    """One setting as the file explains it."""

    name: str
    meaning: str
    example: str
    """What stands behind the name in the file."""


def sections() -> Iterator[tuple[str, list[Explained]]]:
    """The sections of the settings file, each with its settings in order."""
    _, *parts = _SECTION.split(SETTINGS_FILE.read_text("utf-8"))
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        yield title, [each for paragraph in text.split("\n\n") for each in _explained(paragraph)]


def _explained(paragraph: str) -> Iterator[Explained]:
    """The settings of a paragraph; several stand below one comment where they belong together."""
    comment: list[str] = []
    for line in paragraph.splitlines():
        if (found := _SETTING.fullmatch(line)) and found[1] in Settings.model_fields:
            yield Explained(found[1], " ".join(comment), found[2])
        elif line:
            comment.append(line.removeprefix("#").strip())


def options() -> dict[str, str]:
    """The settings that `memproxy serve` takes as options, with their names there."""
    serve = cli.commands["serve"]
    return {
        parameter.name: max(parameter.opts, key=len)
        for parameter in serve.params
        if isinstance(parameter, click.Option) and parameter.name in Settings.model_fields
    }


def kind(name: str) -> str:
    """What may be given for a setting, in words."""
    schema = Settings.model_json_schema()
    field: Mapping[str, Any] = schema["properties"][name]
    if "SecretStr" in str(Settings.model_fields[name].annotation):
        return "secret text"
    variants = [variant for variant in field.get("anyOf", [field]) if variant.get("type") != "null"]
    variant = variants[0] | {}
    if "allOf" in variant:
        variant = variant["allOf"][0]
    if "$ref" in variant:
        variant = schema["$defs"][variant["$ref"].rpartition("/")[2]]
    if "enum" in variant:
        return " | ".join(f"`{value}`" for value in variant["enum"])
    if (pattern := re.fullmatch(r"\^\(([\w|]+)\)\$", variant.get("pattern", ""))) is not None:
        return " | ".join(f"`{value}`" for value in pattern[1].split("|"))
    sort = "path" if variant.get("format") == "path" else KINDS[variant["type"]]
    limits = [f"{words} {variant[key]:,}" for key, words in LIMITS.items() if key in variant]
    return ", ".join([sort, *limits])


def default(name: str, example: str) -> str:
    """What holds where nothing is set."""
    field = Settings.model_fields[name]
    if field.default_factory is not None:
        return "depends on the machine"
    if field.default is None:
        return "none"
    return "empty" if example == '""' else f"`{example}`"


def page() -> str:
    """The whole page."""
    lines = [HEAD, "| section | who needs it |", "|---|---|"]
    lines += [f"| [{title}](#{_anchor(title)}) | {WHO_NEEDS_IT[title]} |" for title, _ in sections()]
    named = options()
    for title, settings in sections():
        lines += ["", f"## {title}"]
        for each in settings:
            facts = [f"`{PREFIX}{each.name.upper()}`", kind(each.name), f"default: {default(each.name, each.example)}"]
            if each.name in named:
                facts.append(f"option `{named[each.name]}`")
            lines += ["", f"### `{each.name}`", "", " · ".join(facts), "", each.meaning]
    return "\n".join(lines) + "\n"


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def main() -> None:
    """Write it."""
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
