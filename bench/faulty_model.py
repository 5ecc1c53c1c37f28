"""A model that makes the dialogues' own observations of what it is shown, and fails in every way that models do.

It answers the chat itself, too, with a word that nothing can be learned from.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.dialogue_turns import Observation, Said
from memproxy.demo.scripted_model import ModelRequest, Reply

EXTRACTION_MODEL = "extraction"

FAULTS: Mapping[str, float] = {
    "429": 0.08,
    "500": 0.08,
    "time-out": 0.04,
    "garbage": 0.06,
    "cut off": 0.03,
    "connection lost": 0.03,
}
"""Of the calls of the extraction model, this share each."""


REFUSED = 3
"""Turns that it refuses to read, each time, alone or in company; what else stands beside them it reads."""


class FaultyModel:
    """The script. `calls` counts what was answered, by fault or "answered"; `is_well` switches the faults off."""

    def __init__(self, turns: Sequence[Said], *, rng: random.Random) -> None:
        self.calls: Counter[str] = Counter()
        self.is_well = False
        self._rng = rng
        self._observations: dict[str, tuple[Observation, ...]] = {
            said.text.strip(): said.observations for said in turns
        }
        observed = [said.text.strip() for said in turns if said.observations]
        self._refused = frozenset(observed[:: max(1, len(observed) // REFUSED)][:REFUSED])

    def __call__(self, request: ModelRequest) -> Reply:
        if request.model != EXTRACTION_MODEL:
            return Reply("Noted.")
        shown = _shown(request)
        if "messages" not in shown:
            self.calls["decisions and others"] += 1
            return Reply('{"decisions": []}')
        fault = self._fault(shown)
        self.calls[fault or "answered"] += 1
        answer = json.dumps({"memories": [memory for one in shown["messages"] for memory in self._memories(one)]})
        match fault:
            case "400":
                return Reply(status=400, error="This content is against our policy")
            case "429":
                return Reply(status=429, error="Rate limit reached")
            case "500":
                return Reply(status=500, error="The server had an error")
            case "time-out":
                return Reply(hang=True)
            case "garbage":
                return Reply("I am sorry, but as a model I would rather write a poem about this conversation.")
            case "cut off":
                return Reply(answer[: min(25, len(answer) - 3)])
            case "connection lost":
                return Reply(answer, cut_after=20)
            case _:
                return Reply(answer)

    def _fault(self, shown: Mapping[str, Any]) -> str | None:
        if self.is_well:
            return None
        if any(str(one["words"]).strip() in self._refused for one in shown["messages"]):
            return "400"
        drawn = self._rng.random()
        for name, share in FAULTS.items():
            drawn -= share
            if drawn < 0:
                return name
        return None

    def _memories(self, shown: Mapping[str, Any]) -> list[dict[str, Any]]:
        words = str(shown["words"]).strip()
        return [
            {
                "text": observation.text,
                "type": "semantic",
                "topics": [],
                "entities": [observation.id],
                "event_date": None,
                "evidence": words[:200],
            }
            for observation in self._observations.get(words, ())
        ]


def _shown(request: ModelRequest) -> dict[str, Any]:
    """What the model is shown of a conversation; empty when it is asked for something else."""
    first = next((message["content"] for message in request.messages if message["role"] == "user"), "")
    try:
        shown = json.loads(first)
    except ValueError:
        return {}
    return shown if isinstance(shown, dict) else {}
