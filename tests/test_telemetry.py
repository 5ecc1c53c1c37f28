"""Metrics and logs."""

import logging

from memproxy.telemetry import Metrics, configure_logging


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


def test_client_libraries_stay_quiet() -> None:
    """httpx and openai log every request's URL at info; that is no news to an operator."""
    configure_logging("info")
    assert logging.getLogger("httpx").level == logging.WARNING
