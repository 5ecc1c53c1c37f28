"""Say the dialogues through a real memproxy, ask it questions, and keep what the model server got.

Turns are chat requests, one after the other, at the time they were once said: memproxy is handed a clock. Its own
worker learns them, without any model. Questions only read, so none of them leaves a trace for the next.
"""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typing_extensions import override

from bench.client import Answer, Connection, LoadError
from bench.retrieval_dialogues import Asked, Dialogue, Spoken
from bench.retrieval_scores import Received, block_of, lines_of
from memproxy.clock import SystemClock
from memproxy.demo.scripted_model import ModelRequest, Reply, ScriptedModel
from memproxy.identity import SINGLE_TENANT
from memproxy.records import JsonObject, Scope
from memproxy.server import Instance, running
from memproxy.settings import settings_without_environment
from memproxy.sockets import listening_socket
from memproxy.storage.embedded import EmbeddedStore
from memproxy.tokens import count_tokens

DEADLINE_S = 20
"""Of each look-up: what is measured is what is found, not whether a busy machine is in time."""

UNLIMITED_TOKENS = 15_000
MOST_MEMORIES = 100
"""What memproxy takes at most."""

LEARNED_S, POLL_S = 120.0, 0.05
BATCH = 100
RECALL_SUM = "memproxy_stage_seconds_sum"
NOTHING_NEW = "Noted."
"""What the model answers: nothing that could be remembered."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much memproxy may put into a request."""

    memories: int = MOST_MEMORIES
    tokens: int = UNLIMITED_TOKENS


class SetClock(SystemClock):
    """Says the time that it was told; spans are real."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    @override
    def now(self) -> datetime:
        return self.at


@dataclass(slots=True)
class Model:
    """The script: keeps the newest user message that it was sent."""

    words: str = ""

    def __call__(self, request: ModelRequest) -> Reply:
        said = [message for message in request.messages if message["role"] == "user"]
        self.words = str(said[-1]["content"])
        return Reply(NOTHING_NEW)


@dataclass(frozen=True, slots=True)
class Stage:
    """A store, and a model server; memproxies come and go."""

    settings: JsonObject
    model: Model


@dataclass(frozen=True, slots=True)
class Proxy:
    """One memproxy on the stage."""

    instance: Instance
    connection: Connection
    model: Model
    clock: SetClock

    async def say(self, dialogue: Dialogue) -> AsyncIterator[Spoken]:
        """Say every turn, each with what was said before it in its sitting; gives it when it is answered."""
        history: list[JsonObject] = []
        sitting = ""
        for turn in dialogue.turns:
            if turn.session != sitting:
                sitting, history = turn.session, []
            self.clock.at = turn.at
            history.append({"role": "user", "name": turn.speaker, "content": turn.text})
            await self._sent(f"/u/{dialogue.user}/s/{turn.session}/v1/chat/completions", history, memory="write")
            history.append({"role": "assistant", "content": NOTHING_NEW})
            yield turn

    async def note(self, dialogue: Dialogue) -> None:
        """Store the dialogue's facts as memories that a model made of it."""
        for at in range(0, len(dialogue.facts), BATCH):
            records = [
                {
                    "id": f"{dialogue.user}-{fact.id}",
                    "text": fact.text,
                    "memory_type": "semantic",
                    "user_id": dialogue.user,
                    "session_id": fact.session,
                    "created_at": fact.at.isoformat(),
                }
                for fact in dialogue.facts[at : at + BATCH]
            ]
            await self._posted("/v1/long-term-memory/", {"memories": records}, {})

    async def ask(self, asked: Asked) -> Received:
        """Ask a question in a conversation of its own, and give what the model server got."""
        before = self._recalled_s()
        messages = [{"role": "user", "content": asked.text}]
        answer = await self._sent(f"/u/{asked.user}/v1/chat/completions", messages, memory="read")
        block = block_of(self.model.words)
        return Received(
            asked,
            lines_of(block),
            tokens=count_tokens(block),
            recall_s=self._recalled_s() - before,
            degraded=bool(answer.header(b"x-memproxy-degraded")),
        )

    async def unfloored(self, asked: Asked, *, limit: int) -> Received:
        """What the engine would tell without its floor."""
        scope = Scope(SINGLE_TENANT, asked.user)
        found = await self.instance.services.long_term.search(scope, asked.text, limit=limit, relevant_only=False)
        return Received(asked, tuple(" ".join(one.record.text.split()) for one in found), 0, 0.0, degraded=False)

    async def learned(self) -> None:
        """Wait until everything that was said can be found. Raises LoadError."""
        try:
            async with asyncio.timeout(LEARNED_S):
                while not await self.instance.is_quiet():  # noqa: ASYNC110  what is awaited happens in the store
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise LoadError(f"not everything was learned within {LEARNED_S:g} s") from None

    def _recalled_s(self) -> float:
        """Seconds that all searches took so far."""
        metrics = self.instance.services.metrics.registry.restricted_registry([RECALL_SUM]).collect()
        sums = [sample.value for metric in metrics for sample in metric.samples if sample.labels["stage"] == "recall"]
        return sum(sums)

    async def _sent(self, path: str, messages: Sequence[Mapping[str, Any]], *, memory: str) -> Answer:
        return await self._posted(path, {"model": "chat", "messages": messages}, {"x-memproxy-memory": memory})

    async def _posted(self, path: str, fields: JsonObject, headers: Mapping[str, str]) -> Answer:
        body = json.dumps(fields).encode()
        lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
        answer = await self.connection.ask(head.encode() + body)
        if answer.status != 200:
            raise LoadError(f"{path} was answered {answer.status}: {answer.body[:300]!r}")
        return answer


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    """A fresh store and a model server."""
    model = Model()
    with tempfile.TemporaryDirectory(prefix="mpb-") as name:
        async with EmbeddedStore(Path(name)) as store, ScriptedModel(model, keep_requests=1).serve() as upstream:
            settings = {
                "redis_url": store.url,
                "upstream_base_url": upstream.base_url,
                "session_deadline_s": DEADLINE_S,
                "recall_deadline_s": DEADLINE_S,
                "record_deadline_s": DEADLINE_S,
                "log_level": "warning",
            }
            yield Stage(settings, model)


@asynccontextmanager
async def proxy(stage: Stage, limits: Limits, *, learns: bool = False) -> AsyncIterator[Proxy]:
    """A memproxy with these limits on the stage's store."""
    given = {
        **stage.settings,
        "recall_memories": limits.memories,
        "recall_tokens": limits.tokens,
        "run_worker": learns,
    }
    clock = SetClock()
    with listening_socket("127.0.0.1", 0) as listening:
        async with running(settings_without_environment(given), sockets=[listening], clock=clock) as instance:
            connection = await Connection.connected(listening.getsockname()[1])
            try:
                yield Proxy(instance, connection, stage.model, clock)
            finally:
                connection.close()
