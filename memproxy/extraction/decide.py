"""Ask a model what new statements are to those that are remembered, all doubtful pairs of a batch in one call; pure.

The answer may be wrong in form, or missing: then the two are taken for different, and both are kept.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memproxy.extraction.facts import strict_object
from memproxy.extraction.prompting import as_json
from memproxy.extraction.spoken import day
from memproxy.loose_json import read_json
from memproxy.records import JsonObject, MemoryRecord

MAX_PAIRS = 20
"""Asked about at a time; a batch with more is a flood, and all that is lost is a merge."""


class Relation(enum.StrEnum):
    """What a new statement is to an old one."""

    SAME = "same"
    REPLACES = "replaces"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Pair:
    """A new statement and an old one that it may repeat or replace."""

    new: MemoryRecord
    old: MemoryRecord
    nearness: float
    """By which the doubtful ones are chosen when there are too many."""


def decision_schema() -> JsonObject:
    """The answer's form: a relation for each pair."""
    relation = {"type": "string", "enum": [one.value for one in Relation]}
    decision = strict_object({"pair": {"type": "integer"}, "relation": relation})
    return strict_object({"decisions": {"type": "array", "items": decision}})


def decision_prompt(pairs: Sequence[Pair]) -> str:
    """The pairs as the model is shown them, numbered from 1."""
    shown = [
        {
            "pair": number,
            "old": pair.old.text,
            "old_said": day(pair.old.created_at),
            "new": pair.new.text,
            "new_said": day(pair.new.created_at),
        }
        for number, pair in enumerate(pairs, start=1)
    ]
    return as_json({"pairs": shown})


def read_decisions(answer: str, count: int) -> list[Relation]:
    """What the model says of each of `count` pairs; different where it says nothing that can be understood."""
    decided = [Relation.DIFFERENT] * count
    try:
        value = read_json(answer)
    except ValueError:
        return decided
    for number, relation in _numbered(value):
        if 1 <= number <= count:
            decided[number - 1] = relation
    return decided


def _numbered(value: Any) -> list[tuple[int, Relation]]:
    """Number and relation of each decision, in any of the forms that models give them."""
    if isinstance(value, dict) and "pair" not in value:
        for inner in value.values():
            if isinstance(inner, list | dict):
                return _numbered(inner)
        value = [{"pair": name, "relation": each} for name, each in value.items()]
    listed = value if isinstance(value, list) else [value]
    return [decided for place, each in enumerate(listed, start=1) if (decided := _decision(each, place)) is not None]


def _decision(value: Any, place: int) -> tuple[int, Relation] | None:
    """One decision; without a number it is about the pair that stands in its place."""
    fields = value if isinstance(value, dict) else {"relation": value}
    digits = "".join(filter(str.isdecimal, str(fields.get("pair", place))))
    relation = _relation(fields.get("relation", fields.get("decision", fields.get("answer"))))
    return (int(digits), relation) if digits and len(digits) < 4 and relation else None


def _relation(value: object) -> Relation | None:
    word = str(value).strip().lower()
    return next((relation for begins, relation in _WORDS if word.startswith(begins)), None)


_WORDS = (
    *((begins, Relation.SAME) for begins in ("same", "duplicate", "identical", "equal", "equivalent", "repeat")),
    *((begins, Relation.REPLACES) for begins in ("replace", "supersede", "contradict", "update", "correct")),
    *((begins, Relation.DIFFERENT) for begins in ("differ", "unrelated", "both", "none", "no")),
)
"""How models begin the word for it."""
