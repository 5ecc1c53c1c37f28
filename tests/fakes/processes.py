"""memproxy's commands as processes of their own, as they run in real life."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

from tests.fakes.serving import until
from tests.fakes.stores import free_port

START_S = 120.0
"""For a process to be ready, on a machine that has much else to do."""


@asynccontextmanager
async def memproxy_process(
    *arguments: str, log: IO[bytes] | None = None, **settings: Any
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command with these settings and no others; told to stop at the end, if it has not ended."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MEMPROXY_")}
    environment = clean | {f"MEMPROXY_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "memproxy", *arguments]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=log or asyncio.subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), START_S)


@asynccontextmanager
async def serving_process(
    *arguments: str, log: IO[bytes] | None = None, **settings: Any
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """`memproxy serve`, ready, and its port."""
    port = free_port()
    async with memproxy_process("serve", "--port", str(port), *arguments, log=log, **settings) as process:
        await until(lambda: is_ok(port, "/readyz"), deadline_s=START_S)
        yield process, port


@asynccontextmanager
async def working_process(
    *, log: IO[bytes] | None = None, **settings: Any
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`memproxy worker`, at work."""
    port = free_port()
    async with memproxy_process("worker", log=log, worker_metrics_port=str(port), **settings) as process:
        await until(lambda: is_ok(port, "/metrics"), deadline_s=START_S)
        yield process


async def is_ok(port: int, path: str) -> bool:
    """Whether 200 is answered there. By hand: it is asked so often that a client's own work would be felt."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n".encode())
                return (await reader.readline()).split()[1:2] == [b"200"]
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


def children_of(pid: int) -> list[int]:
    """The Python processes that it started; not multiprocessing's own."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
