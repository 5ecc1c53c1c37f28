"""A load balancer as a Service of Kubernetes is one: it chooses for each connection, and learns of readiness late."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count

from tests.fakes.processes import is_ok

PROBE_S = 0.1
"""How often each endpoint is asked whether it is ready."""

REMOVAL_S = 0.4
"""How long an endpoint that is not ready still gets connections: until all nodes have heard of it."""


class Balancer:
    """Hands each new connection to the next endpoint that is ready; connections that are there stay where they are."""

    def __init__(self) -> None:
        self.port = 0
        self.ready: list[int] = []
        """Ports that get connections, of those that were added."""
        self._probing: dict[int, asyncio.Task[None]] = {}
        self._turn = count()

    def add(self, port: int, group: asyncio.TaskGroup) -> None:
        """Probe this endpoint from now on."""
        self._probing[port] = group.create_task(self._probe(port))

    def remove(self, port: int) -> None:
        """The endpoint is no more."""
        self._probing.pop(port).cancel()

    async def _probe(self, port: int) -> None:
        while True:
            if await is_ok(port, "/readyz"):
                if port not in self.ready:
                    self.ready.append(port)
            elif port in self.ready:
                await asyncio.sleep(REMOVAL_S)
                self.ready.remove(port)
            await asyncio.sleep(PROBE_S)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, as it comes: nobody tries elsewhere what is refused here."""
        port = self.ready[next(self._turn) % len(self.ready)]
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(reader, inner_writer))
            both.create_task(_copy(inner_reader, writer))


@asynccontextmanager
async def balancing() -> AsyncIterator[Balancer]:
    """A balancer that listens; without endpoints yet."""
    balancer = Balancer()
    server = await asyncio.start_server(balancer.connect, "127.0.0.1", 0)
    balancer.port = server.sockets[0].getsockname()[1]
    async with server:
        yield balancer


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What is read is written, up to the end, which is passed on as well."""
    with suppress(ConnectionError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    writer.close()
