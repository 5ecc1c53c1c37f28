"""How a model is asked for memories, and how its answer is read; pure.

A strategy is a row of `STRATEGIES`: instructions in `prompts/`, a schema for the answer, what of the turn the model is
shown, and how its answer becomes records. The answer is never trusted: each memory has to quote the words that it rests
on, and a quotation that user and assistant did not say drops it. So a model's own ideas stay out.
"""

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from types import MappingProxyType
from typing import Any

from memproxy.errors import ModelCallError
from memproxy.extraction.spoken import Utterance, day, is_trivial, utterances
from memproxy.records import JsonObject, MemoryRecord, MemoryType, Turn
from memproxy.storage.schema import digest_of

PROMPT_CHARS = 16_000
"""New words shown to the model at a time, about 4,000 tokens: small local models lose their way in more."""
MAX_PROMPTS = 8
"""Prompts for one turn. Only a conversation that memproxy meets in its middle has more; then the newest count."""
MESSAGE_CHARS = 6_000
"""Of a longer message, its beginning and its end."""
CONTEXT_UTTERANCES = 4
CONTEXT_CHARS = 1_000
MAX_MEMORIES = 50
"""Read from one answer; a model that writes more is running in circles."""
MIN_TEXT_CHARS = 12
"""What is shorter says nothing by itself. Half of it where a character is a word."""
MAX_TEXT_CHARS = 1_000
"""What is longer is a copy of the conversation, not a fact."""
MIN_EVIDENCE_CHARS = 3
MAX_LABELS = 10
"""Topics or entities of a memory."""
MAX_LABEL_CHARS = 100


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to make memories of a turn."""

    name: str
    schema: Callable[[], JsonObject]
    """The answer's JSON schema, within what OpenAI's strict mode takes."""
    prompts: Callable[[Turn], list[str]]
    """What the model is shown, in parts that each get an answer; empty when there is nothing to learn."""
    read: Callable[[Any, Turn], list[MemoryRecord]]
    """The memories in an answer; raises ModelCallError when it has another form altogether."""

    def instructions(self) -> str:
        """The system prompt. Cost: reads a file."""
        return (resources.files("memproxy.extraction") / "prompts" / f"{self.name}.md").read_text(encoding="utf-8")


def discrete_schema() -> JsonObject:
    """The answer's form: a list of single memories, each with its evidence."""
    words = {"type": "string"}
    properties = {
        "text": words,
        "type": {"type": "string", "enum": [MemoryType.SEMANTIC.value, MemoryType.EPISODIC.value]},
        "topics": {"type": "array", "items": words},
        "entities": {"type": "array", "items": words},
        "event_date": {"type": ["string", "null"]},
        "evidence": words,
    }
    memory = _object(properties)
    return _object({"memories": {"type": "array", "items": memory}})


def _object(properties: JsonObject) -> JsonObject:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def turn_prompts(turn: Turn) -> list[str]:
    """The turn's new words as JSON, in parts of about PROMPT_CHARS, each with what was said just before it."""
    before, prompts = utterances(turn.context), []
    for part in _parts(utterances(turn.messages)):
        if not all(is_trivial(said.words) for said in part):
            shown = {
                "context": [_shown(said, CONTEXT_CHARS) for said in before[-CONTEXT_UTTERANCES:]],
                "messages": [_shown(said, MESSAGE_CHARS) for said in part],
            }
            prompts.append(json.dumps(shown, ensure_ascii=False, indent=1))
        before = part
    return prompts[-MAX_PROMPTS:]


def _parts(said: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    part: list[Utterance] = []
    size = 0
    for one in said:
        length = min(len(one.words), MESSAGE_CHARS)
        if part and size + length > PROMPT_CHARS:
            yield part
            part, size = [], 0
        part.append(one)
        size += length
    if part:
        yield part


def _shown(said: Utterance, limit: int) -> JsonObject:
    words = said.words
    if len(words) > limit:
        words = f"{words[: limit // 2]} [...] {words[-limit // 2 :]}"
    time = f"{said.at:%A} {day(said.at)} {said.at:%H:%M} UTC"
    return {"speaker": said.speaker, "role": said.role, "time": time, "words": words}


def read_discrete(answer: Any, turn: Turn) -> list[MemoryRecord]:
    """The memories in the answer whose evidence was said in this turn, each once."""
    items = _items(answer)
    readable = [item for item in items if isinstance(item.get("text"), str) and isinstance(item.get("evidence"), str)]
    if items and not readable:
        raise ModelCallError(f"none of {len(items)} memories in the answer has text and evidence", retryable=True)
    said = [(squashed(one.words), one) for one in utterances(turn.messages)]
    records: dict[str, MemoryRecord] = {}
    for item in readable[:MAX_MEMORIES]:
        source = _source(item["evidence"], said)
        text = " ".join(item["text"].split())
        if source is not None and _is_fit(text):
            record = _record(text, item, turn=turn, source=source)
            records.setdefault(record.id, record)
    return list(records.values())


def _items(answer: Any) -> list[JsonObject]:
    """The answer's memories, also where the model left out the frame around them, or the list around a single one."""
    if isinstance(answer, dict):
        answer = answer.get("memories", answer if "text" in answer else None)
    if isinstance(answer, dict):
        answer = [answer]
    if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
        raise ModelCallError(f"the answer holds no list of memories but {type(answer).__name__}", retryable=True)
    return answer


def _record(text: str, item: JsonObject, *, turn: Turn, source: Utterance) -> MemoryRecord:
    is_episodic = str(item.get("type")).strip().lower() == MemoryType.EPISODIC
    return MemoryRecord(
        id=digest_of("fact", squashed(text)),
        scope=turn.scope,
        text=text,
        type=MemoryType.EPISODIC if is_episodic else MemoryType.SEMANTIC,
        created_at=source.at,
        session=turn.session,
        speaker=source.speaker,
        context=item["evidence"].strip(),
        topics=_labels(item.get("topics")),
        entities=_labels(item.get("entities")),
        event_date=_date(item.get("event_date")),
        turns=(turn.id,),
    )


def squashed(text: str) -> str:
    """The text's letters and digits alone, in one case: equal for texts that differ in blanks and punctuation."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def _source(evidence: str, said: Sequence[tuple[str, Utterance]]) -> Utterance | None:
    """Who said the evidence, the latest first; a quotation with gaps ("...") has to have all its parts in one place."""
    parts = [part for part in map(squashed, evidence.replace("...", "…").split("…")) if part]
    if sum(map(len, parts)) < (MIN_EVIDENCE_CHARS if evidence.isascii() else 1):
        return None
    return next((one for words, one in reversed(said) if all(part in words for part in parts)), None)


def _is_fit(text: str) -> bool:
    least = MIN_TEXT_CHARS if text.isascii() else MIN_TEXT_CHARS // 2
    return least <= len(text) <= MAX_TEXT_CHARS and not is_trivial(text)


def _labels(value: Any) -> tuple[str, ...]:
    """The value's strings, tidied, each once."""
    values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    labels = (" ".join(label.split())[:MAX_LABEL_CHARS] for label in values if isinstance(label, str))
    return tuple(dict.fromkeys(label for label in labels if label))[:MAX_LABELS]


def _date(value: Any) -> datetime | None:
    """The point in time, in UTC; None for anything that is not a whole date."""
    try:
        at = datetime.fromisoformat(value.strip()) if isinstance(value, str) else None
        return at if at is None else at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {"discrete": Strategy("discrete", schema=discrete_schema, prompts=turn_prompts, read=read_discrete)}
)
"""Every strategy by its name, which is also the name of its prompt."""
