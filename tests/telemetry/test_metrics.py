"""What is counted."""

import re

import httpx
import pytest

from memproxy.sockets import listening_socket
from memproxy.telemetry.metrics import SPANS, Metrics, Timed, served_metrics
from tests.rules.source import ROOT


def test_two_instances_keep_their_own_counts() -> None:
    """Metrics belong to a process's services, not to the module."""
    one, two = Metrics(), Metrics()
    one.turns_lost.inc()
    assert b"memproxy_turns_lost_total 1.0" in one.render()
    assert b"memproxy_turns_lost_total 0.0" in two.render()


def test_workers_events_become_a_metric() -> None:
    """What workers do is seen beside what requests do."""
    metrics = Metrics()
    metrics.observe_job("turns.done", 1)
    assert b'memproxy_jobs_total{event="turns.done"} 1.0' in metrics.render()


def test_what_attempts_take_and_cost_and_give_is_seen() -> None:
    """An operator sees a slow model, what it costs, and what comes of it."""
    metrics = Metrics()
    metrics.observe_job("learn.seconds", 1.7)
    metrics.observe_job("learn.tokens", 1_200)
    metrics.observe_job("learn.memories", 3)
    shown = metrics.render()
    assert b'memproxy_job_seconds_bucket{le="2.5",stage="learn"} 1.0' in shown
    assert b"memproxy_extraction_tokens_total 1200.0" in shown
    assert b'memproxy_memories_learned_total{stage="learn"} 3.0' in shown


@pytest.mark.parametrize("stage", SPANS)
def test_each_stage_is_timed(stage: str) -> None:
    """Where a request's time goes is told stage by stage; one that fails takes time, too."""
    metrics = Metrics()
    with pytest.raises(ZeroDivisionError), metrics.stage(stage):  # type: ignore[arg-type]  # each of the table
        1 / 0  # noqa: B018  fails
    assert f'memproxy_stage_seconds_count{{stage="{stage}"}} 1.0'.encode() in metrics.render()


def test_without_traces_a_stage_is_only_timed() -> None:
    """Every request runs through a dozen of them."""
    metrics = Metrics()
    assert {type(metrics.stage(stage)) for stage in SPANS} == {Timed}


def test_stages_are_those_of_the_architecture() -> None:
    """Who reads a dashboard finds the step in the table, and its module."""
    table = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    steps = set(re.findall(r"^\| (\w+) \|", table, re.MULTILINE))
    assert SPANS.keys() - {"tools"} <= steps


def test_children_are_bound_once() -> None:
    """Looking a child up costs four times as much as counting."""
    requests = Metrics().requests
    assert requests["memory", "2xx"] is requests["memory", "2xx"] is requests.labels("memory", "2xx")


def test_labels_are_few() -> None:
    """Each further label multiplies the series that Prometheus keeps."""
    assert all(len(each.labels) <= 2 for each in Metrics().declared)


def test_a_process_without_a_server_of_its_own_can_show_its_metrics() -> None:
    """Workers are watched like everything else; the port is free again afterwards."""
    metrics = Metrics()
    metrics.observe_job("turns.done", 1)
    with listening_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    for _ in range(2):
        with served_metrics(metrics, "127.0.0.1", port):
            answer = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'memproxy_jobs_total{event="turns.done"} 1.0' in answer
