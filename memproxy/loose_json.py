"""Read JSON as models write it. Pure.

What a model was asked to give as JSON comes with thoughts before it, fences and prose around it, trailing commas,
comments, the literals and quotation marks of Python, quotation marks inside of strings, one object a line, or an end
that is missing. A text that is JSON is read by the standard library and means what it says; only where that fails is it
read leniently, and nothing is invented: of what was cut off, the part that was not finished is left out.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_STARTS = 100
"""Brackets at which JSON may begin that are looked at; prose has a few, an answer that is no JSON has many."""

MAX_DEPTH = 50
"""Brackets within brackets; more is a model gone round in circles."""

MAX_CHARS = 200_000
"""Of an answer that are looked at: far more than any model is asked to write."""

_THOUGHT = re.compile(r"<(think(?:ing)?|thoughts?|reasoning|reflection)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile(r"</(?:think(?:ing)?|thoughts?|reasoning|reflection)>", re.IGNORECASE)
_THOUGHT_BEGIN = re.compile(r"<(?:think(?:ing)?|thoughts?|reasoning|reflection)>", re.IGNORECASE)

_IDLE = re.compile(r"(?:[\s\ufeff]+|//[^\n]*|#[^\n]*|/\*.*?(?:\*/|\Z))+", re.DOTALL)
"""Blanks and comments."""

_BETWEEN = re.compile(r"[\s,;]*(?:[-*\u2022]|\d{1,3}[.)])?[\s]*")
"""What may stand between the items of a list that was written without its brackets."""

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.])")
_NAME = re.compile(r"[^\W\d][\w-]*")
_UNQUOTED = re.compile(r"[^\s\"'{}\[\],:][^\"{}\[\]\n,]*")
_LITERALS = {"true": True, "false": False, "null": None, "none": None, "nan": None, "undefined": None}
_CLOSING = {'"': '"', "'": "'", "\u201c": "\u201d", "\u201e": "\u201d", "`": "`"}
_SPECIAL = {closing: re.compile(rf"[\\{closing}]") for closing in ('"', "'", "\u201d", "`")}
_ENDS_VALUE = re.compile(
    r"""\s*(?:[}\]:] | \Z | \n | ["'][\w -]{1,40}["']\s*:
        | ,\s*(?:["'{\[}\]\u201c] | -?\d | true | false | null | True | False | None | // | \# | [a-zA-Z_]\w*\s*:))""",
    re.VERBOSE,
)
"""What follows a quotation mark that ends a string, rather than one that stands inside of it."""

_NO_ITEM = re.compile(r"\.{3}|\u2026|[^\W\d][^{}\[\]\"]*")
"""What models put between the items of a list of objects: dots for more of the same, words of their own."""

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/", "\\": "\\", '"': '"', "'": "'"}
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_DECODER = json.JSONDecoder(strict=False)  # line ends inside of strings are let pass


class _NoValue(ValueError):  # noqa: N818  no error that anybody outside sees
    """Here stands nothing that can be read."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A value, where it ends, and whether it was whole."""

    value: Any
    end: int
    is_whole: bool = True


def without_thoughts(text: str) -> str:
    """The answer without what the model thought before it, also where only one end of the thought is marked."""
    text = _THOUGHT.sub("", text)
    ends = [found.end() for found in _THOUGHT_END.finditer(text)]
    text = text[ends[-1] :] if ends else text
    begun = _THOUGHT_BEGIN.search(text)
    return text[: begun.start()] if begun else text


def read_json(text: str) -> Any:
    """The object or list that a model's answer holds, the longest of several; raises ValueError if there is none.

    Objects that stand one behind the other, with nothing said between them, are a list.
    """
    text = without_thoughts(text)[:MAX_CHARS]
    best, length = None, 0
    for start, end, value in _runs(text):
        if end - start > length:
            best, length = value, end - start
    if best is None:
        raise ValueError(f"no object or list in {len(text)} characters")
    return best


def _runs(text: str) -> Iterator[tuple[int, int, Any]]:
    """Start, end and value of each object or list, and of each row of objects."""
    row: list[Any] = []
    began = ended = 0
    for start, end, value in _values(text):
        between = _BETWEEN.fullmatch(text, ended, start)
        if row and isinstance(value, dict) and isinstance(row[-1], dict) and between:
            row.append(value)
        else:
            if row:
                yield began, ended, row if len(row) > 1 else row[0]
            row, began = [value], start
        ended = end
    if row:
        yield began, ended, row if len(row) > 1 else row[0]


def _values(text: str) -> Iterator[tuple[int, int, Any]]:
    """Each object or list that stands in the text, not those inside of others: start, end, value."""
    at = 0
    for _ in range(MAX_STARTS):
        start = min((place for bracket in "{[" if (place := text.find(bracket, at)) >= 0), default=-1)
        if start < 0:
            return
        try:
            value, at = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            try:
                read = _container(text, start, 0)
            except _NoValue:
                at = start + 1
                continue
            value, at = read.value, read.end
            if not read.is_whole and not value:
                continue
        yield start, at, value


def _container(text: str, at: int, depth: int) -> _Read:
    """The object or list that begins here, up to its last complete part if it was cut off."""
    if depth > MAX_DEPTH:
        raise _NoValue
    return (_object if text[at] == "{" else _list)(text, at + 1, depth)


def _object(text: str, at: int, depth: int) -> _Read:
    value: dict[str, Any] = {}
    while True:
        at = _past_idle(text, at)
        if at >= len(text):
            return _Read(value, at, is_whole=False)
        if text[at] in ",;":
            at += 1
            continue
        if text[at] == "}":
            return _Read(value, at + 1)
        name = _name(text, at)
        at = _past_idle(text, name.end)
        if at >= len(text) or not name.is_whole:
            return _Read(value, len(text), is_whole=False)
        if text[at] != ":":
            raise _NoValue
        at = _past_idle(text, at + 1)
        if at >= len(text):
            return _Read(value, at, is_whole=False)
        member = _value(text, at, depth, may_be_bare=True)
        if member.is_whole or (member.value and isinstance(member.value, list | dict)):
            value[name.value] = member.value
        if not member.is_whole:
            return _Read(value, member.end, is_whole=False)
        at = member.end


def _list(text: str, at: int, depth: int) -> _Read:
    value: list[Any] = []
    while True:
        at = _past_idle(text, at)
        if at >= len(text):
            return _Read(value, at, is_whole=False)
        if text[at] in ",;":
            at += 1
            continue
        if text[at] == "]":
            return _Read(value, at + 1)
        if value and isinstance(value[-1], dict) and (found := _NO_ITEM.match(text, at)):
            at = found.end()
            continue
        item = _value(text, at, depth, may_be_bare=False)
        if not item.is_whole:
            return _Read(value, item.end, is_whole=False)
        value.append(item.value)
        at = item.end


def _value(text: str, at: int, depth: int, *, may_be_bare: bool) -> _Read:
    """Any value. Bare words are taken for one only where a name stands before them: elsewhere they are prose."""
    first = text[at]
    if first in "{[":
        return _container(text, at, depth + 1)
    if first in _CLOSING:
        return _string(text, at)
    if found := _NUMBER.match(text, at):
        number = found.group()
        whole = found.end() < len(text)  # at the end of the text, digits may be missing
        return _Read(float(number) if set(number) & set(".eE") else int(number), found.end(), is_whole=whole)
    if (found := _NAME.match(text, at)) and found.group().lower() in _LITERALS:
        return _Read(_LITERALS[found.group().lower()], found.end())
    if may_be_bare and (found := _UNQUOTED.match(text, at)):
        return _Read(found.group().strip(), found.end(), is_whole=found.end() < len(text))
    raise _NoValue


def _name(text: str, at: int) -> _Read:
    """The name of an object's member, in quotation marks or without."""
    if text[at] in _CLOSING:
        return _string(text, at)
    if found := _NAME.match(text, at):
        return _Read(found.group(), found.end())
    raise _NoValue


def _string(text: str, at: int) -> _Read:
    """The string that begins here. A mark inside of it that nothing fit for an end follows belongs to it."""
    closing = _CLOSING[text[at]]
    special = _SPECIAL[closing]
    parts: list[str] = []
    at += 1
    while found := special.search(text, at):
        parts.append(text[at : found.start()])
        at = found.start()
        if text[at] == "\\":
            part, at = _escape(text, at)
            parts.append(part)
        elif _ENDS_VALUE.match(text, at + 1):
            return _Read("".join(parts), at + 1)
        else:
            parts.append(closing)
            at += 1
    return _Read("".join(parts), len(text), is_whole=False)


def _escape(text: str, at: int) -> tuple[str, int]:
    """What an escape stands for, and where it ends; a backslash before anything else is left as it is."""
    marked = text[at + 1 : at + 2]
    if marked == "u" and _HEX.match(text, at + 2):
        return chr(int(text[at + 2 : at + 6], 16)), at + 6
    return _ESCAPES.get(marked, "\\" + marked), at + 2


def _past_idle(text: str, at: int) -> int:
    found = _IDLE.match(text, at)
    return found.end() if found else at
