"""One request as it is told of: in log records, in the access log, in metrics. Filled in while it runs.

Whoever serves a request does so inside of `RequestWatch.request`. No content of messages, no credential and no query
string ever gets here; what a client sent becomes no label.
"""

import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from memproxy.telemetry.metrics import Metrics
from memproxy.telemetry.traces import Span

access = logging.getLogger("memproxy.access")

CLIENT_CLOSED = 499
"""The status of a request whose client left before there was another one. Source: nginx, and its dashboards."""

_TOKEN = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(slots=True, eq=False)
class Seen:
    """What is told of one request."""

    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    """The client's, in lower case; looked at, and never told."""
    id: str = field(default_factory=lambda: f"mpr-{uuid.uuid4().hex}")
    began_s: float = field(default_factory=time.monotonic)
    kind: str = "refused"
    """As metrics have it; empty: it is not counted."""
    route: str = "other"
    """A template: what is told is no name of anybody's."""
    status: int = CLIENT_CLOSED
    model: str = ""
    added_s: float | None = None
    """How long it took until it went to the model server."""
    memories: int | None = None
    degraded: tuple[str, ...] = ()
    trace_id: str = ""
    span: Span | None = None
    """What is told of it in a trace; None without one."""

    @property
    def client_id(self) -> str:
        """What the client calls the request, if that is a plain token."""
        given = self.headers.get("x-request-id", "")
        return given if _TOKEN.fullmatch(given) else ""

    @property
    def trace_parent(self) -> str:
        """Its place in a trace, as W3C writes it; empty without one."""
        return self.span.trace_parent if self.span is not None else ""


RUNNING: ContextVar[Seen | None] = ContextVar("memproxy_request", default=None)
"""The request in whose name something runs; tasks that it begins have it, too."""


class RequestWatch:
    """Counts requests, and writes the access log."""

    def __init__(self, metrics: Metrics, *, has_access_log: bool = False) -> None:
        self._metrics = metrics
        self._has_access_log = has_access_log

    @contextmanager
    def request(self, seen: Seen) -> Iterator[None]:
        """The request runs inside. What passes as an exception is a mistake of ours: servers answer 500 then."""
        RUNNING.set(seen)
        self._metrics.requests_running.inc()
        try:
            yield
        except Exception:
            if seen.status == CLIENT_CLOSED:
                seen.status = 500
            raise
        finally:
            self._end(seen)

    def _end(self, seen: Seen) -> None:
        metrics, took_s = self._metrics, time.monotonic() - seen.began_s
        metrics.requests_running.dec()
        if seen.kind:
            metrics.requests[seen.kind, f"{seen.status // 100}xx"].inc()
            metrics.request_seconds[seen.kind].observe(took_s)
        if self._has_access_log:
            access.info("%s %s %d", seen.method, seen.route, seen.status, extra=access_fields(seen, took_s))
        RUNNING.set(None)


def access_fields(seen: Seen, took_s: float) -> dict[str, object]:
    """What a line of the access log has besides what every line has; nothing that is not known."""
    known = {
        "method": seen.method,
        "route": seen.route,
        "status": seen.status,
        "ms": round(took_s * 1000, 1),
        "added_ms": None if seen.added_s is None else round(seen.added_s * 1000, 1),
        "model": seen.model or None,
        "memories": seen.memories,
        "degraded": ",".join(seen.degraded) or None,
    }
    return {name: value for name, value in known.items() if value is not None}
