"""Run memproxy's processes that serve, and the one that learns beside them, until a signal ends them."""

import asyncio
import gc
import logging
import math
import multiprocessing
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess

import uvicorn
import uvloop
from typing_extensions import override

from memproxy.app import App, create_app, open_upstream
from memproxy.clock import Clock
from memproxy.errors import MemproxyError
from memproxy.learning_process import extraction_line, learning_beside, on_signals
from memproxy.services import Services, open_services
from memproxy.settings import Settings
from memproxy.sockets import listening_socket
from memproxy.storage.embedded import EmbeddedStore
from memproxy.telemetry import configure_logging
from memproxy.worker.outage import observe_nothing
from memproxy.worker.process import running_workers

log = logging.getLogger(__name__)

CANNOT_SERVE = 2
"""What a serving process ends with that would fail again if it were started again."""

SUPERVISION_S = 0.5
"""How often the serving processes are looked after."""

START_POLL_S = 0.01

KEEP_ALIVE_S = 75
"""Longer than load balancers keep idle connections, so that they and not we close them."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; with several workers, one process each on the same socket."""
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
        process = context.Process(target=serve_process, args=(settings, [listening]), name="memproxy serve")
        process.start()
        return process

    async with (
        nullcontext() if settings.redis_url else EmbeddedStore(settings.data_dir),
        learning_beside(settings, observe_nothing) if settings.run_worker else nullcontext(),
    ):
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
            for process in running:
                process.terminate()
            for process in running:
                await asyncio.to_thread(process.join)


async def _is_set_within(event: asyncio.Event, timeout_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


def serve_process(settings: Settings, sockets: list[socket.socket]) -> None:
    """One serving process of several."""
    configure_logging(settings.log_level)
    try:
        uvloop.run(_serve(settings, sockets))
    except MemproxyError as error:
        log.error("%s", error)
        sys.exit(CANNOT_SERVE)


async def _serve(settings: Settings, sockets: list[socket.socket]) -> None:
    stopped = asyncio.Event()
    on_signals(stopped.set)
    parent = multiprocessing.parent_process()
    if parent is not None:  # killed, it can't end us: without it nobody would, and the port stayed taken
        asyncio.get_running_loop().add_reader(parent.sentinel, stopped.set)
    async with running(settings, sockets=sockets, learns_beside=settings.run_worker and parent is None) as instance:
        _tune_garbage_collection()
        await instance.until(stopped)


def _tune_garbage_collection() -> None:
    """What was loaded at start stays for good: looking through it again and again costs pauses of 0.1 s."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: a signal ends the process's other parts as well."""

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Instance:
    """A memproxy that serves."""

    services: Services
    app: App
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


@asynccontextmanager
async def running(
    settings: Settings, *, sockets: list[socket.socket], clock: Clock | None = None, learns_beside: bool = False
) -> AsyncIterator[Instance]:
    """Serve on these sockets while inside; leaving lets open requests finish and records what they left.

    It learns in this process, unless `run_worker` is off, or `learns_beside` has it done in one of its own.
    """
    async with open_services(settings, clock=clock) as services, open_upstream(services) as upstream:
        app = create_app(services, upstream)
        server = Server(_config(settings, app))
        async with (
            running_workers(services, works=settings.run_worker and not learns_beside),
            learning_beside(settings, services.metrics.observe_job) if learns_beside else nullcontext(),
            app.mcp.running(),
        ):
            task = services.tasks.spawn(server.serve(sockets=sockets), name="HTTP server")
            try:
                while not server.started and not task.done():  # noqa: ASYNC110  uvicorn has no event for it
                    await asyncio.sleep(START_POLL_S)
                yield Instance(services, app, task)
            finally:
                app.is_draining = True
                server.should_exit = True
                await asyncio.wait([task])
    if app.recorder.waiting:
        services.metrics.turns_lost.inc(app.recorder.waiting)
        log.error("%s turns are lost: the store did not come back before the end", app.recorder.waiting)


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
        http="httptools",
        ws="websockets-sansio",
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
