"""A thousand slow streams through one process: how much memory they take, and whether any of them has to wait.

The upstream sends one event a second to each. Streams are opened evenly over some seconds, then all are open at a time.
The same is done to the bare upstream and to the floor relay, so that what the operating system, the load generator, the
HTTP server and the HTTP client have to do with it can be told apart.
"""

import argparse
import asyncio
import itertools
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from bench import results
from bench.accounts import reset_peaks, usage_of
from bench.client import Answer, Connection, LoadError
from bench.measure import percentile
from bench.paced_model import paced_model
from bench.processes import Server
from bench.scale_requests import SYSTEM, Dialogue, request
from bench.scale_servers import floor, memproxy, upstream
from memproxy.errors import MemproxyError

NAME = "streams"
USERS, MEMORIES = 100, 20
SPARE_FILES = 500
"""Open files beside those of the streams."""
GRACE_S = 60.0
GOAL_MB = 300
WIDTH = 160


@dataclass(frozen=True, slots=True)
class Streams:
    """What is opened."""

    count: int
    events: int
    interval_s: float
    opening_s: float
    """Over which they are opened evenly; less than a stream takes, so that all are open at a time."""
    history_bytes: int = 0
    """Of earlier messages that each request carries."""

    @property
    def model(self) -> str:
        return paced_model(self.events, interval_s=self.interval_s)


FULL = Streams(1_000, 20, 1.0, 12.0)
LONG_HISTORY_BYTES = 60_000
QUICK = Streams(60, 6, 0.2, 0.5)


@dataclass(frozen=True, slots=True)
class Target:
    """Through what the streams go."""

    name: str
    title: str
    start: Callable[[Path, Server], AbstractAsyncContextManager[Server]]
    remembers: bool = False
    history_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """One target. Times in seconds, memory in MB, CPU in ms a stream."""

    streams: int
    largest_gap_s: float
    """Between two events of any stream."""
    late_gaps: int
    """Gaps of more than one and a half intervals."""
    p99_gap_s: float
    first_event_p50_s: float
    first_event_p95_s: float
    idle_mb: float
    """Resident memory of the serving process before."""
    peak_mb: float
    """Of the serving process."""
    all_peak_mb: float
    """Of the serving process, the one that learns, and the store."""
    cpu_ms: float
    client_cpu_ms: float


class StreamConnection(Connection):
    """A connection that notes when something arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals: list[float] = []

    @override
    def data_received(self, data: bytes) -> None:
        self.arrivals.append(time.perf_counter())
        super().data_received(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 when a stream did not come through as it must."""
    parser = argparse.ArgumentParser(prog="python -m bench streams", description=(__doc__ or "").partition("\n")[0])
    results.add_arguments(parser, NAME)
    parser.add_argument("--target", action="append", choices=[each.name for each in TARGETS], help="repeatable")
    parser.add_argument("--streams", type=int, help=f"how many at a time; default {FULL.count:,}")
    chosen = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    streams = QUICK if chosen.quick else FULL
    if chosen.streams:
        streams = Streams(chosen.streams, streams.events, streams.interval_s, streams.opening_s)
    targets = [each for each in TARGETS if not chosen.target or each.name in {"upstream", *chosen.target}]
    try:
        allow_files(2 * streams.count + SPARE_FILES)
        measured = uvloop.run(_measured(streams, targets))
    except (LoadError, MemproxyError) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        return 1
    figures = summary(streams, targets, measured)
    console.print(_table(streams, figures))
    results.write(chosen, NAME, figures)
    return 0


def summary(streams: Streams, targets: Sequence[Target], measured: Mapping[str, Measured]) -> dict[str, Any]:
    """What is kept."""
    rows = {
        each.name: {"title": each.title, "history_bytes": each.history_bytes, **asdict(measured[each.name])}
        for each in targets
    }
    return {"streams": asdict(streams), "goal_mb": GOAL_MB, "targets": rows}


def allow_files(count: int) -> None:
    """Raise the limit of open files for us and for the servers. Raises LoadError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise LoadError(f"{count:,} open files are needed and {hard:,} allowed: raise the limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


async def _measured(streams: Streams, targets: Sequence[Target]) -> dict[str, Measured]:
    measured: dict[str, Measured] = {}
    expected = b""
    with tempfile.TemporaryDirectory(prefix="mpb-") as name:
        async with upstream(Path(name)) as behind:
            for target in targets:
                print(f"{target.title} ...", file=sys.stderr)
                async with target.start(Path(name), behind) as server:
                    run = _Run(streams, target, expected=expected)
                    measured[target.name] = await run.measure(server)
                    expected = run.body
    return measured


class _Run:
    """The streams through one target."""

    def __init__(self, streams: Streams, target: Target, *, expected: bytes) -> None:
        """`expected`: the body of every answer; empty when the first answer shall tell."""
        self._streams = streams
        self._target = target
        self._dialogue = Dialogue(f"streams-{target.name}")
        self._gaps: list[float] = []
        self._first_events: list[float] = []
        self.body = expected

    async def measure(self, server: Server) -> Measured:
        """Open all and read them to their ends. Raises LoadError at the first that is not whole."""
        idle_mb = _resident_mb(server.pid, "VmRSS")
        reset_peaks(server.pid)
        before, client_cpu = usage_of(server.pid), time.process_time()
        limit_s = self._streams.opening_s + self._streams.events * self._streams.interval_s + GRACE_S
        try:
            async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
                for number in range(self._streams.count):
                    _ = group.create_task(self._stream(server.port, number))
        except* LoadError as failures:
            server.check_alive()
            raise failures.exceptions[0] from None
        after = usage_of(server.pid)
        count = self._streams.count
        return Measured(
            streams=count,
            largest_gap_s=max(self._gaps),
            late_gaps=sum(gap > 1.5 * self._streams.interval_s for gap in self._gaps),
            p99_gap_s=percentile(self._gaps, 0.99),
            first_event_p50_s=percentile(self._first_events, 0.5),
            first_event_p95_s=percentile(self._first_events, 0.95),
            idle_mb=idle_mb,
            peak_mb=_resident_mb(server.pid, "VmHWM"),
            all_peak_mb=after.own_peak_mb + after.store_peak_mb,
            cpu_ms=1000 * (after.own_cpu_s - before.own_cpu_s) / count,
            client_cpu_ms=1000 * (time.process_time() - client_cpu) / count,
        )

    async def _stream(self, port: int, number: int) -> None:
        said = self._dialogue.history(100, size=self._target.history_bytes) if self._target.history_bytes else []
        user = f"user-{number % USERS}" if self._target.remembers else ""
        messages = [SYSTEM, *said, self._dialogue.question()]
        asked = request(messages, model=self._streams.model, user=user, is_stream=True)
        await asyncio.sleep(self._streams.opening_s * number / self._streams.count)
        connection = await StreamConnection.connected(port)
        began = time.perf_counter()
        answer = await connection.ask(asked)
        connection.close()
        self._check(answer)
        arrivals = connection.arrivals
        self._first_events.append(arrivals[0] - began)
        self._gaps += [later - earlier for earlier, later in itertools.pairwise(arrivals)]

    def _check(self, answer: Answer) -> None:
        """Raises LoadError unless the stream came whole, with memory where it must."""
        self.body = self.body or answer.body
        if answer.status != 200 or answer.body != self.body or not self.body.endswith(b"data: [DONE]\n\n"):
            begin = answer.body[:200]
            raise LoadError(f"{self._target.title} answered {answer.status}, {len(answer.body)} bytes: {begin!r}")
        if self._target.remembers and not answer.header(b"x-memproxy-session"):
            raise LoadError(f"{self._target.title} answered without memory")


def _resident_mb(pid: int, field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (most) of one process."""
    for line in Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


@asynccontextmanager
async def _bare(_: Path, behind: Server) -> AsyncIterator[Server]:
    yield behind


@asynccontextmanager
async def _apart(folder: Path, behind: Server) -> AsyncIterator[Server]:
    async with memproxy("apart", folder, behind, users=_users()) as running:
        yield running.server


@asynccontextmanager
async def _long(folder: Path, behind: Server) -> AsyncIterator[Server]:
    async with memproxy("long", folder, behind, users=_users()) as running:
        yield running.server


@asynccontextmanager
async def _whole(folder: Path, behind: Server) -> AsyncIterator[Server]:
    async with memproxy("whole", folder, behind, users=_users(), learns=True) as running:
        yield running.server


def _users() -> Mapping[int, Sequence[str]]:
    return {MEMORIES: [f"user-{number}" for number in range(USERS)]}


TARGETS = (
    Target("upstream", "bare upstream", _bare),
    Target("floor", "floor relay", floor),
    Target("apart", "memproxy, workers apart", _apart, remembers=True),
    Target("memory", "memproxy", _whole, remembers=True),
    Target("long", "memproxy, 60 KB of history each", _long, remembers=True, history_bytes=LONG_HISTORY_BYTES),
)


def _table(streams: Streams, figures: Mapping[str, Any]) -> Table:
    title = f"{streams.count:,} streams of {streams.events} events, {streams.interval_s:g} s apart"
    shown = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, header_style="dim")
    shown.add_column("target", no_wrap=True)
    columns = [
        "idle MB",
        "peak MB",
        "with all",
        "KB a stream",
        "largest gap s",
        "p99",
        "late",
        "1st event p50 ms",
        "p95",
    ]
    for column in [*columns, "CPU ms/stream", "client"]:
        shown.add_column(column, justify="right", no_wrap=True)
    for row in figures["targets"].values():
        shown.add_row(
            row["title"],
            f"{row['idle_mb']:.0f}",
            f"{row['peak_mb']:.0f}",
            f"{row['all_peak_mb']:.0f}",
            f"{1024 * (row['peak_mb'] - row['idle_mb']) / row['streams']:.0f}",
            f"{row['largest_gap_s']:.3f}",
            f"{row['p99_gap_s']:.3f}",
            str(row["late_gaps"]),
            f"{1000 * row['first_event_p50_s']:.1f}",
            f"{1000 * row['first_event_p95_s']:.1f}",
            f"{row['cpu_ms']:.2f}",
            f"{row['client_cpu_ms']:.2f}",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
