"""Real conversations that lie beside the repository; they are never part of it."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "data"


def trajectories() -> list[dict[str, Any]]:
    """Agents' trajectories with tool calls, as chat messages; skips the test where they are absent."""
    return [json.loads(line) for line in _read("trajectories.jsonl").splitlines()]


def dialogues() -> list[dict[str, Any]]:
    """Long conversations between two people in dated sittings; skips the test where they are absent."""
    conversations: list[dict[str, Any]] = json.loads(_read("dialogues.json"))["conversations"]
    return conversations


def tool_kinds() -> dict[str, str]:
    """read, write or generic, by tool, as the makers of the trajectories mark them; skips the test without them."""
    kinds: dict[str, str] = json.loads(_read("tool_kinds.json"))
    return kinds


def _read(name: str) -> str:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"the conversations of {name} are not beside this checkout")
    return path.read_text("utf-8")
