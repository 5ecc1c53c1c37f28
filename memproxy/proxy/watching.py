"""What is told of a request to the model: numbers of it, and a span for it in a trace.

Nothing here changes what happens to a request. Without traces all of it is a few counters.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from urllib.parse import urlsplit

from memproxy.errors import UpstreamError
from memproxy.proxy.answer import Answering
from memproxy.proxy.receipts import injected
from memproxy.proxy.relay import Relayed
from memproxy.proxy.stages import Inbound, Outbound, Remembered
from memproxy.records import Outcome
from memproxy.telemetry.metrics import Metrics
from memproxy.telemetry.traces import Span, Traces, Value
from memproxy.wire.answer_facts import TokenCounts, answer_facts, token_counts
from memproxy.wire.dialect import Answer

MAX_MODEL_CHARS = 100
"""Of a model's name in logs and traces: it is whatever the client sent."""

PROVIDERS: Mapping[str, str] = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "amazonaws.com": "aws.bedrock",
    "api.cohere.com": "cohere",
    "api.mistral.ai": "mistral_ai",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
}
"""By the end of the upstream's host, as the semantic conventions name them."""

FORMATS: Mapping[str, str] = {"messages": "anthropic"}
"""Whose format it is, where the host tells nothing; that of all others is OpenAI's."""

CHARS_PER_TOKEN = 4
"""Of prose, for a counter: counting them would cost more than all other metrics of a request."""


class Watching:
    """Tells of the requests of one process."""

    def __init__(self, metrics: Metrics, *, base_url: str) -> None:
        self._metrics = metrics
        self._traces = metrics.traces
        self._base_url = base_url
        self._nothing: AbstractContextManager[None] = nullcontext()

    def request(self, inbound: Inbound) -> AbstractContextManager[None]:
        """What is told of the request while inside belongs to it."""
        seen, request = inbound.seen, inbound.request
        seen.model = request.model[:MAX_MODEL_CHARS] if request is not None else ""
        return self._nothing if self._traces is None else self._span(inbound, self._traces)

    @contextmanager
    def _span(self, inbound: Inbound, traces: Traces) -> Iterator[None]:
        seen = inbound.seen
        attributes = {
            **server_attributes(self._base_url),
            **_asked(inbound, provider_of(self._base_url, inbound.dialect.name)),
        }
        ago_s = time.monotonic() - seen.began_s
        name = f"chat {seen.model}".rstrip()
        with traces.span(name, kind="server", attributes=attributes, follows=inbound.headers, ago_s=ago_s) as span:
            seen.span, seen.trace_id = span, span.trace_id
            yield

    def sent(self, inbound: Inbound, outbound: Outbound) -> None:
        """The request is ready to go out."""
        seen = inbound.seen
        seen.added_s = time.monotonic() - inbound.began_s
        self._metrics.added_seconds.observe(seen.added_s)
        seen.kind = "memory" if outbound.remembered is not None else "plain"
        seen.memories = injected(outbound)
        seen.degraded = tuple(dict.fromkeys(outbound.degraded))

    def failed(self, inbound: Inbound, outbound: Outbound, error: UpstreamError) -> None:
        """No answer came about."""
        self._count(outbound)
        if (span := inbound.seen.span) is not None:
            span.set({**_done(outbound), "http.response.status_code": error.status})
            span.fail(type(error).__name__)

    def answered(
        self, inbound: Inbound, outbound: Outbound, *, relayed: Relayed, answer: Answer, inside: Answering
    ) -> None:
        """The exchange is over, however it ended."""
        metrics = self._metrics
        self._count(outbound)
        if relayed.first_byte_at_s is not None:
            metrics.first_byte_seconds.observe(relayed.first_byte_at_s - inbound.began_s)
            metrics.stage_seconds["relay"].observe(time.monotonic() - relayed.first_byte_at_s)
        if relayed.outcome is Outcome.FAILED:
            metrics.upstream_errors["cut_off"].inc()
        tokens = token_counts(answer.usage)
        metrics.prompt_tokens.inc(tokens.prompt or 0)
        metrics.completion_tokens.inc(tokens.completion or 0)
        metrics.cached_tokens.inc(tokens.cached or 0)
        for each in inside.answers:
            metrics.tool_answers[each.source].inc()
        if (span := inbound.seen.span) is not None:
            span.set({**_done(outbound), **_answered(inbound, relayed, tokens), "memproxy.rounds": inside.rounds})
            _judge(span, relayed)

    def _count(self, outbound: Outbound) -> None:
        metrics = self._metrics
        for stage in outbound.degraded:
            metrics.degraded[stage].inc()
        if outbound.remembered is not None:
            metrics.sessions[found_as(outbound)].inc()
            if tokens := newly_cut_tokens(outbound, outbound.remembered):
                metrics.cuts.inc()
                metrics.cut_tokens.inc(tokens)
        if outbound.placement is not None:
            pin = outbound.placement.pin
            metrics.memories_injected.inc(len(pin.memories))
            metrics.memory_tokens.inc(len(pin.block) // CHARS_PER_TOKEN)


def found_as(outbound: Outbound) -> str:
    """What became of the conversation: `found`, `new`, `branched`; empty without memory."""
    known = outbound.remembered
    if known is None:
        return ""
    if known.session is None:
        return "new"
    return "branched" if known.alignment.branches else "found"


def newly_cut_tokens(outbound: Outbound, known: Remembered) -> int:
    """Tokens of the messages that this request leaves out for the first time; 0 where it leaves out no more."""
    session, last = known.session, outbound.cut.position
    before, index = (session.cut, session.index) if session is not None else (0, ())
    if last <= before:
        return 0
    dialect, placed = known.request.dialect, zip(known.request.conversation, known.alignment.positions, strict=True)
    fresh = [message for message, at in placed if at is not None and max(before, len(index)) <= at < last]
    chars = sum(len(dialect.countable_text(message)) for message in fresh)
    return sum(entry.tokens for entry in index[before:last]) + chars // CHARS_PER_TOKEN


def server_attributes(base_url: str) -> dict[str, Value]:
    """Which model server is asked."""
    parts = urlsplit(base_url)
    usual = 443 if parts.scheme == "https" else 80
    return {"server.address": parts.hostname or "", "server.port": parts.port or usual}


def provider_of(base_url: str, dialect: str) -> str:
    """Whose model it is, as far as the address or the format tells."""
    host = urlsplit(base_url).hostname or ""
    by_host = (name for end, name in PROVIDERS.items() if host == end or host.endswith("." + end))
    return next(by_host, FORMATS.get(dialect, "openai"))


def _asked(inbound: Inbound, provider: str) -> dict[str, Value]:
    request = inbound.request
    told: dict[str, Value] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider,
        "http.request.method": inbound.seen.method,
        "http.route": inbound.seen.route,
        "memproxy.request_id": inbound.id,
    }
    if request is not None:
        told |= {"gen_ai.request.model": inbound.seen.model, "gen_ai.request.stream": request.is_stream}
        if request.reply_tokens is not None:
            told["gen_ai.request.max_tokens"] = request.reply_tokens
    return told


def _done(outbound: Outbound) -> dict[str, Value | None]:
    known = outbound.remembered
    return {
        "gen_ai.conversation.id": known.key.session if known is not None else None,
        "memproxy.session.found": found_as(outbound) or None,
        "memproxy.memories": injected(outbound) if known is not None else None,
        "memproxy.history.restored": len(outbound.history) or None,
        "memproxy.cut": True if outbound.cut.position else None,
        "memproxy.degraded": tuple(dict.fromkeys(outbound.degraded)) or None,
    }


def _answered(inbound: Inbound, relayed: Relayed, tokens: TokenCounts) -> dict[str, Value | None]:
    told: dict[str, Value | None] = {
        "http.response.status_code": relayed.status,
        "gen_ai.usage.input_tokens": tokens.prompt,
        "gen_ai.usage.output_tokens": tokens.completion,
        "gen_ai.usage.cache_read.input_tokens": tokens.cached,
    }
    if relayed.first_byte_at_s is not None and inbound.seen.added_s is not None:
        waited_s = relayed.first_byte_at_s - inbound.began_s - inbound.seen.added_s
        told["gen_ai.response.time_to_first_chunk"] = round(waited_s, 6)
    if relayed.is_observed:
        facts = answer_facts(
            relayed.chunks, content_type=relayed.content_type, content_encoding=relayed.content_encoding
        )
        told |= {
            "gen_ai.response.id": facts.id or None,
            "gen_ai.response.model": facts.model or None,
            "gen_ai.response.finish_reasons": facts.finish_reasons or None,
        }
    return told


def _judge(span: Span, relayed: Relayed) -> None:
    """Whether it went well, as servers are judged: what the client did wrong, or its leaving, is no fault of ours."""
    if relayed.outcome is Outcome.FAILED:
        span.fail("cut_off")
    elif relayed.status is not None and relayed.status >= 500:
        span.fail(str(relayed.status))
