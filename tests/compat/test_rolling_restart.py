"""New versions come while agents work: every process is replaced under load, and nobody notices."""

import asyncio
import json
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from redis.asyncio import Redis

from memproxy.demo.script import ModelRequest
from memproxy.demo.scripted_model import Reply, ScriptedModel
from memproxy.storage.schema import MEMORY_PREFIX
from tests.fakes.balancer import Balancer, balancing
from tests.fakes.processes import serving_process, working_process
from tests.fakes.serving import until
from tests.fakes.stores import store_process

ROUNDS = int(os.environ.get("ROLLING_ROUNDS", "2"))
"""How often each process is replaced; more by hand."""

CLIENTS = 6

PATIENCE_S = 150
"""For a process to end. Workers step back behind everything else that runs on the machine, when they stop as well."""

TIMES = {"drain_s": "2", "shutdown_grace_s": "15"}


def answer(request: ModelRequest) -> Reply:
    """What the user said, word by word; now and then so slowly that a process is told to stop in the middle of it."""
    words = request.last_user_text
    return Reply(f"You said: {words}", delay_s=0.02, event_delay_s=0.4 if "slowly" in words else 0.01)


@dataclass(slots=True)
class Agents:
    """Agents that talk all the time, and what came of it."""

    port: int
    said: list[str] = field(default_factory=list)
    """Every message that was answered completely."""
    failures: list[str] = field(default_factory=list)
    is_over: bool = False

    async def talk(self, number: int) -> None:
        """One agent: a session of many turns, streamed and whole, sometimes silent for a while.

        Every other one keeps its connection, which stays with its process; the rest open one for each request.
        """
        chance = random.Random(number)
        async with AsyncOpenAI(
            base_url=f"http://127.0.0.1:{self.port}/u/user-{number}/s/talk-{number}/v1",
            api_key="sk-test",
            max_retries=0,
            default_headers={} if number % 2 else {"Connection": "close"},
            http_client=DefaultAsyncHttpxClient(verify=False),
        ) as client:
            turn = 0
            while not self.is_over:
                turn += 1
                slowly = " slowly" if turn % 7 == number % 7 else ""
                words = f"parcel{number}x{turn}y is on shelf {chance.randrange(10_000)}{slowly}."
                try:
                    await self._say(client, words, streams=bool(slowly) or turn % 2 == 0)
                except Exception as error:
                    self.failures.append(f"{words!r}: {type(error).__name__}: {error} ({error.__cause__!r})")
                await asyncio.sleep(chance.choice((0, 0, 0.05, 0.5)))

    async def _say(self, client: AsyncOpenAI, words: str, *, streams: bool) -> None:
        if streams:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": words}], stream=True
            )
            pieces = [chunk.choices[0] async for chunk in stream if chunk.choices]
            heard, is_whole = "".join(piece.delta.content or "" for piece in pieces), pieces[-1].finish_reason == "stop"
        else:
            whole = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": words}])
            heard, is_whole = whole.choices[0].message.content or "", True
        if heard == f"You said: {words}" and is_whole:
            self.said.append(words)
        else:
            self.failures.append(f"{words!r}: answered with {heard!r}")


@dataclass(slots=True)
class Deployment:
    """Two proxies and two workers; each has an exit of its own."""

    balancer: Balancer
    settings: dict[str, str]
    logs: Path
    group: asyncio.TaskGroup
    pods: list[AsyncExitStack] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    """What the processes that were replaced ended with."""

    async def start(self, kind: str) -> AsyncExitStack:
        """A new process that is ready, or at work, and how to end it."""
        async with AsyncExitStack() as stack:
            log = stack.enter_context((self.logs / f"{kind}-{len(list(self.logs.iterdir()))}.log").open("wb"))
            if kind == "proxy":
                process, port = await stack.enter_async_context(
                    serving_process(log=log, run_worker="false", **self.settings)
                )
                self.balancer.add(port, self.group)
                await until(lambda: self._is_known(port))
                stack.callback(self.balancer.remove, port)
            else:
                process = await stack.enter_async_context(working_process(log=log, **self.settings))
            stack.push_async_callback(self._stop, process)
            return stack.pop_all()
        raise AssertionError("unreachable")

    async def _is_known(self, port: int) -> bool:
        return port in self.balancer.ready

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        process.send_signal(signal.SIGTERM)
        self.codes.append(await asyncio.wait_for(process.wait(), PATIENCE_S))

    async def replace(self, place: int) -> None:
        """As a rolling update does it: first there is a new one, then the old one is told to stop, in its own time."""
        new = await self.start("proxy" if place < 2 else "worker")
        old, self.pods[place] = self.pods[place], new
        self.group.create_task(old.aclose())


@asynccontextmanager
async def deployed(settings: dict[str, str], logs: Path) -> AsyncIterator[Deployment]:
    async with balancing() as balancer, asyncio.TaskGroup() as group:
        deployment = Deployment(balancer, settings, logs, group)
        kinds = ("proxy", "proxy", "worker", "worker")
        deployment.pods = list(await asyncio.gather(*map(deployment.start, kinds)))
        try:
            yield deployment
        finally:
            await asyncio.gather(*(pod.aclose() for pod in deployment.pods))


@pytest.mark.timeout(200 * ROUNDS)
async def test_replacing_every_process_under_load_fails_no_request_and_loses_no_turn(tmp_path: Path) -> None:
    """Whoever brings out a new version in working hours has no error in any agent, and no memory less or twice."""
    logs = tmp_path / "logs"
    logs.mkdir()
    with store_process(tmp_path / "store") as (store, _):
        async with ScriptedModel(answer).serve() as upstream, Redis(port=store) as redis:
            given = {"redis_url": f"redis://127.0.0.1:{store}", "upstream_base_url": upstream.base_url, **TIMES}
            async with deployed(given, logs) as deployment:
                agents = Agents(deployment.balancer.port)
                async with asyncio.TaskGroup() as group:
                    for number in range(CLIENTS):
                        group.create_task(agents.talk(number))
                    for _ in range(ROUNDS):
                        for proxy, worker in ((0, 2), (1, 3)):
                            await asyncio.gather(deployment.replace(proxy), deployment.replace(worker))
                    agents.is_over = True
                assert agents.failures == []
                assert len(agents.said) > 10 * CLIENTS
                await until(lambda: _is_learned(redis, len(agents.said)), deadline_s=30)
                await _assert_each_once(redis, agents.said)
            assert deployment.codes == [0] * (4 * ROUNDS + 4)


async def _is_learned(redis: Redis, turns: int) -> bool:
    lengths = [await redis.llen(key) for key in await redis.keys("mp:log:*")]
    waiting = [await redis.xlen(key) for key in await redis.keys("mp:q:*")]
    return sum(lengths) >= 2 * turns and not sum(waiting)


async def _assert_each_once(redis: Redis, said: list[str]) -> None:
    """Each message and its answer stand once in their session, and each is one memory."""
    logged = [str(entry) for key in await redis.keys("mp:log:*") for entry in await redis.lrange(key, 0, -1)]
    records = [json.loads(await redis.hget(key, "record") or b"{}") for key in await redis.keys(f"{MEMORY_PREFIX}*")]
    memories = [record["text"] for record in records]
    found = Counter[str]()
    for words in said:
        first = words.split()[0]
        found["in sessions"] += sum(first in entry for entry in logged) == 2
        found["memories"] += sum(first in memory for memory in memories) == 2
    assert found == {"in sessions": len(said), "memories": len(said)}
    assert len(logged) == 2 * len(said)
