"""Run memproxy's processes: the server with its workers, or workers alone, until a signal ends them."""

import asyncio
import logging
import multiprocessing
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing.context import SpawnProcess

import uvicorn
import uvloop

from memproxy.app import create_app, open_upstream
from memproxy.errors import MemproxyError
from memproxy.services import open_services
from memproxy.settings import Settings
from memproxy.telemetry import configure_logging
from memproxy.worker.process import running_workers

log = logging.getLogger(__name__)

SUPERVISION_S = 0.5
"""How often the serving processes are looked after."""

KEEP_ALIVE_S = 75
"""Longer than load balancers keep idle connections, so that they and not we close them."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; with several workers, one process each on the same socket."""
    listening = _bound(settings)
    if settings.workers == 1:
        serve_process(settings, sockets=[listening])
    else:
        _supervise(settings, listening)


def _supervise(settings: Settings, listening: socket.socket) -> None:
    """Keep the serving processes running: one that dies is started again."""
    context = multiprocessing.get_context("spawn")
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())

    def start() -> SpawnProcess:
        process = context.Process(target=serve_process, args=(settings, [listening]), name="memproxy serve")
        process.start()
        return process

    running = [start() for _ in range(settings.workers)]
    while not stopped.wait(SUPERVISION_S):
        for place, process in enumerate(running):
            if not process.is_alive():
                log.error("serving process %s ended with %s; starting another", process.pid, process.exitcode)
                running[place] = start()
    for process in running:
        process.terminate()
    for process in running:
        process.join()


def serve_process(settings: Settings, sockets: list[socket.socket] | None = None) -> None:
    """One serving process."""
    configure_logging(settings.log_level)
    uvloop.run(_serve(settings, sockets))


def work(settings: Settings) -> None:
    """Work off the queues until SIGTERM or SIGINT."""
    uvloop.run(_work(settings))


async def _serve(settings: Settings, sockets: list[socket.socket] | None) -> None:
    # uvicorn raises the signal that ended it once more when it is done; with a handler of our own, closing goes on.
    _on_signals(lambda: None)
    async with open_services(settings) as services, open_upstream(services) as upstream:
        app = create_app(services, upstream)
        server = uvicorn.Server(_config(settings, app=app))
        for line in start_up_lines(settings):
            log.info("%s", line)
        if settings.run_worker:
            async with running_workers(services):
                await server.serve(sockets=sockets)
        else:
            await server.serve(sockets=sockets)


async def _work(settings: Settings) -> None:
    stopped = asyncio.Event()
    _on_signals(stopped.set)
    async with open_services(settings) as services:
        log.info("%s", _extraction_line(services.settings))
        async with running_workers(services):
            await stopped.wait()


def _on_signals(act: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, act)


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.listen_host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.listen_host, settings.listen_port))
    except OSError as error:
        listening.close()
        raise MemproxyError(
            f"Can't listen on {settings.listen_host}:{settings.listen_port}: {error.strerror}. "
            "Another program may use the port; choose one with --port."
        ) from error
    listening.set_inheritable(True)
    return listening


def _config(settings: Settings, *, app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # any ASGI callable
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s) or None,
    )


def start_up_lines(settings: Settings) -> list[str]:
    """What an operator wants to know at start. No secrets."""
    address = f"{settings.listen_host}:{settings.listen_port}"
    store = "the Redis at redis_url" if settings.redis_url else f"the embedded store under {settings.data_dir}"
    key = "its own key (upstream_api_key)" if settings.upstream_api_key else "each client's own key"
    tenants = "every credential is a tenant of its own" if settings.tells_tenants_apart else "one tenant for all"
    return [
        f"listening on http://{address}; set OPENAI_BASE_URL=http://{address}/v1 (or /u/NAME/v1 to name the user)",
        f"upstream is {settings.upstream_base_url}, asked with {key}",
        f"memory is kept in {store}; tenancy: {tenants}",
        _extraction_line(settings),
    ]


def _extraction_line(settings: Settings) -> str:
    if settings.extracts:
        return f"memories are extracted by {settings.extraction_model}, beside the messages themselves"
    return (
        "memories are the messages themselves; no model extracts facts "
        "(set extraction_model, and a key or an endpoint for it)"
    )
