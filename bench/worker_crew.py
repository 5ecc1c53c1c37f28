"""Workers as processes of their own, some of which are killed."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.client import LoadError
from bench.processes import ROOT


class Crew:
    """The workers, as processes of their own."""

    def __init__(self, folder: Path, settings: Mapping[str, str], *, rng: random.Random) -> None:
        self.kills = 0
        self._folder = folder
        self._rng = rng
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MEMPROXY_")}
        self._environment = clean | dict(settings)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        for _ in range(count):
            self._processes.append(self._launched())

    def kill_one(self) -> None:
        """SIGKILL one of them; another one starts in its place."""
        place = self._rng.randrange(len(self._processes))
        self._processes[place].kill()
        self._processes[place].wait()
        self._processes[place] = self._launched()
        self.kills += 1

    def signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(number)

    def check_alive(self) -> None:
        """Raises LoadError when one has ended that nobody killed."""
        for process in self._processes:
            if process.poll() is not None:
                raise LoadError(f"a worker ended with {process.returncode}; its log is in {self._folder}")

    async def end(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            await asyncio.to_thread(process.wait)

    def _launched(self) -> "subprocess.Popen[bytes]":
        with (self._folder / "workers.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "memproxy", "worker"],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
