"""What memproxy needs of traces, and whether they are wanted. OpenTelemetry itself is known to `otel` alone.

Traces are off unless the setting or one of OpenTelemetry's own variables asks for them: then nothing here is ever
called. docs/observability.md has the attributes as a table; a test compares the two.
"""

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Literal, Protocol

from memproxy.errors import SettingsError

log = logging.getLogger(__name__)

SpanKind = Literal["internal", "server", "client", "consumer"]

Value = str | bool | int | float | Sequence[str]

Headers = Sequence[tuple[bytes, bytes]]

CLOSE_S = 3.0
"""How long the end of a process waits for the collector to take the last spans."""

ATTRIBUTES: Mapping[str, str] = {
    "gen_ai.operation.name": "`chat`; `execute_tool`",
    "gen_ai.provider.name": "By the upstream's host, else by the format: `openai`, `anthropic`, ...",
    "gen_ai.request.model": "The model that was asked for",
    "gen_ai.request.stream": "Whether the answer was asked for as a stream",
    "gen_ai.request.max_tokens": "How long the answer may be",
    "gen_ai.conversation.id": "The session",
    "gen_ai.response.id": "The provider's id of the answer",
    "gen_ai.response.model": "The model that answered",
    "gen_ai.response.finish_reasons": "Why it ended",
    "gen_ai.response.time_to_first_chunk": "Seconds from the request's sending to the answer's first byte",
    "gen_ai.usage.input_tokens": "Tokens read",
    "gen_ai.usage.output_tokens": "Tokens written",
    "gen_ai.usage.cache_read.input_tokens": "Tokens read from the provider's prompt cache",
    "gen_ai.tool.name": "The tool whose call was answered",
    "gen_ai.tool.call.id": "The id of the call",
    "gen_ai.tool.type": "`function`",
    "server.address": "The model server's host",
    "server.port": "Its port",
    "http.request.method": "The method",
    "http.route": "A template such as `/v1/chat/completions`",
    "http.response.status_code": "The status of the response",
    "url.full": "What was asked of the model server, without a query",
    "error.type": "The status, or the kind of error",
    "messaging.batch.message_count": "Turns in a batch",
    "memproxy.request_id": "`x-memproxy-request-id`",
    "memproxy.session.found": "`found`, `new`, `branched`",
    "memproxy.memories": "Memories that were injected",
    "memproxy.history.restored": "Stored messages that were sent along",
    "memproxy.cut": "The conversation is cut",
    "memproxy.degraded": "What was left out",
    "memproxy.rounds": "Rounds that were answered inside",
    "memproxy.tool.source": "`cache`, `memory`",
    "memproxy.tokens": "What an attempt to learn cost",
}
"""Every attribute that memproxy sets. Source of those that are not its own: OpenTelemetry's semantic conventions for
generative AI, HTTP and messaging, version 1.38 and later."""


class Span(Protocol):
    """One operation in a trace."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        ...

    @property
    def trace_parent(self) -> str:
        """Its place in the trace, as W3C writes it."""
        ...

    def set(self, attributes: Mapping[str, Value | None]) -> None:
        """Tell more about it; None is left out."""
        ...

    def rename(self, name: str) -> None:
        """Call it something else."""
        ...

    def fail(self, kind: str) -> None:
        """It did not do what it should."""
        ...

    def end(self) -> None:
        """It is over; later calls do nothing."""
        ...


class Traces(Protocol):
    """Makes spans and sends them away, in a thread of its own."""

    def span(
        self,
        name: str,
        *,
        kind: SpanKind = "internal",
        attributes: Mapping[str, Value] | None = None,
        follows: Mapping[str, str] | None = None,
        linked: Iterable[str] = (),
        ago_s: float = 0.0,
    ) -> AbstractContextManager[Span]:
        """A span that is the current one inside, under the one that was; an exception that passes fails it.

        `follows`: headers of a request that may name what it belongs to. `linked`: W3C parents of what led to it.
        `ago_s`: how long ago it began.
        """
        ...

    def begin(self, name: str, *, kind: SpanKind, follows: Headers, attributes: Mapping[str, Value]) -> Span:
        """A span under the current one, which stays that; end it in any case.

        `follows`: headers that may name what it belongs to where there is no current one.
        """
        ...

    def did(self, name: str, *, attributes: Mapping[str, Value], ago_s: float) -> None:
        """A span under the current one that is over by now."""
        ...

    def passed_on(self, headers: Headers, span: Span) -> Headers:
        """A request's headers with this span in place of what the client named as the request's parent."""
        ...

    def close(self, timeout_s: float) -> None:
        """Send what was not sent yet, for at most so long. Blocks."""
        ...


def is_wanted(*, setting: bool, environment: Mapping[str, str]) -> bool:
    """Whether traces are to be made.

    Raises:
        SettingsError: they are asked for in a way that this installation does not have.
    """
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    if not (setting or exporter or any(environment.get(name) for name in _ENDPOINTS)):
        return False
    if exporter not in {"", "otlp", "console"}:
        raise SettingsError(f"OTEL_TRACES_EXPORTER is {exporter}: memproxy knows otlp, console and none.")
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
    if protocol != "http/protobuf" and exporter != "console":
        raise SettingsError(
            f"Traces are asked for over {protocol}: memproxy sends them over http/protobuf alone. Set "
            "OTEL_EXPORTER_OTLP_PROTOCOL to that, and the endpoint to the collector's port for HTTP, usually 4318."
        )
    return True


_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


@asynccontextmanager
async def open_traces(*, setting: bool, environment: Mapping[str, str]) -> AsyncIterator[Traces | None]:
    """What makes traces, while inside; None where they are not wanted. Leaving sends what was not sent yet.

    Raises:
        SettingsError: they are wanted, and can't be had.
    """
    if not is_wanted(setting=setting, environment=environment):
        yield None
        return
    traces = _made(environment)
    try:
        yield traces
    finally:
        await asyncio.to_thread(traces.close, CLOSE_S)


def _made(environment: Mapping[str, str]) -> Traces:
    try:
        otel = importlib.import_module("memproxy.telemetry.otel")  # only here: the extra may not be installed
    except ImportError as error:
        raise SettingsError(
            "Traces are asked for (the setting tracing, or a variable OTEL_*), but OpenTelemetry is not installed: "
            "install memproxy with the extra otel, or set OTEL_SDK_DISABLED=true."
        ) from error
    traces: Traces = otel.traces_of(environment)
    return traces
