"""The memory API and MCP, watched: each request is counted by its route, has an id, and is a span in a trace."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from memproxy.telemetry.metrics import Metrics
from memproxy.telemetry.requests import RequestWatch, Seen
from memproxy.telemetry.traces import Span

UNMATCHED = "unmatched"
"""The route of a path that is none."""

REQUEST_ID = b"x-memproxy-request-id"


class WatchedApi:
    """An ASGI application whose requests are told of."""

    def __init__(self, app: Any, watch: RequestWatch, metrics: Metrics, *, kind: str, route: str = "") -> None:
        """`kind` as metrics have it. `route` is for all; without one it is the template that litestar found."""
        self._app = app
        self._watch = watch
        self._metrics = metrics
        self._kind = kind
        self._route = route

    async def __call__(self, scope: Any, receive: Any, send: Any, **given: Any) -> None:
        """Serve one request. Any: litestar's types and ours are other names for ASGI's."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        seen = Seen(scope["method"], headers, kind=self._kind)

        async def named(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID, seen.id.encode())]}
            await send(message)

        try:
            with self._watch.request(seen), self._told(seen, scope):
                await self._app(scope, receive, named, **given)
        finally:
            self._metrics.api_requests[seen.route, f"{seen.status // 100}xx"].inc()

    @contextmanager
    def _told(self, seen: Seen, scope: Any) -> Iterator[None]:
        """What becomes of the request inside is told, in the end by its route: that is known when it was found."""
        with self._span(seen) as span:
            if span is not None:
                seen.trace_id = span.trace_id
            try:
                yield
            finally:
                seen.route = self._route or scope.get("path_template") or UNMATCHED
                if span is not None:
                    span.rename(f"{seen.method} {seen.route}")
                    span.set({"http.route": seen.route, "http.response.status_code": seen.status})
                    if seen.status >= 500:
                        span.fail(str(seen.status))

    def _span(self, seen: Seen) -> AbstractContextManager[Span | None]:
        traces = self._metrics.traces
        if traces is None:
            return nullcontext()
        told = {"http.request.method": seen.method, "memproxy.request_id": seen.id}
        return traces.span(seen.method, kind="server", attributes=told, follows=seen.headers)
