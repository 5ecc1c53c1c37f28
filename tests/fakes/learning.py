"""Turns to learn from, and a background model whose answers are written down, spoken to in the real protocol."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from memproxy.demo.scripted_model import ModelRequest, Reply, ScriptedModel
from memproxy.extraction.extract import Extractor, Means
from memproxy.llm import JsonModel
from memproxy.memory.long_term import LongTermMemory
from memproxy.records import JsonObject, MemoryRecord, MemoryType, Outcome, Scope, StoredMessage, Turn
from memproxy.storage.memory_filter import Filter

MONDAY = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
ANN = Scope("tenant", "ann")

Answer = str | JsonObject | list[Any] | Reply | Callable[[JsonObject], Any]
"""What the model says: words, or what becomes JSON, or a whole reply; or a function of what it was shown."""


def stored(role: str, words: str | None, *, minutes: float = 0, **fields: Any) -> StoredMessage:
    """A message, said so many minutes after Monday 8 May 2023, 13:56 UTC."""
    message = {"role": role, "content": words, **fields}
    return StoredMessage(message, digest="", tokens=0, at=MONDAY + timedelta(minutes=minutes))


def turn_of(
    *messages: StoredMessage,
    context: tuple[StoredMessage, ...] = (),
    scope: Scope = ANN,
    session: str = "s1",
    id: str = "t1",  # noqa: A002  as the field is called
) -> Turn:
    """A turn of Ann's."""
    own = tuple(replace(message, turn=id) for message in messages)
    return Turn(id, scope, session, MONDAY, Outcome.COMPLETED, messages=own, context=context)


def fact(text: str, *, minutes: float = -10_000, scope: Scope = ANN, **fields: Any) -> MemoryRecord:
    """A fact that is remembered, said about a week before unless told otherwise."""
    at = MONDAY + timedelta(minutes=minutes)
    return MemoryRecord(**{"id": text, "type": MemoryType.SEMANTIC, **fields}, scope=scope, text=text, created_at=at)


class Answers:
    """The background model: gives for each kind of question its answers in order, and the last one again and again."""

    def __init__(self, **answers: Any) -> None:
        """By the name of the schema: `discrete_memories`, `decisions`, ... A list of answers is a tuple."""
        self._left = {name: list(given) if isinstance(given, tuple) else [given] for name, given in answers.items()}
        self.asked: list[tuple[str, JsonObject]] = []
        """Name of the schema and the request's body, in order."""

    def __call__(self, request: ModelRequest) -> Reply:
        name = request.body.get("response_format", {}).get("json_schema", {}).get("name", "")
        self.asked.append((name, request.body))
        given = self._left.get(name) or [{"memories": []}]
        answer = given.pop(0) if len(given) > 1 else given[0]
        if callable(answer):
            answer = answer(shown(request.body))
        return answer if isinstance(answer, Reply) else Reply(answer if isinstance(answer, str) else json.dumps(answer))

    def count(self, name: str) -> int:
        """How often it was asked so."""
        return sum(asked == name for asked, _ in self.asked)

    def shown(self, name: str) -> list[JsonObject]:
        """What it was shown under this name, each time."""
        return [shown(body) for asked, body in self.asked if asked == name]


def shown(body: JsonObject) -> JsonObject:
    """The JSON that a request shows to the model; empty when its words are no JSON."""
    words = body["messages"][1]["content"]
    try:
        parsed: JsonObject = json.loads(words)
    except ValueError:
        return {}
    return parsed


@dataclass(frozen=True, slots=True)
class Learner:
    """An extractor over real memory, with a scripted model behind it."""

    extractor: Extractor
    memory: LongTermMemory
    answers: Answers

    async def learn(self, *turns: Turn) -> int:
        """Index and learn, as the worker does; how many memories are new."""
        await self.extractor.index(turns)
        return (await self.extractor.learn(turns)).new

    async def records(self, scope: Scope = ANN) -> list[MemoryRecord]:
        """All that is remembered, those out of use included, the oldest first."""
        return await everything(self.memory, scope)

    async def facts(self, scope: Scope = ANN) -> list[str]:
        """The texts of what holds, but for messages, the oldest first."""
        return [
            record.text
            for record in await self.records(scope)
            if record.type is not MemoryType.MESSAGE and record.valid_until is None
        ]


async def everything(memory: LongTermMemory, scope: Scope = ANN) -> list[MemoryRecord]:
    """All memories of a scope, those out of use included, the oldest first."""
    _, records = await memory.newest(scope, limit=5_000, where=Filter(superseded=True))
    return records[::-1]


@asynccontextmanager
async def learning(
    memory: LongTermMemory, answers: Answers, *, means: Callable[[JsonModel], Means] | None = None, **given: Any
) -> AsyncIterator[Learner]:
    """An extractor that asks the scripted model."""
    async with ScriptedModel(answers).serve() as server, JsonModel(server.base_url, "sk-1", "small", 10.0) as model:
        made = means(model) if means else Means(model, model)
        yield Learner(Extractor(memory, means=made, **given), memory, answers)
