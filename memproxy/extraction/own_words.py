"""What of a message its author said, and what was only put into it; pure.

Agents and people put much into a message that nobody said: code, logs, files, pages, the text of tools between tags,
instructions to the model. None of it is about anybody, all of it is long, and in a memory it would stand for ever. What
is left here is what a person would read out as said.
"""

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

LONG_CHARS = 8_000
"""Beyond this a message is a paste, whatever it is: people say what they want before it or behind it."""

END_CHARS = 2_000
"""Kept of either end of a paste."""

MACHINE_LINES = 4
"""So many lines in a row that look like a machine's are left out; a single one may be what is talked about."""

LEAST_INSTRUCTIONS = 200
"""Characters. What is shorter is a wish, not a prompt."""

SENTENCE_BLANKS = 3
"""A string in an answer's JSON that has fewer is a name or a number."""

MAX_TAGS = 500
"""Opening tags that are looked at in one message."""

_PUT_IN = frozenset(
    """
    attachment attachments code content context data diff document documents earlier environment example examples file
    files history instruction instructions log logs memories memory metadata output page pages reminder result results
    rules search snippet snippets source sources stderr stdout system tool tools transcript
    """.split()  # noqa: SIM905  a block of words reads better than a list of strings
)
"""Words in the names of tags between which agents put what is not the user's: `<system-reminder>`, `<file_contents>`.
Tags of other names are left alone: some agents wrap the user's own words (`<task>`, `<user_message>`)."""

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[^\n]*\n.*?(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_TAG = re.compile(r"<([A-Za-z][\w:.-]{0,60})(?:\s[^<>]{0,500})?>")
_LETTERS = re.compile(r"[a-z]+")
_UNBROKEN = re.compile(r"\S{200,}")
"""Encoded data: no word of any language with blanks is so long."""

_INDENT = ("  ", "\t")
"""What begins so behind a machine's line goes on with it."""

_PARAGRAPH_END = re.compile(r"\n\s*\n")

_MACHINE = re.compile(
    r"""
      \s*["'][\w .-]{1,60}["']\s*:                               # a member of a JSON object
    | \s*[\[\](){},;]+\s*$                                       # brackets alone
    | \s*(?:at\s+[\w.$<>/]+\(|File\s".*",\sline\s\d|Traceback\s|Caused\sby:|\.\.\.\s\d+\smore)
    | \s*\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d | \s*\[?\d\d:\d\d:\d\d   # a log's line begins with its time
    | \s*(?:DEBUG|INFO|WARN(?:ING)?|ERROR|TRACE)\b[\s:\]]
    | \s*</?[A-Za-z!?][^>]*>                                     # markup
    | (?:diff\s--git|@@\s|[-+]{3}\s[ab]/|index\s[0-9a-f]{7})     # a patch
    | (?:[^\t]*\t){3} | (?:[^,\s][^,]*,(?!\s)){4}                # a table's row
    | \s*(?:def|class|import|from|return|const|let|var|function|public|private|static|void|using|package|async|await
          |export|elif|else|SELECT|INSERT|UPDATE|CREATE)\b.*[;{}():,=]\s*$
    | \s*["{\[].*[,\]}]\s*$ | .*[;{]\s*$
    """,
    re.VERBOSE,
)

_ADDRESSES_MODEL = re.compile(
    r"\W*(?:(?:(?:you\s+are|you're)\s+(?:now\s+)?(?:an?|the|my|acting|working)|act\s+as|imagine\s+(?:that\s+)?you\s+are|"
    r"pretend\s+to\s+be|your\s+(?:task|role|job|goal)\s+is)\b|(?:system(?:\s+prompt)?|instructions?|role|rules|guidelines|output\s+format|response\s+format)\s*(?::|\n))",
    re.IGNORECASE,
)
_DEMANDS = re.compile(
    r"\b(?:must|should|always|never|respond|reply|answer|output|format|follow|instructions?|do\s+not|don't|only|ensure|"
    r"return|provide|avoid|use)\b",
    re.IGNORECASE,
)
_ENTRY = re.compile(r"\s*(?:[-*\u2022#]|\d{1,2}[.)])\s")


def own_words(text: str, *, is_user: bool) -> str:
    """The message's text as far as its author said it; empty when nothing is left.

    Instructions are looked for in a user's message only: a model gives none. An answer in JSON says what its strings
    say.
    """
    if not is_user and (said := _said_in_json(text)) is not None:
        return said
    text = without_tags(_FENCE.sub("\n", text))
    text = _UNBROKEN.sub(" ", text)
    text = "\n".join(_without_machine_lines(text.splitlines()))
    text = (_without_instructions(text) if is_user else text).strip()
    if len(text) <= LONG_CHARS:
        return text
    return f"{_upto_blank(text[:END_CHARS])}\n\n{_from_blank(text[-END_CHARS:])}"


def _said_in_json(text: str) -> str | None:
    """The sentences in an answer that is a JSON object as a whole; None if it is none."""
    if not text.lstrip().startswith("{") or len(text) > LONG_CHARS:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return "\n".join(said for said in _strings(value) if said.count(" ") >= SENTENCE_BLANKS or not said.isascii())


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value.strip()
        case dict():
            yield from chain.from_iterable(map(_strings, value.values()))
        case list():
            yield from chain.from_iterable(map(_strings, value))
        case _:
            pass


def without_tags(text: str) -> str:
    """The text without what stands between tags whose names say that it was put in."""
    kept, at = [], 0
    for count, found in enumerate(_TAG.finditer(text)):
        name = found.group(1)
        if count >= MAX_TAGS:
            break
        if found.start() < at or not _PUT_IN & set(_LETTERS.findall(name.lower())):
            continue
        closing = f"</{name}>"
        end = text.find(closing, found.end())
        if end >= 0:
            kept.append(text[at : found.start()])
            at = end + len(closing)
    return "\n".join([*kept, text[at:]])


def _without_machine_lines(lines: list[str]) -> Iterator[str]:
    run: list[str] = []
    for line in lines:
        is_inside = bool(run) and (not line.strip() or line.startswith(_INDENT))
        if is_inside or (line.strip() and is_machine_line(line)):
            run.append(line)
        else:
            yield from _kept(run)
            yield line
            run = []
    yield from _kept(run)


def _kept(run: list[str]) -> list[str]:
    return run if sum(1 for line in run if line.strip()) < MACHINE_LINES else [""]


def is_machine_line(line: str) -> bool:
    """Whether a line looks as if no person had written it."""
    line = line[:400]
    if _MACHINE.match(line):
        return True
    said = sum(1 for character in line if character.isalpha() or character == " ")
    return len(line) >= 16 and said < len(line) / 2


def _without_instructions(text: str) -> str:
    """The text without instructions to a model: a paragraph that addresses it, and the rules that follow."""
    if len(text) < LEAST_INSTRUCTIONS or len(_DEMANDS.findall(text)) < 2:
        return text
    kept = []
    is_among = False
    for paragraph in _PARAGRAPH_END.split(text):
        is_among = bool(_ADDRESSES_MODEL.match(paragraph)) or (is_among and _is_rule(paragraph))
        if not is_among:
            kept.append(paragraph)
    return "\n\n".join(kept)


def _is_rule(paragraph: str) -> bool:
    lines = [line for line in paragraph.splitlines() if line.strip()]
    entries = sum(1 for line in lines if _ENTRY.match(line))
    return entries * 2 >= len(lines) or len(_DEMANDS.findall(paragraph)) >= 2


def _upto_blank(text: str) -> str:
    return text.rpartition(" ")[0] or text


def _from_blank(text: str) -> str:
    return text.partition(" ")[2] or text
