"""Conversations to be replayed: agents' trajectories with tool calls, and dialogues in sittings.

They lie beside the project and are no part of it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.dialogue_turns import DIALOGUES
from memproxy.records import JsonObject

TRAJECTORIES = DIALOGUES.parent / "trajectories.jsonl"

SITTINGS = 3
"""The last sittings of each dialogue are replayed; those before them are what the user's memories are of."""

EARLIER = 3
"""Trajectories of the same domain that a trajectory's user had before, as far as there are so many."""


@dataclass(frozen=True, slots=True)
class Step:
    """One request and its answer."""

    said: tuple[JsonObject, ...]
    """What the client adds to the conversation before it asks."""
    answer: JsonObject


@dataclass(frozen=True, slots=True)
class Talk:
    """One conversation between a client and a model, of somebody who was there before."""

    id: str
    kind: str
    instructions: tuple[JsonObject, ...]
    steps: tuple[Step, ...]
    earlier: tuple[str, ...]
    """What the user and the model said in earlier conversations."""

    @property
    def has_user(self) -> bool:
        """Somebody speaks to the agent; some work from their instructions alone."""
        return any(message["role"] == "user" for step in self.steps for message in step.said)

    @property
    def tools(self) -> list[JsonObject]:
        """The tools that the model calls in it, which is all that is known of the agent's tools."""
        calls = [call["function"] for step in self.steps for call in step.answer.get("tool_calls") or ()]
        names = dict.fromkeys(call["name"] for call in calls)
        return [
            {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
            for name in names
        ]


def read_trajectories(path: Path = TRAJECTORIES) -> list[Talk]:
    """The trajectories; each one's user had the ones before it of the same domain."""
    raw = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [_trajectory(each, others=_others(raw, at)) for at, each in enumerate(raw)]


def _others(raw: Sequence[dict[str, Any]], at: int) -> list[dict[str, Any]]:
    """Trajectories of other tasks of the same domain, beginning behind this one."""
    domain = raw[at]["domain"].partition("-")[0]
    after = [*raw[at + 1 :], *raw[:at]]
    others = [each for each in after if each["domain"].startswith(domain) and each["task"] != raw[at]["task"]]
    return others[:EARLIER]


def _trajectory(raw: dict[str, Any], *, others: Sequence[dict[str, Any]]) -> Talk:
    lead = [message for message in raw["messages"][:1] if message["role"] == "system"]
    words = [
        message["content"]
        for other in others
        for message in other["messages"]
        if message["role"] in {"user", "assistant"} and message["content"]
    ]
    steps = tuple(_steps([_plain(message) for message in raw["messages"][len(lead) :]]))
    return Talk(raw["id"], "trajectories", tuple(lead), steps, tuple(words))


def _plain(message: dict[str, Any]) -> JsonObject:
    """The message as the chat-completions API returns and takes it."""
    return {name: value for name, value in message.items() if name != "name" and (name != "tool_calls" or value)}


def _steps(messages: Sequence[JsonObject]) -> Iterator[Step]:
    """One step for each answer; a greeting that the client opens with belongs to what it says first."""
    said: list[JsonObject] = []
    has_asked = False
    for message in messages:
        is_greeting = not has_asked and not message.get("tool_calls") and not said
        if message["role"] != "assistant" or is_greeting:
            said.append(message)
        else:
            yield Step(tuple(said), message)
            said, has_asked = [], True


def read_dialogues(path: Path = DIALOGUES) -> list[Talk]:
    """The last sittings of each dialogue: the one who speaks first is the user, the other one the model."""
    talks = []
    for raw in json.loads(path.read_text("utf-8"))["conversations"]:
        sittings = [list(turns) for _, turns in groupby(raw["records"], key=lambda turn: turn["session"])]
        for at in range(len(sittings) - SITTINGS, len(sittings)):
            earlier = tuple(turn["memory"] for sitting in sittings[:at] for turn in sitting)
            name = f"{raw['id']}/{at + 1}"
            talks.append(Talk(name, "dialogues", (), tuple(_steps(_spoken(sittings[at]))), earlier))
    return talks


def _spoken(turns: Sequence[dict[str, Any]]) -> list[JsonObject]:
    user = turns[0]["speaker"]
    return [
        {
            "role": "user" if speaker == user else "assistant",
            "content": "\n".join(turn["text"] for turn in said),
        }
        for speaker, said in groupby(turns, key=lambda turn: turn["speaker"])
    ]
