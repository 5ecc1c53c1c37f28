"""The model server and what answers tool calls, as they are, but watched: each call is timed, and a span in a trace.

With traces a request goes out under its own span's name in W3C's headers; without, as its client named it.
"""

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace

from typing_extensions import override

from memproxy.errors import UpstreamConnectError, UpstreamError, UpstreamTimeoutError
from memproxy.proxy.answer import Source
from memproxy.proxy.upstream import Sender, UpstreamResponse
from memproxy.proxy.watching import server_attributes
from memproxy.records import ToolAnswer, ToolCall
from memproxy.telemetry.metrics import Metrics
from memproxy.telemetry.traces import Headers, Span, Traces, Value

ERRORS: Mapping[type[UpstreamError], str] = {UpstreamConnectError: "connect", UpstreamTimeoutError: "timeout"}
"""What failures of the model server are called; all others are `broken`."""


class WatchedSender(Sender):
    """Whom requests are sent to, watched."""

    def __init__(self, sender: Sender, metrics: Metrics, *, base_url: str) -> None:
        self._sender = sender
        self._metrics = metrics
        self._traces = metrics.traces
        self._base_url = base_url

    def over(self, sender: Sender | None) -> "WatchedSender":
        """The same for another way to the model server; itself for None."""
        return self if sender is None else WatchedSender(sender, self._metrics, base_url=self._base_url)

    @override
    async def send(
        self,
        method: str,
        path: bytes,
        *,
        query: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | AsyncIterator[bytes],
        readable: bool,
    ) -> UpstreamResponse:
        metrics, span = self._metrics, None
        if self._traces is not None:
            headers = list(headers)
            span = self._begin(self._traces, method, path, headers)
            headers = self._traces.passed_on(headers, span)
        began_s = time.perf_counter()
        try:
            response = await self._sender.send(method, path, query=query, headers=headers, body=body, readable=readable)
        except BaseException as error:
            self._failed(error, span)
            raise
        metrics.stage_seconds["forward"].observe(time.perf_counter() - began_s)
        metrics.answers_open.inc()
        if response.status >= 400:
            metrics.upstream_errors[_kind(response.status)].inc()
        if span is not None:
            span.set({"http.response.status_code": response.status})
            if response.status >= 400:
                span.fail(str(response.status))

        def closed() -> None:
            metrics.answers_open.dec()
            if span is not None:
                span.end()

        return replace(response, closed=closed)

    def _begin(self, traces: Traces, method: str, path: bytes, headers: Headers) -> Span:
        url = self._base_url.rstrip("/") + path.decode("latin-1")
        attributes: dict[str, Value] = {
            **server_attributes(self._base_url),
            "http.request.method": method,
            "url.full": url.partition("?")[0],
        }
        return traces.begin(method, kind="client", follows=headers, attributes=attributes)

    def _failed(self, error: BaseException, span: Span | None) -> None:
        if isinstance(error, UpstreamError):
            self._metrics.upstream_errors[ERRORS.get(type(error), "broken")].inc()
        if span is not None:
            span.fail(type(error).__name__)
            span.end()


def _kind(status: int) -> str:
    return "429" if status == 429 else f"{status // 100}xx"


@dataclass(frozen=True, slots=True)
class WatchedSource(Source):
    """What answers tool calls, watched."""

    source: Source
    metrics: Metrics

    @override
    def may_answer(self, name: str) -> bool:
        return self.source.may_answer(name)

    @override
    async def answer(self, call: ToolCall) -> ToolAnswer | None:
        began_s = time.perf_counter()
        with self.metrics.stage("answer"):
            found = await self.source.answer(call)
        if found is not None and self.metrics.traces is not None:
            told: dict[str, Value] = {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": call.name,
                "gen_ai.tool.call.id": call.id,
                "gen_ai.tool.type": "function",
                "memproxy.tool.source": found.source,
            }
            ago_s = time.perf_counter() - began_s
            self.metrics.traces.did(f"execute_tool {call.name}", attributes=told, ago_s=ago_s)
        return found
