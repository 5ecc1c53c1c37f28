"""Every metric, declared in one place. docs/observability.md has the same as a table; a test compares the two.

Labels are closed sets: nothing that a client sends becomes one. A child, which is a metric with its labels' values, is
looked up once and then kept: `metrics.requests["memory", "2xx"].inc()` costs half a microsecond.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from typing_extensions import override

from memproxy.telemetry.traces import Traces

MetricT = TypeVar("MetricT", bound=MetricWrapperBase)

Kind = Literal["counter", "gauge", "histogram"]

Combined = Literal["sum", "max"]
"""What several processes' gauges become when they are shown as one; counts are added up in any case."""

Stage = Literal[
    "receive", "settle", "find", "align", "recall", "compose", "tools", "forward", "answer", "relay", "record"
]
"""The steps of a request that take time; ARCHITECTURE.md tells what each does."""

SPANS: Mapping[Stage, bool] = {
    "receive": False,
    "settle": False,
    "find": True,
    "align": False,
    "recall": True,
    "compose": False,
    "tools": True,
    "forward": False,
    "answer": False,
    "relay": False,
    "record": True,
}
"""Stages that are spans in traces, too: those that wait for the store. What waits for the model server has one of its
own kind, and so does what stands for a tool."""

_STAGE_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
)  # fmt: skip
"""From deciding, which takes microseconds, to a model that thinks."""

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

_WHOLE_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)

_JOB_SECONDS = (0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, slots=True)
class Declared:
    """What is known of a metric before anything was counted."""

    name: str
    """As queries have it, without the endings of a histogram's series."""
    kind: Kind
    help: str
    labels: tuple[str, ...]
    combined: Combined


class Children(dict[str | tuple[str, ...], MetricT], Generic[MetricT]):
    """A metric's children by the values of its labels."""

    def __init__(self, metric: MetricT) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: str | tuple[str, ...]) -> MetricT:
        child = self._metric.labels(*((values,) if isinstance(values, str) else values))
        self[values] = child
        return child

    def begin(self, *values: str) -> None:
        """Show these children from the start, at 0: a rate needs a value before the first event."""
        for value in values:
            self.labels(value)

    def labels(self, *values: str) -> MetricT:
        """The child with these values."""
        return self[values[0] if len(values) == 1 else values]


class Timed:
    """Observes how long its inside took, however that ended."""

    __slots__ = ("_began_s", "_seconds")

    def __init__(self, seconds: Histogram) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._began_s = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds.observe(time.perf_counter() - self._began_s)


class TimedSpan(Timed):
    """The same as a span of the trace that runs."""

    __slots__ = ("_span",)

    def __init__(self, seconds: Histogram, traces: Traces, name: str) -> None:
        super().__init__(seconds)
        self._span = traces.span(name)

    @override
    def __enter__(self) -> None:
        self._span.__enter__()
        super().__enter__()

    @override
    def __exit__(self, *failure: object) -> None:
        super().__exit__(*failure)
        self._span.__exit__(*failure)  # type: ignore[arg-type]  # what `with` hands over, as it is


class Metrics:
    """The metrics of one process. With `traces`, stages are spans, too."""

    def __init__(self, traces: Traces | None = None) -> None:
        self.traces = traces
        self.registry = CollectorRegistry()
        self.declared: list[Declared] = []
        self._declare_requests()
        self._declare_memory()
        self._declare_model_server()
        self._declare_tools()
        self._declare_recording()
        self._declare_learning()

    def stage(self, name: Stage) -> Timed:
        """Time a stage of a request: `with metrics.stage("recall"): ...`."""
        seconds = self.stage_seconds[name]
        if self.traces is None or not SPANS[name]:
            return Timed(seconds)
        return TimedSpan(seconds, self.traces, name)

    def _declare_requests(self) -> None:
        self.requests = self._counters(
            "memproxy_requests",
            "Requests by kind (memory, plain, passed, refused, memory_api, mcp) and class of status.",
            "kind",
            "status",
        )
        self.api_requests = self._counters(
            "memproxy_api_requests",
            "Requests of the memory API and MCP, by route and class of status.",
            "route",
            "status",
        )
        self.request_seconds = self._histograms(
            "memproxy_request_seconds", "Requests from their beginning to the last byte.", "kind", at=_WHOLE_SECONDS
        )
        self.stage_seconds = self._histograms(
            "memproxy_stage_seconds", "Time that requests spent in each stage.", "stage", at=_STAGE_SECONDS
        )
        self.stage_seconds.begin(*SPANS)
        self.added_seconds = self._histogram(
            "memproxy_added_seconds", "Time from a request's last byte to its sending upstream.", at=_SECONDS
        )
        self.requests_running = self._gauge("memproxy_requests_running", "Requests under way.")
        self.degraded = self._counters("memproxy_degraded", "Stages left out of requests, by stage.", "stage")

    def _declare_memory(self) -> None:
        self.recalls = self._counters(
            "memproxy_recalls", "Searches for memories: hit (at least one was injected), nothing, degraded.", "outcome"
        )
        self.recalls.begin("hit", "nothing", "degraded")
        self.memories_injected = self._counter("memproxy_memories_injected", "Memories put into requests.")
        self.memory_tokens = self._counter("memproxy_memory_tokens", "Tokens of the blocks that hold them.")
        self.sessions = self._counters(
            "memproxy_sessions", "Conversations of requests: found, new, branched off from what was known.", "found"
        )
        self.sessions.begin("found", "new", "branched")
        self.cuts = self._counter("memproxy_cuts", "Conversations cut to fit into the model's window.")
        self.cut_tokens = self._counter("memproxy_cut_tokens", "Tokens of the messages that cuts left out.")

    def _declare_model_server(self) -> None:
        self.first_byte_seconds = self._histogram(
            "memproxy_first_byte_seconds",
            "Time from a request's last byte to the first byte of its answer.",
            at=_WHOLE_SECONDS,
        )
        self.upstream_errors = self._counters(
            "memproxy_upstream_errors",
            "Failures of the model server: connect, timeout, broken, cut_off (in an answer), 4xx, 429, 5xx.",
            "kind",
        )
        self.upstream_errors.begin("connect", "timeout", "broken", "cut_off", "4xx", "429", "5xx")
        self.answers_open = self._gauge("memproxy_answers_open", "Answers of the model server that are being read.")
        self.prompt_tokens = self._counter("memproxy_prompt_tokens", "Tokens read, as the provider reports them.")
        self.completion_tokens = self._counter(
            "memproxy_completion_tokens", "Tokens written, as the provider reports them."
        )
        self.cached_tokens = self._counter(
            "memproxy_cached_tokens", "Tokens read from the provider's prompt cache, as the provider reports them."
        )

    def _declare_tools(self) -> None:
        self.tool_calls = self._counters(
            "memproxy_tool_calls",
            "Calls of reading tools: hit, missed, bypassed (asked again), would_hit (observing); and invalidated.",
            "outcome",
        )
        self.tool_answers = self._counters(
            "memproxy_tool_answers", "Calls that were answered inside, by source: cache, memory.", "source"
        )
        self.tool_answers.begin("cache", "memory")
        self.tool_rounds_saved = self._counter(
            "memproxy_tool_rounds_saved", "Round trips to agents that were not needed."
        )

    def _declare_recording(self) -> None:
        self.turns_recorded = self._counters(
            "memproxy_turns_recorded", "Turns stored, by outcome of the exchange.", "outcome"
        )
        self.turns_lost = self._counter(
            "memproxy_turns_lost", "Turns given up because the store was away too long or failed."
        )
        self.turns_waiting = self._gauge("memproxy_turns_waiting", "Turns that wait for the store.")
        self.turns_thinned = self._counters(
            "memproxy_turns_thinned",
            "Turns of which less was queued since the store's memory is short: without context, or not at all.",
            "left_out",
        )
        self.store_away = self._gauge(
            "memproxy_store_away", "1 while the store is not asked because it did not answer.", combined="max"
        )
        self.store_memory_share = self._gauge(
            "memproxy_store_memory_share", "The store's memory in use, of its limit; 0 without one.", combined="max"
        )

    def _declare_learning(self) -> None:
        """What tells how learning goes."""
        self.jobs = self._counters(
            "memproxy_jobs",
            "What became of queued turns, by stage and event: done, dead (turns); retried, split (batches).",
            "event",
        )
        self.job_seconds = self._histograms(
            "memproxy_job_seconds", "Time of attempts that succeeded, by stage.", "stage", at=_JOB_SECONDS
        )
        self.memories_learned = self._counters(
            "memproxy_memories_learned", "New memories, by the stage that made them.", "stage"
        )
        self.extraction_tokens = self._counter(
            "memproxy_extraction_tokens", "Tokens that the extraction model was paid for."
        )
        self.queued_turns = self._gauges(
            "memproxy_queued_turns",
            "Turns in the store's queues, by stage and state: waiting, pending, dead. The same in every process.",
            "stage",
            "state",
            combined="max",
        )
        self.queue_oldest_seconds = self._gauges(
            "memproxy_queue_oldest_seconds", "Age of the oldest unfinished turn, by stage.", "stage", combined="max"
        )
        self.worker_partitions = self._gauges(
            "memproxy_worker_partitions", "Partitions that this process works on.", "stage"
        )

    def observe_job(self, event: str, amount: float) -> None:
        """Count what a worker tells; its events are a closed set."""
        stage, _, what = event.partition(".")
        match what:
            case "seconds":
                self.job_seconds[stage].observe(amount)
            case "tokens":
                self.extraction_tokens.inc(amount)
            case "memories":
                self.memories_learned[stage].inc(amount)
            case _:
                self.jobs[event].inc(amount)

    def families(self) -> list[Metric]:
        """What was counted so far."""
        return list(self.registry.collect())

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _declare(self, kind: Kind, name: str, says: str, labels: Sequence[str], combined: Combined = "sum") -> None:
        ending = "_total" if kind == "counter" else ""
        self.declared.append(Declared(name + ending, kind, says, tuple(labels), combined))

    def _counter(self, name: str, says: str) -> Counter:
        self._declare("counter", name, says, ())
        return Counter(name, says, registry=self.registry)

    def _counters(self, name: str, says: str, *labels: str) -> Children[Counter]:
        self._declare("counter", name, says, labels)
        return Children(Counter(name, says, labels, registry=self.registry))

    def _gauge(self, name: str, says: str, *, combined: Combined = "sum") -> Gauge:
        self._declare("gauge", name, says, (), combined)
        return Gauge(name, says, registry=self.registry)

    def _gauges(self, name: str, says: str, *labels: str, combined: Combined = "sum") -> Children[Gauge]:
        self._declare("gauge", name, says, labels, combined)
        return Children(Gauge(name, says, labels, registry=self.registry))

    def _histogram(self, name: str, says: str, *, at: Sequence[float]) -> Histogram:
        self._declare("histogram", name, says, ())
        return Histogram(name, says, registry=self.registry, buckets=at)

    def _histograms(self, name: str, says: str, *labels: str, at: Sequence[float]) -> Children[Histogram]:
        self._declare("histogram", name, says, labels)
        return Children(Histogram(name, says, labels, registry=self.registry, buckets=at))


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
