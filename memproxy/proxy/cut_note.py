"""Say what stands for messages that were cut away: what later calls of tools are likely to need of them. Pure.

Measured on agents' trajectories (`python -m bench truncation`): what a later call needs was mostly an argument of an
earlier one, or an identifier in what somebody said or a tool gave. Both are short, so they are listed; what is left of
the room goes to the pieces that fit the conversation as it goes on. The note is made when the cut is made and stays as
it is until the next one, so that the prompt keeps its beginning.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from memproxy.proxy.compose import CUT_CLOSING, CUT_OPENING, quoted
from memproxy.records import JsonObject
from memproxy.tokens import estimate_tokens
from memproxy.wire.chat_answers import calls_of
from memproxy.wire.dialect import Dialect

SUMMARY_SHARE = 0.5
"""Of the note's room: what calls need is worth as much to them as any summary."""

VALUES_SHARE = 0.6
"""Of the room that the summary leaves: for values of arguments and identifiers, before pieces."""

VALUE_CHARS = range(2, 65)
"""Of a value or an identifier; what is longer is prose, a path or encoded data, and would take the room of others."""

NAME_CHARS = 40

PIECE_CHARS = 300
"""Of a piece; a longer line or object is cut into its parts."""

MAX_PIECES = 2_000
"""The newest pieces of what was cut that are looked at."""

READ_CHARS = 1_000_000
"""Of what was cut that are read: 0.3 s in a thread, while the request waits."""

DEEPEST = 40
"""Levels of a JSON value that are taken apart; each is written once more."""

SATURATION, LENGTH_WEIGHT = 1.2, 0.75
"""BM25's usual parameters."""

UNREADABLE = (msgspec.DecodeError, RecursionError)
"""What text raises that is no JSON, or is nested a thousand levels deep: it is words then."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9#][A-Za-z0-9_#.@/:-]*")
_ENDS = "_#.@/:-"
_IS_MIXED = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z#]).{5,}")
_IS_NUMBER = re.compile(r"[0-9]{5,}|[0-9]+(?:[-/.:][0-9]+){2,}")
"""Numbers of articles, telephone numbers, dates; prices and quantities are shorter."""
_IS_CODE = re.compile(r"[A-Z]{5,8}|[A-Z]+(?:[_-][A-Z]+)+")
_IS_ADDRESS = re.compile(r"[^@]+@[^@]+\.[^@]+")
_IS_PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]+\.\w+")
_KINDS = (_IS_MIXED, _IS_NUMBER, _IS_CODE, _IS_ADDRESS, _IS_PATH)
_WORD = re.compile(r"\w{3,}")
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")


def cut_note(dialect: Dialect, dropped: Sequence[JsonObject], query: str, *, summary: str, max_tokens: int) -> str:
    """The block that stands for dropped messages; empty when there is nothing to tell of them.

    `query` is what the conversation is about as it goes on.
    """
    read = _newest(dialect.as_chat(dropped))
    room = max_tokens - estimate_tokens(CUT_OPENING + CUT_CLOSING)
    parts = []
    if summary and (told := _within(quoted(summary), int(SUMMARY_SHARE * room))):
        parts.append("Summary: " + told)
        room -= estimate_tokens(parts[-1])
    values = argument_values(read, max_tokens=int(VALUES_SHARE * room))
    if values:
        parts.append("Arguments of calls, newest first: " + "; ".join(map(_told, values.items())))
    known = {value for each in values.values() for value in each}
    left = int(VALUES_SHARE * room) - sum(map(estimate_tokens, parts[-1:] if values else ()))
    identifiers = identifiers_in(texts_by_weight(read), max_tokens=left, known=known)
    if identifiers:
        parts.append("Identifiers mentioned, newest first: " + ", ".join(map(quoted, identifiers)))
    room -= sum(map(estimate_tokens, parts[1 if summary else 0 :]))
    parts += ["- " + quoted(piece) for piece in pieces_for(query, read, max_tokens=room)]
    return "\n".join([CUT_OPENING, *parts, CUT_CLOSING]) if parts else ""


def _told(named: tuple[str, Sequence[str]]) -> str:
    name, values = named
    return f"{quoted(name)} {', '.join(map(quoted, values))}"


def _within(text: str, max_tokens: int) -> str:
    """The text, or as much of its beginning as takes so many tokens."""
    while text and (tokens := estimate_tokens(text)) > max(max_tokens, 0):
        words = text.split(" ")
        text = " ".join(words[: min(len(words) - 1, len(words) * max(max_tokens, 0) // tokens)])
    return text


def argument_values(messages: Sequence[JsonObject], *, max_tokens: int) -> dict[str, list[str]]:
    """What calls were made with, by the argument's name: the newest values that fit, each once."""
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    room = max_tokens
    for message in reversed(messages):
        for call in reversed(calls_of(message)):
            for name, value in _arguments(call.arguments):
                if value in seen:
                    continue
                room -= estimate_tokens(value) + 1 + (0 if name in found else estimate_tokens(name) + 1)
                if room < 0:
                    return found
                seen.add(value)
                found.setdefault(name, []).append(value)
    return found


def _arguments(text: str) -> Iterator[tuple[str, str]]:
    try:
        leaves = list(_leaves(msgspec.json.decode(text or "{}"), ""))
    except UNREADABLE:
        return
    for name, value in leaves:
        told = value if isinstance(value, str) else str(value)
        if len(told) in VALUE_CHARS and len(name) <= NAME_CHARS:
            yield name, told


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str | int | float]]:
    """Each text and number with the name of the field that it stands in; what is true or false tells nothing alone."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _leaves(each, str(key))
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each, name)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield name, value


def texts_by_weight(messages: Sequence[JsonObject]) -> list[str]:
    """The words of messages, what is needed most often last: results of tools, then what was said, each in order."""
    results: list[str] = []
    said: list[str] = []
    for message in messages:
        text = _words(message)
        if text:
            (results if message.get("role") == "tool" else said).append(text)
    return [*results, *said]


def _words(message: JsonObject) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "\n".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))


def identifiers_in(
    texts: Sequence[str], *, max_tokens: int, known: "set[str] | frozenset[str]" = frozenset()
) -> list[str]:
    """Order numbers, ids, dates, addresses of mail and the like, the last ones first, but those that are `known`."""
    found: dict[str, None] = {}
    chosen: list[str] = []
    room = max_tokens
    for text in reversed(texts):
        for match in _IDENTIFIER.findall(text):
            name = match.rstrip(_ENDS)
            if name in found or name in known or len(name) not in VALUE_CHARS:
                continue
            if not any(kind.fullmatch(name) for kind in _KINDS):
                continue
            found[name] = None
            room -= estimate_tokens(name) + 1
            if room < 0:
                return chosen
            chosen.append(name)
    return chosen


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a message that says something by itself."""

    text: str
    words: "Counter[str]"


def pieces_for(query: str, messages: Sequence[JsonObject], *, max_tokens: int) -> list[str]:
    """Pieces of these messages that fit the query best (BM25), in their old order."""
    wanted = {word.lower() for word in _WORD.findall(query)}
    if max_tokens <= 0 or not wanted:
        return []
    pieces = _newest_pieces(messages)
    lengths = [piece.words.total() for piece in pieces]
    mean = sum(lengths) / len(lengths) if lengths else 1.0
    holding = Counter(word for piece in pieces for word in wanted & piece.words.keys())

    def score(at: int) -> float:
        total = 0.0
        for word in wanted & pieces[at].words.keys():
            often = pieces[at].words[word]
            rare = math.log(1 + (len(pieces) - holding[word] + 0.5) / (holding[word] + 0.5))
            damp = SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * lengths[at] / mean)
            total += rare * often * (SATURATION + 1) / (often + damp)
        return total

    scores = [score(at) for at in range(len(pieces))]
    chosen, seen, room = [], set[str](), max_tokens
    for at in sorted(range(len(pieces)), key=lambda at: (-scores[at], -at)):
        if scores[at] <= 0 or room < MIN_PIECE_TOKENS:
            break
        cost = estimate_tokens(pieces[at].text) + 3
        if cost > room or pieces[at].text in seen:
            continue
        seen.add(pieces[at].text)
        room -= cost
        chosen.append(at)
    return [pieces[at].text for at in sorted(chosen)]


MIN_PIECE_TOKENS = 8
"""With less room than this, no further piece is looked for."""


def _newest(messages: Sequence[tuple[int, JsonObject]]) -> list[JsonObject]:
    """The newest of these messages, without those that are so long that reading them would hold the request up."""
    room, kept = READ_CHARS, []
    for _, message in reversed(messages):
        if (chars := len(_words(message))) <= room:
            kept.append(message)
            room -= chars
    return kept[::-1]


def _newest_pieces(messages: Sequence[JsonObject]) -> list[Piece]:
    """The pieces of the newest messages, in their order; of a message that has too many, the first."""
    groups: list[list[Piece]] = []
    room = MAX_PIECES
    for message in reversed(messages):
        groups.append(list(islice(_pieces(message), room)))
        room -= len(groups[-1])
        if room <= 0:
            break
    return [piece for group in reversed(groups) for piece in group]


def _pieces(message: JsonObject) -> Iterator[Piece]:
    text = _words(message)
    try:
        value = msgspec.json.decode(text)
        parts = list(_objects(value, "")) if isinstance(value, dict | list) else _lines(text)
    except UNREADABLE:
        parts = _lines(text)
    for part in parts:
        words = Counter(word.lower() for word in _WORD.findall(part))
        if words:
            yield Piece(f"{message.get('role')}: {part}", words)


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        sentence = ""
        for each in _SENTENCE_END.split(line.strip()) if len(line) > PIECE_CHARS else [line.strip()]:
            if sentence and len(sentence) + len(each) > PIECE_CHARS:
                yield sentence
                sentence = ""
            sentence = f"{sentence} {each}".strip()[:PIECE_CHARS]
        if sentence:
            yield sentence


def _objects(value: Any, name: str, *, level: int = 0) -> Iterator[str]:
    """The largest parts of a JSON value that are short enough, each with the name that it stands under."""
    encoded = msgspec.json.encode(value).decode()
    if len(encoded) <= PIECE_CHARS or level == DEEPEST or not isinstance(value, dict | list):
        yield f"{name} {encoded[:PIECE_CHARS]}".strip()
        return
    flat: JsonObject = {}
    for key, each in value.items() if isinstance(value, dict) else ((name, each) for each in value):
        if isinstance(each, dict | list):
            yield from _objects(each, str(key), level=level + 1)
        else:
            flat[str(key)] = each
    if flat:
        yield f"{name} {msgspec.json.encode(flat).decode()[:PIECE_CHARS]}".strip()
