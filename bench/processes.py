"""Start servers as processes of their own on free ports, and stop exactly those again."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.client import Connection, LoadError

ROOT = Path(__file__).parent.parent
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 15.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    async def wait_ready(self, path: str) -> None:
        """Wait until GET `path` is answered with 200. Raises LoadError with the end of its log if it is not in time."""
        request = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError, LoadError, TimeoutError):
                async with asyncio.timeout(5):
                    connection = await Connection.connected(self.port)
                    answer = await connection.ask(request)
                connection.close()
                if answer.status == 200:
                    return
            await asyncio.sleep(POLL_S)
        raise LoadError(f"{self.name} did not get ready. The end of its log:\n{self._log_end()}")

    def check_alive(self) -> None:
        """Raises LoadError with the end of its log when it has ended."""
        if self.process.poll() is not None:
            raise LoadError(f"{self.name} ended with {self.process.returncode}:\n{self._log_end()}")

    def _log_end(self) -> str:
        return self.log.read_text("utf-8", "replace")[-2_000:]


PYTHON = (sys.executable, "-m")


@asynccontextmanager
async def launched(
    name: str,
    command: Sequence[str],
    *,
    port: int,
    folder: Path,
    settings: Mapping[str, str] | None = None,
    program: Sequence[str] = PYTHON,
) -> AsyncIterator[Server]:
    """A server as a process of its own, which may not be ready yet; it is stopped at the end.

    `command` is what stands behind the program, by default `python -m`. `settings` are added to its environment, which
    holds none of memproxy's otherwise.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MEMPROXY_")}
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220  forking takes a millisecond, and nobody else is on this loop
            [*program, *command],
            cwd=ROOT,
            env=clean | dict(settings or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Server(name, port, process, log)
        finally:
            await asyncio.to_thread(_stop, process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
