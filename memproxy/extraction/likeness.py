"""Whether two statements say the same, may speak of the same, or have nothing to do with each other; pure.

Vectors alone can't tell: "has two cats" and "has three cats", "likes dogs" and "doesn't like dogs", "Ann gave Bob a
book" and "Bob gave Ann a book" are as near to each other as words put another way. So only what is equal word for word,
but for words that say nothing, is *the same* without asking anybody; what is near, or speaks of what changes, is
*unsure* and a model's to decide; everything else is *different*. Nothing is lost by a threshold.

The words of what changes are English; in other languages only nearness and shared words lead to a question.
"""

import enum
import re
import unicodedata
from dataclasses import dataclass
from types import MappingProxyType

from memproxy.words import STOP_WORDS, Terms

SAME_COSINE = 0.9
"""Statements with equal words are nearer than this; below it the words must have been cut differently."""

NEAR_COSINE = 0.8
"""Above it, statements are worth a look whatever they speak of. Measured on 1,283 observations about ten people: one in
thirteen has another so near, and a third of those are the same put another way."""

MOVING_COSINE = 0.2
"""The least for a change in what both statements speak of: "lives in Paris" and "moved to Berlin" have 0.4,
with "the user" before them 0.28. Asking costs little, and what is not asked about stays a contradiction."""

STILL_COSINE = 0.6
"""The same where nothing says that something changed."""

SHORT_COSINE = 0.3
SHORT_TERMS = 3
"""The same for statements of so few words each: "lives in Paris" and "lives in Berlin" have 0.51, or 0.44 with "the
user" before them; "works at Acme" and "works at Globex" 0.37."""

SHARED_TERMS = 0.75
"""The share of the shorter statement's words that the other has, from which on the two are worth a look."""

LEAST_SHARED = 3
"""So many words at least: of two, one is often the verb that all have."""


class Likeness(enum.Enum):
    """What two statements are to each other, as far as words tell."""

    SAME = enum.auto()
    UNSURE = enum.auto()
    DIFFERENT = enum.auto()


@dataclass(frozen=True, slots=True)
class Gist:
    """A statement, as far as it is compared."""

    skeleton: tuple[str, ...]
    """Its words in order, without those that say nothing, plurals undone, numbers as digits."""
    terms: frozenset[str]
    """Its stems, without whom it is about."""
    subject: str
    """The name or role that it begins with, in lower case; empty when it begins otherwise."""
    matters: frozenset[int]
    """Which of the things that change over time it speaks of."""
    tells_change: bool
    """It says that something is not as it was."""


_IDLE = frozenset(
    {"a", "an", "also", "definitely", "indeed", "just", "quite", "really", "that", "the", "truly", "very"}
)
_NUMBER_WORDS = MappingProxyType(
    {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
    | {"ten": "10", "eleven": "11", "twelve": "12", "second": "2nd", "third": "3rd", "first": "1st"}
)
_USER = frozenset({"user", "users"})

_WORD = re.compile(r"[^\W_]+(?:[-.:/@'\u2019+#&][^\W_]+)*[+#%]*")
_NEGATED = re.compile(r"n['\u2019]t\b", re.IGNORECASE)
_POSSESSIVE = re.compile(r"['\u2019]s\b")

_MATTERS = tuple(
    frozenset(words.split())
    for words in """
    address apartment city flat home house live lived lives living move moved moving relocate relocated rent rents
    reside resides

    career company employed employer engineer freelance hired job joined manager position promoted quit resigned retired
    role salary startup team work worked working works

    boyfriend dating divorced engaged girlfriend husband married partner relationship separated single spouse wedding
    wife

    baby born child children daughter kids pregnant son

    account called contact email mail name named nickname number phone pronouns surname telephone username

    best color colour dislike dislikes enjoy enjoys favorite favourite hate hates like likes love loves prefer
    preference prefers want wants

    allergic allergy breakfast coffee diet drink drinks eat eating eats food gluten meat pescatarian tea vegan
    vegetarian

    condition diagnosed doctor dose health injury medication pain pills recovered sick surgery therapy

    bike bought car cat computer dog drive drives laptop own owns pet phone sold

    appointment arrive arrives booked cancel canceled cancelled deadline delayed delivery due flight meeting order plan
    planned planning plans postponed reservation rescheduled scheduled session shipped trip

    college course degree graduated learning major school studies study studying training university

    app database editor framework language laptop library linux mac model os python rust software stack switched uses
    using version windows

    exercise gym hobby marathon practice running sport swimming training workout yoga

    age aged birthday old turned years

    budget cost income limit pay pays price subscription
    """.split("\n\n")  # noqa: SIM905  blocks of words read better than lists of strings
)
"""Words by what they speak of: home, work, ties, family, how to be reached, taste, food, health, belongings, plans,
learning, tools, sport, age, money. Two statements about one of these may not hold at the same time."""

_CHANGE = frozenset(
    """
    again anymore became become canceled cancelled changed divorced ended former formerly instead longer moved new now
    postponed previously quit replaced rescheduled resigned retired sold stopped switched turned upgraded
    """.split()  # noqa: SIM905  a block of words reads better than a list of strings
)
"""Words that say that something is not as it was. "Longer" as in "no longer"."""


def gist(text: str, terms: Terms) -> Gist:
    """What of a statement is compared."""
    plain = _NEGATED.sub(" not", unicodedata.normalize("NFKC", text))
    written = _WORD.findall(_POSSESSIVE.sub("", plain))
    words = [word.casefold() for word in written]
    subject = _subject(written)
    content = frozenset(terms.of(plain))
    about = frozenset(terms.of(f"{subject} user"))
    return Gist(
        skeleton=tuple(_bare(word) for word in words if word not in _IDLE),
        terms=content - about or content,
        subject=subject,
        matters=frozenset(at for at, named in enumerate(_MATTERS) if not named.isdisjoint(words)),
        tells_change=not _CHANGE.isdisjoint(words),
    )


def likeness(new: Gist, old: Gist, *, cosine: float) -> Likeness:
    """What a new statement is to an old one. `cosine`: of their vectors, 0 for what is unrelated."""
    if new.skeleton == old.skeleton:
        return Likeness.SAME if cosine >= SAME_COSINE else Likeness.UNSURE
    if _about_others(new, old) and cosine < SAME_COSINE:
        return Likeness.DIFFERENT
    if cosine >= NEAR_COSINE or _shares_words(new, old):
        return Likeness.UNSURE
    are_short = max(len(new.terms), len(old.terms)) <= SHORT_TERMS
    least = MOVING_COSINE if new.tells_change else SHORT_COSINE if are_short else STILL_COSINE
    return Likeness.UNSURE if new.matters & old.matters and cosine >= least else Likeness.DIFFERENT


def _about_others(new: Gist, old: Gist) -> bool:
    """The two are about different people. "The user" may be anybody."""
    named = bool(new.subject and old.subject) and not {new.subject, old.subject} & _USER
    return named and new.subject != old.subject


def _shares_words(new: Gist, old: Gist) -> bool:
    shared = len(new.terms & old.terms)
    return shared >= LEAST_SHARED and shared >= SHARED_TERMS * min(len(new.terms), len(old.terms))


def _subject(written: list[str]) -> str:
    """The first word that is no stop word, where it is a name or the user."""
    first = next((word for word in written[:2] if word.casefold() not in STOP_WORDS), "")
    return first.casefold() if first[:1].isupper() or first.casefold() in _USER else ""


def _bare(word: str) -> str:
    """The word as digits if it is a number, without a plural's ending otherwise."""
    if word in _NUMBER_WORDS:
        return _NUMBER_WORDS[word]
    is_plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if is_plural else word
