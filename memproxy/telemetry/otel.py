"""Traces by OpenTelemetry; the only door to it. It is an extra, so nobody imports this module but by its name.

What is exported, where to and how much of it is decided by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, ...). Spans are sent by a thread: a collector that is slow or away costs spans,
and no request. Nothing here is registered globally, so two memproxies in one process know nothing of each other.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from typing_extensions import override

from memproxy.telemetry import traces

NAME = "memproxy"

_KINDS: Mapping[traces.SpanKind, trace.SpanKind] = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "consumer": trace.SpanKind.CONSUMER,
}

_PARENT = (b"traceparent", b"tracestate")

TALKATIVE = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
"""What reports each batch that could not be sent, or kept until then."""


@dataclass(frozen=True, slots=True)
class OtelSpan(traces.Span):
    """One operation."""

    inner: trace.Span

    @property
    @override
    def trace_id(self) -> str:
        return trace.format_trace_id(self.inner.get_span_context().trace_id)

    @property
    @override
    def trace_parent(self) -> str:
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(self.inner, Context()))
        return carrier.get("traceparent", "")

    @override
    def set(self, attributes: Mapping[str, traces.Value | None]) -> None:
        self.inner.set_attributes({name: value for name, value in attributes.items() if value is not None})

    @override
    def rename(self, name: str) -> None:
        self.inner.update_name(name)

    @override
    def fail(self, kind: str) -> None:
        self.inner.set_attribute("error.type", kind)
        self.inner.set_status(trace.StatusCode.ERROR)

    @override
    def end(self) -> None:
        if self.inner.is_recording():
            self.inner.end()


class OtelTraces(traces.Traces):
    """Spans of this process."""

    def __init__(self, exporter: SpanExporter, resource: Resource) -> None:
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(NAME)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    @override
    def span(
        self,
        name: str,
        *,
        kind: traces.SpanKind = "internal",
        attributes: Mapping[str, traces.Value] | None = None,
        follows: Mapping[str, str] | None = None,
        linked: Iterable[str] = (),
        ago_s: float = 0.0,
    ) -> Iterator[traces.Span]:
        span = self._tracer.start_span(
            name,
            None if follows is None else self._propagator.extract(follows, Context()),
            kind=_KINDS[kind],
            attributes=attributes,
            links=[link for each in dict.fromkeys(linked) if (link := self._link(each)) is not None],
            start_time=_ago_ns(ago_s),
        )
        told = OtelSpan(span)
        token = attach(trace.set_span_in_context(span))
        try:
            yield told
        except BaseException as error:
            told.fail(type(error).__qualname__)
            raise
        finally:
            detach(token)
            told.end()

    @override
    def begin(
        self, name: str, *, kind: traces.SpanKind, follows: traces.Headers, attributes: Mapping[str, traces.Value]
    ) -> traces.Span:
        context = None
        if not trace.get_current_span().get_span_context().is_valid:
            given = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in follows}
            context = self._propagator.extract(given, Context())
        return OtelSpan(self._tracer.start_span(name, context, kind=_KINDS[kind], attributes=attributes))

    @override
    def did(self, name: str, *, attributes: Mapping[str, traces.Value], ago_s: float) -> None:
        self._tracer.start_span(name, attributes=attributes, start_time=_ago_ns(ago_s)).end()

    @override
    def passed_on(self, headers: traces.Headers, span: traces.Span) -> traces.Headers:
        assert isinstance(span, OtelSpan), "made by another"
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span.inner, Context()))
        others = [(name, value) for name, value in headers if name.lower() not in _PARENT]
        return [*others, *((name.encode(), value.encode()) for name, value in carrier.items())]

    @override
    def close(self, timeout_s: float) -> None:
        # OpenTelemetry waits for half a minute and can't be told otherwise; its threads end with the process.
        ending = threading.Thread(target=self._provider.shutdown, name="send the last spans", daemon=True)
        ending.start()
        ending.join(timeout_s)

    def _link(self, trace_parent: str) -> trace.Link | None:
        context = self._propagator.extract({"traceparent": trace_parent}, Context())
        span = trace.get_current_span(context).get_span_context()
        return trace.Link(span) if span.is_valid else None


def _ago_ns(ago_s: float) -> int | None:
    return time.time_ns() - round(ago_s * 1e9) if ago_s else None


class Seldom(logging.Filter):
    """Lets the same words pass once in a while: a collector that is away is no news with every batch."""

    def __init__(self, every_s: float = 300.0) -> None:
        super().__init__()
        self._every_s = every_s
        self._said_s: dict[str, float] = {}

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        words = str(record.msg)
        if record.created - self._said_s.get(words, 0.0) < self._every_s:
            return False
        self._said_s[words] = record.created
        return True


def traces_of(environment: Mapping[str, str]) -> OtelTraces:
    """Traces as OpenTelemetry's variables say."""
    for name in TALKATIVE:
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)  # each attempt is a warning, giving up an error
        logger.addFilter(Seldom())
    is_console = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "console"
    exporter: SpanExporter = ConsoleSpanExporter(out=sys.stderr) if is_console else OTLPSpanExporter()
    return OtelTraces(exporter, resource_of(environment))


def resource_of(environment: Mapping[str, str]) -> Resource:
    """Who makes the spans: as OpenTelemetry's variables say, and memproxy where they name nobody."""
    given = environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    is_named = bool(environment.get("OTEL_SERVICE_NAME")) or f"{SERVICE_NAME}=" in given
    return Resource.create() if is_named else Resource.create({SERVICE_NAME: NAME})
