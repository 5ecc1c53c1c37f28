"""Metrics and logs."""

import logging

import httpx

from memproxy.sockets import listening_socket
from memproxy.telemetry import Metrics, configure_logging, served_metrics


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


def test_what_attempts_take_and_cost_is_seen() -> None:
    """An operator sees a slow model, and what it costs."""
    metrics = Metrics()
    metrics.observe_job("learn.seconds", 1.7)
    metrics.observe_job("learn.tokens", 1_200)
    shown = metrics.render()
    assert b'memproxy_job_seconds_bucket{le="2.5",stage="learn"} 1.0' in shown
    assert b"memproxy_extraction_tokens_total 1200.0" in shown


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


def test_client_libraries_stay_quiet() -> None:
    """httpx and openai log every request's URL at info; that is no news to an operator."""
    configure_logging("info")
    assert logging.getLogger("httpx").level == logging.WARNING
