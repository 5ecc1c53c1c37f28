"""The metrics of processes that belong together, shown as one: whichever is asked, the answer is about all of them.

Each process writes what it counted into a file of a folder that they share, every few seconds, when it is asked, and
when it ends. Who is asked adds the files up. What a process counted before it died stays in the sum, which therefore
never falls; its gauges go with it. (The Prometheus client's own way keeps every number in a mapped file, and makes each
count three to five times as dear on the path of requests.)
"""

import asyncio
import json
import logging
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from memproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

WRITE_S = 2.0
"""How often each process writes: well below any interval at which Prometheus asks. Cost: a millisecond."""

Sample = tuple[str, Mapping[str, str], float]

Family = tuple[str, str, str, Sequence[Sample]]
"""Name, type, what it means, and its samples."""


@contextmanager
def metrics_folder() -> Iterator[Path | None]:
    """A folder for processes that are started inside; None where the machine lets us have none."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="memproxy-metrics-", ignore_cleanup_errors=True)
    except OSError as error:
        log.warning("each process shows only its own metrics: no folder to share them can be made (%s)", error)
        yield None
        return
    with folder as path:
        yield Path(path)


class SharedMetrics:
    """One process's part of them."""

    def __init__(self, metrics: Metrics, folder: Path) -> None:
        self._metrics = metrics
        self._folder = folder
        self._file = folder / f"{os.getpid()}-{secrets.token_hex(4)}.json"

    @asynccontextmanager
    async def written(self, *, every_s: float = WRITE_S) -> AsyncIterator[None]:
        """Keep this process's file up to date while inside."""
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write_on(every_s))
            try:
                yield
            finally:
                writing.cancel()

    async def _write_on(self, every_s: float) -> None:
        while True:
            self.write()
            await asyncio.sleep(every_s)

    def write(self) -> None:
        """Write what was counted so far."""
        fresh = self._file.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(_plain(self._metrics.families())), "utf-8")
            fresh.replace(self._file)
        except OSError as error:  # numbers may be missing, requests may not fail for it
            log.debug("metrics were not written: %s", error)

    def render(self) -> bytes:
        """The metrics of all processes in Prometheus' text format.

        This one's are written first: what one process has shown, the next one that is asked must not fall behind.
        """
        self.write()
        parts = [(_is_alive(path), families) for path in self._files() if (families := _read(path)) is not None]
        largest = {each.name for each in self._metrics.declared if each.combined == "max"}
        registry = CollectorRegistry()
        registry.register(_Ready(united(parts, largest=largest)))
        return generate_latest(registry)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.json"))


class _Ready(Collector):
    """Families that are there already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    @override
    def collect(self) -> Iterable[Metric]:
        return self._families


def united(parts: Iterable[tuple[bool, Sequence[Family]]], *, largest: Collection[str]) -> list[Metric]:
    """The families of several processes as one's. Each part tells whether its process lives; `largest` names gauges of
    which the largest counts. Pure."""
    found: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for is_alive, families in parts:
        for name, kind, says, samples in families:
            found.setdefault(name, Metric(name, says, kind))
            sums = values.setdefault(name, {})
            if kind == "gauge" and not is_alive:
                continue
            for sample, labels, value in samples:
                key = (sample, tuple(labels.items()))
                if key not in sums:
                    sums[key] = value
                elif sample.endswith("_created"):
                    sums[key] = min(sums[key], value)
                else:
                    sums[key] = max(sums[key], value) if name in largest else sums[key] + value
    for name, metric in found.items():
        for (sample, pairs), value in values[name].items():
            metric.add_sample(sample, dict(pairs), value)
    return list(found.values())


def _plain(families: Iterable[Metric]) -> list[Any]:
    return [
        (
            family.name,
            family.type,
            family.documentation,
            [(each.name, each.labels, each.value) for each in family.samples],
        )
        for family in families
    ]


def _read(path: Path) -> list[Family] | None:
    try:
        families: list[Family] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return families


def _is_alive(path: Path) -> bool:
    try:
        os.kill(int(path.stem.partition("-")[0]), 0)
    except (OSError, ValueError):
        return False
    return True
