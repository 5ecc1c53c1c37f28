"""A small and fast HTTP/1.1 client: one request at a time on a kept connection, with the times that matter.

It reads what servers under test send (a length or chunks) and nothing else, straight from the event loop's protocol.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Self, cast

from typing_extensions import override

HEAD_END = b"\r\n\r\n"
HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")
LAST_CHUNK = b"\r\n0\r\n\r\n"


class LoadError(Exception):
    """A target did not do what it must do before its speed is of any interest."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    status: int
    head: bytes
    raw_body: bytes
    """As it was framed."""
    is_chunked: bool
    latency_s: float
    """From the request's first byte to the answer's last."""
    first_byte_s: float
    """From the request's first byte to the answer's first byte of body."""

    @property
    def body(self) -> bytes:
        """The body without its framing."""
        return without_chunks(self.raw_body) if self.is_chunked else self.raw_body

    def header(self, name: bytes) -> bytes:
        """A header's value, or nothing; `name` in lower case, as all servers here send it."""
        at = self.head.find(b"\r\n" + name + b": ")
        if at < 0:
            return b""
        begin = at + len(name) + 4
        return self.head[begin : self.head.index(b"\r\n", begin)]


class Connection(asyncio.Protocol):
    """A connection to one server; opened by `connected`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._data = bytearray()
        self._body_at = 0
        self._length: int | None = None
        self._began = 0.0
        self._first_byte = 0.0

    @classmethod
    async def connected(cls, port: int) -> Self:
        """A connection to this port on loopback."""
        _, protocol = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return protocol

    async def ask(self, request: bytes) -> Answer:
        """Send a request and wait for its answer. Raises LoadError when the connection ends before."""
        if self._transport is None or self._transport.is_closing():
            raise LoadError("the server closed a connection that was to be kept")
        self._data = bytearray()
        self._body_at = 0
        self._waiter = asyncio.get_running_loop().create_future()
        self._began = time.perf_counter()
        self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        """End the connection."""
        self._waiter = None
        if self._transport is not None:
            self._transport.abort()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without inheriting from it

    @override
    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._body_at and not self._read_head():
            return
        size = len(self._data) - self._body_at
        if size and not self._first_byte:
            self._first_byte = time.perf_counter()
        if self._length is not None:
            is_whole = size >= self._length
        else:
            is_whole = self._data.endswith(LAST_CHUNK) or (size == 5 and self._data.endswith(LAST_CHUNK[2:]))
        if is_whole:
            self._finish()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(LoadError("the server broke off in the middle of an answer"))

    def _read_head(self) -> bool:
        end = self._data.find(HEAD_END)
        if end < 0:
            return False
        self._body_at = end + len(HEAD_END)
        self._first_byte = 0.0
        head = bytes(self._data[:end]).lower()
        at = head.find(b"\r\ncontent-length: ")
        self._length = None if at < 0 else int(head[at + 18 :].split(b"\r\n", 1)[0])
        return True

    def _finish(self) -> None:
        now = time.perf_counter()
        if self._waiter is None or self._waiter.done():
            return
        self._waiter.set_result(
            Answer(
                status=int(self._data[9:12]),
                head=bytes(self._data[: self._body_at - 2]),
                raw_body=bytes(self._data[self._body_at :]),
                is_chunked=self._length is None,
                latency_s=now - self._began,
                first_byte_s=(self._first_byte or now) - self._began,
            )
        )


def without_chunks(framed: bytes) -> bytes:
    """The body in these chunks. Raises LoadError when they are not whole."""
    pieces: list[bytes] = []
    at = 0
    while True:
        end = framed.find(b"\r\n", at)
        digits = framed[at : max(end, at)]
        size = int(digits, 16) if digits and set(digits) <= HEX_DIGITS else -1
        if size < 0 or len(framed) < end + 4 + size:
            raise LoadError("an answer's chunks are broken")
        if size == 0:
            return b"".join(pieces)
        pieces.append(framed[end + 2 : end + 2 + size])
        at = end + 4 + size
