"""One point of a curve: some requests put to one server, and what they cost it. Everything that all curves share."""

import asyncio
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.accounts import usage_of
from bench.client import Answer, Connection, LoadError
from bench.measure import percentile
from bench.paced_model import paced_model
from bench.processes import Server
from bench.scale_requests import SYSTEM, Dialogue, request

CONNECTIONS = 1
"""Requests at a time: latencies are those of the work, not of waiting for other requests."""
GRACE_S = 120.0
POLL_S = 0.02

SETTINGS = {
    "MEMPROXY_DEFAULT_WINDOW": "1000000",
    "MEMPROXY_SESSION_DEADLINE_S": "10",
    "MEMPROXY_RECALL_DEADLINE_S": "5",
}
"""Nothing is cut, and nothing left out to be in time: work is measured, and a busy machine must not make it less."""

USERS = tuple(f"user-{number}" for number in range(50))
MEMORIES = 20
"""Of each of the users; a curve over their number has users of its own."""

WARM_UP = 24
WARM_UP_MODEL = paced_model(10, interval_s=0)

_RECORDED = re.compile(rb"^memproxy_turns_recorded_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)

X = TypeVar("X")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with what its answer must be like."""

    request: bytes
    remembers: bool = False
    sends_on: int = 0
    """Bytes that must have been sent on, at least."""

    def check(self, answer: Answer) -> None:
        """Raises LoadError."""
        sent_on = int(answer.header(b"x-bench-bytes") or 0)
        if answer.status != 200 or sent_on < self.sends_on:
            begin = answer.body[:200]
            raise LoadError(f"answered {answer.status}, {sent_on} of {self.sends_on} bytes sent on: {begin!r}")
        if self.remembers and not answer.header(b"x-memproxy-session"):
            raise LoadError("answered without memory")


@dataclass(frozen=True, slots=True)
class Point:
    """What requests of one kind cost, in ms each."""

    cpu_ms: float
    """Of the serving process, until all turns were recorded."""
    store_cpu_ms: float
    p50_ms: float
    p95_ms: float
    memories: float
    """Put into a request, on average."""
    degraded: float
    """Share of answers, 0..1."""


class Recording:
    """Knows how many turns a memproxy has to record, and waits until it has."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._due = 0

    async def settled(self, more: int) -> None:
        """Wait until `more` turns than before are recorded. Raises LoadError."""
        self._due += more
        deadline = time.monotonic() + GRACE_S
        while (recorded := await self._recorded()) < self._due:
            if time.monotonic() > deadline:
                raise LoadError(f"after {GRACE_S:g} s, only {recorded} of {self._due} turns are recorded")
            await asyncio.sleep(POLL_S)

    async def _recorded(self) -> int:
        connection = await Connection.connected(self._server.port)
        answer = await connection.ask(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        connection.close()
        return int(sum(float(count) for count in _RECORDED.findall(answer.body)))


@dataclass(frozen=True, slots=True)
class Stand:
    """What runs while curves are measured."""

    folder: Path
    behind: Server
    """The upstream."""
    relay: Server
    """The floor."""
    proxy: Server
    """A memproxy that knows `USERS`, and others with more and with less to remember."""
    recording: Recording
    """Of this memproxy."""
    is_quick: bool
    told: Callable[[str], None]
    """Is told what is being measured."""


async def ask(server: Server, asked: Sequence[Asked]) -> list[Answer]:
    """Put requests to a server over some connections, each waiting for its answers. Raises LoadError."""
    left = iter(asked)
    answers: list[Answer] = []

    async def lead() -> None:
        connection = await Connection.connected(server.port)
        try:
            for each in left:
                answer = await connection.ask(each.request)
                each.check(answer)
                answers.append(answer)
        finally:
            connection.close()

    try:
        async with asyncio.timeout(GRACE_S), asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                _ = group.create_task(lead())
    except* LoadError as failures:
        server.check_alive()
        raise failures.exceptions[0] from None
    return answers


async def measured(server: Server, asked: Sequence[Asked], *, recording: Recording | None = None) -> Point:
    """Put requests to a server and see what they cost it."""
    before = usage_of(server.pid)
    answers = await ask(server, asked)
    if recording:
        await recording.settled(len(asked))
    after = usage_of(server.pid)
    return point_of(
        answers, 1000 * (after.own_cpu_s - before.own_cpu_s), 1000 * (after.store_cpu_s - before.store_cpu_s)
    )


def point_of(answers: Sequence[Answer], cpu_ms: float, store_cpu_ms: float) -> Point:
    """The figures of these answers, which cost so much in all."""
    latencies = [1000 * answer.latency_s for answer in answers]
    count = len(answers)
    return Point(
        cpu_ms=cpu_ms / count,
        store_cpu_ms=store_cpu_ms / count,
        p50_ms=percentile(latencies, 0.50),
        p95_ms=percentile(latencies, 0.95),
        memories=sum(int(answer.header(b"x-memproxy-memories") or 0) for answer in answers) / count,
        degraded=sum(bool(answer.header(b"x-memproxy-degraded")) for answer in answers) / count,
    )


def in_turns(xs: Sequence[X], rounds: int) -> Iterator[tuple[int, X]]:
    """Round and point, one after the other: in every other round backwards, so that nobody is always first."""
    for number in range(rounds):
        for x in xs if number % 2 == 0 else reversed(xs):
            yield number, x


def series(title: str, points: Mapping[float, Sequence[Point]], *, size_of: Callable[[float], int]) -> dict[str, Any]:
    """What is kept of one line: for each x the medians over the rounds. `size_of` gives a request's bytes."""
    rows = []
    for x, rounds in sorted(points.items()):
        figures = {name: statistics.median(getattr(point, name) for point in rounds) for name in asdict(rounds[0])}
        spread = [min(point.cpu_ms for point in rounds), max(point.cpu_ms for point in rounds)]
        rows.append({"x": x, "bytes": size_of(x), **figures, "cpu_ms_range": spread})
    return {"title": title, "points": rows}


async def warmed_up(server: Server, recording: Recording | None = None) -> None:
    """Ask a few times, so that nothing is measured that happens only once."""
    dialogue = Dialogue(f"warm-up-{server.name}")
    asked = [
        Asked(request([SYSTEM, dialogue.question()], model=WARM_UP_MODEL, user="warm-up", is_stream=each % 2 == 0))
        for each in range(WARM_UP)
    ]
    await ask(server, asked)
    if recording:
        await recording.settled(len(asked))
