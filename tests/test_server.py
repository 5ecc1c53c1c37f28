"""memproxy as a process, and what becomes of conversations when processes die."""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from memproxy.demo.script import in_order
from memproxy.demo.scripted_model import Reply, ScriptedModel
from memproxy.server import running, start_up_lines
from memproxy.settings import Settings
from memproxy.sockets import listening_socket
from memproxy.storage.connection import open_redis
from memproxy.storage.embedded import EmbeddedStore
from tests.fakes.processes import children_of, serving_process
from tests.fakes.serving import Serve, until


@dataclass(frozen=True, slots=True)
class Running:
    """A memproxy process."""

    process: asyncio.subprocess.Process
    origin: str

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)


@asynccontextmanager
async def memproxy(upstream: str, data_dir: Path, *options: str) -> AsyncIterator[Running]:
    """`memproxy serve` on a free port, ready; ended by its handle."""
    with listening_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "memproxy", "serve", "--port", str(port), "--upstream", upstream]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMPROXY_")}
    process = await asyncio.create_subprocess_exec(
        *command, "--data-dir", str(data_dir), *options, env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    served = Running(process, f"http://127.0.0.1:{port}")
    try:
        await until(lambda: is_ready(served.origin), deadline_s=40)
        yield served
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 30)


async def is_ready(origin: str) -> bool:
    try:
        async with httpx.AsyncClient(verify=False) as http:
            return (await http.get(f"{origin}/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


async def say(origin: str, *texts: str, path: str = "/u/alice/s/one/v1") -> httpx.Response:
    """One request with these messages of the user."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": text} for text in texts]}
    async with httpx.AsyncClient(verify=False, timeout=20) as http:
        return await http.post(f"{origin}{path}/chat/completions", json=body)


def texts_of(model: ScriptedModel) -> list[str]:
    return [message["content"] for message in model.requests[-1].messages]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_conversation_goes_on_after_kill_9(tmp_path: Path, workers: str) -> None:
    """memproxy dies in the middle of a conversation; started again, it has the history, and no process is left over."""
    async with ScriptedModel(lambda _: Reply(text="Noted.")).serve() as upstream:
        async with memproxy(upstream.base_url, tmp_path, "--workers", workers) as first:
            for text in ("My order is LX-1.", "It is late."):
                assert (await say(first.origin, text)).status_code == 200
            await until(lambda: stored_in(tmp_path, messages=4))
            first.kill()
            await first.process.wait()
        async with memproxy(upstream.base_url, tmp_path, "--workers", workers) as second:
            assert (await say(second.origin, "Where is it?")).status_code == 200
        assert texts_of(upstream.model) == ["My order is LX-1.", "Noted.", "It is late.", "Noted.", "Where is it?"]


async def stored_in(data_dir: Path, *, messages: int) -> bool:
    """So many messages are in the store under this folder, and on disk."""
    url = "unix://" + (data_dir / "store" / "store.sock").as_posix()
    redis = open_redis(url, connect_timeout_s=5, max_connections=2)
    try:
        lengths = [await redis.llen(key) for key in await redis.keys("mp:log:*")]
        synced = await redis.execute_command("WAITAOF", 1, 0, 2000)  # type: ignore[no-untyped-call]
        return sum(lengths) == messages and bool(synced[0])
    finally:
        await redis.aclose()


@pytest.mark.timeout(120)
async def test_killing_the_store_during_traffic_costs_memory_and_no_request(tmp_path: Path) -> None:
    """Requests go on without memory while the store is away; when it is back, so is memory, without a restart."""
    async with ScriptedModel(lambda _: Reply(text="Noted.")).serve() as upstream, EmbeddedStore(tmp_path) as store:
        settings = Settings.model_validate(
            {"redis_url": store.url, "upstream_base_url": upstream.base_url, "session_deadline_s": 5}
        )
        with listening_socket("127.0.0.1", 0) as listening:
            origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
            async with running(settings, sockets=[listening]) as instance:
                await say(origin, "My order is LX-1.")
                await until(_idle(instance))
                redis = open_redis(store.url, connect_timeout_s=5, max_connections=2)
                await redis.execute_command("WAITAOF", 1, 0, 2000)  # type: ignore[no-untyped-call]
                os.kill(await pid_of(redis), signal.SIGSTOP)
                pid = await asyncio.to_thread(_stopped_pid, tmp_path)
                degraded = await say(origin, "Are you there?")
                assert degraded.status_code == 200
                assert degraded.headers["x-memproxy-degraded"] == "session"
                assert texts_of(upstream.model) == ["Are you there?"]
                os.kill(pid, signal.SIGKILL)
                await redis.aclose()

                async def remembers() -> bool:
                    response = await say(origin, "And now?")
                    assert response.status_code == 200
                    return texts_of(upstream.model)[0] == "My order is LX-1."

                await until(remembers)
                assert "Are you there?" in texts_of(upstream.model)


def _idle(instance: Any) -> Any:
    async def is_idle() -> bool:
        return bool(instance.app.recorder.is_idle)

    return is_idle


async def pid_of(redis: Redis) -> int:
    info = await redis.info("server")
    return int(info["process_id"])


def _stopped_pid(data_dir: Path) -> int:
    """The process that serves this folder's store, found without asking it."""
    for entry in Path("/proc").iterdir():
        if (
            entry.name.isdigit()
            and str(data_dir).encode() in _read(entry / "cmdline")
            and b"valkey" in _read(entry / "cmdline")
        ):
            return int(entry.name)
    raise AssertionError("the store does not run")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_it_takes_more_connections_than_a_shell_allows(tmp_path: Path) -> None:
    """A thousand streams are two thousand sockets; many systems allow 1,024 files unless a process asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with ScriptedModel().serve() as upstream:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        try:
            async with memproxy(upstream.base_url, tmp_path) as served:
                allowed, _ = resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert allowed == (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536))


async def test_a_signal_ends_it_cleanly(tmp_path: Path) -> None:
    """SIGTERM: open requests finish, what they left is recorded, the exit code is 0."""
    async with ScriptedModel(lambda _: Reply(text="Slowly.", delay_s=0.5)).serve() as upstream:
        async with memproxy(upstream.base_url, tmp_path) as served:
            asking = asyncio.ensure_future(say(served.origin, "Take your time."))  # noqa: TID251  beside the signal
            await upstream.model.wait_until(lambda: bool(upstream.model.requests))
            served.process.terminate()
            assert (await asking).status_code == 200
            assert await asyncio.wait_for(served.process.wait(), 20) == 0
        async with memproxy(upstream.base_url, tmp_path) as again:
            await say(again.origin, "Still there?")
        assert texts_of(upstream.model)[0] == "Take your time."


async def test_what_came_until_the_grace_period_ended_is_kept(tmp_path: Path) -> None:
    """A stream may be longer than an orchestrator waits; what the user asked must not be gone with it."""
    impatient = tmp_path / "impatient.toml"
    impatient.write_text("shutdown_grace_s = 0.5\n")
    silent = Reply(text="This takes so long that nobody waits for it.", cut_after=4, hang=True)
    async with ScriptedModel(in_order(silent, Reply(text="Still here."))).serve() as upstream:
        async with memproxy(upstream.base_url, tmp_path, "--config", str(impatient)) as served:
            body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Take your time."}]}
            async with httpx.AsyncClient(verify=False, timeout=20) as http:
                address = f"{served.origin}/u/alice/s/one/v1/chat/completions"
                async with http.stream("POST", address, json=body) as answer:
                    pieces = answer.aiter_raw()
                    await anext(pieces)
                    served.process.terminate()
                    with suppress(httpx.HTTPError):
                        async for _ in pieces:
                            pass
            assert await asyncio.wait_for(served.process.wait(), 20) == 0
        async with memproxy(upstream.base_url, tmp_path) as again:
            await say(again.origin, "Still there?")
        assert texts_of(upstream.model)[0] == "Take your time."


async def test_a_process_that_drains_serves_on_and_says_that_it_goes(serve: Serve) -> None:
    """Load balancers learn late: what still comes is answered, and its connection is not used again."""
    async with serve(lambda _: Reply(text="Still here.")) as served:
        hurry = asyncio.Event()
        async with httpx.AsyncClient(verify=False) as http, asyncio.TaskGroup() as group:
            assert "connection" not in (await http.get(f"{served.origin}/readyz")).headers
            draining = group.create_task(served.instance.drain(60, hurry=hurry))
            await until(lambda: _is_drained(served.origin))
            for path in ("/healthz", "/metrics"):
                answer = await http.get(f"{served.origin}{path}")
                assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            said = await say(served.origin, "Anybody?")
            assert (said.status_code, said.headers["connection"]) == (200, "close")
            assert not draining.done()
            hurry.set()


async def _is_drained(origin: str) -> bool:
    return not await is_ready(origin)


async def test_a_client_that_could_not_know_of_the_end_may_go_on(serve: Serve) -> None:
    """An agent's next request follows its last answer within milliseconds: it must not meet a closed door."""
    slowly = Reply(text="One word after the other.", event_delay_s=0.02)
    async with serve(lambda _: slowly) as served, httpx.AsyncClient(verify=False, timeout=20) as http:
        connections = served.instance.server.server_state.connections
        url, body = (
            f"{served.origin}/v1/chat/completions",
            {"model": "m", "messages": [{"role": "user", "content": "x"}]},
        )
        async with http.stream("POST", url, json={**body, "stream": True}) as answer:
            pieces = answer.aiter_raw()
            await anext(pieces)
            [connection] = connections
            served.instance.server.announce_end()
            async for _ in pieces:
                pass
        assert "connection" not in answer.headers
        connection.shutdown()
        last = await http.post(url, json=body)
        assert (last.status_code, last.headers["connection"]) == (200, "close")
        await until(lambda: _is_empty(connections))


async def _is_empty(connections: Any) -> bool:
    return not connections


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_signal_drains_and_a_second_one_ends_it(redis: Redis, redis_url: str, workers: str) -> None:
    """An orchestrator's signal leaves time for its load balancers; whoever is in a hurry sends another."""
    given: dict[str, Any] = {"redis_url": redis_url, "drain_s": "120", "run_worker": "false", "workers": workers}
    async with (
        ScriptedModel(lambda _: Reply(text="Still here.")).serve() as upstream,
        serving_process(upstream_base_url=upstream.base_url, **given) as (process, port),
    ):
        origin = f"http://127.0.0.1:{port}"
        process.terminate()
        await until(lambda: _is_drained(origin), deadline_s=20)
        for _ in range(4):
            assert (await say(origin, "Anybody?")).status_code == 200
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 40) == 0


async def test_a_closed_terminal_ends_it_cleanly(redis: Redis, redis_url: str) -> None:
    """SIGHUP is a signal like the others: nothing that was said is lost with the window."""
    async with ScriptedModel(lambda _: Reply(text="Noted.")).serve() as upstream:
        given: dict[str, Any] = {"redis_url": redis_url, "upstream_base_url": upstream.base_url}
        async with serving_process(**given) as (process, port):
            assert (await say(f"http://127.0.0.1:{port}", "Remember me.")).status_code == 200
            process.send_signal(signal.SIGHUP)
            assert await asyncio.wait_for(process.wait(), 40) == 0
    assert [await redis.llen(key) for key in await redis.keys("mp:log:*")] == [2]


@pytest.mark.timeout(120)
async def test_a_serving_process_that_is_killed_is_started_again(redis: Redis, redis_url: str) -> None:
    """One of several dies: the others answer, and soon there are as many as before."""
    async with ScriptedModel(lambda _: Reply(text="Noted.")).serve() as upstream:
        given: dict[str, Any] = {"redis_url": redis_url, "run_worker": "false", "workers": "2"}
        given["upstream_base_url"] = upstream.base_url
        async with serving_process(**given) as (process, port):
            await until(lambda: _has_children(process.pid, 2), deadline_s=40)
            first = children_of(process.pid)
            os.kill(first[0], signal.SIGKILL)
            await until(lambda: _has_children(process.pid, 2, without=first[0]), deadline_s=40)
            assert first[1] in children_of(process.pid)
            for _ in range(4):
                assert (await say(f"http://127.0.0.1:{port}", "Anybody?")).status_code == 200


async def _has_children(pid: int, number: int, *, without: int = 0) -> bool:
    children = children_of(pid)
    return len(children) == number and without not in children


async def test_a_second_memproxy_on_the_same_data_shares_the_store(tmp_path: Path) -> None:
    """Two instances on one machine have one memory."""
    async with ScriptedModel(lambda _: Reply(text="Noted.")).serve() as upstream:
        async with memproxy(upstream.base_url, tmp_path) as one, memproxy(upstream.base_url, tmp_path) as two:
            await say(one.origin, "My order is LX-1.")
            await until(lambda: stored_in(tmp_path, messages=2))
            await say(two.origin, "Where is it?")
        assert texts_of(upstream.model)[0] == "My order is LX-1."


async def test_a_taken_port_is_told_in_one_line(tmp_path: Path) -> None:
    """No traceback for an everyday mistake."""
    with listening_socket("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "memproxy", "serve", "--port", port, "--data-dir", str(tmp_path),
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert b"choose one with --port" in errors
    assert b"Traceback" not in errors


def test_start_up_lines_tell_how_to_use_it_and_no_secret() -> None:
    """The operator sees the one variable to set, whose key is used, who is told apart."""
    lines = "\n".join(start_up_lines(Settings.model_validate({"upstream_api_key": "sk-secret"}), port=8080))
    assert "OPENAI_BASE_URL=http://127.0.0.1:8080/v1" in lines
    assert "sk-secret" not in lines
    assert "one tenant for all" in lines


async def test_drained_requests_are_recorded_before_the_end(serve: Serve) -> None:
    """What the last request said is stored, though memproxy ended right after it."""
    async with serve(lambda _: Reply(text="Bye.")) as served:
        await say(served.origin, "Remember this last word.")
        sessions = served.instance.services.sessions
    assert sessions is not None
    async with serve(lambda _: Reply(text="Hello.")) as served:
        await say(served.origin, "What was it?")
        assert texts_of(served.model)[0] == "Remember this last word."
