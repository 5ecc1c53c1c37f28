"""Start all that the bench needs, and stop it again: the upstream, the floor, memproxy with and without workers."""

import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.client import Connection, LoadError
from bench.conversations import Conversations
from bench.known_users import known_users
from bench.measure import Bench
from bench.processes import Server, free_port, launched
from bench.scenarios import Host, Plan, Scenario, Target

READY_PATHS = {  # the upstream first: the floor is ready when it gets through to it
    Host.UPSTREAM: "/v1/models",
    Host.FLOOR: "/v1/models",
    Host.MEMPROXY: "/readyz",
    Host.APART: "/readyz",
}


@asynccontextmanager
async def running(plan: Plan) -> AsyncIterator[Bench]:
    """All servers that the plan needs, ready and with their users' memories.

    Raises:
        LoadError: one did not start, or does not answer as it must.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mpb-")))
        servers = await _started(stack, plan, folder)
        stores = {}
        for host in (Host.MEMPROXY, Host.APART):
            users = _users(plan, (target for target in plan.targets if target.host is host and target.remembers))
            if users:
                stores[host] = await stack.enter_async_context(known_users(folder / host, learns=host is Host.MEMPROXY))
                await stores[host].load(users)
        kinds = {(each.model, each.is_stream) for each in plan.scenarios}
        answers = {
            (model, is_stream): await _answer(servers[Host.UPSTREAM], model, is_stream=is_stream)
            for model, is_stream in kinds
        }
        yield Bench(servers, stores, _users(plan, plan.targets), answers)


def _users(plan: Plan, targets: Iterable[Target]) -> Mapping[int, Sequence[str]]:
    counts = sorted({target.memories for target in targets})
    return {count: [f"user-{count}-{number}" for number in range(plan.users[count])] for count in counts}


async def _started(stack: AsyncExitStack, plan: Plan, folder: Path) -> dict[Host, Server]:
    hosts = {Host.UPSTREAM, *(target.host for target in plan.targets)}
    ports = {host: free_port() for host in READY_PATHS if host in hosts}
    origin = f"http://127.0.0.1:{ports[Host.UPSTREAM]}"
    commands: dict[Host, tuple[list[str], Mapping[str, str]]] = {
        Host.UPSTREAM: (["memproxy.demo.scripted_model"], {}),
        Host.FLOOR: (["bench.floor", "--origin", origin], {}),
        Host.MEMPROXY: (_memproxy(folder / Host.MEMPROXY, origin), plan.settings),
        Host.APART: (_memproxy(folder / Host.APART, origin), {**plan.settings, "MEMPROXY_RUN_WORKER": "false"}),
    }
    servers = {}
    for host, port in ports.items():
        command, settings = commands[host]
        launching = launched(host, [*command, "--port", str(port)], port=port, folder=folder, settings=settings)
        servers[host] = await stack.enter_async_context(launching)
    for host, server in servers.items():
        await server.wait_ready(READY_PATHS[host])
    return servers


def _memproxy(data_dir: Path, origin: str) -> list[str]:
    serve = ["memproxy", "serve", "--host", "127.0.0.1", "--log-level", "warning"]
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
    scenario = Scenario("probe", "probe", 1, model, is_stream)
    probe = Conversations(scenario, Target("probe", "probe", Host.UPSTREAM), answer="", users=["nobody"], seed="probe")
    connection = await Connection.connected(upstream.port)
    answer = await connection.ask(probe.new().next_request())
    connection.close()
    if answer.status != 200:
        raise LoadError(f"the upstream answered {answer.status}: {answer.body[:300]!r}")
    return answer.body
