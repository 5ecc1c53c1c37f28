"""Put one answer on the wire at its own speed, and notice when the client leaves first; ASGI."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes out, and when."""

    pieces: tuple[bytes, ...]
    """The body; of a stream one piece an event."""
    headers: RawHeaders
    """Names in lower case."""
    status: int = 200
    is_stream: bool = False
    delay_s: float | None = 0.0
    """Wait before the headers; None for ever."""
    event_delay_s: float = 0.0
    """Wait between two pieces of a stream."""
    is_cut: bool = False
    """Close the connection after the last piece without ending the answer."""
    hangs: bool = False
    """Stay silent after the last piece."""


def whole(body: bytes, *, status: int = 200, content_type: bytes = b"application/json") -> Delivery:
    """An answer of known length."""
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    return Delivery((body,), headers, status)


def streamed(pieces: tuple[bytes, ...]) -> Delivery:
    """An answer of server-sent events."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    return Delivery(pieces, headers, is_stream=True)


async def whole_body(receive: Receive) -> bytes | None:
    """The body of a request; None when the client left before it had sent all of it."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def deliver(delivery: Delivery, receive: Receive, send: Send) -> int | None:
    """Sends the answer; gives back the number of pieces sent when the client left before the end, else None.

    The request body must have been received completely: from then on `receive` waits for the client to leave.
    """
    if delivery.delay_s != 0 and await _client_left(receive, delivery.delay_s):
        return 0
    await send({"type": "http.response.start", "status": delivery.status, "headers": delivery.headers})
    if not (delivery.is_stream or delivery.is_cut or delivery.hangs):
        await send({"type": "http.response.body", "body": b"".join(delivery.pieces), "more_body": False})
        return None
    for sent, piece in enumerate(delivery.pieces):
        if sent and delivery.event_delay_s and await _client_left(receive, delivery.event_delay_s):
            return sent
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if delivery.is_cut:
        return None
    if await _client_left(receive, None if delivery.hangs else 0):
        return len(delivery.pieces)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    return None


async def _client_left(receive: Receive, within_s: float | None) -> bool:
    """Whether the client leaves within that time, which is waited for; None waits until it does."""
    try:
        async with asyncio.timeout(within_s):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True
