"""A model server that keeps time: streams whose events come at an even pace, and answers at once; for chat completions.

The model's name says how: `paced-20-1000` streams 20 events 1,000 ms apart; asked without a stream, any model answers
about 1 KB. Requests are not looked at any further, so that a thousand streams cost it little. Each answer says in
`x-bench-bytes` how large the request's body was: what arrived here is what was sent on.
"""

import argparse
import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import uvloop
from typing_extensions import override

from memproxy.demo.provider_answers import completion_body, completion_events, usage
from memproxy.demo.script import Reply

HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
WORD = "abcdefghij"
ANSWER_WORDS = 60
BACKLOG = 2048

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model": ?"(paced-(\d+)-(\d+))"')
_STREAM = re.compile(rb'"stream": ?true')
_CREATED = 1_700_000_000
_LOOKED_AT = 200
"""Bytes of a body in which model and stream are looked for: clients of the bench send them first."""


def paced_model(events: int, *, interval_s: float) -> str:
    """The name of the model that answers so."""
    return f"paced-{events}-{round(interval_s * 1000)}"


@dataclass(frozen=True, slots=True)
class Paced:
    """The answers of one model."""

    pieces: tuple[bytes, ...]
    """Of a stream, each one event as one HTTP chunk."""
    interval_s: float
    body: bytes


class PacedModels:
    """The answers of all models asked so far, each made once: every answer of a model has the same bytes."""

    def __init__(self) -> None:
        self._made: dict[bytes, Paced] = {}

    def find(self, body: bytes) -> tuple[Paced, bool] | None:
        """What to answer, and whether it was asked for as a stream; None to what asks for none of these models."""
        start = body[:_LOOKED_AT]
        found = _MODEL.search(start)
        if not found:
            return None
        name = found[1]
        if name not in self._made:
            self._made[name] = _made(name.decode(), int(found[2]), interval_s=int(found[3]) / 1000)
        return self._made[name], bool(_STREAM.search(start))


def _made(model: str, events: int, *, interval_s: float) -> Paced:
    """Role, finish and `[DONE]` are events, too; the finish and `[DONE]` come together, as from providers."""
    asked = {"model": model}
    counts = usage(Reply(""), 300, cached_tokens=0, choices=1)
    body = completion_body(Reply(" ".join([WORD] * ANSWER_WORDS)), asked, created=_CREATED, usage=counts)
    words = Reply(" ".join([WORD] * max(1, events - 2)))
    made = completion_events(words, asked, created=_CREATED, usage=counts)
    pieces = (*made[:-2], made[-2] + made[-1])
    return Paced(tuple(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces), interval_s, body)


class Answering(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self, models: PacedModels) -> None:
        self._models = models
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._next: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(HEAD_END)
        if end < 0:
            return
        length = _LENGTH.search(self._data, 0, end)
        begin = end + len(HEAD_END)
        size = int(length[1]) if length else 0
        if len(self._data) < begin + size:
            return
        body = bytes(self._data[begin : begin + size])
        del self._data[: begin + size]
        self._answer(body)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._next:
            self._next.cancel()

    def _answer(self, body: bytes) -> None:
        found = self._models.find(body)
        if found is None:
            self._write(_head(b"content-type: application/json\r\ncontent-length: 2\r\n") + b"{}")
            return
        paced, is_stream = found
        arrived = b"x-bench-bytes: %d\r\n" % len(body)
        if not is_stream:
            told = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(paced.body)
            self._write(_head(told + arrived) + paced.body)
            return
        head = _head(b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n" + arrived)
        pieces = iter(paced.pieces)
        self._write(head + next(pieces))
        self._go_on(pieces, paced.interval_s, self._loop.time() + paced.interval_s)

    def _go_on(self, pieces: Iterator[bytes], interval_s: float, at: float) -> None:
        self._next = self._loop.call_at(at, self._tell, pieces, interval_s, at)

    def _tell(self, pieces: Iterator[bytes], interval_s: float, at: float) -> None:
        """One event; the next is due by the clock, however late this one was."""
        piece = next(pieces, None)
        if piece is None:
            self._write(LAST_CHUNK)
            return
        self._write(piece)
        self._go_on(pieces, interval_s, at + interval_s)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _head(headers: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n"


async def serve(port: int) -> None:
    """Answer on this port of loopback until cancelled."""
    models = PacedModels()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(models), "127.0.0.1", port, backlog=BACKLOG)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="python -m bench.paced_model", description="A model server that keeps time.")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
