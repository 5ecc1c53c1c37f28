"""What is counted of requests, and whose model it is."""

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from memproxy.demo.script import Reply, ToolCallReply, in_order
from memproxy.identity import SplitPath
from memproxy.proxy.stages import Inbound, Packed
from memproxy.proxy.watching import Watching, provider_of, server_attributes
from memproxy.telemetry.metrics import SPANS, Metrics
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from tests.fakes.serving import Serve, Served
from tests.fakes.shown_metrics import counted


async def ask(served: Served, *texts: str, path: str = "/u/alice/s/one/v1", **fields: Any) -> httpx.Response:
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    async with httpx.AsyncClient(verify=False, timeout=30) as http:
        body = {"model": "m", "messages": messages, **fields}
        return await http.post(f"{served.origin}{path}/chat/completions", json=body)


async def test_recall_is_told_by_its_outcome(serve: Serve) -> None:
    """Whether memory helps at all is the first thing that an operator wants to know."""
    async with serve(lambda _: Reply(text="Noted.")) as served:
        await ask(served, "My cat is called Whiskers.")
        await served.settled()
        await ask(served, "What is my cat called?", path="/u/alice/s/two/v1")
        assert counted(served, "memproxy_recalls_total", outcome="nothing") == 1
        assert counted(served, "memproxy_recalls_total", outcome="hit") == 1
        assert counted(served, "memproxy_memories_injected_total") >= 1
        assert counted(served, "memproxy_memory_tokens_total") > 10


async def test_conversations_are_told_by_how_they_were_found(serve: Serve) -> None:
    """Many branches mean an agent that edits its history; nothing but new ones, one that is never recognised."""
    async with serve(lambda _: Reply(text="Noted.")) as served:
        await ask(served, "One.")
        await served.settled()
        await ask(served, "One.", "Noted.", "Two.")
        await served.settled()
        await ask(served, "One.", "Something else.", "Two.")
        for found in ("new", "found", "branched"):
            assert counted(served, "memproxy_sessions_total", found=found) == 1, found


async def test_cuts_are_told_once_with_what_they_left_out(serve: Serve) -> None:
    """A cut is a moment at which the provider's prompt cache is lost, and the model loses words."""
    long = "The warehouse lists part after part. " * 100
    async with serve(lambda _: Reply(text="Noted."), default_window=4_096) as served:
        texts = [text for at in range(12) for text in (f"{at}. {long}", "Noted.")]
        await ask(served, *texts, "And now?")
        assert counted(served, "memproxy_cuts_total") == 1
        cut_tokens = counted(served, "memproxy_cut_tokens_total")
        assert cut_tokens > 4_096
        await served.settled()
        await ask(served, *texts, "And now?", "Noted.", "Well?")
        assert counted(served, "memproxy_cuts_total") == 1
        assert counted(served, "memproxy_cut_tokens_total") == cut_tokens


async def test_every_stage_of_a_request_is_timed(serve: Serve) -> None:
    """A slow part can't hide in none of them."""
    search = ToolCallReply("memproxy_search_memory", '{"query": "cat"}')
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
    answers = in_order(Reply(text="Noted."), Reply(tool_calls=(search,)), Reply(text="Whiskers."))
    async with serve(answers, tools="on") as served:
        await ask(served, "One.")
        await ask(served, "One.", "Noted.", "What is my cat called?", tools=[tool])
        await served.settled()
        timed = {stage for stage in SPANS if counted(served, "memproxy_stage_seconds_count", stage=stage)}
    assert SPANS.keys() - timed <= {"settle"}, "which takes time only when somebody is in a hurry"
    assert counted(served, "memproxy_first_byte_seconds_count") == 2
    assert counted(served, "memproxy_tool_answers_total", source="memory") == 1
    assert counted(served, "memproxy_requests_running") == counted(served, "memproxy_answers_open") == 0


async def test_tokens_are_counted_as_the_provider_reports_them(serve: Serve) -> None:
    """What the prompt cache gives is what replaying blocks byte for byte is for."""
    usage = {"prompt_tokens": 900, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 800}}
    body = {"id": "x", "choices": [{"index": 0, "message": {"content": "Yes."}, "finish_reason": "stop"}]}
    async with serve(lambda _: Reply(raw_body=json.dumps(body | {"usage": usage}).encode())) as served:
        await ask(served, "One.")
        assert counted(served, "memproxy_prompt_tokens_total") == 900
        assert counted(served, "memproxy_completion_tokens_total") == 7
        assert counted(served, "memproxy_cached_tokens_total") == 800


async def test_requests_without_memory_are_told_apart(serve: Serve) -> None:
    """What passes, and what is refused, says nothing about memory."""
    async with serve(lambda _: Reply(text="Noted.")) as served:
        async with httpx.AsyncClient(verify=False) as http:
            await http.get(f"{served.origin}/v1/models")
            await http.post(f"{served.origin}/nowhere")
            off = {"X-Memproxy-Memory": "off"}
            await http.post(f"{served.origin}/v1/chat/completions", json={"model": "m"}, headers=off)
        for kind in ("passed", "plain"):
            assert sum(counted(served, "memproxy_requests_total", kind=kind, status=f"{s}xx") for s in (2, 4)) == 1
        assert counted(served, "memproxy_requests_total", kind="refused", status="4xx") == 1


@pytest.mark.parametrize(
    ("base_url", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://shop.openai.azure.com/openai/v1", "azure.ai.openai"),
        ("https://api.anthropic.com/v1", "anthropic"),
        ("https://bedrock-runtime.eu-central-1.amazonaws.com/openai/v1", "aws.bedrock"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("http://127.0.0.1:8000/v1", "openai"),
        ("https://notapi.openai.com.example/v1", "openai"),
    ],
)
def test_providers_are_known_by_their_hosts(base_url: str, provider: str) -> None:
    """Tools that read traces price tokens by it; a server that is nobody's speaks somebody's format."""
    assert provider_of(base_url, "chat") == provider


def test_a_format_stands_for_a_provider_that_is_not_known() -> None:
    """What speaks Anthropic's format is most likely something like it."""
    assert provider_of("http://127.0.0.1:8000", "messages") == "anthropic"


def test_the_port_is_told_where_the_address_does_not() -> None:
    """The conventions want both."""
    assert server_attributes("https://api.openai.com/v1") == {
        "server.address": "api.openai.com",
        "server.port": 443,
    }


def test_without_traces_nothing_is_made_for_a_request() -> None:
    """What is switched off costs nothing: no object, no context."""
    watching, packed = Watching(Metrics(), base_url="http://127.0.0.1/v1"), Packed(b"{}", b"{}")
    path = SplitPath({}, b"/chat/completions")
    inbound = Inbound("mpr-1", datetime.now(UTC), 0.0, b"{}", packed, path, CHAT_COMPLETIONS, None, {}, "tenant")
    assert watching.request(inbound) is watching.request(inbound)
    assert inbound.seen.span is None
    assert inbound.seen.trace_parent == ""
