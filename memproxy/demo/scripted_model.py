"""A model server whose answers are written in a script: OpenAI's protocol on loopback, without a model.

The demo, the bench and the tests put it where a provider would be. Below any prefix, with or without `/v1`:

| path | answer |
|---|---|
| `POST /chat/completions` | what the script says, as JSON or stream; 400 where OpenAI would refuse the request |
| `POST /responses` | the same script in the form of the Responses API, with everything that it remembers |
| `GET`, `DELETE /responses/{id}`, `.../cancel`, `.../input_items` | what was stored |
| `POST /messages` | the same script in the form of Anthropic's Messages API |
| `POST /conversations` | a new conversation |
| `POST /embeddings` | vectors that depend on the words alone |
| `GET /models` | the names of the bench models and one more |
| `POST /files` | size and SHA-256 of the whole body |
| `GET /files/{id}/content` | binary bytes, as many as the number at the end of the id says |
| any `/echo` | what arrived: method, path, query, headers, size and SHA-256 of the body |
| anything else | 404 in OpenAI's shape |

    async with ScriptedModel(lambda request: Reply("Hello")).serve() as server:
        client = AsyncOpenAI(base_url=server.base_url, api_key="any")

`python -m memproxy.demo.scripted_model --port 9000` runs it as a process of its own.
"""

import argparse
import asyncio
import re
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import uvicorn
import uvloop

from memproxy.demo import provider_messages
from memproxy.demo.bench_answers import BenchAnswers
from memproxy.demo.counting import PromptCache
from memproxy.demo.deliver import Delivery, Receive, Send, deliver, streamed, whole, whole_body
from memproxy.demo.frames import serve_frames
from memproxy.demo.provider_answers import (
    completion_body,
    completion_events,
    error_body,
    scripted_error,
    usage,
)
from memproxy.demo.provider_checks import error_object, find_fault
from memproxy.demo.provider_responses import (
    RefusedError,
    ResponseStore,
    conversation_of,
    response_body,
    response_events,
)
from memproxy.demo.resources import decoded, download, echo, embeddings, models, refusal, upload
from memproxy.demo.script import ModelRequest, Reply, Script, ToolCallReply, answer_from_request, in_order
from memproxy.sockets import listening_socket

__all__ = [
    "Disconnect",
    "ModelRequest",
    "Reply",
    "RunningModel",
    "Script",
    "ScriptedModel",
    "ToolCallReply",
    "answer_from_request",
    "in_order",
]

_CLOSE_S = 5.0
"""Bound of the wait for open requests at the end; their connections are cut first, so that it is not used up."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """A client that left before its answer had ended."""

    request: ModelRequest
    events_sent: int
    """Events of a stream that had been sent by then; 0 before the headers."""
    at: float
    """Seconds of `time.monotonic`."""


@dataclass(frozen=True, slots=True)
class RunningModel:
    """Where a served model is reached."""

    model: "ScriptedModel"
    host: str
    port: int

    @property
    def base_url(self) -> str:
        """As `OPENAI_BASE_URL` wants it, ending in `/v1`."""
        return f"http://{self.host}:{self.port}/v1"


class ScriptedModel:
    """The server as an ASGI application, with a memory of what happened to it.

    `answer` is called for every chat-completions request that passes the provider's checks. Without one the newest
    message is repeated, and the bench models of `bench_answers` answer at once.
    """

    def __init__(self, answer: Script | None = None, *, keep_requests: int = 256, has_sockets: bool = False) -> None:
        self.requests: list[ModelRequest] = []
        """The newest `keep_requests` requests of any kind, refused ones too, oldest first."""
        self.disconnects: list[Disconnect] = []
        """Clients that left before their answer had ended; nobody is blamed for what `serve` cuts when it ends."""
        self.failures: list[Exception] = []
        """What the script raised. The client got a 500, and `serve` raises the first one when it ends."""
        self._answer = answer or answer_from_request
        self._bench = BenchAnswers() if answer is None else None
        self._keep_requests = keep_requests
        self._has_sockets = has_sockets
        self._prompt_cache = PromptCache()
        self._stored = ResponseStore()
        self._changed = asyncio.Event()
        self._is_closing = False

    @property
    def chat_requests(self) -> list[ModelRequest]:
        """The kept requests that went to chat completions."""
        return [request for request in self.requests if request.path.rstrip("/").endswith("/chat/completions")]

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Returns once the condition holds; raises TimeoutError.

        It is looked at when a request arrives, a client leaves, or the script fails.
        """
        async with asyncio.timeout(timeout_s):
            while not condition():
                await self._changed.wait()

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[RunningModel]:
        """Answers requests on the running loop until the block ends; port 0 takes a free one.

        uvicorn's own main loop is left out: it would install signal handlers, and only waits for a reason to stop.
        """
        config = uvicorn.Config(
            self,
            interface="asgi3",
            http="httptools",
            ws="websockets-sansio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=60,
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        with listening_socket(host, port) as listener:
            await server.startup(sockets=[listener])
            try:
                yield RunningModel(self, host, listener.getsockname()[1])
            finally:
                await self._close(server)
        if self.failures:
            raise self.failures[0]

    async def _close(self, server: uvicorn.Server) -> None:
        """Cuts every connection, and waits until the requests on them have noticed."""
        self._is_closing = True
        try:
            for listening in server.servers:
                listening.close()
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            if server.server_state.tasks:
                await asyncio.wait(server.server_state.tasks, timeout=_CLOSE_S)
            await asyncio.sleep(0)  # idle connections end in the next turn of the loop
        finally:
            self._is_closing = False

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """One request, from its first byte to the end of its answer."""
        if scope["type"] == "websocket":
            await serve_frames(partial(self._frame, scope), receive, send, is_offered=self._has_sockets)
            return
        raw_body = await whole_body(receive)
        if raw_body is None:
            return
        request = self._kept(scope, raw_body)
        events_sent = await deliver(self._answer_to(request), receive, send)
        if events_sent is not None and not self._is_closing:
            self.disconnects.append(Disconnect(request, events_sent, time.monotonic()))
            self._announce()

    def _frame(self, scope: Mapping[str, Any], frame: bytes) -> Delivery:
        """One frame of a WebSocket to the Responses API."""
        return self._responses(self._kept(scope, frame))

    def _kept(self, scope: Mapping[str, Any], raw_body: bytes) -> ModelRequest:
        request = ModelRequest(
            method=scope.get("method", "POST"),
            path=scope["raw_path"].decode("latin-1"),
            query=scope["query_string"].decode("latin-1"),
            headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
            raw_body=raw_body,
            arrived_at=time.monotonic(),
        )
        self.requests.append(request)
        del self.requests[: max(0, len(self.requests) - self._keep_requests)]
        self._announce()
        return request

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _answer_to(self, request: ModelRequest) -> Delivery:
        for method, path, handler in _ROUTES:
            match = path.fullmatch(request.path)
            if match and method in {request.method, "*"}:
                return handler(self, request, **match.groupdict())
        return refusal(error_object(f"Invalid URL ({request.method} {request.path})"), status=404)

    def _chat(self, request: ModelRequest) -> Delivery:
        if self._bench and (prepared := self._bench.find(request.raw_body)):
            return prepared
        if fault := find_fault(decoded(request)):
            return refusal(fault)
        prompt_tokens, cached_tokens = self._prompt_cache.count(request.body)
        reply = self._reply_to(request)
        if reply.hang and reply.cut_after is None:
            return Delivery((), [], delay_s=None)
        counts = usage(reply, prompt_tokens, cached_tokens=cached_tokens, choices=request.body.get("n") or 1)
        return _as_told(_scripted(reply, request, counts), reply)

    def _retold(self, request: ModelRequest, told: list[dict[str, Any]]) -> ModelRequest:
        """The request with its messages in the form of chat completions, among the kept ones too."""
        made = replace(request, told=tuple(told))
        self.requests = [made if kept is request else kept for kept in self.requests]
        return made

    def _reply_to(self, request: ModelRequest) -> Reply:
        try:
            return self._answer(request)
        except Exception as failure:
            self.failures.append(failure)
            self._announce()
            raise

    def _responses(self, request: ModelRequest) -> Delivery:
        try:
            told = conversation_of(request.body, self._stored.shown(request.body))
        except RefusedError as refused:
            return refusal(refused.error, status=refused.status)
        return self._told(self._retold(request, told), self._response_to)

    def _response_to(self, reply: Reply, request: ModelRequest, counts: tuple[int, int]) -> Delivery:
        created, (prompt_tokens, cached_tokens) = int(time.time()), counts
        response = response_body(
            reply, request.body, created=created, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens
        )
        self._stored.keep(request.body, response)
        return streamed(response_events(response)) if request.is_stream else whole(msgspec.json.encode(response))

    def _messages(self, request: ModelRequest) -> Delivery:
        try:
            told = provider_messages.conversation_of(request.body)
        except RefusedError as refused:
            return whole(provider_messages.error_body(refused.error), status=refused.status)
        return self._told(self._retold(request, told), _message_to)

    def _told(
        self, request: ModelRequest, answer: Callable[[Reply, ModelRequest, tuple[int, int]], Delivery]
    ) -> Delivery:
        """What the script says, in the form that `answer` gives it with the counts of the prompt."""
        prompt = {"model": request.model, "tools": request.body.get("tools"), "messages": request.messages}
        counts = self._prompt_cache.count(prompt)
        reply = self._reply_to(request)
        if reply.hang and reply.cut_after is None:
            return Delivery((), [], delay_s=None)
        recorded = _recorded(reply)
        return _as_told(answer(reply, request, counts) if recorded is None else recorded, reply)

    def _response(self, request: ModelRequest, response_id: str, below: str | None = None) -> Delivery:
        try:
            response = self._stored.stored(response_id)
            if request.method == "DELETE":
                response = self._stored.forget(response_id)
        except RefusedError as refused:
            return refusal(refused.error, status=refused.status)
        if below == "/input_items":
            response = {"object": "list", "data": self._stored.inputs[response_id], "has_more": False}
        return whole(msgspec.json.encode(response))

    def _conversations(self, request: ModelRequest) -> Delivery:
        return whole(msgspec.json.encode(self._stored.open_conversation(request.body)))


_ROUTES: tuple[tuple[str, re.Pattern[str], Callable[..., Delivery]], ...] = (
    ("POST", re.compile(r".*/chat/completions/?"), ScriptedModel._chat),
    ("POST", re.compile(r".*/responses/?"), ScriptedModel._responses),
    ("*", re.compile(r".*/responses/(?P<response_id>[^/]+)(?P<below>/cancel|/input_items)?"), ScriptedModel._response),
    ("POST", re.compile(r".*/messages/?"), ScriptedModel._messages),
    ("POST", re.compile(r".*/conversations/?"), ScriptedModel._conversations),
    ("POST", re.compile(r".*/embeddings/?"), embeddings),
    ("GET", re.compile(r".*/models/?"), models),
    ("POST", re.compile(r".*/files/?"), upload),
    ("GET", re.compile(r".*/files/[^/]*?(?P<size>\d{1,9})/content"), download),
    ("*", re.compile(r".*/echo/?"), echo),
)


def _message_to(reply: Reply, request: ModelRequest, counts: tuple[int, int]) -> Delivery:
    prompt_tokens, cached_tokens = counts
    message = provider_messages.message_body(
        reply, request.body, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens
    )
    if request.is_stream:
        return streamed(provider_messages.message_events(message))
    return whole(msgspec.json.encode(message))


def _recorded(reply: Reply) -> Delivery | None:
    """What is the same in any format: recorded bytes, and errors."""
    if reply.raw_stream is not None:
        return streamed(reply.raw_stream)
    if reply.raw_body is not None:
        return whole(reply.raw_body)
    return whole(error_body(scripted_error(reply))) if reply.status >= 400 else None


def _scripted(reply: Reply, request: ModelRequest, counts: dict[str, Any]) -> Delivery:
    """The reply in the form in which the request asked for it."""
    if (recorded := _recorded(reply)) is not None:
        return recorded
    created = int(time.time())
    if request.is_stream:
        return streamed(completion_events(reply, request.body, created=created, usage=counts))
    return whole(completion_body(reply, request.body, created=created, usage=counts))


def _as_told(delivery: Delivery, reply: Reply) -> Delivery:
    """The delivery with the reply's status, headers, delays and accidents."""
    own = {name.lower().encode(): value.encode() for name, value in reply.headers.items()}
    usual = [(b"x-request-id", b"req_" + secrets.token_hex(16).encode()), *delivery.headers]
    headers = [(name, value) for name, value in usual if name not in own] + list(own.items())
    pieces = delivery.pieces
    if reply.cut_after is not None:
        pieces = pieces[: reply.cut_after] if delivery.is_stream else (pieces[0][: reply.cut_after],)
    return replace(
        delivery,
        pieces=pieces,
        headers=headers,
        status=reply.status,
        delay_s=reply.delay_s,
        event_delay_s=reply.event_delay_s,
        is_cut=reply.cut_after is not None and not reply.hang,
        hangs=reply.hang,
    )


async def _serve_until_stopped(host: str, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with ScriptedModel().serve(host, port) as server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        await stopped.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves the default answers until SIGINT or SIGTERM; the first line of output is the base URL."""
    parser = argparse.ArgumentParser(
        prog="python -m memproxy.demo.scripted_model", description="A scripted model server."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    chosen = parser.parse_args(arguments)
    uvloop.run(_serve_until_stopped(chosen.host, chosen.port))


if __name__ == "__main__":
    main()
