"""An OpenTelemetry collector on the loopback: takes OTLP over HTTP as protobuf, and keeps the spans."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from typing_extensions import override


@dataclass(frozen=True, slots=True)
class KeptSpan:
    """One span as it arrived."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, Any]
    links: tuple[str, ...]
    """The traces that it points to."""
    is_failed: bool
    resource: Mapping[str, Any]
    seconds: float


@dataclass(slots=True)
class Collector:
    """What arrived so far."""

    endpoint: str
    spans: list[KeptSpan] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def named(self, beginning: str) -> list[KeptSpan]:
        """The spans whose names begin so."""
        return [span for span in self.spans if span.name.startswith(beginning)]

    def one(self, beginning: str) -> KeptSpan:
        """The only such span."""
        (found,) = self.named(beginning)
        return found

    def take(self, raw: bytes) -> None:
        """Keep what a request brought."""
        self.raw.append(raw)
        for batch in ExportTraceServiceRequest.FromString(raw).resource_spans:
            resource = _plain(batch.resource.attributes)
            self.spans += [_kept(span, resource) for scope in batch.scope_spans for span in scope.spans]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens while inside."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        @override
        def log_message(self, *_: Any) -> None:
            """Tests stay quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _kept(span: Any, resource: Mapping[str, Any]) -> KeptSpan:
    return KeptSpan(
        name=span.name,
        kind=type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_plain(span.attributes),
        links=tuple(link.trace_id.hex() for link in span.links),
        is_failed=span.status.code == 2,
        resource=resource,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _plain(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None
