"""Which of the words that were said a memory rests on; pure.

A model has to quote what it goes by. The quotation is compared as forgivingly as small models need, who change case and
punctuation, leave words out and correct a slip of the pen, and no more: its words must stand in one message, in their
order and close together, with every number and every "not". A memory without a quotation has to consist of words that
were said. What a model thought of by itself falls.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches

from memproxy.extraction.spoken import Utterance, sentences
from memproxy.words import STOP_WORDS, Terms

LEAST_EVIDENCE = 3
"""Letters and digits of a quotation; less is found anywhere."""

QUOTED_WORDS = 0.85
"""The share of a longer quotation's words that must have been said."""

LEAST_QUOTED = 5
"""So many words it must have for one of them to be wrong."""

SPREAD = 1.4
"""How much longer the place may be where they were said."""

SPELLED = 0.8
"""How alike two spellings of a word are, by difflib's ratio."""

SAID_TERMS, KNOWN_TERMS = 0.5, 0.8
"""Without a quotation: the share of a memory's telling words that one message must have, and that the whole
conversation must have."""

NOT = frozenset(
    """
    aint arent cannot cant couldnt didnt doesnt dont hadnt hasnt havent isnt jamais kein keine keinen mustnt never nicht
    nie no nobody non none nor not nothing nunca pas shouldnt wasnt werent without wont wouldnt
    """.split()  # noqa: SIM905  a block of words reads better than a list of strings
)
"""Words that turn a statement round, without their apostrophes."""

_WORD = re.compile(r"\w+")
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")
_IDENTIFIER = re.compile(r"[A-Za-z0-9#][\w#.@/-]*[A-Za-z0-9]")
_CONCLUDED = re.compile(r"(?:19|20)\d\d|\d{4}-\d\d(?:-\d\d)?|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d+000")
"""Years, dates and round numbers, which may have been said in other words."""

_LEAST_IDENTIFIER, _LEAST_DIGITS = 4, 3


@dataclass(frozen=True, slots=True)
class Source:
    """Where a memory comes from."""

    said: Utterance
    quotation: str
    """The words of it that say so."""


def squashed(text: str) -> str:
    """The text's letters and digits alone, in one case: equal for texts that differ in blanks and punctuation."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def quoted_from(evidence: str, said: Sequence[Utterance]) -> Source | None:
    """Who said the evidence, the latest first; a quotation with gaps ("...") has to have all its parts in one place."""
    parts = [part for part in map(squashed, re.split(r"\.{3,}|\u2026|\[\.*\]", evidence)) if part]
    if sum(map(len, parts)) < (LEAST_EVIDENCE if evidence.isascii() else 1):
        return None
    for one in reversed(said):
        words = squashed(one.words)
        if all(part in words for part in parts):
            return Source(one, evidence.strip())
    quoted = _words(evidence)
    if len(quoted) < LEAST_QUOTED:
        return None
    return next((Source(one, evidence.strip()) for one in reversed(said) if _is_said(quoted, _words(one.words))), None)


def spoken_of(text: str, said: Sequence[Utterance], *, around: Iterable[str], terms: Terms) -> Source | None:
    """Who said what a memory without quotation tells, and the sentence that says most of it.

    `around`: what else of the conversation may have given a name or a word.
    """
    speakers = " ".join(one.speaker for one in said)
    wanted = set(terms.of(text)) - set(terms.of(f"{speakers} user assistant"))
    if not wanted:
        return None
    shares = [len(wanted & set(terms.of(one.words))) / len(wanted) for one in said]
    best = max(range(len(said)), key=lambda at: (shares[at], at), default=None)
    if best is None or shares[best] < SAID_TERMS:
        return None
    known = {term for words in (*around, *(one.words for one in said)) for term in terms.of(words)}
    sentence = max(sentences(said[best].words), key=lambda each: len(wanted & set(terms.of(each))))
    if len(wanted & known) < KNOWN_TERMS * len(wanted) or denies(text) is not denies(sentence):
        return None
    return Source(said[best], sentence.strip())


def invents(text: str, said: Iterable[str]) -> bool:
    """Whether the text has an identifier or a long number that nobody mentioned: such things can't be concluded."""
    named = [word for word in _IDENTIFIER.findall(text) if _is_identifier(word)]
    known = squashed(" ".join(said)) if named else ""
    return any(squashed(word) not in known for word in named)


def _is_identifier(word: str) -> bool:
    is_long = len(word) >= _LEAST_IDENTIFIER and sum(map(str.isdigit, word)) >= _LEAST_DIGITS
    return is_long and not _CONCLUDED.fullmatch(word)


def _is_said(quoted: Sequence[str], words: Sequence[str]) -> bool:
    """Whether nearly all of the quotation was said, in its order and close together, and what counts of it exactly."""
    blocks = [
        block for block in SequenceMatcher(None, quoted, words, autojunk=False).get_matching_blocks() if block.size
    ]
    matched = sum(block.size for block in blocks)
    if not blocks or matched < QUOTED_WORDS * len(quoted):
        return False
    start, end = blocks[0].b, blocks[-1].b + blocks[-1].size
    if end - start > SPREAD * len(quoted) + 1:
        return False
    place = words[start:end]
    missing = set(quoted) - set(place)
    return _count_not(quoted) == _count_not(place) and all(_may_be_missing(word, place) for word in missing)


def _may_be_missing(word: str, place: Sequence[str]) -> bool:
    """A word that carries no meaning, or one that was only spelled otherwise; never a number or a "not"."""
    if any(map(str.isdigit, word)) or word in NOT:
        return False
    return word in STOP_WORDS or bool(get_close_matches(word, place, n=1, cutoff=SPELLED))


def _words(text: str) -> list[str]:
    return _WORD.findall(_APOSTROPHE.sub("", unicodedata.normalize("NFKC", text).casefold()))


def _count_not(words: Sequence[str]) -> int:
    return sum(word in NOT for word in words)


def denies(text: str) -> bool:
    """Whether the text says that something is not so."""
    return _count_not(_words(text)) > 0
