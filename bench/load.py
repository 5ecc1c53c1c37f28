"""Put one target under load for a while, and check every answer."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from bench.client import Answer, Connection, LoadError
from bench.conversations import Conversation, Conversations
from bench.scenarios import Scenario, Target

GRACE_S = 60.0
"""How long a slice may take beyond its time before the target counts as stuck."""

MAX_REQUESTS = 20_000
"""Of one slice, however fast the target is."""


@dataclass(slots=True)
class Tally:
    """What the clients of one slice saw."""

    latencies_s: list[float] = field(default_factory=list)
    first_bytes_s: list[float] = field(default_factory=list)
    opening_s: list[float] = field(default_factory=list)
    """Latencies of requests that opened a conversation."""
    running_s: list[float] = field(default_factory=list)
    """Latencies of requests that continued one."""
    recognised: int = 0
    """Continued conversations that the target took for the same session."""
    memories: int = 0
    """Memories put into requests."""
    degraded: int = 0
    """Answers without what memory could not do in time."""
    sent: int = 0
    """Requests in all, those before the clock was started included."""
    tools_run: int = 0
    """Tool calls that the client ran while the clock was on."""
    wall_s: float = 0.0
    client_cpu_s: float = 0.0


class Load:
    """The clients of one slice: connections that each lead some conversations alternately."""

    def __init__(self, scenario: Scenario, target: Target, *, conversations: Conversations, expected: bytes) -> None:
        self._scenario = scenario
        self._target = target
        self._conversations = conversations
        self._expected = expected
        self._connections: list[Connection] = []
        self._open: list[list[Conversation]] = []
        self.tally = Tally()

    async def connect(self, port: int) -> None:
        """Open the connections and use each once, so that nothing is measured that happens only once."""
        self._connections = [await Connection.connected(port) for _ in range(self._scenario.connections)]
        self._open = [
            [self._conversations.new() for _ in range(self._scenario.at_once)] if self._scenario.is_running else []
            for _ in self._connections
        ]
        async with asyncio.timeout(GRACE_S), asyncio.TaskGroup() as group:
            for connection, running in zip(self._connections, self._open, strict=True):
                _ = group.create_task(self._begin(connection, running))

    async def run(self) -> None:
        """Ask until the slice's time is up. Raises LoadError at the first answer that is wrong."""
        self.tally.tools_run = 0
        began, cpu = time.perf_counter(), time.process_time()
        slice_s = self._scenario.slice_s * self._target.patience
        until = began + slice_s
        async with asyncio.timeout(slice_s + GRACE_S), asyncio.TaskGroup() as group:
            for connection, running in zip(self._connections, self._open, strict=True):
                _ = group.create_task(self._lead(connection, running, is_on=lambda: self._has_time(until)))
        self.tally.wall_s = time.perf_counter() - began
        self.tally.client_cpu_s = time.process_time() - cpu

    def close(self) -> None:
        """End the connections."""
        for connection in self._connections:
            connection.close()

    def _has_time(self, until: float) -> bool:
        return time.perf_counter() < until and len(self.tally.latencies_s) < MAX_REQUESTS

    async def _begin(self, connection: Connection, running: list[Conversation]) -> None:
        for conversation in running or [self._conversations.new()]:
            await self._turn(connection, conversation)

    async def _lead(self, connection: Connection, running: list[Conversation], *, is_on: Callable[[], bool]) -> None:
        """Continue each conversation in turn; one that is over makes room for a new one."""
        running = running or [self._conversations.new() for _ in range(self._scenario.at_once)]
        while True:
            for place, conversation in enumerate(running):
                if not is_on():
                    return
                current = conversation
                if conversation.turn == self._scenario.turns:
                    current = running[place] = self._conversations.new()
                self._count(current, await self._turn(connection, current))

    async def _turn(self, connection: Connection, conversation: Conversation) -> Answer:
        """Say the conversation's next message and give what was answered to it, checked."""
        answer = await connection.ask(conversation.next_request())
        self._check(conversation, answer)
        return answer

    def _check(self, conversation: Conversation, answer: Answer) -> None:
        """Raises LoadError unless the answer is exactly the upstream's and, where it must, was given with memory."""
        self.tally.sent += 1
        if answer.status != 200 or not self._is_right(answer):
            raise LoadError(
                f"answered {answer.status} with {len(answer.body)} bytes in place of "
                f"{len(self._expected)}: {answer.body[:300]!r}"
            )
        if not self._target.remembers:
            return
        session = answer.header(b"x-memproxy-session")
        if not session:
            raise LoadError("answered without memory")
        if conversation.turn == 1:
            conversation.session = session
        self.tally.degraded += bool(answer.header(b"x-memproxy-degraded"))

    def _is_right(self, answer: Answer) -> bool:
        """Whether it is the upstream's answer, word by word where it is not so byte by byte."""
        if self._target.is_verbatim:
            return answer.body == self._expected
        said = streamed_words if self._scenario.is_stream else whole_words
        return said(answer.body) == said(self._expected)

    def _count(self, conversation: Conversation, answer: Answer) -> None:
        tally = self.tally
        tally.latencies_s.append(answer.latency_s)
        tally.first_bytes_s.append(answer.first_byte_s)
        (tally.opening_s if conversation.turn == 1 else tally.running_s).append(answer.latency_s)
        if self._target.remembers:
            tally.memories += int(answer.header(b"x-memproxy-memories") or 0)
            tally.recognised += conversation.turn > 1 and answer.header(b"x-memproxy-session") == conversation.session


def whole_words(body: bytes) -> str | None:
    """What the assistant says in an answer that is no stream; None when it is none."""
    try:
        return str(msgspec.json.decode(body)["choices"][0]["message"]["content"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return None


def streamed_words(body: bytes) -> str | None:
    """What the assistant says in a stream; None when it has no end, or an event is none."""
    if not body.endswith(b"data: [DONE]\n\n"):
        return None
    try:
        events = [msgspec.json.decode(line[6:]) for line in body.split(b"\n\n")[:-2]]
        return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return None
