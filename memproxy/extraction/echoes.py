"""What an assistant only repeats: memories it was shown, and pages that its tools gave it; pure.

An answer that says "as you told me, you are allergic to peanuts" says nothing new, and must not become a memory, or
memory would feed on itself, each time a little further from what was said. A sentence is a repetition when a memory or
two have nearly all of its telling words, every number of it, and say it of the same thing (both with "not" or both
without).

A message of a conversation counts as repeated only where no tool was used since: with fresh results at hand, "table 12
is booked" after "book table 12" is news.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from memproxy.extraction.grounding import denies, squashed
from memproxy.extraction.spoken import Utterance, sentences
from memproxy.records import MemoryRecord, MemoryType
from memproxy.words import Terms

REPEATED_TERMS = 0.8
"""The share of a sentence's telling words that memories must have."""

LEAST_TERMS = 2
"""Telling words; a sentence of fewer is no statement."""

COPIED_SENTENCE_CHARS = 40
COPIED_CHARS = 600
"""Of a tool's words in an answer; what is shorter is an answer, what is longer the tool's page."""

_REPLY = re.compile(r"\W*(?:no|nope|nein|non)\s*[,:;.!\u2013\u2014-]", re.IGNORECASE)
"""A "no" before a sentence answers a question; it does not deny what the sentence says."""

_TELLING = """
according asked already background before conversation earlier memory memories mention mentioned note noted notes recall
recalled record records reminder remember remembered said say stated tell told user
"""
"""Words around a repetition: they say that it is one."""


@dataclass(frozen=True, slots=True)
class Known:
    """A memory, as far as repetitions are told by it."""

    record: MemoryRecord
    terms: frozenset[str]
    denies: bool


def known_by_terms(records: Iterable[MemoryRecord], terms: Terms) -> list[Known]:
    """What is known already, ready for comparing."""
    return [Known(record, frozenset(terms.of(record.text)), denies(record.text)) for record in records]


def without_echoes(
    said: Utterance, known: Sequence[Known], *, used_tools: bool, own_turns: frozenset[str], terms: Terms
) -> Utterance:
    """What an assistant said, without the sentences that only repeat what was known before."""
    counted = [one for one in known if _counts(one.record, said, used_tools=used_tools, own_turns=own_turns)]
    if said.role != "assistant" or not counted:
        return said
    kept = [sentence for sentence in sentences(said.words) if not repeats(sentence, counted, terms)]
    return replace(said, words="".join(kept).strip())


def _counts(record: MemoryRecord, said: Utterance, *, used_tools: bool, own_turns: frozenset[str]) -> bool:
    """Whether a memory was there to be repeated, and is one that may not be."""
    was_there = record.created_at < said.at and not own_turns & set(record.turns)
    return was_there and not (used_tools and record.type is MemoryType.MESSAGE)


def repeats(sentence: str, known: Sequence[Known], terms: Terms) -> bool:
    """Whether one or two memories say all that a sentence does."""
    telling = frozenset(terms.of(sentence)) - frozenset(terms.of(_TELLING))
    if len(telling) < LEAST_TERMS:
        return False
    is_denial = denies(_REPLY.sub("", sentence))
    shares = sorted((telling & one.terms for one in known if one.denies is is_denial), key=len, reverse=True)
    if not shares:
        return False
    best = shares[0]
    second = max((best | other for other in shares[1:]), key=len, default=best)
    numbers = {term for term in telling if any(map(str.isdigit, term))}
    return any(len(have) >= REPEATED_TERMS * len(telling) and numbers <= have for have in (best, second))


def without_copies(said: Utterance, tool_words: str) -> Utterance:
    """What an assistant said, without the page that it copied; `tool_words`: what tools gave, `squashed`."""
    if said.role != "assistant" or not tool_words:
        return said
    parts = [(sentence, squashed(sentence)) for sentence in sentences(said.words)]
    copied = [len(plain) >= COPIED_SENTENCE_CHARS and plain in tool_words for _, plain in parts]
    if sum(len(plain) for (_, plain), is_copy in zip(parts, copied, strict=True) if is_copy) < COPIED_CHARS:
        return said
    kept = [sentence for (sentence, _), is_copy in zip(parts, copied, strict=True) if not is_copy]
    return replace(said, words="".join(kept).strip())
