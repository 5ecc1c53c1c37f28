"""What a model is shown of a conversation; pure.

The words stand in JSON, so that nothing in them can pose as another message or as an instruction. Each message carries
who spoke and when, in the user's own time zone, and what its relative times mean ("yesterday": "7 May 2023"): a model
can resolve "I" and "tomorrow" only if it knows who said it on what day, and a small one can't count days.

A batch is shown in parts that small local models can read, each with what was said just before it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo

from memproxy.extraction.dates import told
from memproxy.extraction.spoken import Utterance, day, is_trivial
from memproxy.records import JsonObject, Scope

PROMPT_CHARS = 16_000
"""New words shown to the model at a time, about 4,000 tokens: small local models lose their way in more."""

MAX_PARTS = 8
"""Parts of one batch. Only a conversation that memproxy meets in its middle has more; then the newest count."""

MESSAGE_CHARS = 6_000
"""Of a longer message, its beginning and its end."""

CONTEXT_UTTERANCES = 6
CONTEXT_CHARS = 1_000

KNOWN_CHARS = 1_500
"""Of what is remembered already."""


@dataclass(frozen=True, slots=True)
class Part:
    """What of a session is learned from at a time."""

    scope: Scope
    session: str
    said: tuple[Utterance, ...]
    """Memories come from here only."""
    context: tuple[Utterance, ...] = ()
    """What was said just before: it tells who and what is meant."""
    known: tuple[str, ...] = ()
    """What is remembered already and may give a name."""
    previous: str = ""
    """What the same strategy wrote about this session before; for those that keep one text."""
    turns: tuple[str, ...] = ()
    """The turns that the words came in."""
    zone: tzinfo = UTC
    """The user's."""

    @property
    def people(self) -> tuple[str, ...]:
        """The names by which the conversation calls those who speak."""
        names = dict.fromkeys(one.speaker for one in (*self.context, *self.said))
        return tuple(name for name in names if name not in {"User", "Assistant"})


def parts_of(
    said: Sequence[Utterance], context: Sequence[Utterance]
) -> Iterator[tuple[list[Utterance], list[Utterance]]]:
    """The words in parts of about PROMPT_CHARS, each with what was said before it; none that only keeps up a talk."""
    before = list(context)
    found = []
    for part in _cut(said):
        if not all(is_trivial(one.words) for one in part):
            found.append((part, before[-CONTEXT_UTTERANCES:]))
        before += part
    yield from found[-MAX_PARTS:]


def _cut(said: Iterable[Utterance]) -> Iterator[list[Utterance]]:
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


def conversation(part: Part) -> JsonObject:
    """The part as the model is shown it."""
    shown: JsonObject = {"people": list(part.people)} if part.people else {}
    if known := list(_within(part.known, KNOWN_CHARS)):
        shown["known"] = known
    if part.previous:
        shown["previous"] = part.previous
    shown["context"] = [_shown(one, part.zone, limit=CONTEXT_CHARS) for one in part.context]
    shown["messages"] = [_shown(one, part.zone, limit=MESSAGE_CHARS) for one in part.said]
    return shown


def prompt_of(part: Part) -> str:
    """The part as JSON text."""
    return as_json(conversation(part))


def as_json(shown: object) -> str:
    """JSON as a model reads it best: a line a value, letters as they are."""
    return json.dumps(shown, ensure_ascii=False, indent=1)


def _shown(said: Utterance, zone: tzinfo, *, limit: int) -> JsonObject:
    at = said.at.astimezone(zone)
    shown = {
        "speaker": said.speaker,
        "role": said.role,
        "time": f"{at:%A} {day(at)} {at:%H:%M} {zone}",
        "words": shortened(said.words, limit),
    }
    dates = told(shown["words"], at)
    return {**shown, "dates": dates} if dates else shown


def shortened(text: str, limit: int) -> str:
    """The text, or of a longer one its beginning and its end: that is where people say what they want."""
    return text if len(text) <= limit else f"{text[: limit // 2]} [...] {text[-limit // 2 :]}"


def _within(texts: Iterable[str], room: int) -> Iterator[str]:
    for text in texts:
        room -= len(text)
        if room < 0:
            return
        yield text
