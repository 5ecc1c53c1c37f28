"""Learning under faults, with real processes: `python -m bench extraction-faults`.

A memproxy serves, three `memproxy worker` processes learn, and 2,000 turns of the dialogues are said through the proxy.
Meanwhile workers are killed with SIGKILL at random, the store is killed and restarted, and the model answers 429, 500,
nothing at all, and garbage. In the end every observation that the model ever made must be stored exactly once, the
queue must be empty, what was given up must have a reason and go through when it is tried again, and nobody else's
records may have been touched.

Before that, the time that requests take is measured with the workers stopped and at work, in turns.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import results
from bench.client import Connection, LoadError
from bench.dialogue_turns import DIALOGUES, Said, read_turns, sessions_of
from bench.extraction_faults_part import rows_of
from bench.faulty_model import EXTRACTION_MODEL, FaultyModel
from bench.processes import ROOT, free_port, launched
from bench.worker_crew import Crew
from memproxy.demo.scripted_model import ScriptedModel
from memproxy.embedding import LocalEmbedder
from memproxy.errors import StoreError
from memproxy.identity import SINGLE_TENANT
from memproxy.memory.long_term import LongTermMemory
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.connection import open_redis
from memproxy.storage.dead_letters import DeadLetters
from memproxy.storage.embedded import EmbeddedStore
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.queue import Stage, TurnQueue

NAME = "extraction-faults"
TURNS, QUICK_TURNS = 2_000, 40

WORKERS = 3
SPEAKERS_AT_ONCE = 12
"""Sessions that are led at the same time."""

PAUSE_S = 0.25
"""Between two turns of a session: 2,000 turns take a minute, in which the store is away more than once."""

DRAIN_S = 900.0
POLL_S = 0.2

LATENCY_SLICES, LATENCY_REQUESTS, LATENCY_PAUSE_S = 24, 40, 0.02
"""Workers stand still and work in turns, slice by slice, so that whatever else the machine does hits both alike."""

SETTINGS: Mapping[str, str] = {
    "MEMPROXY_EXTRACTION_MODEL": EXTRACTION_MODEL,
    "MEMPROXY_EXTRACTION_TIMEOUT_S": "2",
    "MEMPROXY_EXTRACTION_DEBOUNCE_S": "1",
    "MEMPROXY_EXTRACTION_MAX_WAIT_S": "3",
    "MEMPROXY_EXTRACTION_RETRY_S": "0.2",
    "MEMPROXY_WORKER_LEASE_S": "2",
    "MEMPROXY_LOG_LEVEL": "info",
}
"""Everything quicker than in real life, so that there is more of it."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is done to the processes. A number of times, not for a time: so a run ends, however slow the machine is."""

    kills: int = 40
    kill_every_s: tuple[float, float] = (2.0, 8.0)
    """At random within these."""
    restarts: int = 8
    restart_every_s: tuple[float, float] = (12.0, 25.0)


QUICK_TROUBLE = Trouble(kills=2, kill_every_s=(1.0, 2.0), restarts=1, restart_every_s=(2.0, 4.0))


@dataclass(slots=True)
class Result:
    """What the run was, and what came of it."""

    turns: int = 0
    degraded: int = 0
    """Requests that were answered without memory, because the store was away."""
    observations: int = 0
    stored: int = 0
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    strangers_touched: int = 0
    strangers: int = 0
    said: int = 0
    """Memories of what was said."""
    scopes: int = 0
    """Users that have memories and should not."""
    worker_kills: int = 0
    store_restarts: int = 0
    model_calls: dict[str, int] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)
    """Dead letters before they were tried again, by reason."""
    left: int = 0
    """Turns in the queue at the end, dead letters included."""
    said_s: float = 0.0
    drained_s: float = 0.0
    latency_ms: dict[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Everything that must hold does."""
        is_whole = self.stored == self.observations and not self.missing and not self.doubled
        return is_whole and not (self.strangers_touched or self.scopes or self.left)


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that runs."""

    folder: Path
    redis: Redis
    settings: Mapping[str, str]
    port: int
    model: FaultyModel
    crew: Crew
    rng: random.Random


@asynccontextmanager
async def playing(turns: Sequence[Said], seed: int) -> AsyncIterator[Scene]:
    """The store, the model and a serving memproxy; the workers are not started yet."""
    rng = random.Random(seed)
    model = FaultyModel(turns, rng=random.Random(seed + 1))
    with tempfile.TemporaryDirectory(prefix="mpf-") as name:
        folder = Path(name)
        async with EmbeddedStore(folder / "data") as store, ScriptedModel(model, keep_requests=1).serve() as upstream:
            settings = {
                **SETTINGS,
                "MEMPROXY_REDIS_URL": store.url,
                "MEMPROXY_UPSTREAM_BASE_URL": upstream.base_url,
                "MEMPROXY_EXTRACTION_BASE_URL": upstream.base_url,
                "MEMPROXY_RUN_WORKER": "false",
            }
            port = free_port()
            serve = ["memproxy", "serve", "--host", "127.0.0.1", "--port", str(port)]
            crew = Crew(folder, settings, rng=rng)
            redis = open_redis(store.url, connect_timeout_s=5, max_connections=16)
            async with launched("serve", serve, port=port, folder=folder, settings=settings) as server:
                await server.wait_ready("/readyz")
                try:
                    yield Scene(folder, redis, settings, port, model, crew, rng)
                finally:
                    await crew.end()
                    await redis.aclose()


async def run(turns: Sequence[Said], *, seed: int, trouble: Trouble, measures_latency: bool) -> Result:
    """One run from the beginning to the end."""
    result = Result(turns=len(turns), observations=sum(len(said.observations) for said in turns))
    async with playing(turns, seed) as scene:
        strangers = await _settle_strangers(scene.redis, turns)
        result.strangers = len(strangers)
        began = time.monotonic()
        scene.crew.start(WORKERS)
        async with asyncio.TaskGroup() as group:
            group.create_task(_chaos(scene, trouble, result))
            result.degraded = await _say_all(scene, turns)
            result.said_s = time.monotonic() - began
        await _drained(scene)
        result.drained_s = time.monotonic() - began
        scene.crew.check_alive()
        result.dead = dict(Counter([letter.reason async for letter in DeadLetters(scene.redis).each(Stage)]))
        result.model_calls = dict(sorted(scene.model.calls.items()))
        result.worker_kills = scene.crew.kills
        scene.model.is_well = True
        if result.dead:
            await _command(scene, "queue", "retry", "--all")
            await _drained(scene)
        result.left = sum([await _left(scene.redis, stage) for stage in Stage])
        await _judge(scene.redis, turns, strangers, result)
        if measures_latency:
            result.latency_ms = await _latency(scene, turns)
    return result


async def _say_all(scene: Scene, turns: Sequence[Said]) -> int:
    """Say every turn through the proxy, some sessions at a time; how many answers were without memory."""
    waiting = sessions_of(turns)
    scene.rng.shuffle(waiting)
    degraded = 0

    async def lead() -> None:
        nonlocal degraded
        connection = await Connection.connected(scene.port)
        while waiting:
            history: list[dict[str, str]] = []
            for said in waiting.pop():
                history.append({"role": "user", "name": said.speaker, "content": said.text})
                answer = await connection.ask(_request(said, history))
                if answer.status != 200:
                    raise LoadError(f"a request was answered {answer.status}: {answer.body[:300]!r}")
                degraded += bool(answer.header(b"x-memproxy-degraded"))
                history.append({"role": "assistant", "content": "Noted."})
                await asyncio.sleep(PAUSE_S)
        connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(SPEAKERS_AT_ONCE):
            group.create_task(lead())
    return degraded


def _request(said: Said, messages: Sequence[Mapping[str, str]], *, session: str = "") -> bytes:
    body = json.dumps({"model": "chat", "messages": messages}).encode()
    path = f"/u/{said.user}/s/{session or said.session}/v1/chat/completions"
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def _chaos(scene: Scene, trouble: Trouble, result: Result) -> None:
    """Kill workers and restart the store at random moments."""

    async def workers() -> None:
        for _ in range(trouble.kills):
            await asyncio.sleep(scene.rng.uniform(*trouble.kill_every_s))
            await asyncio.to_thread(scene.crew.kill_one)

    async def store() -> None:
        while result.store_restarts < trouble.restarts:
            await asyncio.sleep(scene.rng.uniform(*trouble.restart_every_s))
            with contextlib.suppress(RedisError, OSError):  # it may be restarting just now
                pid = (await scene.redis.info("server"))["process_id"]
                await scene.redis.execute_command("WAITAOF", 1, 0, 2_000)  # type: ignore[no-untyped-call]
                os.kill(pid, scene.rng.choice((signal.SIGKILL, signal.SIGTERM)))
                result.store_restarts += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(workers())
        group.create_task(store())


async def _drained(scene: Scene) -> None:
    """Wait until every turn is recorded and nothing waits to be learned from. Raises LoadError."""
    deadline, depths = time.monotonic() + DRAIN_S, []
    while time.monotonic() < deadline:
        with contextlib.suppress(StoreError, LoadError, OSError):
            depths = [await TurnQueue(scene.redis, stage=stage).depth() for stage in Stage]
            if not any(depth.waiting + depth.pending for depth in depths) and await _is_recorded(scene):
                return
        await asyncio.sleep(POLL_S)
    log = (scene.folder / "workers.log").read_text("utf-8", "replace")
    raise LoadError(f"the queue did not get empty within {DRAIN_S:g} s: {depths}\n{log[-3_000:]}")


async def _is_recorded(scene: Scene) -> bool:
    connection = await Connection.connected(scene.port)
    metrics = (await connection.ask(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")).body
    connection.close()
    lost = [line for line in metrics.splitlines() if line.startswith(b"memproxy_turns_lost_total ")]
    if lost and float(lost[0].split()[-1]):
        raise AssertionError("the proxy has lost turns")
    return b"\nmemproxy_turns_waiting 0.0\n" in metrics


async def _left(redis: Redis, stage: Stage) -> int:
    depth = await TurnQueue(redis, stage=stage).depth()
    return depth.waiting + depth.pending + depth.dead


async def _command(scene: Scene, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "memproxy", *arguments, cwd=ROOT, env={**os.environ, **scene.settings}
    )
    if await process.wait():
        raise LoadError(f"memproxy {' '.join(arguments)} ended with {process.returncode}")


async def _settle_strangers(redis: Redis, turns: Sequence[Said]) -> dict[bytes, dict[bytes, bytes]]:
    """Store records of people who take no part, with the very words of the observations: nobody may touch them."""
    embedder = LocalEmbedder()
    store = LongTermStore(redis, model=embedder.name, dims=embedder.dims)
    await store.ensure_index()
    memory = LongTermMemory(store, embedder)
    users = sorted({said.user for said in turns})
    observed = [observation for said in turns for observation in said.observations][:40]
    scopes = [
        Scope(SINGLE_TENANT, "somebody else"),
        Scope("another tenant", users[0]),
        Scope(SINGLE_TENANT, users[0], "n"),
    ]
    records = [
        MemoryRecord(observation.id, scope, observation.text, MemoryType.SEMANTIC, datetime(2023, 1, 1, tzinfo=UTC))
        for scope in scopes
        for observation in observed
    ]
    await memory.remember(records)
    return await _documents(redis)


async def _documents(redis: Redis) -> dict[bytes, dict[bytes, bytes]]:
    found = {}
    async for key in redis.scan_iter("mp:m:*", count=1_000):
        fields: Any = await redis.hgetall(key)
        found[key] = fields
    return found


async def _judge(
    redis: Redis, turns: Sequence[Said], strangers: Mapping[bytes, Mapping[bytes, bytes]], result: Result
) -> None:
    """Compare what is stored with what was said."""
    documents = await _documents(redis)
    result.strangers_touched = sum(documents.pop(key, None) != fields for key, fields in strangers.items())
    records = [msgspec.json.decode(fields[b"record"], type=MemoryRecord) for fields in documents.values()]
    users = {said.user for said in turns}
    result.scopes = len({record.scope for record in records} - {Scope(SINGLE_TENANT, user) for user in users})
    result.said = sum(record.type is MemoryType.MESSAGE for record in records)
    made = [record for record in records if record.type is not MemoryType.MESSAGE]
    seen = Counter((record.scope.user, observed) for record in made for observed in record.entities)
    expected = {(said.user, observation.id) for said in turns for observation in said.observations}
    result.stored = sum(seen[each] == 1 for each in expected)
    result.missing = sorted(observed for user, observed in expected if not seen[user, observed])
    result.doubled = sorted(observed for (user, observed), times in seen.items() if times > 1)


async def _latency(scene: Scene, turns: Sequence[Said]) -> dict[str, float]:
    """How long requests take while the workers stand still, and while they work through a backlog, in ms."""
    taken: dict[str, list[float]] = {"off": [], "on": []}
    connection = await Connection.connected(scene.port)
    for number in range(LATENCY_SLICES):
        kind = "on" if number % 2 else "off"
        scene.crew.signal(signal.SIGCONT if kind == "on" else signal.SIGSTOP)
        for place in range(LATENCY_REQUESTS):
            said = turns[(number * LATENCY_REQUESTS + place) % len(turns)]
            session = f"latency-{number}-{place}"
            messages = [{"role": "user", "name": said.speaker, "content": said.text}]
            answer = await connection.ask(_request(said, messages, session=session))
            taken[kind].append(answer.latency_s * 1000)
            await asyncio.sleep(LATENCY_PAUSE_S)
    scene.crew.signal(signal.SIGCONT)
    connection.close()
    figures = {}
    for kind, values in taken.items():
        figures[f"p50 {kind}"] = statistics.median(values)
        figures[f"p95 {kind}"] = statistics.quantiles(values, n=20)[-1]
    return figures | {f"{p} ratio": figures[f"{p} on"] / figures[f"{p} off"] for p in ("p50", "p95")}


def show(result: Result) -> None:
    """Print the numbers."""
    shown = Table(box=SIMPLE_HEAD, show_header=False)
    for name, value in rows_of(asdict(result) | {"holds": result.holds}):
        shown.add_row(name, value)
    Console().print(shown, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print; the exit code is 1 when something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench extraction-faults", description="Learning under faults.")
    results.add_arguments(parser, NAME)
    parser.add_argument("--turns", type=int, help=f"default {TURNS:,}; {QUICK_TURNS} with --quick")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dialogues", type=Path, default=DIALOGUES)
    parser.add_argument("--no-latency", action="store_true", help="do not measure what workers cost the requests")
    chosen = parser.parse_args(arguments)
    if not chosen.dialogues.exists():
        print(f"There are no dialogues at {chosen.dialogues}: they are no part of the project.")
        return results.NOT_HERE
    turns = read_turns(chosen.dialogues, count=chosen.turns or (QUICK_TURNS if chosen.quick else TURNS))
    kills, restarts = max(3, len(turns) // 50), max(2, len(turns) // 250)
    trouble = QUICK_TROUBLE if chosen.quick else Trouble(kills=kills, restarts=restarts)
    measures_latency = not (chosen.no_latency or chosen.quick)
    with Console(stderr=True).status(f"saying {len(turns):,} turns, and learning from them under faults"):
        result = uvloop.run(run(turns, seed=chosen.seed, trouble=trouble, measures_latency=measures_latency))
    show(result)
    results.write(chosen, NAME, asdict(result) | {"holds": result.holds})
    return 0 if result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
