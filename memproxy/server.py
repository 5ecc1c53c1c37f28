"""Run memproxy's processes that serve, and the one that learns beside them, until a signal ends them."""

import asyncio
import ctypes
import gc
import logging
import math
import multiprocessing
import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path

import uvicorn
import uvloop
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from memproxy.app import App, create_app, open_upstream
from memproxy.clock import Clock
from memproxy.errors import MemproxyError
from memproxy.learning_process import extraction_line, learning_beside, on_signals
from memproxy.services import Services, open_services
from memproxy.settings import Settings
from memproxy.sockets import listening_socket
from memproxy.storage.embedded import EmbeddedStore
from memproxy.telemetry.logs import configure_logging
from memproxy.telemetry.several_processes import SharedMetrics, metrics_folder
from memproxy.worker.process import running_workers

log = logging.getLogger(__name__)

CANNOT_SERVE = 2
"""What a serving process ends with that would fail again if it were started again."""

SUPERVISION_S = 0.5
"""How often the serving processes are looked after."""

START_POLL_S = 0.01

OPEN_FILES = 65_536
"""How many are asked for, if the system lets us have so many."""

KEEP_ALIVE_S = 75
"""Longer than load balancers keep idle connections, so that they and not we close them."""

LINGER_S = 3
"""How long a connection outlives an answer that could not tell that it is the last one: its client may well go on at
once, as agents do, and what it sends must not meet a closed door."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; with several workers, one process each on the same socket."""
    _allow_many_connections()
    listening = _bound(settings)
    for line in start_up_lines(settings, port=listening.getsockname()[1]):
        log.info("%s", line)
    if settings.workers == 1:
        uvloop.run(_serve(settings, [listening]))
    else:
        uvloop.run(_supervise(settings, listening))


async def _supervise(settings: Settings, listening: socket.socket) -> None:
    """Keep the serving processes running, and the embedded store for all of them: what dies is started again."""
    context = multiprocessing.get_context("spawn")
    stopped = asyncio.Event()
    on_signals(stopped.set)

    def start() -> SpawnProcess:
        process = context.Process(target=serve_process, args=(settings, [listening], folder), name="memproxy serve")
        process.start()
        return process

    async with AsyncExitStack() as stack:
        folder = stack.enter_context(metrics_folder())
        if not settings.redis_url:
            await stack.enter_async_context(EmbeddedStore(settings.data_dir))
        if settings.run_worker:
            await stack.enter_async_context(learning_beside(settings, folder))
        running = [start() for _ in range(settings.workers)]
        try:
            while not await _is_set_within(stopped, SUPERVISION_S):
                for place, process in enumerate(running):
                    if process.exitcode == CANNOT_SERVE:
                        raise MemproxyError("A serving process can't start with these settings; its reason is above.")
                    if not process.is_alive():
                        log.error("serving process %s ended with %s; starting another", process.pid, process.exitcode)
                        running[place] = start()
        finally:
            listening.close()  # the serving processes have it open as long as they take requests; nobody else would
            await _end(running, hurry=stopped)


async def _end(running: list[SpawnProcess], *, hurry: asyncio.Event) -> None:
    """Tell the processes to stop and wait until they have; a further signal is passed on."""
    hurry.set()
    while any(process.is_alive() for process in running):
        if hurry.is_set():
            hurry.clear()
            for process in running:
                process.terminate()
        await _is_set_within(hurry, START_POLL_S)


async def _is_set_within(event: asyncio.Event, timeout_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


def serve_process(settings: Settings, sockets: list[socket.socket], folder: Path | None) -> None:
    """One serving process of several, whose metrics lie in `folder`."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        uvloop.run(_serve(settings, sockets, folder=folder))
    except MemproxyError as error:
        log.error("%s", error)
        sys.exit(CANNOT_SERVE)


async def _serve(settings: Settings, sockets: list[socket.socket], *, folder: Path | None = None) -> None:
    stopped, hurry = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (hurry if stopped.is_set() else stopped).set()

    on_signals(stop)
    parent = multiprocessing.parent_process()
    if parent is not None:  # killed, it can't end us: without it nobody would, and the port stayed taken
        asyncio.get_running_loop().add_reader(parent.sentinel, stop)
    learns_beside = settings.run_worker and parent is None
    with metrics_folder() if learns_beside else nullcontext(folder) as shared:
        async with running(settings, sockets=sockets, learns_beside=learns_beside, folder=shared) as instance:
            _tune_memory()
            await instance.until(stopped)
            await instance.drain(settings.drain_s, hurry=hurry)


def _tune_memory() -> None:
    """What was loaded at start stays for good: looking through it again and again costs pauses of 0.1 s."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own; others need none
    if trim is not None:
        trim(0)  # what was needed only to load goes back to the system: 12 MB


def _allow_many_connections() -> None:
    """A request takes two sockets, and many systems allow a process 1,024 files unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Connection(HttpToolsProtocol):
    """An HTTP connection that ends between two requests, and not while its client may be sending the next one."""

    is_unaware = False
    """The client does not know that the end is near: the head of its answer had gone out by then."""

    def announce_end(self) -> None:
        """The answer under way says that it is the last one here, if its head has not gone out yet."""
        cycle = self._cycle
        if cycle is not None and not cycle.response_started:
            cycle.keep_alive = False
        elif cycle is not None and not cycle.response_complete:
            self.is_unaware = True

    @override
    def shutdown(self) -> None:
        cycle = self._cycle
        if cycle is not None and not cycle.response_started:
            cycle.keep_alive = False
        elif cycle is not None and not cycle.response_complete:
            self.timeout_keep_alive = LINGER_S
        elif self.is_unaware and self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = self.loop.call_later(LINGER_S, self.timeout_keep_alive_handler)
        else:
            self.transport.close()

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        """The newest request's; None before the first one, which uvicorn's types deny."""
        return self.cycle


class SocketConnection(WebSocketsSansIOProtocol):
    """A WebSocket that the application closes, after the exchange under way."""

    @override
    def shutdown(self) -> None:
        self.close_timeout = LINGER_S
        if self.close_sent or not self.handshake_complete:
            super().shutdown()


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: a signal ends the process's other parts as well."""

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def announce_end(self) -> None:
        """From now on each response says that it is the last one of its connection."""
        self.config.encoded_headers = [*self.config.encoded_headers, (b"connection", b"close")]
        self.server_state.default_headers = self.config.encoded_headers  # its loop does the same, but once a second
        for connection in self.server_state.connections:
            if isinstance(connection, Connection):
                connection.announce_end()


@dataclass(frozen=True, slots=True)
class Instance:
    """A memproxy that serves."""

    services: Services
    app: App
    server: Server
    task: "asyncio.Task[None]"
    """Ends when the server does."""

    async def is_quiet(self) -> bool:
        """Everything said so far is recorded and learned from. Raises StoreError."""
        if not self.app.recorder.is_idle:  # asked first: what is being recorded is queued when it is done
            return False
        depths = [await queue.depth() for queue in self.services.queues.values()]
        return not any(depth.waiting + depth.pending for depth in depths)

    async def until(self, stopped: asyncio.Event) -> None:
        """Wait until told to stop, or until the server ended by itself."""
        waiting = self.services.tasks.spawn(stopped.wait(), name="wait for the signal to stop")
        await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def drain(self, delay_s: float, *, hurry: asyncio.Event) -> None:
        """Say that the end is near, and take requests until load balancers have heard it, or there is a hurry."""
        self.app.drain()
        self.server.announce_end()
        if delay_s:
            log.info("no longer ready; requests are taken for another %g s", delay_s)
        await _is_set_within(hurry, delay_s)


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    sockets: list[socket.socket],
    clock: Clock | None = None,
    learns_beside: bool = False,
    folder: Path | None = None,
) -> AsyncIterator[Instance]:
    """Serve on these sockets while inside; leaving lets open requests finish and records what they left.

    It learns in this process, unless `run_worker` is off, or `learns_beside` has it done in one of its own.
    Metrics are shown together with those of all processes that have the same `folder`.
    """
    async with open_services(settings, clock=clock) as services, open_upstream(services) as upstream:
        shared = SharedMetrics(services.metrics, folder) if folder is not None else None
        app = create_app(services, upstream, shared=shared)
        server = Server(_config(settings, app))
        async with (
            running_workers(services, works=settings.run_worker and not learns_beside),
            learning_beside(settings, folder) if learns_beside else nullcontext(),
            shared.written() if shared and settings.workers > 1 else nullcontext(),
            app.mcp.running(),
        ):
            task = services.tasks.spawn(server.serve(sockets=sockets), name="HTTP server")
            try:
                while not server.started and not task.done():  # noqa: ASYNC110  uvicorn has no event for it
                    await asyncio.sleep(START_POLL_S)
                yield Instance(services, app, server, task)
            finally:
                app.drain()
                server.should_exit = True
                await asyncio.wait([task])
    if app.recorder.waiting:
        services.metrics.turns_lost.inc(app.recorder.waiting)
        log.error("%s turns are lost: the store did not come back before the end", app.recorder.waiting)
    if shared is not None:
        shared.write()


def _bound(settings: Settings) -> socket.socket:
    try:
        return listening_socket(settings.listen_host, settings.listen_port)
    except OSError as error:
        raise MemproxyError(
            f"Can't listen on {settings.listen_host}:{settings.listen_port}: {error.strerror}. "
            "Another program may use the port; choose one with --port."
        ) from error


def _config(settings: Settings, app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws=SocketConnection,
        ws_max_size=int(settings.max_body_mb * 1_048_576),
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, math.ceil(settings.shutdown_grace_s)),
    )


def start_up_lines(settings: Settings, *, port: int) -> list[str]:
    """What an operator wants to know at start. No secrets."""
    address = f"{settings.listen_host}:{port}"
    store = "the Redis at redis_url" if settings.redis_url else f"the embedded store under {settings.data_dir}"
    key = "its own key (upstream_api_key)" if settings.upstream_api_key else "each client's own key"
    tenants = "every credential is a tenant of its own" if settings.tells_tenants_apart else "one tenant for all"
    return [
        f"listening on http://{address}; set OPENAI_BASE_URL=http://{address}/v1 (or /u/NAME/v1 to name the user)",
        f"upstream is {settings.upstream_base_url}, asked with {key}",
        f"memory is kept in {store}; tenancy: {tenants}",
        extraction_line(settings),
    ]
