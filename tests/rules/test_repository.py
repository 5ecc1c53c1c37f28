"""What lies beside the code: documents that are true, locks that are complete, nothing of anybody's machine."""

import os
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from memproxy.settings import PREFIX, Settings
from tests.rules.source import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "STYLE.md")

LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-build.txt")

REGISTRIES = re.compile("|".join(("py" + r"pi\.", "python" + "hosted", "npm" + r"js\.")))
"""Hosts of package registries. Where packages come from is for each machine's own configuration to say."""

MACHINES = re.compile(r"(?<![\w.~$}])/(?:home|Users|root|work|opt)/[a-z]")
"""Absolute paths into somebody's machine."""

TEXT_ENDINGS = frozenset(
    {".cfg", ".css", ".html", ".ini", ".js", ".lua", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}
)


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file of the repository, as far as people write them."""
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text("utf-8").split()} | {".git"}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in ignored and not name.endswith(".egg-info")]
        for path in (Path(folder) / name for name in files if name not in ignored):
            if path.suffix in TEXT_ENDINGS or path.name == "Makefile" or path.parent.name == ".ci":
                yield path, path.read_text("utf-8")


def test_nothing_names_a_registry_or_a_machine() -> None:
    """What is written here works elsewhere."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if REGISTRIES.search(line) or MACHINES.search(line)
    ]
    assert not found


@pytest.mark.parametrize("name", LOCKS)
def test_locks_hold_hashes_and_no_addresses(name: str) -> None:
    """An installation gets what was tested, from wherever it is told to get it."""
    text = (ROOT / name).read_text("utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*(-f|-i|--find-links|--index-url|--extra-index-url|-e|--editable)\b", text, re.MULTILINE)
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        assert "==" in entry.splitlines()[0]
        assert "--hash=sha256:" in entry


@pytest.mark.parametrize("name", LOCKS)
def test_locks_fit_what_is_declared(name: str) -> None:
    """A dependency that was added without `make lock` is missing on a fresh machine."""
    locked = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / name).read_text("utf-8"), re.MULTILINE))
    extras = PROJECT["optional-dependencies"]
    declared = {
        "requirements.txt": [*PROJECT["dependencies"], *extras["embedded"]],
        "requirements-dev.txt": [*PROJECT["dependencies"], *extras["embedded"], *extras["dev"]],
        "requirements-build.txt": ["hatchling"],
    }[name]
    assert {re.split(r"[<>=!~;\[ ]", one)[0].lower().replace("_", "-") for one in declared} <= locked


def test_the_locks_agree() -> None:
    """What is tested is what runs."""
    pins = [
        dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / name).read_text("utf-8"), re.MULTILINE)) for name in LOCKS
    ]
    runtime, development, build = pins
    assert runtime.items() <= development.items()
    assert {name: build[name] for name in build.keys() & development.keys()}.items() <= development.items()


def test_the_version_is_told_once() -> None:
    """Package, metadata and changelog speak of the same release."""
    assert metadata.version("memproxy") == PROJECT["version"]
    assert re.search(rf"^## \[{re.escape(PROJECT['version'])}\]", _document("CHANGELOG.md"), re.MULTILINE)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_speak_of_what_there_is(name: str) -> None:
    """Targets, settings, files and links in a document exist."""
    text = _document(name)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets
    known = {PREFIX + setting.upper() for setting in Settings.model_fields} | {PREFIX + "CONFIG"}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", text)) <= known
    for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", text):
        assert (ROOT / link).exists(), f"{name} links to {link}"
    for path in re.findall(r"`((?:memproxy|config|tests|bench)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{name} speaks of {path}"


def _document(name: str) -> str:
    return (ROOT / name).read_text("utf-8")
