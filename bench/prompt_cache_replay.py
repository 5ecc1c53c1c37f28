"""Replay conversations through a real memproxy, and keep every request that the model server got.

The model server answers each conversation's requests with its answers, one after the other, however much of the
conversation it is sent. The client goes on from what it got: where memproxy answered calls inside, it has heard only
the last of these answers.
"""

import itertools
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from bench.client import Connection, LoadError
from bench.prompt_cache_talks import Talk
from memproxy.demo.scripted_model import ModelRequest, Reply, ScriptedModel, ToolCallReply
from memproxy.identity import SINGLE_TENANT
from memproxy.memory.long_term import LongTermMemory
from memproxy.records import JsonObject, MemoryRecord, MemoryType, Scope
from memproxy.server import Instance, running
from memproxy.settings import settings_without_environment
from memproxy.sockets import listening_socket
from memproxy.storage.embedded import EmbeddedStore

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
UNBOUNDED = 1_000_000
"""A window that nothing exceeds."""

BATCH = 200
DEADLINE_S = 20
"""Of each look-up: what is measured is what is sent, not whether a busy machine is in time."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a client speaks, and what memproxy does for it."""

    memory: str = "full"
    window: int = UNBOUNDED
    sends_newest: bool = False
    """The session has a name, and only new messages are sent."""
    has_tools: bool = False
    """The agent's tools are told, so that repeated calls are answered from the cache."""


@dataclass(slots=True)
class Replay:
    """One conversation as the model server saw it."""

    talk: Talk
    sent: list[JsonObject] = field(default_factory=list)
    """The bodies of its requests, in their order."""
    told: list[list[JsonObject]] = field(default_factory=list)
    """For each of them, the conversation as the client had it: all of it, whatever it sent."""
    degraded: int = 0
    """Answers that memproxy marked as made without a part of memory."""
    answered_inside: int = 0


class _Model:
    """The script: which answer comes next in the conversation that a request belongs to."""

    def __init__(self) -> None:
        self.replays: dict[str, Replay] = {}

    def __call__(self, request: ModelRequest) -> Reply:
        replay = self.replays[request.model.rpartition(":")[2]]
        replay.sent.append(request.body)
        answer = replay.talk.steps[len(replay.sent) - 1].answer
        calls = [
            ToolCallReply(call["function"]["name"], call["function"]["arguments"], call["id"])
            for call in answer.get("tool_calls") or ()
        ]
        return Reply(answer["content"] or None, tuple(calls))


@dataclass(frozen=True, slots=True)
class Stage:
    """A memproxy that serves, and the model server behind it."""

    instance: Instance
    port: int
    model: _Model
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def memories(self) -> LongTermMemory:
        return self.instance.services.long_term

    async def remember(self, talk: Talk, user: str) -> None:
        """Give this user memories of what was said before."""
        records = [
            MemoryRecord(
                f"{user}-{at}",
                Scope(SINGLE_TENANT, user),
                text,
                MemoryType.MESSAGE,
                BEGIN + timedelta(minutes=at),
                session="earlier",
                context=" ".join(talk.earlier[max(0, at - 2) : at]),
            )
            for at, text in enumerate(dict.fromkeys(talk.earlier))
        ]
        for at in range(0, len(records), BATCH):
            await self.memories.remember(records[at : at + BATCH])

    async def replay(self, talk: Talk, manner: Manner, *, user: str) -> Replay:
        """Lead one conversation from its beginning to its end. Raises LoadError when a request is refused."""
        name = str(next(self.numbers))
        replay = self.model.replays[name] = Replay(talk)
        connection = await Connection.connected(self.port)
        conversation: list[JsonObject] = []
        while (done := len(replay.sent)) < len(talk.steps):
            said = talk.steps[done].said
            messages = [*talk.instructions, *(said if manner.sends_newest else [*conversation, *said])]
            conversation += said
            if not messages or (not said and manner.sends_newest):
                raise LoadError(f"{talk.id} has a request that says nothing")
            answer = await connection.ask(_request(name, user, manner, messages, talk.tools))
            if answer.status != 200:
                raise LoadError(f"{talk.id}: answered {answer.status}: {answer.body[:500]!r}")
            replay.told += [list(conversation)] * (len(replay.sent) - done)
            replay.degraded += bool(answer.header(b"x-memproxy-degraded"))
            replay.answered_inside += int(answer.header(b"x-memproxy-tool-answers") or 0)
            conversation.append(_plain(msgspec.json.decode(answer.body)["choices"][0]["message"]))
        connection.close()
        return replay


def _plain(answer: dict[str, Any]) -> JsonObject:
    """What a client keeps of an answer."""
    return {name: answer[name] for name in ("role", "content", "tool_calls") if answer.get(name) or name == "content"}


def _request(
    name: str, user: str, manner: Manner, messages: Sequence[JsonObject], tools: Sequence[JsonObject]
) -> bytes:
    """The request as OpenAI's client writes it."""
    fields: JsonObject = {"messages": messages, "model": model_of(manner.window, name)}
    if manner.has_tools and tools:
        fields["tools"] = tools
    body = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    lines += [f"x-memproxy-user: {user}", f"x-memproxy-memory: {manner.memory}", f"content-length: {len(body)}"]
    if manner.sends_newest:
        lines.append(f"x-memproxy-session: talk-{name}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def model_of(window: int, name: str) -> str:
    """A model with this window; windows go by the beginning of a model's name."""
    return f"window-{window}:{name}"


@asynccontextmanager
async def staged(windows: Sequence[int], **settings: Any) -> AsyncIterator[Stage]:
    """A memproxy on a fresh store of its own that knows models with these windows."""
    model = _Model()
    with tempfile.TemporaryDirectory(prefix="mpb-") as name, listening_socket("127.0.0.1", 0) as listening:
        folder = Path(name)
        models = folder / "models.toml"
        rows = [f'"window-{window}:" = {window}' for window in {*windows, UNBOUNDED}]
        models.write_text("\n".join(["[windows]", *rows]), "utf-8")
        async with EmbeddedStore(folder / "data") as store, ScriptedModel(model, keep_requests=1).serve() as upstream:
            given = {
                "redis_url": store.url,
                "upstream_base_url": upstream.base_url,
                "models_file": models,
                "run_worker": False,
                "session_deadline_s": DEADLINE_S,
                "recall_deadline_s": DEADLINE_S,
                "record_deadline_s": DEADLINE_S,
                "log_level": "warning",
                **settings,
            }
            async with running(settings_without_environment(given), sockets=[listening]) as instance:
                yield Stage(instance, listening.getsockname()[1], model)
