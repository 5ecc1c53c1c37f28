"""Summarise many short texts with a model that can read only so much at a time.

What fits is summarised in one call, together with the summary of what came before. What does not is cut into parts;
each part is summarised, then the summaries are, until one is left. A model's context is never exceeded, however much
there is, and each call is small enough for a small local model.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, Protocol

from memproxy.errors import ModelCallError
from memproxy.loose_json import read_json
from memproxy.records import JsonObject
from memproxy.tokens import estimate_tokens

PART_TOKENS = 6_000
"""Of material in one call. With instructions and answer below 8,000, which is the window of small local models."""

TEXT_CHARS = 2_000
"""Of a longer text, its beginning and its end."""

SUMMARY_CHARS = 8_000
"""Of one summary that is kept; a longer one is not what was asked for."""

ATTEMPTS = 2
"""How often one call is made that failed in a passing way; whoever waits for it can try again."""

PARALLEL = 4
"""Calls at a time, of all summaries that are being made."""

SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"summary": {"type": "string"}},
    "required": ["summary"],
    "additionalProperties": False,
}


class Asks(Protocol):
    """A model that answers in JSON."""

    async def ask(
        self, *, system: str, user: str, schema_name: str, schema: JsonObject, read: Callable[[str], Any]
    ) -> Any:
        """What `read` makes of the answer; it raises ValueError for what can't be used. Raises ModelCallError."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One text to summarise, and when it was learned."""

    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a summary is to be like, and who makes it."""

    model: Asks
    about: Mapping[str, str]
    """What the statements have in common."""
    prompt: str | None = None
    """What whoever ordered it wants, in words."""


class Summariser:
    """Makes summaries, a few model calls at a time."""

    def __init__(self, *, part_tokens: int = PART_TOKENS) -> None:
        self._part_tokens = part_tokens
        self._instructions = (resources.files("memproxy.memory") / "prompts" / "summary.md").read_text("utf-8")
        self._places = asyncio.Semaphore(PARALLEL)

    @property
    def instructions(self) -> str:
        """What the model is told."""
        return self._instructions

    async def summarise(self, statements: Sequence[Statement], *, wishes: Wishes, earlier: str = "") -> str:
        """One summary of the statements, and of what `earlier` is a summary of. Raises ModelCallError."""
        shown = [_shown(statement) for statement in statements]
        parts = await asyncio.to_thread(packed, shown, _size, limit=self._part_tokens)
        if len(parts) <= 1:
            return await self._ask({"memories": shown, **({"earlier": earlier} if earlier else {})}, wishes)
        summaries = await self._ask_each([{"memories": part} for part in parts], wishes)
        return await self._merged([earlier, *summaries] if earlier else summaries, wishes)

    async def _merged(self, summaries: Sequence[str], wishes: Wishes) -> str:
        while len(summaries) > 1:
            parts = packed(summaries, estimate_tokens, limit=self._part_tokens, least=2)
            summaries = await self._ask_each([{"parts": part} for part in parts], wishes)
        return summaries[0]

    async def _ask_each(self, materials: Sequence[JsonObject], wishes: Wishes) -> list[str]:
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self._ask(material, wishes)) for material in materials]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in asked]

    async def _ask(self, material: JsonObject, wishes: Wishes) -> str:
        """The summary of one part. Of a single summary among the parts, no call is needed."""
        if len(material.get("parts", ())) == 1:
            return str(material["parts"][0])
        user = json.dumps({"about": dict(wishes.about), **material}, ensure_ascii=False, indent=1)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._places:
                    answer: str = await wishes.model.ask(
                        system=self._system(wishes), user=user, schema_name="summary", schema=SCHEMA, read=read_summary
                    )
                return answer
            except ModelCallError as error:
                if not error.retryable or attempt == ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _system(self, wishes: Wishes) -> str:
        if not wishes.prompt:
            return self._instructions
        return f"{self._instructions}\nWhoever ordered this summary asks for the following:\n\n{wishes.prompt}\n"


def packed(items: Sequence[Any], size: Callable[[Any], int], *, limit: int, least: int = 1) -> list[list[Any]]:
    """The items in order, in parts of at most `limit` together, but of at least `least` items."""
    parts: list[list[Any]] = []
    room = 0
    for item in items:
        needed = size(item)
        if not parts or (needed > room and len(parts[-1]) >= least):
            parts.append([])
            room = limit
        parts[-1].append(item)
        room -= needed
    return parts


def read_summary(words: str) -> str:
    """The summary in a model's answer; raises ValueError when there is none."""
    answer = read_json(words)
    text = answer.get("summary") if isinstance(answer, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError("it holds no text under `summary`")
    text = text.strip()
    if len(text) <= SUMMARY_CHARS:
        return text
    return text[:SUMMARY_CHARS].rsplit(None, 1)[0] + " …"


def _shown(statement: Statement) -> JsonObject:
    text = statement.text
    if len(text) > TEXT_CHARS:
        text = f"{text[: TEXT_CHARS // 2]} […] {text[-TEXT_CHARS // 2 :]}"
    return {"learned": f"{statement.at:%Y-%m-%d}", "text": text}


def _size(shown: JsonObject) -> int:
    """Tokens of a statement as it is written into the prompt; 12 are the names, quotes and date around it."""
    return estimate_tokens(shown["text"]) + 12
