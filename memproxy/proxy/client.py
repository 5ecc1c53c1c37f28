"""The client's side of one HTTP request, as ASGI gives it: read the body, write the response, notice that it left."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from memproxy.errors import BodyTooLargeError, RequestError
from memproxy.tasks import Tasks
from memproxy.telemetry.requests import Seen

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


UNWATCHED_S = 0.05
"""Most answers are there before anybody could wish to leave: until then nobody watches whether the client does."""

WATCHER = "watch for the client to leave"


class ClientLeftError(Exception):
    """The client closed the connection; there is nobody to answer."""


class Client:
    """One request's connection to the client."""

    def __init__(self, scope: Message, receive: Receive, send: Send, tasks: Tasks) -> None:
        self._receive = receive
        self._send = send
        self._tasks = tasks
        self.has_started = False
        self._has_read = anyio.Event()
        self.method: str = scope["method"]
        self.raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.query: bytes = scope.get("query_string", b"")
        self.raw_headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        self.headers: Mapping[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self.raw_headers
        }
        self.seen = Seen(self.method, self.headers)

    @property
    def has_body(self) -> bool:
        """The request announces a body."""
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"

    async def body(self, *, max_bytes: int) -> bytes:
        """The whole body.

        Raises:
            BodyTooLargeError: it exceeds `max_bytes`; the rest is not read.
            ClientLeftError: the client left before it was complete.
        """
        announced = self.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > max_bytes:
            raise BodyTooLargeError(_too_large(max_bytes))
        pieces, size = [], 0
        async for piece in self.body_stream():
            size += len(piece)
            if size > max_bytes:
                raise BodyTooLargeError(_too_large(max_bytes))
            pieces.append(piece)
        return b"".join(pieces)

    async def body_as_it_comes(self) -> bytes | AsyncIterator[bytes]:
        """The body: all of it where it came in one piece, its pieces otherwise.

        Raises:
            ClientLeftError: the client left before it was complete.
        """
        if not self.has_body:
            return await self.body(max_bytes=0)
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        first: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            self._has_read.set()
            return first
        return self._with_rest(first)

    async def _with_rest(self, first: bytes) -> AsyncIterator[bytes]:
        yield first
        async for piece in self.body_stream():
            yield piece

    async def body_stream(self) -> AsyncIterator[bytes]:
        """The body's pieces as they arrive.

        Raises:
            ClientLeftError: the client left before it was complete.
        """
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            if piece := message.get("body", b""):
                yield piece
            if not message.get("more_body", False):
                self._has_read.set()
                return

    @asynccontextmanager
    async def while_present(self) -> AsyncIterator[anyio.CancelScope]:
        """Cancel what runs inside as soon as the client leaves; while the body is being read, reading notices that."""
        with anyio.CancelScope() as scope:
            watchers: list[asyncio.Task[None]] = []
            starting = asyncio.get_running_loop().call_later(
                UNWATCHED_S, lambda: watchers.append(self._tasks.spawn(self._cancel_when_left(scope), name=WATCHER))
            )
            try:
                yield scope
            finally:
                starting.cancel()
                for watcher in watchers:
                    watcher.cancel()

    async def _cancel_when_left(self, scope: anyio.CancelScope) -> None:
        await self._has_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the head of the response."""
        self.has_started, self.seen.status = True, status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    def write(self, chunk: bytes) -> Awaitable[None]:
        """Send a piece of the body as it is."""
        return self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        """The body is complete."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def refuse(self, error: RequestError, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer with an error in OpenAI's shape."""
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
        await self.start(error.status, head)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _too_large(max_bytes: int) -> str:
    return (
        f"The request body exceeds {max_bytes / 1_048_576:g} MB. "
        "Send large content as a file, or raise max_body_mb in memproxy's settings."
    )
