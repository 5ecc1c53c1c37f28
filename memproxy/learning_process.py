"""The process that learns: `memproxy worker`, and the one that `memproxy serve` keeps beside itself.

Learning takes more of a processor than serving does, and a request can't wait for it. So it has a process of its own,
which steps back when both want the processor. What it counts is shown by those that serve.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from multiprocessing.context import SpawnProcess
from pathlib import Path

import uvloop

from memproxy.errors import MemproxyError
from memproxy.services import Services, open_services
from memproxy.settings import Settings
from memproxy.telemetry.logs import configure_logging
from memproxy.telemetry.metrics import served_metrics
from memproxy.telemetry.several_processes import SharedMetrics
from memproxy.worker.process import running_workers

log = logging.getLogger(__name__)

NICENESS = 10
"""About a tenth of a processor when others on the machine want it, all of it when not."""

SUPERVISION_S = 0.5
"""How often the process beside is looked after."""


def work(settings: Settings) -> None:
    """Work off the queues until SIGTERM or SIGINT."""
    uvloop.run(_work(settings))


def work_beside(settings: Settings, folder: Path | None) -> None:
    """Work off the queues for processes that serve, until SIGTERM, SIGINT, or the end of the one that started this."""
    configure_logging(settings.log_level, settings.log_format)
    uvloop.run(_work(settings, folder=folder, is_beside=True))


@asynccontextmanager
async def learning_beside(settings: Settings, folder: Path | None) -> AsyncIterator[None]:
    """Keep a process that learns, while inside; what ends is started again. What it counts lies in `folder`."""
    context = multiprocessing.get_context("spawn")

    def start() -> SpawnProcess:
        process = context.Process(target=work_beside, args=(settings, folder), name="memproxy worker")
        process.start()
        return process

    running = [start()]
    async with asyncio.TaskGroup() as group:
        supervising = group.create_task(_supervise(running, start))
        try:
            yield
        finally:
            supervising.cancel()
            for process in running:
                process.terminate()
                await asyncio.to_thread(process.join)


async def _supervise(running: list[SpawnProcess], start: Callable[[], SpawnProcess]) -> None:
    while True:
        await asyncio.sleep(SUPERVISION_S)
        if running[0].exitcode:  # 0: it was told to stop, as this process is being told, or will be
            log.error("the process that learns ended with %s; starting another", running[0].exitcode)
            running[0] = start()


async def _work(settings: Settings, *, folder: Path | None = None, is_beside: bool = False) -> None:
    os.nice(NICENESS)  # before there are threads: each inherits it, none is given it later
    stopped = asyncio.Event()
    _end_with_parent(settings, stopped)
    if not is_beside:
        on_signals(stopped.set)
    async with open_services(settings) as services:
        if not is_beside:
            log.info("%s", extraction_line(services.settings))
        on_signals(stopped.set)  # before this, the process beside has nothing that it would have to put in order
        shared = SharedMetrics(services.metrics, folder) if folder is not None else None
        with nullcontext() if is_beside else _shown_metrics(services):
            async with running_workers(services), shared.written() if shared else nullcontext():
                await stopped.wait()
    if shared is not None:
        shared.write()


def _end_with_parent(settings: Settings, stopped: asyncio.Event) -> None:
    """Stop when the process that started this one is gone: killed, it can't say so."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if settings.redis_url:
        asyncio.get_running_loop().add_reader(parent.sentinel, stopped.set)
    else:  # its store is gone as well, and must not be started anew just to stop in good order
        asyncio.get_running_loop().add_reader(parent.sentinel, os._exit, 1)


def on_signals(act: Callable[[], object]) -> None:
    """Call `act` at SIGTERM and SIGINT, and when the terminal is closed (SIGHUP), unless `nohup` keeps that away."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, act)


@contextmanager
def _shown_metrics(services: Services) -> Iterator[None]:
    """The metrics of a process that has no HTTP server, on a port of their own if one is set."""
    host, port = services.settings.listen_host, services.settings.worker_metrics_port
    with ExitStack() as stack:
        if port:
            try:
                stack.enter_context(served_metrics(services.metrics, host, port))
            except OSError as error:
                raise MemproxyError(f"Can't show metrics on {host}:{port}: {error.strerror}.") from error
            log.info("metrics are shown on http://%s:%d/metrics", host, port)
        yield


def extraction_line(settings: Settings) -> str:
    """Who makes memories, in a line for an operator."""
    if settings.extracts:
        return f"memories are extracted by {settings.extraction_model}, beside the messages themselves"
    return (
        "memories are the messages themselves; no model extracts facts "
        "(set extraction_model, and a key or an endpoint for it)"
    )
