"""The servers behind the curves and the streams: the upstream that keeps time, the floor relay, and any number of
memproxys, each with a store and users of its own."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.known_users import KnownUsers, known_users
from bench.processes import Server, free_port, launched

READY = "/v1/models"


@dataclass(frozen=True, slots=True)
class Memproxy:
    """One that is running."""

    server: Server
    store: KnownUsers


@asynccontextmanager
async def upstream(folder: Path) -> AsyncIterator[Server]:
    """The model server. Raises LoadError when it does not start, as all here do."""
    port = free_port()
    command = ["bench.paced_model", "--port", str(port)]
    async with launched("paced-upstream", command, port=port, folder=folder) as server:
        await server.wait_ready(READY)
        yield server


@asynccontextmanager
async def floor(folder: Path, behind: Server) -> AsyncIterator[Server]:
    """The floor relay before the upstream."""
    port = free_port()
    command = ["bench.floor", "--origin", f"http://127.0.0.1:{behind.port}", "--port", str(port)]
    async with launched("floor", command, port=port, folder=folder) as server:
        await server.wait_ready(READY)
        yield server


@asynccontextmanager
async def memproxy(
    name: str,
    folder: Path,
    behind: Server,
    *,
    users: Mapping[int, Sequence[str]],
    learns: bool = False,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Memproxy]:
    """A memproxy before the upstream, whose users have their memories, by how many each has.

    Unless it `learns`, turns are recorded and nobody works on them: its process does nothing but serve.
    """
    port, data_dir = free_port(), folder / name
    command = ["memproxy", "serve", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    command += ["--upstream", f"http://127.0.0.1:{behind.port}/v1", "--data-dir", str(data_dir)]
    environment = {"MEMPROXY_RUN_WORKER": str(learns).lower(), **(settings or {})}
    async with launched(name, command, port=port, folder=folder, settings=environment) as server:
        await server.wait_ready("/readyz")
        async with known_users(data_dir, learns=learns) as store:
            await store.load(users)
            yield Memproxy(server, store)
