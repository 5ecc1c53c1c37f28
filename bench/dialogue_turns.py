"""The dialogues as turns to be said through the proxy, with the observations that each turn's words give.

The dialogues lie beside the project and are no part of it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

DIALOGUES = Path(__file__).parent.parent.parent / "shared" / "data" / "dialogues.json"


@dataclass(frozen=True, slots=True)
class Observation:
    """One fact that the words of a turn give."""

    id: str
    """Unique among all."""
    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """One turn: what one of the two said."""

    user: str
    """The conversation's id: both speak under it, each by name."""
    session: str
    speaker: str
    text: str
    observations: tuple[Observation, ...]


def read_turns(path: Path, *, count: int) -> list[Said]:
    """The first turns of each conversation, about as many of each, `count` in all."""
    conversations = json.loads(path.read_text("utf-8"))["conversations"]
    each = [list(_turns(conversation)) for conversation in conversations]
    share, over = divmod(count, len(each))
    return [said for place, turns in enumerate(each) for said in turns[: share + (place < over)]]


def sessions_of(turns: Sequence[Said]) -> list[list[Said]]:
    """The turns by session, in order."""
    return [list(group) for _, group in groupby(turns, key=lambda said: (said.user, said.session))]


def _turns(conversation: dict[str, Any]) -> Iterator[Said]:
    user = conversation["id"]
    facts: dict[str, list[Observation]] = {}
    for fact in conversation["facts"]:
        facts.setdefault(fact["source"][0], []).append(Observation(f"{user}/{fact['id']}", fact["text"]))
    for record in conversation["records"]:
        yield Said(
            user=user,
            session=f"sitting-{record['session']}",
            speaker=record["speaker"],
            text=record["text"],
            observations=tuple(facts.get(record["id"], ())),
        )
