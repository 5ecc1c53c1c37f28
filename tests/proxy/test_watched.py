"""The model server's failures by kind, and what may pass of the spans around it."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable

import httpx
import pytest
from typing_extensions import override

from memproxy.demo.script import Reply
from memproxy.errors import UpstreamBrokenError, UpstreamConnectError, UpstreamError, UpstreamTimeoutError
from memproxy.proxy.upstream import Sender, UpstreamResponse
from memproxy.proxy.watched import WatchedSender, WatchedSource
from memproxy.records import ToolAnswer, ToolCall
from memproxy.telemetry.metrics import Metrics
from tests.fakes.serving import Serve
from tests.fakes.shown_metrics import counted

CALL = ToolCall("call-1", "look", "{}")


class Scripted(Sender):
    """Answers with a status, or raises."""

    def __init__(self, gives: int | BaseException) -> None:
        self._gives = gives

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
        if isinstance(self._gives, BaseException):
            raise self._gives
        return UpstreamResponse(self._gives, [], httpx.Response(self._gives))


async def sent(metrics: Metrics, gives: int | BaseException) -> UpstreamResponse:
    sender = WatchedSender(Scripted(gives), metrics, base_url="http://127.0.0.1/v1")
    return await sender.send("POST", b"/x", query=b"", headers=[], body=b"", readable=True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UpstreamConnectError("no"), "connect"),
        (UpstreamTimeoutError("no"), "timeout"),
        (UpstreamBrokenError("no"), "broken"),
    ],
)
async def test_failures_are_counted_by_kind(error: UpstreamError, kind: str) -> None:
    """A provider that is slow is another matter than one that is gone."""
    metrics = Metrics()
    with pytest.raises(type(error)):
        await sent(metrics, error)
    assert counted(metrics, "memproxy_upstream_errors_total", kind=kind) == 1
    assert counted(metrics, "memproxy_answers_open") == 0


async def test_a_client_that_left_is_no_failure_of_the_provider() -> None:
    """Impatient agents wake nobody."""
    metrics = Metrics()
    with pytest.raises(asyncio.CancelledError):
        await sent(metrics, asyncio.CancelledError())
    assert "memproxy_upstream_errors_total{" in metrics.render().decode(), "all kinds are shown from the start"
    assert not re.search(r"^memproxy_upstream_errors_total\{.*\} [1-9]", metrics.render().decode(), re.MULTILINE)


@pytest.mark.parametrize(("status", "kind"), [(404, "4xx"), (429, "429"), (500, "5xx"), (503, "5xx")])
async def test_refusals_are_counted_by_class_and_limits_apart(status: int, kind: str) -> None:
    """A limit that is reached wants another answer than a mistake."""
    metrics = Metrics()
    await sent(metrics, status)
    assert counted(metrics, "memproxy_upstream_errors_total", kind=kind) == 1


async def test_an_answer_is_open_until_it_is_closed() -> None:
    """How many streams a process holds says when it is full."""
    metrics = Metrics()
    response = await sent(metrics, 200)
    assert counted(metrics, "memproxy_answers_open") == 1
    await response.aclose()
    assert counted(metrics, "memproxy_answers_open") == 0
    assert counted(metrics, "memproxy_stage_seconds_count", stage="forward") == 1


async def test_an_answer_that_breaks_off_is_counted(serve: Serve) -> None:
    """Its status was 200: nothing else tells of it."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}]}
    async with serve(lambda _: Reply(text="no", cut_after=0)) as served:
        async with httpx.AsyncClient(verify=False) as http:
            with pytest.raises(httpx.RemoteProtocolError):
                await http.post(f"{served.base_url}/chat/completions", json=body)
        assert counted(served, "memproxy_upstream_errors_total", kind="cut_off") == 1


async def test_a_watched_source_answers_as_it_would() -> None:
    """Watching changes nothing."""

    class Look:
        def may_answer(self, name: str) -> bool:
            return name == "look"

        async def answer(self, call: ToolCall) -> ToolAnswer | None:
            return ToolAnswer(call, "found", "cache") if call.id == "call-1" else None

    metrics = Metrics()
    source = WatchedSource(Look(), metrics)
    assert source.may_answer("look")
    assert not source.may_answer("write")
    assert await source.answer(CALL) == ToolAnswer(CALL, "found", "cache")
    assert await source.answer(ToolCall("call-2", "look", "{}")) is None
    assert counted(metrics, "memproxy_stage_seconds_count", stage="answer") == 2
