"""Answer tool calls here: hold the calls, answer them, ask the model again, and give the client one answer.

A request runs in rounds. In each, the model server answers; if all that it asks for can be answered from a source
(cached results of the agent's own tools, memory tools), its calls and the results are added to the request and it is
asked again. The first round that can't be answered here is the client's. When anything goes wrong in an inner round,
the round before is released as it came: the client then executes the tools itself, as it would have anyway.

How the rounds' streams become one is decided in `splice`; this is the part that acts.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import msgspec

from memproxy.errors import StoreError, UpstreamError
from memproxy.proxy.client import Client
from memproxy.proxy.forward import CLOSE_DEADLINE_S
from memproxy.proxy.relay import Relayed, relay
from memproxy.proxy.splice import Joined, Round, joined_object
from memproxy.proxy.strain import Strainer, strained_object
from memproxy.proxy.upstream import UpstreamResponse
from memproxy.records import JsonObject, Outcome, ToolAnswer, ToolCall
from memproxy.wire import chat_completions as chat
from memproxy.wire.chat_answers import AnswerReader
from memproxy.wire.sse import RawEvents

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]


class Source(Protocol):
    """Something that answers tool calls in the agent's place, for one request."""

    def may_answer(self, name: str) -> bool:
        """Whether calls of this tool could be answered at all: decided by its name, before its arguments are known."""
        ...

    async def answer(self, call: ToolCall) -> ToolAnswer | None:
        """The result of this call, or None. Raises StoreError."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How far the loop goes before the client gets what there is."""

    rounds: int = 8
    seconds: float = 60.0
    """From the first round's beginning; a round that has begun is not cut."""
    look_up_s: float = 1.0
    """For the answers to one round's calls."""


@dataclass(slots=True)
class Answering:
    """What was answered inside while one request ran."""

    answers: list[ToolAnswer] = field(default_factory=list)
    hidden: list[JsonObject] = field(default_factory=list)
    """Assistant messages with calls and the results of these, as they were sent to the model server."""
    rounds: int = 0
    """Rounds before the one that the client got."""
    last: JsonObject | None = None
    """The model's own message of the round that the client got."""
    beside: list[JsonObject] = field(default_factory=list)
    """Results of calls in that message that the client did not get."""

    @property
    def instead(self) -> tuple[JsonObject, ...]:
        """What later requests send in place of the client's one message; empty when nothing was answered inside."""
        if self.last is None or not (self.hidden or self.beside):
            return ()
        return (*self.hidden, chat.replayable(self.last), *self.beside)


@dataclass(frozen=True, slots=True)
class Answered:
    """A round that was answered inside."""

    message: JsonObject
    answers: Sequence[ToolAnswer]
    held: Sequence[bytes]
    """What the client gets if the next round fails."""
    joined: Joined

    @property
    def hidden(self) -> list[JsonObject]:
        """The messages that this round adds to the request."""
        return [chat.replayable(self.message), *(_result(answer) for answer in self.answers)]


class AnswerLoop:
    """One request's rounds."""

    def __init__(
        self,
        client: Client,
        send: Callable[[bytes], Awaitable[UpstreamResponse]],
        *,
        sources: Sequence[Source],
        limits: Limits,
        headers: Callable[[Answering], Headers],
        into: Relayed,
        done: Answering,
        is_ours: Callable[[str], bool] | None = None,
    ) -> None:
        """`send` asks the model server; `headers` are memproxy's own for the response, made when it begins; `into` and
        `done` tell how it went, whatever ends it. `is_ours` names the tools whose calls the client must never see."""
        self._client = client
        self._send = send
        self._sources = sources
        self._limits = limits
        self._headers = headers
        self._into = into
        self._began_s = time.monotonic()
        self._is_ours = is_ours
        self._strainer = Strainer(is_ours) if is_ours is not None else None
        self.done = done

    async def run(self, body: bytes) -> None:
        """Serve the request. Raises UpstreamError when no response came about; nothing was sent to the client then."""
        async with self._client.while_present():
            response, joined = await self._send(body), Joined()
            while True:
                answered = await self._round(response, joined)
                if answered is None:
                    break
                body = _with_messages(body, answered.hidden)
                following = await self._ask_again(body, like=response)
                if following is None:
                    await self._fall_back(response, answered)
                    break
                self.done.answers += answered.answers
                self.done.hidden += answered.hidden
                self.done.rounds += 1
                response, joined = following, answered.joined
        if self._into.outcome is Outcome.COMPLETED:
            await self._client.end()

    async def _round(self, response: UpstreamResponse, joined: Joined) -> Answered | None:
        """Read one round; None when what it gave was the client's."""
        try:
            if response.status != 200 or response.header(b"content-encoding"):
                await self._pass(response)
                return None
            if _is_stream(response):
                return await self._streamed(response, joined)
            return await self._whole(response, joined)
        except UpstreamError as error:
            self._into.outcome, self._into.error = Outcome.FAILED, str(error)
            return None
        finally:
            with anyio.move_on_after(CLOSE_DEADLINE_S, shield=True):
                await response.aclose()

    async def _streamed(self, response: UpstreamResponse, joined: Joined) -> Answered | None:
        current, cutter = Round(joined, self._may_answer), RawEvents()
        answers: list[ToolAnswer] = []
        try:
            async for chunk in response.chunks():
                await self._emit(response, [piece for raw in cutter.feed(chunk) for piece in current.feed(raw)])
                if current.is_holding and not await self._answer_more(current.complete_calls, answers):
                    await self._emit(response, current.release())
        except UpstreamError:
            await self._emit(response, [*current.release(), *cutter.close()])
            raise
        await self._emit(response, [piece for raw in cutter.close() for piece in current.feed(raw)])
        message = current.reader.answer().message
        may_go_on = message is not None and current.is_answerable and self._may_go_on
        if message is not None and may_go_on and await self._answer_more(current.reader.calls, answers):
            return Answered(message, answers, [*current.leading, *current.held], current.after())
        self.done.last = message
        await self._emit(response, current.release())
        await self._start(response)
        await self._answer_beside(current.reader.calls, answers)
        self._into.outcome = Outcome.COMPLETED
        return None

    async def _whole(self, response: UpstreamResponse, joined: Joined) -> Answered | None:
        body = b"".join([chunk async for chunk in response.chunks()])
        reader = AnswerReader()
        value = _object(body)
        for choice in value.get("choices") or ():
            reader.add({"choices": [{**choice, "delta": _indexed(choice.get("message"))}], "usage": value.get("usage")})
        current = Round(joined, self._may_answer, reader=reader, words=reader.words)
        message = reader.answer().message
        answers: list[ToolAnswer] = []
        may_go_on = bool(reader.calls) and not reader.is_unusual and self._may_go_on
        if message is not None and may_go_on and await self._answer_more(reader.calls, answers):
            return Answered(message, answers, [body], current.after())
        self.done.last = message
        await self._answer_beside(reader.calls, answers)
        await self._emit(response, [joined_object(body, joined)])
        self._into.outcome = Outcome.COMPLETED
        return None

    async def _answer_beside(self, calls: Sequence[ToolCall], answers: Sequence[ToolAnswer]) -> None:
        """Answer the calls that the client does not get; the agent's own results will join them in its next request."""
        if self._is_ours is None:
            return
        known = {answer.call.id: answer for answer in answers}
        for call in calls:
            if self._is_ours(call.name):
                answer = known.get(call.id) or await self._answer(call)
                if answer is not None:
                    self.done.answers.append(answer)
                    self.done.beside.append(_result(answer))

    async def _answer_more(self, calls: Sequence[ToolCall], answers: list[ToolAnswer]) -> bool:
        """Answer the calls that have no answer yet; False as soon as one has none."""
        for call in calls[len(answers) :]:
            answer = await self._answer(call)
            if answer is None:
                return False
            answers.append(answer)
        return True

    async def _answer(self, call: ToolCall) -> ToolAnswer | None:
        source = next((source for source in self._sources if source.may_answer(call.name)), None)
        if source is None or not call.id:
            return None
        try:
            async with asyncio.timeout(self._limits.look_up_s):
                return await source.answer(call)
        except (StoreError, TimeoutError) as error:
            log.warning("the call of a tool goes to the client: %s", error)
            return None

    def _may_answer(self, name: str) -> bool:
        return any(source.may_answer(name) for source in self._sources)

    @property
    def _may_go_on(self) -> bool:
        return self.done.rounds < self._limits.rounds and time.monotonic() - self._began_s < self._limits.seconds

    async def _ask_again(self, body: bytes, *, like: UpstreamResponse) -> UpstreamResponse | None:
        """The next round's response, or None when it is not one that the rounds before can be joined with."""
        try:
            response = await self._send(body)
        except UpstreamError as error:
            log.warning("an inner round failed: %s", error)
            return None
        is_alike = _is_stream(response) is _is_stream(like)
        if response.status == 200 and is_alike and not response.header(b"content-encoding"):
            return response
        log.warning("an inner round was answered with status %s", response.status)
        with anyio.move_on_after(CLOSE_DEADLINE_S, shield=True):
            await response.aclose()
        return None

    async def _fall_back(self, response: UpstreamResponse, answered: Answered) -> None:
        """The client gets the round that could not be continued, as it came."""
        self.done.last = answered.message
        await self._answer_beside([answer.call for answer in answered.answers], answered.answers)
        await self._emit(response, answered.held)
        self._into.outcome = Outcome.COMPLETED

    async def _pass(self, response: UpstreamResponse) -> None:
        """A response that is nothing for this loop: an error, or one that can't be read."""
        await self._start(response, is_own=True)
        await relay(response.chunks(), self._client.write, self._into)

    async def _emit(self, response: UpstreamResponse, pieces: Sequence[bytes]) -> None:
        if self._is_ours is not None and self._strainer is not None:
            if _is_stream(response):
                pieces = [strained for piece in pieces for strained in self._strainer.feed(piece)]
            else:
                pieces = [strained_object(piece, self._is_ours) for piece in pieces]
        if pieces:
            await self._start(response)
            for piece in pieces:
                await self._client.write(piece)
                self._into.keep(piece)

    async def _start(self, response: UpstreamResponse, *, is_own: bool = False) -> None:
        """Begin the client's response; its length is not known when a body was put together here."""
        if self._client.has_started:
            return
        self._into.status = response.status
        self._into.content_type = response.header(b"content-type")
        self._into.content_encoding = response.header(b"content-encoding")
        is_whole = is_own or (not self.done.rounds and self._is_ours is None)
        headers = [(name, value) for name, value in response.headers if is_whole or name != b"content-length"]
        await self._client.start(response.status, [*headers, *self._headers(self.done)])


def _result(answer: ToolAnswer) -> JsonObject:
    return {"role": "tool", "tool_call_id": answer.call.id, "content": answer.content}


def _is_stream(response: UpstreamResponse) -> bool:
    return response.header(b"content-type").startswith("text/event-stream")


def _with_messages(body: bytes, messages: Sequence[JsonObject]) -> bytes:
    request = chat.read_request(body)
    if request is None:
        raise ValueError("a request that was sent is none")
    added = [chat.encode_message(message) for message in messages]
    return chat.with_messages(request, [*chat.raw_messages(request), *added])


def _object(body: bytes) -> JsonObject:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) and isinstance(value.get("choices", []), list) else {}


def _indexed(message: object) -> JsonObject:
    """A whole message as the one delta of a stream: its calls get the indexes that a stream's have."""
    if not isinstance(message, dict):
        return {}
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [{"index": at, **call} for at, call in enumerate(calls) if isinstance(call, dict)]}
