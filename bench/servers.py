"""Start all that the bench needs, and stop it again: upstream, floor, peers, memproxy with and without workers."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.client import Connection, LoadError
from bench.known_users import known_users
from bench.measure import Bench
from bench.peers import prepared
from bench.processes import PYTHON, Server, free_port, launched
from bench.scenarios import CHAT, Host, Plan, Target


@dataclass(frozen=True, slots=True)
class Launch:
    """How one server is started."""

    command: Sequence[str]
    ready_path: str = "/v1/models"
    environment: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = PYTHON


@asynccontextmanager
async def running(plan: Plan, *, progress: Callable[[int], None] | None = None) -> AsyncIterator[Bench]:
    """All servers that the plan needs, ready and with their users' memories.

    `progress` is told how many memories were written since it was last.

    Raises:
        LoadError: one did not start, or does not answer as it must.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mpb-")))
        servers = await _started(stack, plan, folder)
        targets = plan.all_targets()
        stores, loading = {}, []
        for host in (Host.MEMPROXY, Host.APART):
            users = _users(plan, (target for target in targets if target.host is host and target.remembers))
            if users:
                stores[host] = await stack.enter_async_context(known_users(folder / host, learns=host is Host.MEMPROXY))
                loading.append(stores[host].load(users, in_all=plan.in_all, progress=progress))
        await asyncio.gather(*loading)  # while one store indexes, the other's memories are made
        kinds = {(each.model, each.is_stream) for each in plan.scenarios}
        answers = {
            (model, is_stream): await _answer(servers[Host.UPSTREAM], model, is_stream=is_stream)
            for model, is_stream in kinds
        }
        yield Bench(servers, stores, _users(plan, targets), answers)


def _users(plan: Plan, targets: Iterable[Target]) -> Mapping[int, Sequence[str]]:
    counts = sorted({target.memories for target in targets})
    return {count: [f"user-{count}-{number}" for number in range(plan.users[count])] for count in counts}


async def _started(stack: AsyncExitStack, plan: Plan, folder: Path) -> dict[Host, Server]:
    wanted = {Host.UPSTREAM, *(target.host for target in plan.all_targets())}
    ports = {host: free_port() for host in Host if host in wanted}
    servers, ready_paths = {}, {}
    for host, port in ports.items():
        launch = _launch(host, plan, folder, ports=ports)
        ready_paths[host] = launch.ready_path
        settings, program = launch.environment, launch.program
        launching = launched(host, launch.command, port=port, folder=folder, settings=settings, program=program)
        servers[host] = await stack.enter_async_context(launching)
    for host, server in servers.items():  # the upstream first: the others are ready when they get through to it
        await server.wait_ready(ready_paths[host])
    return servers


def _launch(host: Host, plan: Plan, folder: Path, *, ports: Mapping[Host, int]) -> Launch:
    port, upstream = str(ports[host]), ports[Host.UPSTREAM]
    origin = f"http://127.0.0.1:{upstream}"
    match host:
        case Host.UPSTREAM:
            return Launch(["memproxy.demo.scripted_model", "--port", port])
        case Host.FLOOR:
            return Launch(["bench.floor", "--origin", origin, "--port", port])
        case Host.MEMPROXY:
            return Launch(_memproxy(folder / host, origin, port), "/readyz", plan.settings)
        case Host.APART:
            settings = {**plan.settings, "MEMPROXY_RUN_WORKER": "false"}
            return Launch(_memproxy(folder / host, origin, port), "/readyz", settings)
        case Host.NGINX | Host.LITELLM:
            peer = prepared(host, folder / host, port=ports[host], upstream=upstream)
            return Launch((), peer.ready_path, peer.environment, peer.program)


def _memproxy(data_dir: Path, origin: str, port: str) -> list[str]:
    serve = ["memproxy", "serve", "--host", "127.0.0.1", "--port", port, "--log-level", "warning"]
    return [*serve, "--upstream", f"{origin}/v1", "--data-dir", str(data_dir)]


async def _answer(upstream: Server, model: str, *, is_stream: bool) -> tuple[bytes, str]:
    """What the upstream answers to any request for this model: the body, and the assistant's words."""
    whole = await _asked(upstream, model, is_stream=False)
    words: Any = msgspec.json.decode(whole)["choices"][0]["message"]["content"]
    body = await _asked(upstream, model, is_stream=True) if is_stream else whole
    if is_stream and not body.endswith(b"data: [DONE]\n\n"):
        raise LoadError(f"the upstream's stream for {model} has no end")
    return body, str(words)


async def _asked(upstream: Server, model: str, *, is_stream: bool) -> bytes:
    """With a tool's result at the end, so that a model which looks something up first has done so."""
    messages = [{"role": "user", "content": "Where is it?"}, {"role": "tool", "tool_call_id": "1", "content": "[]"}]
    body = msgspec.json.encode({"model": model, "stream": is_stream, "messages": messages})
    head = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
    connection = await Connection.connected(upstream.port)
    answer = await connection.ask(head.encode() + body)
    connection.close()
    if answer.status != 200:
        raise LoadError(f"the upstream answered {answer.status}: {answer.body[:300]!r}")
    return answer.body
