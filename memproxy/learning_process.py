"""The process that learns: `memproxy worker`, and the one that `memproxy serve` keeps beside itself.

Learning takes more of a processor than serving does, and a request can't wait for it. So it has a process of its own,
which steps back when both want the processor. What it counts is passed on to the one that serves, and shown there.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import uvloop

from memproxy.errors import MemproxyError
from memproxy.services import Services, open_services
from memproxy.settings import Settings
from memproxy.telemetry import configure_logging, served_metrics
from memproxy.worker.outage import Observe
from memproxy.worker.process import running_workers

log = logging.getLogger(__name__)

NICENESS = 10
"""About a tenth of a processor when others on the machine want it, all of it when not."""

SUPERVISION_S = 0.5
"""How often the process beside is looked after."""

Told = tuple[str, float]
"""What the process beside tells: a name and a number to count by."""


def work(settings: Settings) -> None:
    """Work off the queues until SIGTERM or SIGINT."""
    uvloop.run(_work(settings))


def work_beside(settings: Settings, telling: "Connection[Told, Told]") -> None:
    """Work off the queues for a process that serves, until SIGTERM, SIGINT, or its end."""
    configure_logging(settings.log_level)
    uvloop.run(_work(settings, telling=telling))


@asynccontextmanager
async def learning_beside(settings: Settings, observe: Observe) -> AsyncIterator[None]:
    """Keep a process that learns, while inside; what ends is started again. `observe` gets what it counts."""
    context = multiprocessing.get_context("spawn")
    hearing, telling = context.Pipe(duplex=False)
    loop = asyncio.get_running_loop()
    loop.add_reader(hearing.fileno(), _hear, hearing, observe)

    def start() -> SpawnProcess:
        process = context.Process(target=work_beside, args=(settings, telling), name="memproxy worker")
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
            loop.remove_reader(hearing.fileno())
            hearing.close()
            telling.close()


async def _supervise(running: list[SpawnProcess], start: Callable[[], SpawnProcess]) -> None:
    while True:
        await asyncio.sleep(SUPERVISION_S)
        if running[0].exitcode:  # 0: it was told to stop, as this process is being told, or will be
            log.error("the process that learns ended with %s; starting another", running[0].exitcode)
            running[0] = start()


def _hear(hearing: "Connection[Told, Told]", observe: Observe) -> None:
    """Pass on what the process beside has told."""
    with contextlib.suppress(EOFError, OSError):
        while hearing.poll():
            observe(*hearing.recv())


async def _work(settings: Settings, *, telling: "Connection[Told, Told] | None" = None) -> None:
    os.nice(NICENESS)  # before there are threads: each inherits it, none is given it later
    stopped = asyncio.Event()
    _end_with_parent(settings, stopped)
    if telling is None:
        on_signals(stopped.set)
    async with open_services(settings) as services:
        if telling is None:
            log.info("%s", extraction_line(services.settings))
        on_signals(stopped.set)  # before this, the process beside has nothing that it would have to put in order
        observe = services.metrics.observe_job if telling is None else _telling(telling, services.metrics.observe_job)
        with _shown_metrics(services):
            async with running_workers(services, observe=observe):
                await stopped.wait()


def _telling(telling: "Connection[Told, Told]", observe: Observe) -> Observe:
    """Count here, and tell the process that serves. A message is small, so it is written as a whole or not at all."""

    def tell(name: str, value: float) -> None:
        observe(name, value)
        with contextlib.suppress(OSError):  # whoever listened has gone, and so will we
            telling.send((name, value))

    return tell


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
    """Call `act` at SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
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
