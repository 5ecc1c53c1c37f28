"""Every metric and the log format, declared in one place."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

_JOB_SECONDS = (0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(slots=True)
class Metrics:
    """The metrics of one process. Labels are closed sets: nothing that a client sends becomes a label."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    requests: Counter = field(init=False)
    degraded: Counter = field(init=False)
    memories_injected: Counter = field(init=False)
    added_seconds: Histogram = field(init=False)
    turns_recorded: Counter = field(init=False)
    turns_lost: Counter = field(init=False)
    turns_waiting: Gauge = field(init=False)
    jobs: Counter = field(init=False)
    job_seconds: Histogram = field(init=False)
    extraction_tokens: Counter = field(init=False)
    queued_turns: Gauge = field(init=False)
    queue_oldest_seconds: Gauge = field(init=False)
    worker_partitions: Gauge = field(init=False)
    store_memory_share: Gauge = field(init=False)
    turns_thinned: Counter = field(init=False)
    tool_calls: Counter = field(init=False)
    tool_rounds_saved: Counter = field(init=False)

    def __post_init__(self) -> None:
        registry = self.registry
        self.requests = Counter(
            "memproxy_requests", "Requests by kind and class of status.", ["kind", "status"], registry=registry
        )
        self.degraded = Counter(
            "memproxy_degraded", "Stages left out of requests, by stage.", ["stage"], registry=registry
        )
        self.memories_injected = Counter("memproxy_memories_injected", "Memories put into requests.", registry=registry)
        self.added_seconds = Histogram(
            "memproxy_added_seconds",
            "Time from a request's last byte to its sending upstream.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.turns_recorded = Counter(
            "memproxy_turns_recorded", "Turns stored, by outcome of the exchange.", ["outcome"], registry=registry
        )
        self.turns_lost = Counter(
            "memproxy_turns_lost", "Turns given up because the store was away too long or failed.", registry=registry
        )
        self.turns_waiting = Gauge("memproxy_turns_waiting", "Turns that wait for the store.", registry=registry)
        self.tool_calls = Counter(
            "memproxy_tool_calls",
            "Calls of reading tools: hit, missed, bypassed (asked again), would_hit (observing); and invalidated.",
            ["outcome"],
            registry=registry,
        )
        self.tool_rounds_saved = Counter(
            "memproxy_tool_rounds_saved", "Round trips to agents that were not needed.", registry=registry
        )
        self._declare_learning(registry)

    def _declare_learning(self, registry: CollectorRegistry) -> None:
        """What tells how learning goes."""
        self.jobs = Counter(
            "memproxy_jobs",
            "What became of queued turns, by stage and event: done, dead (turns); retried, split (batches).",
            ["event"],
            registry=registry,
        )
        self.job_seconds = Histogram(
            "memproxy_job_seconds",
            "Time of attempts that succeeded, by stage.",
            ["stage"],
            registry=registry,
            buckets=_JOB_SECONDS,
        )
        self.extraction_tokens = Counter(
            "memproxy_extraction_tokens", "Tokens that the extraction model was paid for.", registry=registry
        )
        self.queued_turns = Gauge(
            "memproxy_queued_turns",
            "Turns in the store's queues, by stage and state: waiting, pending, dead. The same in every process.",
            ["stage", "state"],
            registry=registry,
        )
        self.queue_oldest_seconds = Gauge(
            "memproxy_queue_oldest_seconds",
            "Age of the oldest unfinished turn, by stage.",
            ["stage"],
            registry=registry,
        )
        self.worker_partitions = Gauge(
            "memproxy_worker_partitions", "Partitions that this process works on.", ["stage"], registry=registry
        )
        self.store_memory_share = Gauge(
            "memproxy_store_memory_share", "The store's memory in use, of its limit; 0 without one.", registry=registry
        )
        self.turns_thinned = Counter(
            "memproxy_turns_thinned",
            "Turns of which less was queued since the store's memory is short: without context, or not at all.",
            ["left_out"],
            registry=registry,
        )

    def observe_job(self, event: str, amount: float) -> None:
        """Count what a worker tells; its events are a closed set."""
        stage, _, what = event.partition(".")
        match what:
            case "seconds":
                self.job_seconds.labels(stage).observe(amount)
            case "tokens":
                self.extraction_tokens.inc(amount)
            case _:
                self.jobs.labels(event).inc(amount)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


@contextmanager
def served_metrics(metrics: Metrics, host: str, port: int) -> Iterator[None]:
    """Show the metrics under GET /metrics on a port of their own while inside; for processes that serve nothing else.

    Raises OSError when the port can't be had.
    """
    server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def configure_logging(level: str) -> None:
    """One line a record on standard error: time, level, part, message. No content of messages is ever logged."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    for name in ("httpx", "httpx2", "httpcore", "mcp", "openai", "redisvl"):
        logging.getLogger(name).setLevel(logging.WARNING)
