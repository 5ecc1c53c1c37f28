"""The client's side of one HTTP request, as ASGI gives it: read the body, write the response, notice that it left."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from memproxy.errors import BodyTooLargeError, RequestError
from memproxy.tasks import Tasks

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


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
            watcher = self._tasks.spawn(self._cancel_when_left(scope), name="watch for the client to leave")
            try:
                yield scope
            finally:
                watcher.cancel()

    async def _cancel_when_left(self, scope: anyio.CancelScope) -> None:
        await self._has_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the head of the response."""
        self.has_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body as it is."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

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
