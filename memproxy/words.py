"""Text to index terms: stems without stop words, the same for what is stored and for what is asked.

The query engine's own tokeniser and stemmer are not used (they lose 2 to 5 points of recall), so a term is whatever
this module makes of a text, on both sides. A text is folded (compatibility forms, case, accents) and cut into runs:

- scripts that put no blanks between words, and Hangul: pairs of neighbouring characters;
- everything else: words of letters, marks and digits, stemmed as English (`_root`), stop words left out;
- identifiers, which are words and digits joined by punctuation ("LX-4417", "3.14", "2023-05-08"): their pieces, and the
  whole with the punctuation taken out, so that "LX-4417", "lx4417" and "4417" all find it.

Invariant: a term holds letters, marks and digits only, in lower case, at most `MAX_TERM_CHARS` of them:
nothing in it can mean anything to a query parser.
"""

import re
import unicodedata

import regex  # type: ignore[import-untyped]  # its stubs are not installed
import Stemmer

MAX_TERM_CHARS = 64
"""Longer words are digests or encoded data; their beginning tells them apart."""

LEAST_ROOT_CHARS = 5
"""Shorter roots belong to several words."""

_PEOPLE = ("ist", "ian")

STOP_WORDS = frozenset(
    """
    a about above after again against ain all also am an and any are aren as at be because been before being below
    between both but by can cannot could couldn d did didn do does doesn doing don down during each either else ever
    few for from further get gets getting go goes going gone got had hadn has hasn have haven having he hello her
    here hers herself hey hi him himself his how i if in into is isn it its itself just ll m ma me might mightn mine
    more most much must mustn my myself needn neither no nor not now o of off oh ok okay on once only or other ought
    our ours ourselves out over own please re s same shall shan she should shouldn so some such t than thank thanks
    that the their theirs them themselves then there these they this those through to today tomorrow tonight too
    under until up upon us ve very was wasn we were weren what when where which while who whom whose why will with
    won would wouldn y yeah yes yesterday yet you your yours yourself yourselves
    """.split()  # noqa: SIM905  a block of words reads better than a list of strings
)
"""English words that say nothing about what a text is about; apostrophes cut words, hence "don", "ll" and "ve"."""

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\u30fc"
_LETTERS = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]++"
_JOINTS = r"[-_./:#@+]"
_RUN = regex.compile(rf"(?V1)[{_UNSPACED}]++|{_LETTERS}(?:{_JOINTS}{_LETTERS})*+")
_ASCII_RUN = re.compile(rf"[a-z0-9]+(?:{_JOINTS}[a-z0-9]+)*")
_NAME = regex.compile(
    r"(?<=[^\s.!?:\u2026][\"')\u2019\u201d]?[^\S\n])[\"'(\u2018\u201c]?(\p{Lu}[\p{L}\p{M}\p{N}'\u2019-]*)"
)
"""Behind a blank that does not follow the end of a sentence."""

_ONE_UNSPACED = regex.compile(rf"[{_UNSPACED}]")
_JOINT = re.compile(_JOINTS)
_INVISIBLE = regex.compile(r"\p{Cf}+")
_ACCENTS = re.compile(r"[\u0300-\u036f]+")


class Terms:
    """Makes index terms. Not for use by two threads at once: the stemmer under it keeps a cache."""

    def __init__(self) -> None:
        self._stemmer = Stemmer.Stemmer("english")

    def of(self, text: str) -> list[str]:
        """All terms of a text in order, repeated as they repeat. Cost: 1 to 2 us a word."""
        words: list[str] = []
        wholes: list[str] = []
        for run in _runs(text):
            if not run.isascii() and _ONE_UNSPACED.match(run):
                wholes += _pairs(run)
                continue
            pieces = _JOINT.split(run)
            words += [piece[:MAX_TERM_CHARS] for piece in pieces if piece not in STOP_WORDS]
            if len(pieces) > 1 and any(map(str.isdigit, run)):
                wholes.append("".join(pieces)[:MAX_TERM_CHARS])
        return self._stems(words) + wholes

    def rows_of(self, phrase: str) -> list[list[str]]:
        """What stands side by side in every text that holds the phrase: its words, and each run of unspaced script."""
        words: list[str] = []
        rows: list[list[str]] = []
        for run in _runs(phrase):
            if not run.isascii() and _ONE_UNSPACED.match(run):
                rows.append(_pairs(run))
            else:
                words += [piece[:MAX_TERM_CHARS] for piece in _JOINT.split(run) if piece not in STOP_WORDS]
        return [row for row in (self._stems(words), *rows) if row]

    def names_in(self, text: str) -> frozenset[str]:
        """The terms of words that are written with a capital within a sentence: mostly names.

        Nothing is lost where all words are, or none: then all count alike.
        """
        return frozenset(self.of(" ".join(_NAME.findall(text))))

    def of_query(self, text: str, *, limit: int) -> list[str]:
        """The different terms of a query, at most `limit`: of a longer one the beginning and the end, half each."""
        unique = list(dict.fromkeys(self.of(text)))
        if len(unique) <= limit:
            return unique
        head = limit // 2
        return unique[:head] + unique[head - limit :]

    def _stems(self, words: list[str]) -> list[str]:
        return [_root(stem) for stem in self._stemmer.stemWords(words)]


def _root(stem: str) -> str:
    """What the stemmer leaves apart: allergy and allergic, history and historian, therapy and therapist.

    Only endings that hardly ever make two words one. What is short, such as "party" and "part", stays apart.
    """
    if stem.endswith("i"):
        return stem[:-1] if len(stem) >= LEAST_ROOT_CHARS + 1 else stem
    return stem[:-3] if stem.endswith(_PEOPLE) and len(stem) >= LEAST_ROOT_CHARS + 3 else stem


def without_stop_words(text: str) -> str:
    """The text's words that carry meaning, in their own spelling; the text itself if none do."""
    kept = [word for word in text.split() if not all(run in STOP_WORDS for run in _runs(word))]
    return " ".join(kept) or text


def _runs(text: str) -> list[str]:
    """Pieces of unspaced script, and words with what is joined to them, folded."""
    if text.isascii():
        return _ASCII_RUN.findall(text.lower())
    runs: list[str] = _RUN.findall(_fold(text))
    return runs


def _fold(text: str) -> str:
    """The text in one compatibility form, lower case, without accents and invisible characters."""
    visible = _INVISIBLE.sub("", text).casefold()
    bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", visible))
    return unicodedata.normalize("NFKC", bare).casefold()


def _pairs(run: str) -> list[str]:
    return [run] if len(run) == 1 else [run[at : at + 2] for at in range(len(run) - 1)]
