"""Single memories out of an answer: each with its evidence, its time and its place; pure.

The answer is never trusted. A memory has to quote the words that it rests on, and a quotation that user and assistant
did not say drops it. Who said these words, and when, is the memory's own time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from memproxy.extraction.dates import explained, the_day
from memproxy.extraction.grounding import Source, invents, quoted_from, spoken_of, squashed
from memproxy.extraction.prompting import Part
from memproxy.extraction.reading import Item, read_date, read_items
from memproxy.extraction.spoken import is_trivial
from memproxy.records import JsonObject, MemoryRecord, MemoryType
from memproxy.storage.schema import digest_of
from memproxy.words import Terms

MIN_TEXT_CHARS = 12
"""What is shorter says nothing by itself. Half of it where a character is a word."""

MAX_TEXT_CHARS = 1_000
"""What is longer is a copy of the conversation, not a fact."""


@dataclass(frozen=True, slots=True)
class Maker:
    """What is the same for all records of one strategy."""

    strategy: str
    config: JsonObject
    terms: Terms
    only_semantic: bool = False
    """It makes no memories of events."""


def facts_schema() -> JsonObject:
    """The answer's form: a list of single memories, each with its evidence. Within what OpenAI's strict mode takes."""
    words = {"type": "string"}
    properties = {
        "text": words,
        "type": {"type": "string", "enum": [MemoryType.SEMANTIC.value, MemoryType.EPISODIC.value]},
        "topics": {"type": "array", "items": words},
        "entities": {"type": "array", "items": words},
        "event_date": {"type": ["string", "null"]},
        "evidence": words,
    }
    return strict_object({"memories": {"type": "array", "items": strict_object(properties)}})


def strict_object(properties: JsonObject) -> JsonObject:
    """The schema of an object of which every property is required, and no others are allowed."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def read_facts(answer: str, part: Part, *, maker: Maker) -> list[MemoryRecord]:
    """The memories in the answer whose evidence was said in this part, each once; ValueError for an unreadable one."""
    records: dict[str, MemoryRecord] = {}
    for item in read_items(answer):
        record = _record(item, part, maker=maker)
        if record is not None:
            records.setdefault(record.id, record)
    return list(records.values())


def fact_id(text: str) -> str:
    """The id of a fact: the same for the same words, whatever the punctuation, so that none is stored twice."""
    return digest_of("fact", squashed(text))


def _record(item: Item, part: Part, *, maker: Maker) -> MemoryRecord | None:
    around = _around(part)
    if not _is_fit(item.text) or invents(item.text, [*around, *(one.words for one in part.said)]):
        return None
    source = _source(item, part, around, maker.terms)
    if source is None:
        return None
    at = source.said.at.astimezone(part.zone)
    text = explained(item.text, at)
    is_event = not maker.only_semantic and ("episodic" in item.type or "event" in item.type)
    return MemoryRecord(
        id=fact_id(text),
        scope=part.scope,
        text=text,
        type=MemoryType.EPISODIC if is_event else MemoryType.SEMANTIC,
        created_at=source.said.at,
        session=part.session,
        speaker=source.said.speaker,
        context=source.quotation,
        topics=item.topics,
        entities=item.entities,
        event_date=_event_date(item, part, source, at=at, is_event=is_event),
        turns=(source.said.turn,) if source.said.turn else part.turns,
        strategy=maker.strategy,
        strategy_config=maker.config,
    )


def _source(item: Item, part: Part, around: Sequence[str], terms: Terms) -> Source | None:
    if item.evidence:
        return quoted_from(item.evidence, part.said)
    return spoken_of(item.text, part.said, around=around, terms=terms)


def _around(part: Part) -> list[str]:
    """Where names and numbers of a memory may come from, besides the words that it is made of."""
    spoken = [text for one in part.context for text in (one.speaker, one.words)]
    return [*spoken, *part.known, part.previous, *part.people]


def _event_date(item: Item, part: Part, source: Source, *, at: datetime, is_event: bool) -> datetime | None:
    if item.event_date and (given := read_date(item.event_date, part.zone)) is not None:
        return given
    return the_day(source.quotation, at) if is_event else None


def _is_fit(text: str) -> bool:
    """It says something: not too little, not too much, and it does not ask."""
    least = MIN_TEXT_CHARS if text.isascii() else MIN_TEXT_CHARS // 2
    if text.rstrip(" .\"'\u201d\u2019)").endswith(("?", "\uff1f")):
        return False
    return least <= len(text) <= MAX_TEXT_CHARS and not is_trivial(text)
