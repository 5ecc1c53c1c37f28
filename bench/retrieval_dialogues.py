"""The dialogues as users: what each said, when, and questions about it with the turns that answer them. Pure.

The dialogues lie beside the project and are no part of it.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.dialogue_turns import DIALOGUES
from memproxy.records import JsonObject

CHOSEN_ON = frozenset({"conv-26", "conv-43", "conv-49"})
"""The conversations that the ranking's figures were chosen on; with all others they were only tried."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One turn as it was said."""

    id: str
    session: str
    speaker: str
    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Fact:
    """What a model once noted of some turns."""

    id: str
    session: str
    text: str
    sources: frozenset[str]
    """The ids of these turns."""
    at: datetime


@dataclass(frozen=True, slots=True)
class Question:
    """One question and the ids of the turns that answer it."""

    text: str
    evidence: frozenset[str]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Two people's conversation in dated sittings, all of it one user's."""

    user: str
    speakers: frozenset[str]
    turns: tuple[Spoken, ...]
    facts: tuple[Fact, ...]
    questions: tuple[Question, ...]

    @property
    def is_new(self) -> bool:
        """Nothing of the ranking was chosen on it."""
        return self.user not in CHOSEN_ON

    def names_any(self, text: str) -> bool:
        """Whether a text names one of the two."""
        return any(name.lower() in text.lower() for name in self.speakers)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question as it is put to one user's memory."""

    user: str
    text: str
    evidence: frozenset[str]
    """None of the user's, for a question about somebody else."""
    names_speaker: bool
    """It names one of the user's two speakers; one about somebody else does, too, where first names are the same."""


def read_dialogues(path: Path = DIALOGUES) -> list[Dialogue]:
    """The conversations of a file in the form of `dialogues.json`."""
    return [_dialogue(raw) for raw in json.loads(path.read_text("utf-8"))["conversations"]]


def _dialogue(raw: Mapping[str, Any]) -> Dialogue:
    turns = tuple(
        Spoken(
            id=turn["id"],
            session=f"sitting-{turn['session']}",
            speaker=turn["speaker"],
            text=turn["text"],
            at=datetime.fromisoformat(turn["created_at"]).replace(tzinfo=UTC),
        )
        for turn in raw["records"]
    )
    said_at = {turn.id: turn.at for turn in turns}
    return Dialogue(
        user=raw["id"],
        speakers=frozenset(raw["speakers"]),
        turns=turns,
        facts=tuple(_fact(fact, said_at) for fact in raw["facts"]),
        questions=tuple(Question(asked["question"], frozenset(asked["evidence"])) for asked in raw["questions"]),
    )


def _fact(raw: JsonObject, said_at: Mapping[str, datetime]) -> Fact:
    sources = frozenset(raw["source"])
    session = f"sitting-{raw['session']}"
    return Fact(raw["id"], session, raw["text"], sources, at=max(said_at[source] for source in sources))


def own_questions(dialogues: Sequence[Dialogue], *, limit: int | None = None) -> list[Asked]:
    """Every question, put to the memory of what it is about; at most `limit` of each dialogue."""
    return [
        Asked(dialogue.user, asked.text, asked.evidence, names_speaker=dialogue.names_any(asked.text))
        for dialogue in dialogues
        for asked in dialogue.questions[:limit]
    ]


def foreign_questions(dialogues: Sequence[Dialogue], *, count: int, seed: int = 1) -> list[Asked]:
    """For each dialogue `count` questions about other people's."""
    rng = random.Random(seed)
    asked = []
    for dialogue in dialogues:
        others = [each.text for other in dialogues if other is not dialogue for each in other.questions]
        chosen = rng.sample(others, min(count, len(others)))
        asked += [Asked(dialogue.user, text, frozenset(), names_speaker=dialogue.names_any(text)) for text in chosen]
    return asked
