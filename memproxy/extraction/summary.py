"""The summary strategy: one memory a session, that grows with it and stays as long; pure.

The memory has one id for ever. Each batch shows the model what the memory says so far and what is new, and puts what it
answers in the old one's place. An answer that says nothing leaves the memory as it is.
"""

import re
from collections.abc import Mapping
from typing import Any

from memproxy.extraction.facts import strict_object
from memproxy.extraction.grounding import invents
from memproxy.extraction.prompting import Part, as_json, conversation
from memproxy.extraction.reading import labels
from memproxy.extraction.spoken import sentences
from memproxy.loose_json import read_json, without_thoughts
from memproxy.records import JsonObject, MemoryRecord, MemoryType, Scope
from memproxy.storage.schema import digest_of

WORDS = 500
"""The longest summary unless `max_summary_length` says otherwise. Source: agent-memory-server's default."""

WORDS_RANGE = range(20, 5_001)

TOPIC = "thread-summary"
"""By which agent-memory-server's clients find such memories."""

MAX_TURNS = 200
"""The newest turns that a summary names as where it comes from."""

LEAST_CHARS = 20
"""What is shorter sums nothing up."""

_REFUSES = re.compile(
    r"\W*(?:i['\u2019]?m\s+(?:really\s+)?sorry|sorry\b|i\s+(?:can(?:no|['\u2019])t|am\s+(?:unable|not\s+able)|won['\u2019]t|do\s+not\s+have)"
    r"|as\s+an\s+ai\b|i\s+apologi[sz]e|unable\s+to\b)",
    re.IGNORECASE,
)
_EMPTY = re.compile(
    r"\W*(?:none|null|nil|nothing|n/?a|empty|todo|\.*)\W*\Z"
    r"|(?:there\s+is\s+)?(?:no|nothing)\b.{0,40}\b(?:summary|summari[sz]e|add|content|information|conversation)\b.{0,60}\Z",
    re.IGNORECASE | re.DOTALL,
)
_LABEL = re.compile(
    r"\W*(?:(?:here\s+is|here['\u2019]s)\s+[^:\n]{0,60}|(?:updated\s+|new\s+|the\s+)?summary)\s*:[*_\s]*", re.IGNORECASE
)


def options_fault(config: Mapping[str, Any]) -> str | None:
    """Why the options of a summary strategy can't be used, or None."""
    length = config.get("max_summary_length")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length not in WORDS_RANGE):
        return f"max_summary_length is {length!r}; it is a number of words from {WORDS_RANGE[0]} to {WORDS_RANGE[-1]}"
    return None


def summary_schema() -> JsonObject:
    """The answer's form."""
    words = {"type": "array", "items": {"type": "string"}}
    return strict_object({"summary": {"type": "string"}, "topics": words, "entities": words})


def summary_id(scope: Scope, session: str) -> str:
    """The id of a session's summary, for ever."""
    return digest_of("summary", scope.tenant, scope.user, scope.namespace, session)


def max_words(config: Mapping[str, Any]) -> int:
    """How long the summary may be."""
    return int(config.get("max_summary_length") or WORDS)


def summary_prompt(part: Part, config: Mapping[str, Any]) -> str:
    """What the model is shown: the summary so far and what is new."""
    return as_json({"max_words": max_words(config), **conversation(part)})


def read_summary(answer: str, part: Part, *, config: JsonObject) -> list[MemoryRecord]:
    """The session's summary as a record; none when the answer has nothing to say. ValueError for an unreadable one."""
    text, topics, entities = summary_in(answer)
    said = [*(one.words for one in (*part.said, *part.context)), part.previous, *part.known, *part.people]
    text = bounded("".join(each for each in sentences(text) if not invents(each, said)), max_words(config))
    if len(text) < LEAST_CHARS:
        return []
    own = labels(list(config.get("topics") or ()))
    record = MemoryRecord(
        id=summary_id(part.scope, part.session),
        scope=part.scope,
        text=text,
        type=MemoryType.SEMANTIC,
        created_at=part.said[0].at,
        updated_at=part.said[-1].at,
        session=part.session,
        topics=tuple(dict.fromkeys((TOPIC, *own, *topics))),
        entities=entities,
        turns=part.turns,
        strategy="summary",
        strategy_config=config,
    )
    return [record]


def summary_in(answer: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Text, topics and entities of a summary, which may also come as plain prose; the text is empty for a refusal.

    Raises ValueError for an answer that is neither.
    """
    try:
        value = read_json(answer)
    except ValueError:
        value = {"summary": _LABEL.sub("", without_thoughts(answer).strip(), count=1)}
        if "{" in value["summary"]:  # an object begun and not to be read
            raise
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise ValueError('it has no text under "summary"')
    text = next((value[name] for name in ("summary", "text", "memory", "content") if name in value), None)
    if text is None and len(value) == 1:
        (text,) = value.values()
    if isinstance(text, list):
        text = " ".join(part for part in text if isinstance(part, str))
    if not isinstance(text, str):
        raise ValueError('it has no text under "summary"')
    text = " ".join(text.split())
    return "" if says_no_summary(text) else text, labels(value.get("topics")), labels(value.get("entities"))


def says_no_summary(text: str) -> bool:
    """Whether a text in a summary's place is none: "NONE", an apology, a remark that there is nothing to sum up."""
    return bool(_EMPTY.match(text) or _REFUSES.match(text))


def bounded(text: str, words: int) -> str:
    """The text with at most so many words, cut behind a sentence where there is one."""
    if text.count(" ") < words:
        return text.strip()
    kept = " ".join(text.split(" ")[:words])
    whole = sentences(kept)
    cut = "".join(whole[:-1]).strip()
    return cut if len(cut) > len(kept) // 2 else kept


def grown(record: MemoryRecord, previous: MemoryRecord | None) -> tuple[str, ...]:
    """The turns that a summary comes from, the earlier ones included."""
    earlier = previous.turns if previous else ()
    return tuple(dict.fromkeys((*earlier, *record.turns)))[-MAX_TURNS:]
