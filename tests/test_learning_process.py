"""The processes that learn, as they run in real life."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from memproxy.demo.scripted_model import Reply, ScriptedModel
from memproxy.identity import SINGLE_TENANT
from memproxy.learning_process import on_signals
from memproxy.records import Outcome, Scope, StoredMessage, Turn
from memproxy.sockets import listening_socket
from memproxy.storage.queue import TurnQueue
from tests.fakes.serving import until


@asynccontextmanager
async def memproxy(*arguments: str, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command with these settings; ended if it has not."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MEMPROXY_")}
    environment = clean | {f"MEMPROXY_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "memproxy", *arguments]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 40)


def free_port() -> int:
    with listening_socket("127.0.0.1", 0) as free:
        port: int = free.getsockname()[1]
        return port


async def counted(port: int, event: str) -> float:
    """What the metrics on this port count for an event; nothing while nobody answers."""
    try:
        async with httpx.AsyncClient(verify=False) as http:
            text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    except httpx.HTTPError:
        return -1
    found = re.search(rf'^memproxy_jobs_total{{event="{re.escape(event)}"}} ([\d.]+)$', text, re.MULTILINE)
    return float(found.group(1)) if found else 0


def children_of(pid: int) -> list[int]:
    """The Python processes that it started; not multiprocessing's own."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.timeout(150)
async def test_a_server_has_a_process_that_learns_starts_it_again_and_takes_it_along(
    redis: Redis, redis_url: str
) -> None:
    """Learning takes no time from requests, survives a crash of its own, and leaves nothing running behind."""
    port = free_port()
    async with ScriptedModel(lambda _: Reply("Noted.")).serve() as upstream:
        settings = {"redis_url": redis_url, "upstream_base_url": upstream.base_url, "worker_lease_s": "1"}
        async with memproxy("serve", "--port", str(port), **settings) as server:

            async def say(words: str) -> bool:
                body = {"model": "m", "messages": [{"role": "user", "content": words}]}
                try:
                    async with httpx.AsyncClient(verify=False, timeout=20) as http:
                        url = f"http://127.0.0.1:{port}/u/alice/s/one/v1/chat/completions"
                        return (await http.post(url, json=body)).status_code == 200
                except httpx.ConnectError:
                    return False

            async def has_learned(turns: int) -> bool:
                return await counted(port, "turns.done") >= turns

            await until(lambda: say("My cat is called Whiskers."), deadline_s=60)
            await until(lambda: has_learned(1), deadline_s=60)
            [first] = children_of(server.pid)
            os.kill(first, signal.SIGKILL)
            assert await say("My dog is called Rex.")
            await until(lambda: has_learned(2), deadline_s=60)
            [second] = children_of(server.pid)
            assert second != first
            server.kill()
            await server.wait()

            async def is_gone() -> bool:
                return not await asyncio.to_thread(Path(f"/proc/{second}").exists)

            await until(is_gone, deadline_s=60)


@pytest.mark.timeout(120)
async def test_a_worker_alone_learns_shows_its_metrics_and_ends_at_a_signal(redis: Redis, redis_url: str) -> None:
    """Workers on other machines are watched like everything else, and a deployment stops them in good order."""
    port = free_port()
    message = StoredMessage({"role": "user", "content": "My cat is called Whiskers."}, "00", 5, datetime.now(UTC))
    turn = Turn("t1", Scope(SINGLE_TENANT, "alice"), "one", message.at, Outcome.COMPLETED, (message,))
    queue = TurnQueue(redis)
    await queue.add(turn)
    async with memproxy("worker", redis_url=redis_url, worker_metrics_port=str(port)) as worker:

        async def has_learned() -> bool:
            return await counted(port, "turns.done") == 1

        await until(has_learned, deadline_s=60)
        worker.terminate()
        assert await asyncio.wait_for(worker.wait(), 40) == 0
    assert (await queue.depth()).pending == 0
    assert await queue.leases_of("next", ttl_s=60).free() == set(queue.partitions)


async def test_a_taken_port_for_metrics_is_told_in_a_line(redis: Redis, redis_url: str) -> None:
    """Who mistyped the port reads which one it was."""
    with listening_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "memproxy", "worker"]
        environment = {**os.environ, "MEMPROXY_REDIS_URL": redis_url, "MEMPROXY_WORKER_METRICS_PORT": str(port)}
        process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert f"127.0.0.1:{port}" in errors.decode()
    assert "Traceback" not in errors.decode()


@pytest.mark.parametrize("ignored", [True, False])
async def test_a_closed_terminal_is_a_signal_unless_nohup_keeps_it_away(ignored: bool) -> None:
    """Whoever starts it with nohup wants it to outlive the terminal; anybody else wants it to end in good order."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    told = asyncio.Event()
    try:
        on_signals(told.set)
        for number in (signal.SIGHUP, *([signal.SIGTERM] if ignored else [])):
            assert not told.is_set()
            os.kill(os.getpid(), number)
            for _ in range(5):  # turns of the loop that a signal may take
                await asyncio.sleep(0)
        await asyncio.wait_for(told.wait(), 5)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(signal.SIGHUP, before)
