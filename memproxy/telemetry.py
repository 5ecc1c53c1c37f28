"""Every metric and the log format, declared in one place."""

import logging
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


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
        self.jobs = Counter("memproxy_jobs", "What became of queued turns, by event.", ["event"], registry=registry)

    def observe_job(self, event: str, amount: float) -> None:
        """Count what a worker tells; its events are a closed set."""
        self.jobs.labels(event).inc(amount)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def configure_logging(level: str) -> None:
    """One line a record on standard error: time, level, part, message. No content of messages is ever logged."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    for name in ("httpx", "httpcore", "openai", "redisvl"):
        logging.getLogger(name).setLevel(logging.WARNING)
