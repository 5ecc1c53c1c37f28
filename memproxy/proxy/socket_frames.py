"""The Responses API over a WebSocket: each `response.create` is a request as any other, frame by frame.

Source: OpenAI's guide "WebSocket mode" of the Responses API. A frame from the client is the body of a request with a
`type`; frames from the provider are the events of a stream. Here they take the forms that HTTP gives them, so that the
life of a request, its rounds inside and its recording are the same: `SocketClient` stands for the client's side of one
exchange, `SocketUpstream` for the provider's. Frames that are no part of an exchange pass as they come.

One exchange runs at a time, as the protocol has it. When the provider offers no WebSocket, the client's is refused with
426, which sends it to HTTP at once.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import anyio
import msgspec
from typing_extensions import override

from memproxy.errors import RequestError, UpstreamBrokenError, UpstreamError
from memproxy.identity import SplitPath
from memproxy.proxy.client import Client, Message, Receive, Send
from memproxy.proxy.pipeline import Pipeline
from memproxy.proxy.upstream import Sender, Upstream, UpstreamResponse, UpstreamSocket, event_stream
from memproxy.tasks import Tasks
from memproxy.telemetry.requests import RequestWatch
from memproxy.wire.joined import object_of
from memproxy.wire.response_answers import ENDS
from memproxy.wire.response_dialect import RESPONSES
from memproxy.wire.sse import RawEvents, encode_event, parse_stream

log = logging.getLogger(__name__)

CREATE = b"response.create"
MAX_WAITING = 16
"""Requests that a client may send before the one under way has ended; the protocol has one at a time."""

TOO_BUSY = 1013
GOING_AWAY = 1001
"""Close codes. Source: RFC 6455 and IANA's registry."""


class SocketClient(Client):
    """The client's side of one exchange: its frame is the body, events are written as frames."""

    def __init__(self, scope: Message, frame: bytes, send: Send, tasks: Tasks) -> None:
        super().__init__({**scope, "method": "POST"}, self._never, send, tasks)
        self._frame = frame
        self._events = RawEvents()
        self._present: list[anyio.CancelScope] = []

    @staticmethod
    async def _never() -> None:
        raise AssertionError("frames are read elsewhere")

    @override
    async def body(self, *, max_bytes: int) -> bytes:
        return self._frame

    @asynccontextmanager
    @override
    async def while_present(self) -> AsyncIterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            self._present.append(scope)
            yield scope

    def left(self) -> None:
        """The client closed the connection."""
        for scope in self._present:
            scope.cancel()

    @override
    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.has_started, self.seen.status = True, status

    @override
    async def write(self, chunk: bytes) -> None:
        for raw in self._events.feed(chunk):
            await self._send_events(raw)

    @override
    async def end(self) -> None:
        for raw in self._events.close():
            await self._send_events(raw)

    async def _send_events(self, raw: bytes) -> None:
        for event in parse_stream([raw]):
            await self._send({"type": "websocket.send", "text": event.data.decode("utf-8", "replace")})

    @override
    async def refuse(self, error: RequestError, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        self.seen.status = error.status
        told = {"type": "error", "status": error.status, **msgspec.json.decode(body)}
        await self._send({"type": "websocket.send", "text": msgspec.json.encode(told).decode()})


class SocketUpstream(Sender):
    """The provider's side: a body goes out as a frame, and what comes up to the end of its answer is a stream."""

    def __init__(self, socket: UpstreamSocket) -> None:
        self._socket = socket
        self._frames: asyncio.Queue[bytes | None] | None = None
        """Of the answer under way; None as a frame ends it."""

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
        assert isinstance(body, bytes), "frames are whole"
        frames = self._frames = asyncio.Queue()
        await self._socket.send(body)
        return event_stream(self._answer(frames))

    def take(self, frame: bytes | None) -> bool:
        """Give a frame of the provider's to the exchange under way, None for the end; False when there is none."""
        if self._frames is None:
            return False
        self._frames.put_nowait(frame)
        return True

    async def _answer(self, frames: "asyncio.Queue[bytes | None]") -> AsyncGenerator[bytes]:
        try:
            while (frame := await frames.get()) is not None:
                value = object_of(frame)
                kind = str(value.get("type")) if value is not None else ""
                if kind in ENDS or kind == "error":
                    self._end(frames)
                    yield encode_event(frame)
                    return
                yield encode_event(frame)
            raise UpstreamBrokenError("The model server closed the WebSocket before its answer was complete.")
        finally:
            self._end(frames)

    def _end(self, frames: "asyncio.Queue[bytes | None]") -> None:
        if self._frames is frames:
            self._frames = None


class SocketRelay:
    """One client's WebSocket and the provider's, from their opening to their close."""

    def __init__(self, pipeline: Pipeline, upstream: Upstream, tasks: Tasks, watch: RequestWatch) -> None:
        self._pipeline = pipeline
        self._upstream = upstream
        self._tasks = tasks
        self._watch = watch
        self._open: set[_Connection] = set()
        self._is_draining = False

    def drain(self) -> None:
        """Take no new WebSocket, and end each one when what its client has asked for is answered."""
        self._is_draining = True
        for connection in self._open:
            connection.end_when_idle()

    async def serve(self, scope: Message, receive: Receive, send: Send, *, path: SplitPath) -> None:
        """Relay until either side closes. Refuses with 426 where the provider has no WebSocket."""
        await receive()
        if self._is_draining:
            await refuse(send)
            return
        query = scope.get("query_string", b"")
        try:
            socket = await self._upstream.connect(path.rest, query=query, headers=scope["headers"])
        except UpstreamError as error:
            log.info("a client is sent to HTTP: %s", error)
            await refuse(send)
            return
        try:
            await send({"type": "websocket.accept", "subprotocol": socket.protocol})
            await self._run(_Connection(self, scope, send, socket, path), receive)
        finally:
            with anyio.CancelScope(shield=True):
                await socket.close()

    async def _run(self, connection: "_Connection", receive: Receive) -> None:
        self._open.add(connection)
        if self._is_draining:  # since it was asked for
            connection.end_when_idle()
        try:
            await connection.run(receive)
        finally:
            self._open.discard(connection)

    async def exchange(self, client: SocketClient, upstream: SocketUpstream, path: SplitPath) -> None:
        """One request from its frame to its recording."""
        with self._watch.request(client.seen):
            try:
                await self._pipeline.run(client, path, RESPONSES, upstream=upstream)
            except RequestError as error:
                if not client.has_started:
                    await client.refuse(error, [], msgspec.json.encode(RESPONSES.error_body(error)))

    def client(self, scope: Message, frame: bytes, send: Send) -> SocketClient:
        """The client's side of an exchange that begins with this frame."""
        return SocketClient(scope, frame, send, self._tasks)


class _Connection:
    """What the three readers of one connection share."""

    def __init__(self, relay: SocketRelay, scope: Message, send: Send, socket: UpstreamSocket, path: SplitPath) -> None:
        self._relay = relay
        self._scope = scope
        self._send = send
        self._socket = socket
        self._path = path
        self._upstream = SocketUpstream(socket)
        self._wanted: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._client: SocketClient | None = None
        self._is_open = True

    async def run(self, receive: Receive) -> None:
        """Until one side is gone, and what it left behind is recorded."""
        async with anyio.create_task_group() as readers:
            readers.start_soon(self._from_client, receive)
            readers.start_soon(self._from_provider)
            await self._exchange_all()
            await self._close(self._socket.close_code or GOING_AWAY)
            readers.cancel_scope.cancel()

    def end_when_idle(self) -> None:
        """End behind the exchanges that the client has begun."""
        self._wanted.put_nowait(None)

    async def _exchange_all(self) -> None:
        while (frame := await self._wanted.get()) is not None:
            self._client = self._relay.client(self._scope, frame, self._to_client)
            if not self._is_open:
                return
            await self._relay.exchange(self._client, self._upstream, self._path)

    async def _from_client(self, receive: Receive) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            frame = text.encode() if text is not None else message["bytes"]
            if not _is_create(frame):
                await self._socket.send(frame)
            elif self._wanted.qsize() < MAX_WAITING:
                self._wanted.put_nowait(frame)
            else:
                await self._close(TOO_BUSY)
        self._end()

    async def _from_provider(self) -> None:
        async for frame in self._socket.frames():
            if not self._upstream.take(frame):
                await self._to_client({"type": "websocket.send", "text": frame.decode("utf-8", "replace")})
        self._upstream.take(None)
        self._wanted.put_nowait(None)

    async def _to_client(self, message: Message) -> None:
        if self._is_open:
            await self._send(message)

    async def _close(self, code: int) -> None:
        if self._is_open:
            self._is_open = False
            await self._send({"type": "websocket.close", "code": code})

    def _end(self) -> None:
        self._is_open = False
        if self._client is not None:
            self._client.left()
        self._wanted.put_nowait(None)


def _is_create(frame: bytes) -> bool:
    value = object_of(frame) if CREATE in frame else None
    return value is not None and value.get("type") == CREATE.decode()


async def refuse(send: Send) -> None:
    """Send the client to HTTP: known clients go there at once on 426, and on nothing else."""
    head = {"type": "websocket.http.response.start", "status": 426, "headers": [(b"content-length", b"0")]}
    await send(head)
    await send({"type": "websocket.http.response.body", "body": b"", "more_body": False})
