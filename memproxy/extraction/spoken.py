"""Who said what in a turn: the words that memories may come from; pure.

Only what the user and the assistant said themselves counts. Instructions (system, developer), tool calls and tool
results are left out: they are long, they are not about anybody, and what they say is repeated by the assistant where
it matters. So is what was only put into a message (`own_words`).
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise

from memproxy.extraction.own_words import own_words
from memproxy.records import StoredMessage
from memproxy.wire.chat_completions import message_text
from memproxy.words import STOP_WORDS

PIECE_CHARS = 1_500
"""A memory longer than this is about too much: its vector is a blur, and it eats the budget of three others."""
MAX_PIECES = 20
"""Pieces kept of one message: 30,000 characters. Longer is a pasted document, which has a better home."""
MAX_NAME_CHARS = 64
"""OpenAI's limit for a message's `name`."""

SPEAKERS = frozenset({"user", "assistant"})

PHATIC = STOP_WORDS | frozenset(
    """
    absolutely ahead agreed alright amazing anything appreciate appreciated assist awesome bye certainly cheers
    continue cool correct course definitely done else exactly excellent fine glad good goodbye gotcha great happy help
    hmm indeed interesting k know let lot makes much need nice nope noted np perfect problem proceed really right
    sense sorry sounds sure today ty thx understood welcome well wonderful wow yep yup
    bitte bonjour ça danke de genau grazie hallo hola ja klar merci nada nein oui obrigado prego gracias si sí
    """.split()  # noqa: SIM905  a block of words reads better than a list of strings
)
"""Words of replies that only keep a conversation going. A reply of nothing else is not worth a memory."""

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?…][^\w\s]{0,2}\s+|[\u3002\uff01\uff1f]|\n+")
"""Behind the mark may stand a quotation mark and a bracket; behind those of scripts without blanks, nothing need."""

_BLANK = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Utterance:
    """What one of the two said in one message."""

    role: str
    """user or assistant."""
    speaker: str
    """The message's `name` where it has one, else User or Assistant."""
    words: str
    """What the speaker said in person."""
    at: datetime
    turn: str = ""
    """The id of the turn that brought it."""


def utterances(messages: Iterable[StoredMessage]) -> list[Utterance]:
    """What user and assistant said in these messages, in order; messages without words are left out."""
    said = []
    for stored in messages:
        role = stored.message.get("role")
        if not isinstance(role, str) or role not in SPEAKERS:
            continue
        words = own_words(message_text(stored.message), is_user=role == "user")
        if words:
            speaker = _speaker(role, stored.message.get("name"))
            said.append(Utterance(role, speaker, words, stored.at, stored.turn))
    return said


def sentences(words: str) -> list[str]:
    """The words cut behind each sentence and line; joined they are the words again."""
    ends = [found.end() for found in _SENTENCE_END.finditer(words)]
    return [words[start:end] for start, end in pairwise([0, *ends, len(words)]) if start < end]


def _speaker(role: str, name: object) -> str:
    given = " ".join(name.split())[:MAX_NAME_CHARS] if isinstance(name, str) else ""
    return given or role.capitalize()


def is_trivial(words: str) -> bool:
    """Whether nothing is lost without these words: thanks, greetings, a bare yes. Anything with a digit is kept."""
    found = _WORD.findall(unicodedata.normalize("NFKC", words).casefold())
    return all(word in PHATIC for word in found)


def pieces(words: str) -> list[str]:
    """The words in pieces of at most PIECE_CHARS, cut at the ends of sentences where there are any."""
    rest = words.strip()
    cut: list[str] = []
    while rest and len(cut) < MAX_PIECES:
        end = len(rest) if len(rest) <= PIECE_CHARS else _last_break(rest)
        cut.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return cut


def _last_break(text: str) -> int:
    """Where to cut a longer text: after a sentence, else after a word, else in the middle of one."""
    for pattern in (_SENTENCE_END, _BLANK):
        ends = [found.end() for found in pattern.finditer(text, PIECE_CHARS // 2, PIECE_CHARS)]
        if ends:
            return ends[-1]
    return PIECE_CHARS


def day(at: date) -> str:
    """The day as people write it: 8 May 2023."""
    return f"{at.day} {at:%B %Y}"
