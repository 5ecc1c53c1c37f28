"""Several processes, one /metrics."""

import os
import re
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.demo.script import Reply
from memproxy.demo.scripted_model import ScriptedModel
from memproxy.telemetry.metrics import Metrics
from memproxy.telemetry.several_processes import SharedMetrics, metrics_folder, united
from tests.fakes.serving import until
from tests.test_learning_process import children_of
from tests.test_server import memproxy, say

EXPECTED = {
    'memproxy_requests_total{kind="memory",status="2xx"}': 12,
    'memproxy_jobs_total{event="turns.done"}': 12,
    'memproxy_worker_partitions{stage="turns"}': 16,
    'memproxy_queued_turns{stage="turns",state="waiting"}': 0,
}
"""What all processes have done together after twelve requests."""

counts = st.lists(st.integers(0, 10**6), min_size=1, max_size=5)


def family(value: float, kind: str = "counter", name: str = "x") -> Any:
    return (name, kind, "says", [(name, {"stage": "a"}, value)])


def value_of(parts: Any, largest: tuple[str, ...] = ()) -> float | None:
    (metric,) = united(parts, largest=largest)
    return metric.samples[0].value if metric.samples else None


@given(counts)
def test_counts_are_added_up_whoever_lives(values: list[int]) -> None:
    """A sum that fell when a process died would look like a restart, and a rate would jump."""
    parts = [(at % 2 == 0, [family(value)]) for at, value in enumerate(values)]
    assert value_of(parts) == sum(values)


@given(counts)
def test_gauges_go_with_their_process(values: list[int]) -> None:
    """What waits in a process that has died does not wait any more."""
    parts = [(at > 0, [family(value, "gauge")]) for at, value in enumerate([99, *values])]
    assert value_of(parts) == sum(values)
    assert value_of([(True, [family(value, "gauge")]) for value in values], largest=("x",)) == max(values)


def test_a_process_that_knows_more_labels_is_heard() -> None:
    """Not every process has met every outcome."""
    other = ("x", "counter", "says", [("x", {"stage": "b"}, 2.0)])
    (metric,) = united([(True, [family(1)]), (True, [other])], largest=())
    assert {sample.labels["stage"]: sample.value for sample in metric.samples} == {"a": 1, "b": 2}


def test_histograms_are_added_bucket_by_bucket(tmp_path: Path) -> None:
    """A quantile over all processes is that of all requests."""
    one, two = Metrics(), Metrics()
    one.added_seconds.observe(0.002)
    two.added_seconds.observe(0.2)
    SharedMetrics(one, tmp_path).write()
    shown = SharedMetrics(two, tmp_path).render().decode()
    assert 'memproxy_added_seconds_bucket{le="0.0025"} 1.0' in shown
    assert 'memproxy_added_seconds_bucket{le="0.25"} 2.0' in shown
    assert "memproxy_added_seconds_count 2.0" in shown
    assert "# HELP memproxy_added_seconds Time from" in shown
    assert "# TYPE memproxy_added_seconds histogram" in shown


def test_who_is_asked_next_does_not_fall_behind(tmp_path: Path) -> None:
    """What one process has shown, the next one must show, too: Prometheus asks either."""
    one, two = Metrics(), Metrics()
    shared_one, shared_two = SharedMetrics(one, tmp_path), SharedMetrics(two, tmp_path)
    one.turns_lost.inc()
    assert b"memproxy_turns_lost_total 1.0" in shared_one.render()
    assert b"memproxy_turns_lost_total 1.0" in shared_two.render()


def test_a_file_that_cant_be_read_hides_no_other(tmp_path: Path) -> None:
    """Numbers may be missing; the page may not."""
    (tmp_path / "1-a.json").write_text("{")
    (tmp_path / "nobody.json").write_text("[]")
    assert b"memproxy_turns_lost_total 0.0" in SharedMetrics(Metrics(), tmp_path).render()


def test_a_folder_that_is_gone_fails_nothing(tmp_path: Path) -> None:
    """Somebody tidied up the machine's temporary files."""
    shared = SharedMetrics(Metrics(), tmp_path / "gone")
    shared.write()
    assert b"memproxy" not in shared.render()


def test_the_folder_goes_with_its_process() -> None:
    """Nothing is left behind."""
    with metrics_folder() as folder:
        assert folder is not None
        SharedMetrics(Metrics(), folder).write()
    assert not folder.exists()


def test_a_machine_without_room_shows_each_process_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Numbers are no reason not to serve."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with metrics_folder() as folder:
        assert folder is None
    assert "shows only its own metrics" in caplog.text


async def test_it_is_written_while_inside(tmp_path: Path) -> None:
    """A process that is killed has told nearly all that it counted."""
    metrics = Metrics()
    other = SharedMetrics(Metrics(), tmp_path)

    async def is_told() -> bool:
        return b"memproxy_turns_lost_total 1.0" in other.render()

    async with SharedMetrics(metrics, tmp_path).written(every_s=0.01):
        metrics.turns_lost.inc()
        await until(is_told)


async def shown(origin: str) -> Mapping[str, float]:
    async with httpx.AsyncClient(verify=False) as http:  # a new connection: any of the processes may answer
        text = (await http.get(f"{origin}/metrics")).text
    return {name: float(value) for name, value in re.findall(r"^(\S+) ([-+.\deE]+)$", text, re.MULTILINE)}


@pytest.mark.timeout(150)
async def test_any_of_several_processes_shows_what_all_have_done(tmp_path: Path) -> None:
    """With --workers, Prometheus reaches one process at a time: it sees all requests and all that was learned, and a
    process that dies takes nothing back."""
    async with (
        ScriptedModel(lambda _: Reply(text="Noted.")).serve() as upstream,
        memproxy(upstream.base_url, tmp_path, "--workers", "2") as served,
    ):
        for at in range(12):
            answer = await say(served.origin, f"My order is LX-{at}.", path=f"/u/alice/s/{at}/v1")
            assert answer.status_code == 200

        async def is_whole() -> bool:
            try:
                seen = [await shown(served.origin) for _ in range(8)]
            except httpx.HTTPError:  # of the process that was killed
                return False
            return all([each.get(name) for name in EXPECTED] == list(EXPECTED.values()) for each in seen)

        await until(is_whole, deadline_s=60)
        os.kill(children_of(served.process.pid)[-1], signal.SIGKILL)  # the first one is the one that learns
        await until(is_whole, deadline_s=60)
