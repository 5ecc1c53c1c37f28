"""What of the evidence stood in the blocks that the model server got. Pure."""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.retrieval_dialogues import Asked, Dialogue
from memproxy.records import JsonObject

_BLOCK = re.compile(r"<memproxy-memory[^>]*>\n(.*?)\n</memproxy-memory>", re.DOTALL)
_LABEL = re.compile(r"^[^():]+ \([^()]+\): ")
"""Speaker and day, which stand before what was said."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as the model server got it."""

    asked: Asked
    lines: tuple[str, ...]
    """Of its block: one a memory, in their order."""
    tokens: int
    """Of its whole block."""
    recall_s: float
    """How long memproxy searched."""
    degraded: bool


def block_of(words: str) -> str:
    """The block of memories in a message, its frame included; nothing if there is none."""
    found = _BLOCK.search(words)
    return found[0] if found else ""


def lines_of(block: str) -> tuple[str, ...]:
    """The memories in a block."""
    found = _BLOCK.search(block)
    return tuple(line.removeprefix("- ") for line in found[1].split("\n")) if found else ()


class Evidence:
    """Knows which turns a line tells: what was said with its label, or a fact that rests on it."""

    def __init__(self, dialogues: Iterable[Dialogue]) -> None:
        self._said: dict[str, dict[str, set[str]]] = {}
        self._noted: dict[str, dict[str, set[str]]] = {}
        for dialogue in dialogues:
            said: dict[str, set[str]] = defaultdict(set)
            noted: dict[str, set[str]] = defaultdict(set)
            for turn in dialogue.turns:
                said[_plain(turn.text)].add(turn.id)
            for fact in dialogue.facts:
                noted[_plain(fact.text)] |= fact.sources
            self._said[dialogue.user], self._noted[dialogue.user] = dict(said), dict(noted)

    def of(self, user: str, line: str) -> set[str]:
        """The ids of the turns that a line tells; none for a line that is not this user's."""
        said = self._said[user].get(_plain(_LABEL.sub("", line, count=1)), set())
        return said | self._noted[user].get(_plain(line), set())

    def recall(self, received: Received) -> float:
        """The share of the question's evidence that stood in the block, 0..1."""
        wanted = received.asked.evidence
        told = {turn for line in received.lines for turn in self.of(received.asked.user, line)}
        return len(wanted & told) / len(wanted)


def own_scores(received: Sequence[Received], evidence: Evidence, dialogues: Sequence[Dialogue]) -> JsonObject:
    """Recall over all questions, and over those of the conversations the ranking was and was not chosen on."""
    recalls = [(each.asked.user, evidence.recall(each)) for each in received]
    new = {dialogue.user for dialogue in dialogues if dialogue.is_new}
    return {
        "recall": _mean(value for _, value in recalls),
        "recall_chosen_on": _mean(value for user, value in recalls if user not in new),
        "recall_new": _mean(value for user, value in recalls if user in new),
        "tokens": _mean(each.tokens for each in received),
        "memories": _mean(len(each.lines) for each in received),
        "degraded": sum(each.degraded for each in received),
        "questions": len(received),
    }


def foreign_scores(received: Sequence[Received]) -> JsonObject:
    """How much was told to questions about somebody else: those that name nobody known here, and those that do."""
    kinds: Mapping[str, Sequence[Received]] = {
        "strangers": [each for each in received if not each.asked.names_speaker],
        "namesakes": [each for each in received if each.asked.names_speaker],
    }
    return {
        name: {
            "questions": len(those),
            "told_nothing": _mean(not each.lines for each in those),
            "memories": _mean(len(each.lines) for each in those),
            "tokens": _mean(each.tokens for each in those),
        }
        for name, those in kinds.items()
    }


def search_ms(received: Sequence[Received]) -> JsonObject:
    """How long searches took, in ms."""
    times = sorted(1_000 * each.recall_s for each in received)
    return {"p50": statistics.median(times), "p95": times[int(0.95 * (len(times) - 1))]}


def _plain(text: str) -> str:
    return " ".join(text.split())


def _mean(values: Iterable[float]) -> float:
    given = list(values)
    return statistics.fmean(given) if given else 0.0
