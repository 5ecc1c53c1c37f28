"""The life of one request: receive, identify, align, recall, compose, forward, relay, record; in this order below.

Fail open: whatever memory can't do in time is left out and named in the receipt; the request itself goes on.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, replace

import msgspec

from memproxy.clock import Clock
from memproxy.errors import RequestError, UpstreamError
from memproxy.identity import Claims, SplitPath, Tenants, credential_of, read_claims, scope_of
from memproxy.proxy.answer import Answering, AnswerLoop, Limits, Source
from memproxy.proxy.assemble import Assembler
from memproxy.proxy.cached_results import CachedResults, ToolCache
from memproxy.proxy.client import Client
from memproxy.proxy.continuations import Continuations, known_id_of
from memproxy.proxy.controls import chosen
from memproxy.proxy.conversation import Histories, is_other_agent, read_conversation
from memproxy.proxy.forward import forward
from memproxy.proxy.memory_tools import MemoryTools
from memproxy.proxy.offered_tools import OfferedTools, is_memory_tool
from memproxy.proxy.recall import Recall
from memproxy.proxy.receipts import Receipts, answered_receipt, receipt_headers, receipt_of, usage_receipt
from memproxy.proxy.record import Recorder, exchange_of, marks_after, marks_of, marks_of_references
from memproxy.proxy.relay import Relayed
from memproxy.proxy.stages import Inbound, Outbound, Packed, Policy, Remembered
from memproxy.proxy.turns import align_with, session_key
from memproxy.proxy.unpack import unpacked
from memproxy.proxy.upstream import Sender, UpstreamResponse
from memproxy.proxy.utility import is_utility
from memproxy.proxy.watched import WatchedSender, WatchedSource
from memproxy.proxy.watching import Watching
from memproxy.records import JsonObject, MemoryMode, Outcome, ToolCacheMode, ToolsMode
from memproxy.storage.continuations import Continuation
from memproxy.tasks import Tasks
from memproxy.telemetry.metrics import Metrics
from memproxy.wire.chat_answers import calls_of
from memproxy.wire.dialect import NO_ANSWER, Answer, Dialect

log = logging.getLogger(__name__)

SETTLE_DEADLINE_S = 0.25
"""How long a request waits for the recording of the one before it in its session."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What may answer a request's tool calls, and what only learns from them."""

    offered: OfferedTools | None = None
    cached: CachedResults | None = None
    cache_answers: bool = False

    @property
    def answering(self) -> list[Source]:
        """Those that answer, in the order in which they are asked."""
        sources: list[Source] = [self.offered] if self.offered is not None else []
        if self.cached is not None and self.cache_answers:
            sources.append(self.cached)
        return sources


class Pipeline:
    """The life of one request to a route with memory."""

    def __init__(
        self,
        *,
        upstream: WatchedSender,
        recall: Recall,
        recorder: Recorder,
        receipts: Receipts,
        assembler: Assembler,
        tool_cache: ToolCache,
        continuations: Continuations,
        memory_tools: MemoryTools,
        tasks: Tasks,
        policy: Policy,
        tenants: Tenants,
        clock: Clock,
        metrics: Metrics,
        watching: Watching,
    ) -> None:
        self._upstream = upstream
        self._recall = recall
        self._recorder = recorder
        self._receipts = receipts
        self._assembler = assembler
        self._tool_cache = tool_cache
        self._continuations = continuations
        self._memory_tools = memory_tools
        self._tasks = tasks
        self._policy = policy
        self._tenants = tenants
        self._clock = clock
        self._metrics = metrics
        self._histories = Histories()
        self._watching = watching

    async def run(self, client: Client, path: SplitPath, dialect: Dialect, *, upstream: Sender | None = None) -> None:
        """Serve one request from its first byte to its recording. Raises `RequestError` before anything was sent.

        `upstream` is whom to ask in place of the model server over HTTP.
        """
        client.seen.route = f"/v1{path.rest.decode('latin-1').rstrip('/')}"
        inbound = await self.receive(client, path, dialect)
        with self._watching.request(inbound):
            inbound = await self.follow(inbound)
            outbound = await self.prepare(inbound)
            await self.exchange(client, inbound, outbound, upstream=upstream)

    async def receive(self, client: Client, path: SplitPath, dialect: Dialect) -> Inbound:
        """Read the body and the credential."""
        with self._metrics.stage("receive"):
            came = await client.body(max_bytes=self._policy.max_body_bytes)
        encoding = client.headers.get("content-encoding", "")
        body = unpacked(came, encoding, max_bytes=self._policy.max_body_bytes) if encoding else came
        return Inbound(
            id=client.seen.id,
            at=self._clock.now(),
            began_s=time.monotonic(),
            body=body,
            packed=Packed(came, body),
            path=path,
            dialect=dialect,
            request=dialect.read(body),
            headers=client.headers,
            tenant=self._tenants.tenant_of(credential_of(client.headers)),
            seen=client.seen,
        )

    async def follow(self, inbound: Inbound) -> Inbound:
        """The request with what stands for the answer that it goes on from, whether it gets memory or not."""
        request = inbound.request
        if request is None or not request.is_chained or inbound.tenant is None:
            return inbound
        scope = scope_of(inbound.tenant, self._claims(inbound))
        body = await self._continuations.applied(scope, request)
        return inbound if body is request.body else replace(inbound, body=body, request=inbound.dialect.read(body))

    async def path_of(self, client: Client, path: SplitPath) -> bytes:
        """The path of a request without memory, as the provider understands it."""
        tenant = self._tenants.tenant_of(credential_of(client.headers))
        if tenant is None or not path.rest.startswith(b"/responses/"):
            return path.rest
        claims = read_claims(client.headers, path.claims, {}, default_user=self._policy.default_user)
        return await self._continuations.path(scope_of(tenant, claims), path.rest)

    def _claims(self, inbound: Inbound) -> Claims:
        fields = inbound.request.fields if inbound.request else {}
        return read_claims(inbound.headers, inbound.path.claims, fields, default_user=self._policy.default_user)

    async def prepare(self, inbound: Inbound) -> Outbound:
        """Everything before forwarding: identify, align, recall, compose.

        Raises:
            BadIdentityError: the caller says who it is in a way that can't be used.
        """
        try:
            remembered = await self.remember(inbound)
            if isinstance(remembered, str):
                return Outbound(inbound.body, reason=remembered)
            return await self._assembler.assemble(remembered)
        except RequestError:
            raise
        except Exception:  # memory may be missing, the request must not fail: what is wrong here is ours alone
            log.exception("request %s goes on without memory", inbound.id)
            return Outbound(inbound.body, degraded=("memory",), reason="an error in memproxy")

    async def remember(self, inbound: Inbound) -> Remembered | str:
        """Identify the caller and find the conversation; or why this request has no memory."""
        mode = chosen(inbound.headers, "memory", self._policy.memory)
        tool_cache = chosen(inbound.headers, "tool-cache", self._policy.tool_cache)
        request, claims = inbound.request, self._claims(inbound)
        if mode is MemoryMode.OFF:
            return "switched off"
        if request is None:
            return "the body is no request that can be read"
        if inbound.tenant is None:
            return "no credential"
        if is_utility(request):
            return "a utility call"
        if request.lead == len(request.messages):
            return "no messages besides instructions"
        scope = scope_of(inbound.tenant, claims)
        await self._recorder.settled(marks_of_references(scope, claims, request), deadline_s=SETTLE_DEADLINE_S)
        sent, request = request, await self._recall.resolved(scope, claims.session, request)
        conversation = self._histories.read(request) if request is sent else read_conversation(request)
        await self._recorder.settled(marks_of(scope, claims, conversation), deadline_s=SETTLE_DEADLINE_S)
        tools = chosen(inbound.headers, "tools", self._policy.tools)
        may_use = mode.reads and scope.user is not None and request.dialect.is_ordinary(request)
        offers_tools = tools is ToolsMode.ON and may_use
        wants_index = request.dialect.has_silent_messages
        wants_index |= self._assembler.may_exceed(request, offers_tools=offers_tools)
        with self._metrics.stage("find"):
            found = await self._recall.session(scope, claims.session, conversation, want_index=wants_index)
        is_retry = inbound.headers.get("x-stainless-retry-count", "0") != "0"
        with self._metrics.stage("align"):
            is_other = is_other_agent(found.value, request)
            alignment = align_with(found.value, conversation, is_retry=is_retry, is_other=is_other)
        return Remembered(
            scope=scope,
            claims=claims,
            mode=mode,
            tool_cache=tool_cache,
            offers_tools=offers_tools,
            request=request,
            conversation=conversation,
            session=found.value,
            alignment=alignment,
            key=session_key(found.value, alignment, scope=scope, named=claims.session, fresh=inbound.id),
            is_retry=is_retry,
            degraded=("session",) if found.degraded else (),
        )

    async def exchange(
        self, client: Client, inbound: Inbound, outbound: Outbound, *, upstream: Sender | None = None
    ) -> None:
        """Send the request on, relay the answer, and record the exchange however it ended."""
        receipt = receipt_of(inbound, outbound)
        if inbound.tenant is not None:
            self._receipts.put(inbound.tenant, inbound.id, receipt)
        sources = await self._sources(inbound, outbound)
        self._watching.sent(inbound, outbound)
        relayed, inside = Relayed(), Answering()
        try:
            if sources.answering:
                await self._answer(
                    client, inbound, outbound, relayed, sources=sources, inside=inside, upstream=upstream
                )
            else:
                await self._forward(client, inbound, outbound, relayed, upstream=upstream)
        except UpstreamError as error:
            self._watching.failed(inbound, outbound, error)
            headers = receipt_headers(inbound, outbound, inside)
            await client.refuse(error, headers, msgspec.json.encode(inbound.dialect.error_body(error)))
            return
        except asyncio.CancelledError:  # the process ends and has waited as long as it may: what came is kept
            self.record(inbound, outbound, relayed, inside, receipt=receipt)
            raise
        answer = self.record(inbound, outbound, relayed, inside, receipt=receipt)
        self._watching.answered(inbound, outbound, relayed=relayed, answer=answer, inside=inside)
        self._count_calls(outbound, sources, answer, inside)

    async def _sources(self, inbound: Inbound, outbound: Outbound) -> Sources:
        """What may answer this request's tool calls; learning from the results that it delivers comes with it."""
        known = outbound.remembered
        if known is None:
            return Sources()
        offered = OfferedTools(self._memory_tools, known.scope, known.key) if known.offers_tools else None
        if known.tool_cache is ToolCacheMode.OFF:
            return Sources(offered)
        try:
            with self._metrics.stage("tools"):
                cached = await self._tool_cache.for_request(known, outbound)
        except Exception:  # a tool call that is not answered here is answered by the agent, as without memproxy
            log.exception("request %s goes on without cached tool results", inbound.id)
            return Sources(offered)
        answers = (
            known.tool_cache is ToolCacheMode.ANSWER
            and known.mode.reads
            and known.request.dialect.is_ordinary(known.request)
        )
        is_passed_by = "no-cache" in inbound.headers.get("cache-control", "").lower()
        return Sources(offered, cached, cache_answers=answers and not is_passed_by)

    async def _forward(
        self, client: Client, inbound: Inbound, outbound: Outbound, relayed: Relayed, *, upstream: Sender | None
    ) -> None:
        body, headers = inbound.packed.sent(outbound.body, client.raw_headers)
        await forward(
            client,
            self._upstream.over(upstream),
            path=inbound.path.rest,
            headers=headers,
            body=body,
            readable=True,
            extra_headers=receipt_headers(inbound, outbound, Answering()),
            into=relayed,
        )

    async def _answer(
        self,
        client: Client,
        inbound: Inbound,
        outbound: Outbound,
        relayed: Relayed,
        *,
        sources: Sources,
        inside: Answering,
        upstream: Sender | None,
    ) -> None:
        sender = self._upstream.over(upstream)

        async def send(body: bytes) -> UpstreamResponse:
            data, headers = inbound.packed.sent(body, client.raw_headers)
            return await sender.send(
                client.method,
                inbound.path.rest,
                query=client.query,
                headers=headers,
                body=data,
                readable=True,
            )

        loop = AnswerLoop(
            client,
            send,
            dialect=inbound.dialect,
            refers=upstream is not None,
            sources=[WatchedSource(source, self._metrics) for source in sources.answering],
            limits=Limits(rounds=self._policy.answer_rounds, seconds=self._policy.answer_s),
            headers=lambda done: receipt_headers(inbound, outbound, done),
            into=relayed,
            done=inside,
            is_ours=is_memory_tool if sources.offered is not None else None,
        )
        await loop.run(outbound.body)

    def record(
        self, inbound: Inbound, outbound: Outbound, relayed: Relayed, inside: Answering, *, receipt: JsonObject
    ) -> Answer:
        """Read the answer, and hand the exchange to the recorder if it is to be remembered."""
        known, answer = outbound.remembered, NO_ANSWER
        if relayed.status is not None and relayed.is_observed:
            answer = inbound.dialect.read_answer(
                relayed.chunks, content_type=relayed.content_type, content_encoding=relayed.content_encoding
            )
        outcome = relayed.outcome
        if outcome is Outcome.ABORTED and answer.finished:
            outcome = Outcome.COMPLETED  # the client had all it wanted and did not wait for the stream's end
        receipt |= {
            "status": relayed.status,
            "outcome": outcome,
            **usage_receipt(answer),
            "bytes": relayed.size,
            "seconds": round(time.monotonic() - inbound.began_s, 4),
        }
        receipt |= answered_receipt(inside)
        self._metrics.tool_rounds_saved.inc(inside.rounds)
        self._keep_continuation(known, answer, inside)
        if relayed.error:
            receipt["error"] = relayed.error
        if known is None or not known.mode.writes or (relayed.status or 200) >= 300:
            return answer
        exchange = exchange_of(
            inbound,
            outbound,
            known,
            answer=answer,
            outcome=outcome,
            answered_at=self._clock.now(),
            receipt=receipt,
            instead=inside.instead,
        )
        self._recorder.submit(exchange, marks=marks_after(known, answer))
        return answer

    def _keep_continuation(self, known: Remembered | None, answer: Answer, inside: Answering) -> None:
        """What a next request has to say where it refers to this answer, if that is more than its id."""
        if known is None or not inside.answer_id:
            return
        pending = tuple(inside.beside)
        if answer.id and (pending or answer.id != inside.answer_id):
            self._continuations.put(known.scope, answer.id, Continuation(inside.answer_id, pending))
        if known.request.is_chained and not known.request.continues:
            self._continuations.put(known.scope, known_id_of(known.request), Continuation("", pending))

    def _count_calls(self, outbound: Outbound, sources: Sources, answer: Answer, inside: Answering) -> None:
        """Count what became of tool calls, in the background."""
        known = outbound.remembered
        if known is None or sources.cached is None:
            return
        saved = (answer.prompt_tokens or 0) * inside.rounds // (inside.rounds + 1)
        read = known.request.dialect.as_chat(answer.messages)
        calls = [call for _, message in read for call in calls_of(message)]
        counting = self._tool_cache.finish(sources.cached, calls, mode=known.tool_cache, tokens_saved=saved)
        self._tasks.start(counting, name="count tool calls")
