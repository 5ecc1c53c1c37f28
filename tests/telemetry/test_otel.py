"""Traces from a request's first byte to what was learned from it, as a collector gets them."""

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.trace import get_tracer_provider

from memproxy.demo.script import Reply, ToolCallReply, in_order
from memproxy.demo.scripted_model import ScriptedModel
from memproxy.sockets import listening_socket
from memproxy.telemetry.otel import Seldom, resource_of, traces_of
from memproxy.telemetry.traces import ATTRIBUTES, open_traces
from tests.fakes.collector import Collector, collecting
from tests.fakes.log_lines import caught_lines
from tests.fakes.serving import Serve, Served, until
from tests.test_server import memproxy, say

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = PARENT.split("-")[1]

SEARCH = ToolCallReply("memproxy_search_memory", '{"query": "cat"}')


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that OpenTelemetry's own variables name."""
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield found


async def ask(served: Served, path: str = "/u/alice/s/one/v1", **headers: str) -> httpx.Response:
    body = {
        "model": "gpt-test",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "My secret cat is Whiskers."}],
    }
    async with httpx.AsyncClient(verify=False, timeout=30) as http:
        return await http.post(f"{served.origin}{path}/chat/completions", json=body, headers=headers)


async def test_a_request_is_a_trace_of_its_stages(serve: Serve, collector: Collector) -> None:
    """An operator sees where a slow request spent its time, beside the agent's own spans and the provider's."""
    async with serve(lambda _: Reply(text="Noted.")) as served:
        response = await ask(served, traceparent=PARENT, tracestate="vendor=1", baggage="tier=gold")
        await served.settled()
        sent = dict(served.model.requests[-1].headers)
    root = collector.one("chat gpt-test")
    assert (root.trace_id, root.parent_id, root.kind) == (TRACE, PARENT.split("-")[2], "server")
    assert not root.is_failed
    assert root.resource["service.name"] == "memproxy"
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-test",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.stream": False,
        "gen_ai.conversation.id": "one",
        "gen_ai.response.finish_reasons": ["stop"],
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "memproxy.request_id": response.headers["x-memproxy-request-id"],
        "memproxy.session.found": "new",
        "memproxy.memories": 0,
        "server.address": "127.0.0.1",
    }
    assert {name: root.attributes[name] for name in expected} == expected
    assert root.attributes["gen_ai.usage.input_tokens"] > 0
    assert root.attributes["gen_ai.response.id"]
    call = collector.one("POST")
    assert (call.kind, call.parent_id, call.trace_id) == ("client", root.span_id, TRACE)
    assert call.attributes["url.full"].endswith("/v1/chat/completions")
    assert sent["traceparent"] == f"00-{TRACE}-{call.span_id}-01"
    assert (sent["tracestate"], sent["baggage"]) == ("vendor=1", "tier=gold")
    for stage in ("find", "recall", "record"):
        assert collector.one(stage).parent_id == root.span_id


async def test_what_was_learned_points_to_the_request(serve: Serve, collector: Collector) -> None:
    """A memory that should not be there leads to the conversation that it came from."""
    async with serve(lambda _: Reply(text="Noted.")) as served:
        await ask(served, traceparent=PARENT)
        await served.settled()
    (learned,) = [span for span in collector.named("learn turns") if span.links]
    assert learned.kind == "consumer"
    assert learned.links == (TRACE,)
    assert learned.trace_id != TRACE


async def test_calls_that_were_answered_inside_are_spans(serve: Serve, collector: Collector) -> None:
    """What the agent never ran is seen as what it is."""
    async with serve(in_order(Reply(tool_calls=(SEARCH,)), Reply(text="Whiskers.")), tools="on") as served:
        await ask(served)
        await served.settled()
    root, tool = collector.one("chat gpt-test"), collector.one("execute_tool")
    assert tool.name == "execute_tool memproxy_search_memory"
    assert tool.parent_id == root.span_id
    assert tool.attributes["memproxy.tool.source"] == "memory"
    assert root.attributes["memproxy.rounds"] == 1
    assert len(collector.named("POST")) == 2


async def test_nothing_of_what_was_said_is_sent(serve: Serve, collector: Collector) -> None:
    """Traces go to people and services that must not read conversations; nor may they get keys."""
    async with serve(lambda _: Reply(text="What a strange creature.")) as served:
        await ask(served, authorization="Bearer sk-very-secret")
        await served.settled()
    everything = b"".join(collector.raw)
    assert b"chat gpt-test" in everything
    for said in (b"Whiskers", b"creature", b"sk-very-secret", b"alice"):
        assert said not in everything


async def test_spans_have_no_attributes_but_the_declared(serve: Serve, collector: Collector) -> None:
    """The table in the documentation is whole."""
    answers = in_order(Reply(tool_calls=(SEARCH,)), Reply(text="Yes."), Reply(status=500, error="no"))
    async with serve(answers, tools="on") as served:
        await ask(served)
        await ask(served)
        async with httpx.AsyncClient(verify=False) as http:
            await http.get(f"{served.origin}/v1/working-memory/one")
        await served.settled()
    seen = {name for span in collector.spans for name in span.attributes}
    assert len(seen) > 15
    assert seen <= ATTRIBUTES.keys()


async def test_failures_are_marked(serve: Serve, collector: Collector) -> None:
    """A search for failed traces finds them."""
    async with serve(lambda _: Reply(status=503, error="no")) as served:
        await ask(served)
    for span in (collector.one("chat gpt-test"), collector.one("POST")):
        assert span.is_failed
        assert span.attributes["error.type"] == "503"


async def test_an_answer_that_breaks_off_is_marked(serve: Serve, collector: Collector) -> None:
    """The status was 200, and still the agent got nothing that it can use."""
    async with serve(lambda _: Reply(text="no", cut_after=0)) as served:
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(served)
    assert collector.one("chat gpt-test").attributes["error.type"] == "cut_off"


async def test_a_provider_that_cant_be_reached_is_marked(serve: Serve, collector: Collector) -> None:
    """By what kept it from answering."""
    with listening_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    async with serve(upstream_base_url=f"http://127.0.0.1:{port}/v1") as served:
        assert (await ask(served)).status_code == 502
    for span in (collector.one("chat gpt-test"), collector.one("POST")):
        assert span.is_failed
        assert span.attributes["error.type"] == "UpstreamConnectError"


async def test_the_memory_api_is_traced_by_route(serve: Serve, collector: Collector) -> None:
    """A route is a name for all sessions: a trace is no list of them."""
    async with serve() as served, httpx.AsyncClient(verify=False) as http:
        await http.get(f"{served.origin}/v1/working-memory/a-name", headers={"traceparent": PARENT})
    span = collector.one("GET /v1/working-memory")
    assert span.trace_id == TRACE
    assert "{" in span.attributes["http.route"]
    assert b"a-name" not in b"".join(collector.raw)


async def test_what_passes_stays_in_the_agents_trace(serve: Serve, collector: Collector) -> None:
    """A call that has nothing to do with memory is no break in anybody's trace."""
    async with serve() as served, httpx.AsyncClient(verify=False) as http:
        await http.get(f"{served.base_url}/models", headers={"traceparent": PARENT})
    span = collector.one("GET")
    assert (span.trace_id, span.parent_id, span.kind) == (TRACE, PARENT.split("-")[2], "client")


async def test_a_sampler_is_heeded(serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy installation keeps one trace in a hundred; the provider is told that this one is not kept."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with serve(lambda _: Reply(text="Noted.")) as served:
        await ask(served, traceparent=PARENT)
        assert str(served.model.requests[-1].header("traceparent")).endswith("-00")
        await served.settled()
    assert collector.spans == []


async def test_without_traces_the_clients_headers_pass_as_they_came(serve: Serve) -> None:
    """Who traces an agent and its provider sees no gap, memproxy or not."""
    async with serve(lambda _: Reply(text="Noted.")) as served:
        await ask(served, traceparent=PARENT, tracestate="vendor=1", baggage="tier=gold")
        sent = dict(served.model.requests[-1].headers)
        assert served.instance.services.metrics.traces is None
    assert [sent[name] for name in ("traceparent", "tracestate", "baggage")] == [PARENT, "vendor=1", "tier=gold"]


async def test_a_dead_collector_costs_nothing_but_spans(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are answered as fast as ever, and stopping waits for a few seconds at the most."""
    with listening_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    async with serve(lambda _: Reply(text="Noted.")) as served:
        for _ in range(5):
            assert (await ask(served)).status_code == 200
        await served.settled()
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 10


async def test_a_silent_collector_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM is followed by an end, whatever the collector does."""
    with listening_socket("127.0.0.1", 0) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        traces = traces_of({})
        with traces.span("something"):
            pass
        began_s = time.monotonic()
        await asyncio.to_thread(traces.close, 0.3)
        assert time.monotonic() - began_s < 2


async def test_the_end_of_a_process_sends_what_it_has(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM comes before the next batch was due; the process that learns has spans of its own."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    async with (
        ScriptedModel(lambda _: Reply(text="Noted.")).serve() as upstream,
        memproxy(upstream.base_url, tmp_path) as served,
    ):
        assert (await say(served.origin, "My order is LX-1.")).status_code == 200
        await until(lambda: has_learned(served.origin))
        served.process.terminate()
        assert await asyncio.wait_for(served.process.wait(), 30) == 0
    assert collector.one("record").parent_id == collector.one("chat m").span_id
    assert collector.one("chat m").trace_id in {link for span in collector.named("learn turns") for link in span.links}


async def has_learned(origin: str) -> bool:
    async with httpx.AsyncClient(verify=False) as http:
        return 'memproxy_jobs_total{event="turns.done"} 1.0' in (await http.get(f"{origin}/metrics")).text


async def test_two_installations_in_one_process_know_nothing_of_each_other() -> None:
    """Nothing is registered globally: a library's own traces stay where they were."""
    asked = {"OTEL_TRACES_EXPORTER": "console"}
    async with (
        open_traces(setting=False, environment=asked) as one,
        open_traces(setting=False, environment={}) as two,
    ):
        assert one is not None
        assert two is None
    assert type(get_tracer_provider()).__name__ == "ProxyTracerProvider"


def test_printed_spans_stay_off_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """`memproxy mcp` speaks its protocol there."""
    traces = traces_of({"OTEL_TRACES_EXPORTER": "console"})
    with traces.span("something"):
        pass
    traces.close(5)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert '"name": "something"' in printed.err


def test_the_service_is_named_as_the_operator_says() -> None:
    """Several memproxies are told apart by OpenTelemetry's own variables."""
    assert resource_of({}).attributes["service.name"] == "memproxy"


def test_the_operators_names_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of OpenTelemetry's ways to say it."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop,k8s.pod.name=p1")
    named = resource_of({"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,k8s.pod.name=p1"}).attributes
    assert (named["service.name"], named["k8s.pod.name"]) == ("shop", "p1")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "desk")
    assert resource_of({"OTEL_SERVICE_NAME": "desk"}).attributes["service.name"] == "desk"


def test_the_same_trouble_is_told_once_in_a_while() -> None:
    """A collector that is away for a night fills no disk."""
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "Failed to export", (), None)
    seldom = Seldom(every_s=60)
    assert seldom.filter(record)
    assert not seldom.filter(record)
    record.created += 61
    assert seldom.filter(record)


async def test_log_lines_name_the_trace(serve: Serve, collector: Collector) -> None:
    """From a line to the trace, and back."""
    with caught_lines("memproxy.access") as lines:
        async with serve(lambda _: Reply(text="Noted."), access_log=True) as served:
            await ask(served, traceparent=PARENT)
    assert [line["trace_id"] for line in lines] == [TRACE]
