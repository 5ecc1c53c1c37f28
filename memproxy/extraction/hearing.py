"""What was said in turns, as far as memories may come from it: own words, no templates, no repetitions.

Both stages listen through this, so neither what is indexed nor what a model is shown holds junk. Two things can't be
told from a message alone and are looked up: which memories an answer repeats, and which lines of a user's message came
in several sessions before. The first are the memories that the answer is about, or the question before it: those that
were injected are among them, and so are those that code put into a prompt by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from memproxy.extraction.echoes import Known, known_by_terms, without_copies, without_echoes
from memproxy.extraction.grounding import squashed
from memproxy.extraction.spoken import Utterance, is_trivial, utterances
from memproxy.records import JsonObject, MemoryRecord, MemoryType, Scope, ScoredMemory, Turn
from memproxy.storage.schema import digest_of
from memproxy.wire.chat_completions import message_text
from memproxy.wire.chat_form import chat_form
from memproxy.words import Terms

LINE_CHARS = 60
"""A shorter line of a user's message is never taken for a template's: people do say the same thing twice."""

MAX_LINES = 40
"""Lines of one message that are looked up."""

TEMPLATE_SESSIONS = 3
"""A line that comes in so many of a user's sessions, word for word, is a template's."""

KNOWN_LIMIT = 12
"""Memories looked at for an answer, and for the question before it."""

LONG_ANSWER_CHARS = 600
"""So much of an answer is searched by; of a longer one, what it repeats is also sought by the question."""

NAME_QUERY = "What is the user's name?"
"""Asked of memory before a model is: "the user" in a memory is anybody, a name is somebody."""

NAMES_LIMIT = 3

TOOL_CHARS = 200_000
"""Of what tools gave in one turn; an answer copies no more."""


class Finds(Protocol):
    """Long-term memory, as far as it is searched here."""

    async def search(
        self, scope: Scope, query: str, *, limit: int, relevant_only: bool = True
    ) -> Sequence[ScoredMemory]:
        """At most `limit` memories that the query is about, best first."""


class CountsLines(Protocol):
    """Knows which of the sessions with a line one is."""

    async def sessions_with(self, scope: Scope, session: str, digests: Sequence[str]) -> Sequence[int]:
        """For each line 1 if this session of the user had it first, 2 if second, and so on."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What was said in the turns of one session."""

    said: tuple[Utterance, ...]
    known: tuple[MemoryRecord, ...] = ()
    """What is remembered of what the turns are about."""


class Hearing:
    """Listens to turns. Raises `StoreError`."""

    def __init__(self, memory: Finds, lines: CountsLines | None, terms: Terms) -> None:
        self._memory = memory
        self._lines = lines
        self._terms = terms

    async def hear(self, turns: Sequence[Turn], *, with_names: bool = False) -> Heard:
        """What was said in turns of one session, oldest first; `with_names` also finds what tells names.

        Cost: a search for each answer of a turn, another for names; one look-up of lines at most.
        """
        spoken = [(turn, _of_turn(turn)) for turn in turns]
        templates = await self._templates(turns[0], [one for _, said in spoken for one in said])
        own_turns = frozenset(turn.id for turn in turns)
        said: list[Utterance] = []
        known = await self._names(turns[0].scope) if with_names else {}
        before = utterances(turns[0].context)
        for turn, of_turn in spoken:
            heard = [_without_lines(one, templates) for one in of_turn]
            found = await self._known(turn.scope, before, heard, with_names=with_names)
            known |= {one.record.id: one.record for one in found}
            heard = _without_repetitions(heard, found, turn=turn, own_turns=own_turns, terms=self._terms)
            said += [one for one in heard if one.words]
            before = heard
        others = [record for record in known.values() if not own_turns & set(record.turns)]
        return Heard(tuple(said), tuple(others))

    async def _known(
        self, scope: Scope, before: Sequence[Utterance], heard: Sequence[Utterance], *, with_names: bool
    ) -> list[Known]:
        """The memories that an answer may repeat, and with `with_names` those that the user's words are about."""
        answers = [one.words for one in heard if one.role == "assistant" and not is_trivial(one.words)]
        questions = [one.words for one in (*before, *heard) if one.role == "user" and not is_trivial(one.words)]
        queries = answers[-1:]
        if with_names or sum(map(len, answers)) > LONG_ANSWER_CHARS:
            queries += questions[-1:]
        found: dict[str, MemoryRecord] = {}
        for query in queries:
            for scored in await self._memory.search(scope, query, limit=KNOWN_LIMIT, relevant_only=False):
                found[scored.record.id] = scored.record
        return known_by_terms(found.values(), self._terms)

    async def _names(self, scope: Scope) -> dict[str, MemoryRecord]:
        """Facts that tell what the user is called."""
        found = await self._memory.search(scope, NAME_QUERY, limit=NAMES_LIMIT)
        return {one.record.id: one.record for one in found if one.record.type is not MemoryType.MESSAGE}

    async def _templates(self, turn: Turn, said: Sequence[Utterance]) -> frozenset[str]:
        """Digests of lines that are a template's and not the user's."""
        digests = list(dict.fromkeys(digest for one in said for digest in line_digests(one)))
        if self._lines is None or not digests:
            return frozenset()
        ranks = await self._lines.sessions_with(turn.scope, turn.session, digests)
        return frozenset(digest for digest, rank in zip(digests, ranks, strict=True) if rank >= TEMPLATE_SESSIONS)


def line_digests(said: Utterance) -> list[str]:
    """Digests of the long lines of a user's message."""
    if said.role != "user":
        return []
    return [digest for line in said.words.splitlines() if (digest := _digest(line))][:MAX_LINES]


def _digest(line: str) -> str:
    plain = squashed(line) if len(line) >= LINE_CHARS else ""
    return digest_of("line", plain) if plain else ""


def _without_lines(said: Utterance, templates: frozenset[str]) -> Utterance:
    if said.role != "user" or not templates:
        return said
    kept = [line for line in said.words.splitlines() if _digest(line) not in templates]
    return replace(said, words="\n".join(kept).strip())


def _of_turn(turn: Turn) -> list[Utterance]:
    return [replace(one, turn=one.turn or turn.id) for one in utterances(turn.messages)]


def _without_repetitions(
    heard: Sequence[Utterance], known: Sequence[Known], *, turn: Turn, own_turns: frozenset[str], terms: Terms
) -> list[Utterance]:
    said = [chat_form(one.message) for one in turn.messages]
    results = [message_text(message) for message in said if message.get("role") in {"tool", "function"}]
    used_tools = bool(results) or any(map(_calls, said))
    tool_words = squashed("\n".join(results)[:TOOL_CHARS])
    return [
        without_echoes(without_copies(one, tool_words), known, used_tools=used_tools, own_turns=own_turns, terms=terms)
        for one in heard
    ]


def _calls(message: JsonObject) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))
