"""One request through the answer loop, before a model server that answers with what is given."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from typing_extensions import override

from memproxy.errors import UpstreamError
from memproxy.proxy.answer import Answering, AnswerLoop, Limits, Source
from memproxy.proxy.client import Client
from memproxy.proxy.relay import Relayed
from memproxy.proxy.upstream import UpstreamResponse
from memproxy.records import JsonObject, ToolAnswer, ToolCall
from memproxy.tasks import Tasks
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from memproxy.wire.dialect import Dialect
from tests.fakes.dialects import ARGUMENTS, Asked

EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
JSON = (b"content-type", b"application/json")
ASKED: JsonObject = {"model": "m", "messages": [{"role": "user", "content": "Where is my order?"}], "x": 1.0}


class Body(httpx.AsyncByteStream):
    """The body of one response: its pieces, and perhaps an accident at their end."""

    def __init__(self, pieces: Sequence[bytes | Exception], after: Callable[[bytes], None]) -> None:
        self.pieces = pieces
        self.after = after
        self.is_closed = False

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        sent = b""
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
            sent += piece
            self.after(sent)

    @override
    async def aclose(self) -> None:
        self.is_closed = True


def answer_of(
    *pieces: bytes | Exception,
    status: int = 200,
    headers: Sequence[tuple[bytes, bytes]] = (),
    after: Callable[[bytes], None] = lambda _: None,
) -> UpstreamResponse:
    """A response of the model server; an event stream unless its headers say otherwise.

    `after` is called with all that was sent, before the next piece is read.
    """
    given = list(headers) or [EVENT_STREAM]
    return UpstreamResponse(status, given, httpx.Response(status, headers=given, stream=Body(pieces, after)))


def is_closed(response: UpstreamResponse) -> bool:
    stream = response._response.stream
    assert isinstance(stream, Body)
    return stream.is_closed


def found(call: ToolCall | Asked) -> str:
    return f"{call.name} found {call.arguments}"


@dataclass
class Look:
    """A source that knows every look-up but one."""

    asked: list[ToolCall] = field(default_factory=list)
    error: Exception | None = None
    waits: asyncio.Event | None = None

    def may_answer(self, name: str) -> bool:
        return name.startswith("look")

    async def answer(self, call: ToolCall) -> ToolAnswer | None:
        self.asked.append(call)
        if self.waits is not None:
            await self.waits.wait()
        if self.error is not None:
            raise self.error
        return (
            None
            if call.arguments.replace(" ", "") == ARGUMENTS[-1].replace(" ", "")
            else ToolAnswer(call, found(call), "cache")
        )


class Exchange:
    """One request through the loop, before a model server that answers with what is given, in its order."""

    def __init__(
        self,
        *responses: UpstreamResponse | UpstreamError,
        sources: Sequence[Source] | None = None,
        limits: Limits | None = None,
        is_ours: Callable[[str], bool] | None = None,
        dialect: Dialect = CHAT_COMPLETIONS,
        asked: JsonObject = ASKED,
    ) -> None:
        self.asked = asked
        self.responses = list(responses)
        self.sent: list[JsonObject] = []
        self.head: JsonObject = {}
        self.written: list[bytes] = []
        self.is_ended = False
        self.into, self.done = Relayed(), Answering()
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.client = Client(
            {"method": "POST", "path": "/v1", "headers": []}, self.inbox.get, self._from_client, Tasks()
        )
        self.loop = AnswerLoop(
            self.client,
            self._ask,
            dialect=dialect,
            sources=[Look()] if sources is None else sources,
            limits=limits or Limits(),
            headers=lambda done: [(b"x-memproxy-tool-answers", b"%d" % len(done.answers))],
            into=self.into,
            done=self.done,
            is_ours=is_ours,
        )

    async def _from_client(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            assert not self.head
            self.head = message
            return
        assert self.head
        assert not self.is_ended
        self.is_ended = not message["more_body"]
        if message["body"]:
            self.written.append(message["body"])

    async def _ask(self, body: bytes) -> UpstreamResponse:
        self.sent.append(json.loads(body))
        response = self.responses[len(self.sent) - 1]
        if isinstance(response, UpstreamError):
            raise response
        return response

    async def run(self) -> bytes:
        """What the client gets."""
        await self.loop.run(json.dumps(self.asked).encode())
        assert all(is_closed(each) for each in self.responses[: len(self.sent)] if isinstance(each, UpstreamResponse))
        return self.body

    @property
    def body(self) -> bytes:
        return b"".join(self.written)

    @property
    def answers_header(self) -> Any:
        return dict(self.head["headers"])[b"x-memproxy-tool-answers"]
