"""Answers go out at the speed that was asked for, and a client that leaves is noticed."""

import asyncio
import time
from collections import deque

from memproxy.demo.deliver import Delivery, Message, deliver, streamed, whole, whole_body


class Client:
    """The other side of an ASGI connection; it leaves after `stays_for` pieces, or never."""

    def __init__(self, stays_for: int | None = None, *incoming: Message) -> None:
        self.sent: list[Message] = []
        self._stays_for = stays_for
        self._incoming = deque(incoming)
        self._left = asyncio.Event()
        if stays_for == 0:
            self._left.set()

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if self._stays_for is not None and len(self.sent) > self._stays_for:
            self._left.set()

    async def receive(self) -> Message:
        if self._incoming:
            return self._incoming.popleft()
        await self._left.wait()
        return {"type": "http.disconnect"}

    @property
    def pieces(self) -> list[bytes]:
        return [message["body"] for message in self.sent[1:]]

    @property
    def has_end(self) -> bool:
        return self.sent[-1].get("more_body") is False


async def test_a_whole_answer_is_one_piece() -> None:
    """It has a length, and no more writes than it needs."""
    client = Client()
    assert await deliver(whole(b"body", status=404), client.receive, client.send) is None
    assert (client.sent[0]["status"], client.pieces, client.has_end) == (404, [b"body"], True)
    assert (b"content-length", b"4") in client.sent[0]["headers"]


async def test_a_stream_keeps_its_pieces_and_its_pace() -> None:
    """Recorded pieces are sent as they were recorded."""
    client = Client()
    started_at = time.monotonic()
    delivery = Delivery((b"a", b"b", b"c"), [], is_stream=True, delay_s=0.02, event_delay_s=0.02)
    assert await deliver(delivery, client.receive, client.send) is None
    assert time.monotonic() - started_at >= 0.055
    assert (client.pieces, client.has_end) == ([b"a", b"b", b"c", b""], True)


async def test_a_cut_answer_has_no_end() -> None:
    """The server closes the connection then."""
    client = Client()
    assert await deliver(Delivery((b"a",), [], is_stream=True, is_cut=True), client.receive, client.send) is None
    assert (client.pieces, client.has_end) == ([b"a"], False)


async def test_a_client_that_leaves_is_noticed_at_every_stage() -> None:
    """Before the headers, between events, in the silence after them, and while nobody was looking."""
    stream = streamed((b"a", b"b", b"c"))
    for delivery, stays_for, sent in [
        (Delivery((), [], delay_s=None), 0, 0),
        (Delivery((b"a", b"b"), [], delay_s=30), 0, 0),
        (Delivery((b"a", b"b"), [], is_stream=True, event_delay_s=30), 1, 1),
        (Delivery((b"a", b"b"), [], is_stream=True, hangs=True), 2, 2),
        (Delivery((), [], is_stream=True, hangs=True), 0, 0),
        (stream, 1, 3),
    ]:
        client = Client(stays_for)
        assert await deliver(delivery, client.receive, client.send) == sent


async def test_a_request_body_is_put_together() -> None:
    """Large bodies arrive in many messages."""
    first: Message = {"type": "http.request", "body": b"a", "more_body": True}
    last: Message = {"type": "http.request", "body": b"b", "more_body": False}
    assert await whole_body(Client(0, first, last).receive) == b"ab"
    assert await whole_body(Client(0, first).receive) is None
