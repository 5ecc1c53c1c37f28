"""The scripted model is a model server as far as the official client can tell."""

import asyncio
import hashlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam

from memproxy.demo.scripted_model import (
    ModelRequest,
    Reply,
    Script,
    ScriptedModel,
    ToolCallReply,
    in_order,
)
from memproxy.wire.sse import parse_stream

STREAMS = sorted((Path(__file__).parent.parent / "corpus" / "chat_completions").glob("*.sse"))
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello  there,\nyou 👋"}]
TOOLS: list[ChatCompletionFunctionToolParam] = [
    {"type": "function", "function": {"name": "get_order", "parameters": {"type": "object"}}}
]


@dataclass(frozen=True, slots=True)
class Setting:
    """A running model, the official client pointed at it, and a plain HTTP client beside it."""

    model: ScriptedModel
    base_url: str
    client: AsyncOpenAI
    http: httpx.AsyncClient

    async def post_chat(self, **more: Any) -> httpx.Response:
        return await self.http.post("/chat/completions", json={"model": "m", "messages": HELLO, **more})


@asynccontextmanager
async def setting(script: Script | None = None, **more: Any) -> AsyncIterator[Setting]:
    """The clients do not load certificates, which nobody shows here and which would take most of the time."""
    model = ScriptedModel(script, **more)
    async with (
        model.serve() as server,
        DefaultAsyncHttpxClient(verify=False) as unverified,
        AsyncOpenAI(
            base_url=server.base_url, api_key="any", max_retries=0, timeout=5, http_client=unverified
        ) as client,
        httpx.AsyncClient(base_url=server.base_url, timeout=5, verify=False) as http,
    ):
        yield Setting(model, server.base_url, client, http)


async def test_a_plain_answer() -> None:
    """The first thing that anybody tries."""
    async with setting() as here:
        answer = await here.client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert answer.choices[0].message.content == "You said: Hello  there,\nyou 👋"
        assert (answer.choices[0].finish_reason, answer.model, answer.object) == ("stop", "gpt-4o", "chat.completion")
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
        again = await here.client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert again.id != answer.id
        assert again.usage is not None
        assert again.usage.prompt_tokens_details is not None
        assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens


async def test_a_streamed_answer_accumulates_to_the_same() -> None:
    """The client's own accumulator is the strictest reader of chunks."""
    calls = (ToolCallReply("get_order", {"order_id": "A-1042"}), ToolCallReply("get_order", '{"order_id": "B-7"}'))
    async with setting(lambda _: Reply("Let me  look.\n", calls)) as here:
        whole = await here.client.chat.completions.create(model="m", messages=HELLO, tools=TOOLS)
        async with here.client.chat.completions.stream(
            model="m", messages=HELLO, tools=TOOLS, stream_options={"include_usage": True}
        ) as stream:
            streamed = await stream.get_final_completion()
    for answer in (whole, streamed):
        message = answer.choices[0].message
        assert (message.content, answer.choices[0].finish_reason) == ("Let me  look.\n", "tool_calls")
        assert message.tool_calls is not None
        assert [(each.type, each.function.arguments) for each in message.tool_calls if each.type == "function"] == [
            ("function", '{"order_id":"A-1042"}'),
            ("function", '{"order_id": "B-7"}'),
        ]
        assert len({each.id for each in message.tool_calls}) == 2
    assert streamed.usage is not None
    assert whole.usage is not None
    assert streamed.usage.completion_tokens == whole.usage.completion_tokens


async def test_usage_is_streamed_only_when_asked_for() -> None:
    """Clients that did not ask break on it."""
    async with setting() as here:
        plain = [
            each async for each in await here.client.chat.completions.create(model="m", messages=HELLO, stream=True)
        ]
        asked = [
            each
            async for each in await here.client.chat.completions.create(
                model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        ]
    assert all(chunk.usage is None and chunk.choices for chunk in plain)
    assert asked[-1].choices == []
    assert asked[-1].usage is not None
    assert len(asked) == len(plain) + 1


async def test_a_tool_loop_runs_through() -> None:
    """Call, result, answer: with the ids that the model gave."""
    script = in_order(Reply(tool_calls=(ToolCallReply("get_order", {"id": 1}),)), Reply("It is on its way."))
    async with setting(script) as here:
        first = await here.client.chat.completions.create(model="m", messages=HELLO, tools=TOOLS)
        calls = first.choices[0].message.tool_calls
        assert calls is not None
        history: list[ChatCompletionMessageParam] = [
            *HELLO,
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": calls[0].id, "type": "function", "function": {"name": "get_order", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": calls[0].id, "content": "shipped"},
        ]
        second = await here.client.chat.completions.create(model="m", messages=history, tools=TOOLS)
        assert second.choices[0].message.content == "It is on its way."
        with pytest.raises(openai.BadRequestError, match="did not have response messages"):
            await here.client.chat.completions.create(model="m", messages=history[:-1])
        with pytest.raises(openai.BadRequestError, match="must be a response to a preceeding message"):
            await here.client.chat.completions.create(model="m", messages=[*HELLO, history[-1]])
        assert len(here.model.chat_requests) == 4


@pytest.mark.parametrize("raw_body", [b"", b"{", b'"text"', b"null", b"{}", b'{"model":"m"}', b"\xff\xfe"])
async def test_a_body_that_is_no_chat_request_is_refused(raw_body: bytes) -> None:
    """In OpenAI's error shape, which the proxy must pass on as it is."""
    async with setting() as here:
        answer = await here.http.post("/chat/completions", content=raw_body)
        assert answer.status_code == 400
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert here.model.requests[0].raw_body == raw_body


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
async def test_scripted_errors_reach_the_client(status: int, error: type[openai.APIStatusError]) -> None:
    """Also in the place of a stream."""
    async with setting(lambda _: Reply(status=status, error="As told.", headers={"Retry-After": "7"})) as here:
        for stream in (False, True):
            with pytest.raises(error, match=r"As told\.") as caught:
                await here.client.chat.completions.create(model="m", messages=HELLO, stream=stream)
            assert caught.value.response.headers["retry-after"] == "7"


async def test_response_headers_can_be_replaced() -> None:
    """The proxy must pass on what it does not know."""
    async with setting(lambda _: Reply("x", headers={"X-Request-Id": "req_1", "x-own": "yes"})) as here:
        answer = await here.post_chat()
        assert (answer.headers.get_list("x-request-id"), answer.headers["x-own"]) == (["req_1"], "yes")
    async with setting() as here:
        assert (await here.post_chat()).headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("recorded", [path.read_bytes() for path in STREAMS], ids=[path.stem for path in STREAMS])
async def test_recorded_streams_are_sent_exactly_so(recorded: bytes) -> None:
    """Wire code is tested on these bytes."""
    pieces = tuple(recorded[start : start + 100] for start in range(0, len(recorded), 100))
    async with setting(lambda _: Reply(raw_stream=pieces)) as here:
        answer = await here.post_chat(stream=True)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.content == recorded
        assert here.model.disconnects == []


async def test_recorded_bodies_are_sent_exactly_so() -> None:
    """Even when they are not JSON."""
    async with setting(
        lambda _: Reply(raw_body=b"{not json", status=502, headers={"content-type": "text/html"})
    ) as here:
        answer = await here.post_chat()
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (502, b"{not json", "text/html")


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_can_be_cut(stream: bool) -> None:
    """Networks do this, and the proxy must survive it."""
    async with setting(lambda _: Reply("one two three", cut_after=3)) as here:
        received: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError):
            await read_until_cut(here, received, stream=stream)
        assert (len(parse_stream(received)) if stream else len(b"".join(received))) == 3
        assert here.model.disconnects == []


async def read_until_cut(here: Setting, received: list[bytes], *, stream: bool) -> None:
    asked = {"model": "m", "messages": HELLO, "stream": stream}
    async with here.http.stream("POST", "/chat/completions", json=asked) as answer:
        async for piece in answer.aiter_raw():
            received.append(piece)  # noqa: PERF401 - what came before the error is kept


async def read_some_and_leave(here: Setting) -> float:
    """Reads the first bytes of a stream and closes; the time of `time.monotonic` at which it did."""
    async with here.http.stream(
        "POST", "/chat/completions", json={"model": "m", "messages": HELLO, "stream": True}
    ) as answer:
        await anext(answer.aiter_raw())
        return time.monotonic()


@pytest.mark.parametrize(
    "reply",
    [
        Reply("one two three", event_delay_s=0.05),
        Reply("one two three", event_delay_s=30),
        Reply("one two three", hang=True, cut_after=2),
    ],
)
async def test_a_client_that_leaves_a_stream_is_recorded(reply: Reply) -> None:
    """The proxy must close upstream when its client has gone; a slow model makes a day's bill of it otherwise."""
    async with setting(lambda _: reply) as here:
        left_at = await read_some_and_leave(here)
        await here.model.wait_until(lambda: bool(here.model.disconnects), timeout_s=1)
        left = here.model.disconnects[0]
        assert left.request is here.model.requests[0]
        assert 0 < left.events_sent < 5
        assert left.at - left_at < 1


async def test_a_client_that_leaves_while_the_socket_is_full_is_recorded() -> None:
    """Nothing is being waited for then but the socket."""
    async with setting(lambda _: Reply(raw_stream=(b"data: " + b"x" * 1_000_000 + b"\n\n",) * 40)) as here:
        await read_some_and_leave(here)
        await here.model.wait_until(lambda: bool(here.model.disconnects), timeout_s=2)


@pytest.mark.parametrize("reply", [Reply(hang=True), Reply("late", delay_s=30)])
async def test_an_answer_can_fail_to_come(reply: Reply) -> None:
    """Timeouts are tested by this."""
    async with setting(lambda _: reply) as here:
        with pytest.raises(openai.APITimeoutError):
            await here.client.chat.completions.create(model="m", messages=HELLO, timeout=0.1)
        await here.model.wait_until(lambda: bool(here.model.disconnects), timeout_s=1)
        assert here.model.disconnects[0].events_sent == 0


async def test_the_end_of_the_server_is_nobodys_leaving() -> None:
    """And it does not wait for answers that never come."""
    model = ScriptedModel(lambda _: Reply(hang=True))
    async with httpx.AsyncClient(verify=False) as http, asyncio.TaskGroup() as tasks:
        async with model.serve() as server:
            tasks.create_task(expect_disconnect(http, f"{server.base_url}/chat/completions"))
            await model.wait_until(lambda: bool(model.requests))
            ended_at = time.monotonic()
        assert time.monotonic() - ended_at < 1
        assert model.disconnects == []


async def test_a_port_can_be_served_again() -> None:
    """A model server that comes back is what retries are for."""
    model = ScriptedModel()
    async with httpx.AsyncClient(verify=False) as http:
        async with model.serve() as first:
            assert (await http.get(f"{first.base_url}/models")).status_code == 200
        async with model.serve(port=first.port) as second:
            assert second.base_url == first.base_url
            assert (await http.get(f"{second.base_url}/models")).status_code == 200


async def expect_disconnect(http: httpx.AsyncClient, url: str) -> None:
    with pytest.raises(httpx.TransportError):
        await http.post(url, json={"model": "m", "messages": HELLO})


async def test_a_script_that_fails_fails_the_test() -> None:
    """Its assertion would be lost in a 500 otherwise, and the proxy might even hide that."""

    def script(request: ModelRequest) -> Reply:
        raise AssertionError(f"unexpected {request.model}")

    with pytest.raises(AssertionError, match="unexpected m"):
        async with setting(script) as here:
            assert (await here.post_chat()).status_code == 500


async def test_requests_are_kept_with_their_bytes() -> None:
    """Tests look at what reached the model; a bench of hours may not fill the memory."""
    async with setting(keep_requests=2) as here:
        for number in range(4):
            await here.post_chat(user=str(number))
        assert [request.body["user"] for request in here.model.requests] == ["2", "3"]
        newest = here.model.requests[-1]
        assert newest.path == "/v1/chat/completions"
        assert b'"user":"3"' in newest.raw_body
        assert newest.header("content-length") == str(len(newest.raw_body))


@pytest.mark.parametrize(
    "prefix", ["", "/v1", "/u/alice/s/chat-1/v1", "/u/alice%40example.com/v1", "/openai/deployments/x"]
)
async def test_any_prefix_is_answered(prefix: str) -> None:
    """Base URLs of all kinds are in use, and the proxy keeps some of them."""
    async with setting() as here:
        root = here.base_url.removesuffix("/v1")
        for slash in ("", "/"):
            answer = await here.http.post(
                f"{root}{prefix}/chat/completions{slash}", json={"model": "m", "messages": HELLO}
            )
            assert answer.status_code == 200
        assert (await here.http.get(f"{root}{prefix}/models")).status_code == 200


async def test_other_paths_are_not_found() -> None:
    """As OpenAI says it."""
    async with setting() as here:
        for method, path in [("GET", "/chat/completions"), ("POST", "/threads"), ("GET", "/nothing?x=1")]:
            answer = await here.http.request(method, path)
            assert answer.status_code == 404
            assert answer.json()["error"]["message"] == f"Invalid URL ({method} /v1{path.partition('?')[0]})"


async def test_models_and_embeddings() -> None:
    """The other calls that nearly every client makes."""
    async with setting() as here:
        assert "bench-1kb" in [model.id async for model in here.client.models.list()]
        packed = await here.client.embeddings.create(model="e", input=["my order", "order my", "weather"])
        plain = await here.client.embeddings.create(model="e", input="my order", encoding_format="float")
        assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding)
        assert packed.data[0].embedding == packed.data[1].embedding != packed.data[2].embedding
        assert len(plain.data[0].embedding) == 1536
        with pytest.raises(openai.BadRequestError, match="input"):
            await here.client.embeddings.create(model="e", input=[])
        assert (await here.http.post("/embeddings", content=b"{")).status_code == 400


async def test_files_go_up_and_come_down() -> None:
    """Binary bodies must pass through the proxy unharmed in both directions."""
    async with setting() as here:
        uploaded = await here.client.files.create(file=("notes.bin", bytes(range(256)) * 500), purpose="user_data")
        sent = here.model.requests[-1].raw_body
        assert uploaded.bytes == len(sent) > 128_000
        assert uploaded.model_dump()["sha256"] == hashlib.sha256(sent).hexdigest()
        content = await here.client.files.content("file-100000")
        assert content.read() == (bytes(range(256)) * 400)[:100_000]
        assert len((await here.client.files.content(uploaded.id)).read()) == len(sent)
        assert (await here.http.get("/files/file-999999999/content")).status_code == 404


async def test_an_echo_shows_what_arrived() -> None:
    """Pass-through is tested by this: nothing decoded, nothing sorted, nothing lost."""
    async with setting() as here:
        headers = [("X-Twice", "1"), ("X-Twice", "2"), ("Accept-Encoding", "identity")]
        answer = await here.http.put("/a%2Fb/v1/echo?q=%20x&q=y&empty=", content=b"\x00\xff", headers=headers)
        echo = answer.json()
        assert (echo["method"], echo["path"], echo["query"]) == ("PUT", "/v1/a%2Fb/v1/echo", "q=%20x&q=y&empty=")
        assert [value for name, value in echo["headers"] if name == "x-twice"] == ["1", "2"]
        assert (echo["body_bytes"], echo["body_sha256"]) == (2, hashlib.sha256(b"\x00\xff").hexdigest())


async def test_bench_models_answer_only_without_a_script() -> None:
    """A test that uses such a name stays in control."""
    async with setting() as here:
        answer = await here.post_chat(model="bench-1kb", stream=True)
        assert len(parse_stream([answer.content])) == 50
        assert len((await here.post_chat(model="bench-60kb")).content) > 50_000
    async with setting(lambda _: Reply("mine")) as here:
        assert (await here.post_chat(model="bench-1kb")).json()["choices"][0]["message"]["content"] == "mine"


async def test_it_runs_as_a_process_of_its_own() -> None:
    """The bench keeps it off the processor of the proxy's loop."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "memproxy.demo.scripted_model", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONDEVMODE": "1"},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            base_url = (await process.stdout.readline()).decode().strip()
        async with httpx.AsyncClient(base_url=base_url) as http:
            answer = await http.post("/chat/completions", json={"model": "m", "messages": HELLO})
            assert answer.json()["choices"][0]["message"]["content"].startswith("You said: Hello")
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                _, errors = await process.communicate()
        assert (process.returncode, errors.decode()) == (0, "")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
