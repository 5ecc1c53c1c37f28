"""Answer tool calls here: hold the calls, answer them, ask the model again, and give the client one answer.

A request runs in rounds. In each, the model server answers; if all that it asks for can be answered from a source
(cached results of the agent's own tools, memory tools), its calls and the results are added to the request and it is
asked again. The first round that can't be answered here is the client's. When an inner round fails before the client
got anything of it, the round before is released as it came: the client then executes the tools itself, as it would have
anyway.

How the rounds' streams become one is decided in `splice`; this is the part that acts.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import anyio

from memproxy.errors import StoreError, UpstreamBrokenError, UpstreamError
from memproxy.proxy.client import Client
from memproxy.proxy.forward import CLOSE_DEADLINE_S
from memproxy.proxy.relay import Relayed, relay
from memproxy.proxy.splice import MAX_READ_BYTES, Round
from memproxy.proxy.upstream import UpstreamResponse
from memproxy.records import JsonObject, Outcome, ToolAnswer, ToolCall
from memproxy.wire.dialect import Dialect, IsOurs
from memproxy.wire.joined import Joined

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
    """For the answers to one round's calls; tools that the client must never see have a deadline of their own."""


@dataclass(slots=True)
class Answering:
    """What was answered inside while one request ran."""

    answers: list[ToolAnswer] = field(default_factory=list)
    hidden: list[JsonObject] = field(default_factory=list)
    """Assistant messages with calls and the results of these, as they were sent to the model server."""
    rounds: int = 0
    """Rounds before the one that the client got."""
    last: tuple[JsonObject, ...] = ()
    """The model's own messages of the round that the client got, as they may be sent again."""
    answer_id: str = ""
    """The provider's id of that round, where a next request may refer to it."""
    beside: list[JsonObject] = field(default_factory=list)
    """Results of calls in that message that the client did not get."""

    @property
    def instead(self) -> tuple[JsonObject, ...]:
        """What later requests send in place of the client's one message; empty when nothing was answered inside."""
        return (*self.hidden, *self.last, *self.beside) if self.last and (self.hidden or self.beside) else ()


@dataclass(frozen=True, slots=True)
class Answered:
    """A round that was answered inside."""

    response: UpstreamResponse
    """Closed; its head is still of use."""
    messages: tuple[JsonObject, ...]
    """The model's own, as they may be sent again."""
    answer_id: str
    results: Sequence[JsonObject]
    answers: Sequence[ToolAnswer]
    held: Sequence[bytes]
    """What the client gets if the next round fails."""
    joined: Joined

    @property
    def hidden(self) -> list[JsonObject]:
        """The messages that this round adds to the request."""
        return [*self.messages, *self.results]


class AnswerLoop:
    """One request's rounds."""

    def __init__(
        self,
        client: Client,
        send: Callable[[bytes], Awaitable[UpstreamResponse]],
        *,
        dialect: Dialect,
        sources: Sequence[Source],
        limits: Limits,
        headers: Callable[[Answering], Headers],
        into: Relayed,
        done: Answering,
        refers: bool = False,
        is_ours: IsOurs | None = None,
    ) -> None:
        """`send` asks the model server; `headers` are memproxy's own for the response, made when it begins; `into` and
        `done` tell how it went, whatever ends it. `refers`: a round refers to the answer before it in place of
        saying it again. `is_ours` names the tools whose calls the client must never see."""
        self._client = client
        self._send = send
        self._dialect = dialect
        self._refers = refers
        self._sources = sources
        self._limits = limits
        self._headers = headers
        self._into = into
        self._began_s = time.monotonic()
        self._is_ours = is_ours
        self._strainer = dialect.straining(is_ours) if is_ours is not None else None
        self._before: Answered | None = None
        """The answered round that the client gets after all if the current one fails; None once that has begun."""
        self.done = done

    async def run(self, body: bytes) -> None:
        """Serve the request. Raises UpstreamError when no response came about; nothing was sent to the client then."""
        async with self._client.while_present():
            answered = await self._round(await self._send(body), Joined())
            while answered is not None:
                self._settle()
                self._before = answered
                after = answered.answer_id if self._refers else ""
                body = self._dialect.with_round(body, answered.hidden, after=after)
                answered = await self._next_round(body, answered.joined)
        if self._into.outcome is Outcome.COMPLETED:
            await self._client.end()

    async def _next_round(self, body: bytes, joined: Joined) -> Answered | None:
        try:
            response = await self._send(body)
        except UpstreamError as error:
            await self._give_up(error)
            return None
        return await self._round(response, joined)

    async def _round(self, response: UpstreamResponse, joined: Joined) -> Answered | None:
        """Read one round; None when what it gave was the client's."""
        try:
            if self._is_passed(response):
                await self._pass(response)
                return None
            if _is_stream(response):
                return await self._streamed(response, joined)
            return await self._whole(response, joined)
        except UpstreamError as error:
            await self._give_up(error)
            return None
        finally:
            with anyio.move_on_after(CLOSE_DEADLINE_S, shield=True):
                await response.aclose()

    def _is_passed(self, response: UpstreamResponse) -> bool:
        """The response goes to the client unread. Raises UpstreamBrokenError for one that can't follow other rounds."""
        before, is_readable = self._before, response.status == 200 and not response.header(b"content-encoding")
        if before is None or not (self._can_fall_back(before) or is_readable):
            return not is_readable
        if is_readable and _is_stream(response) is _is_stream(before.response):
            return False
        raise UpstreamBrokenError(f"The model server answered with status {response.status} in another form.")

    async def _streamed(self, response: UpstreamResponse, joined: Joined) -> Answered | None:
        current = self._new_round(joined)
        try:
            async for chunk in response.chunks():
                await self._show(response, current, current.feed(chunk))
            await self._show(response, current, current.close())
        except UpstreamError:
            if self._before is None:
                await self._show(response, current, current.break_off())
            raise
        if self._before is not None and not current.is_finished:
            raise UpstreamBrokenError("The model server's answer ended before it was complete.")
        answers = await self._answers_to(current, joined)
        if current.is_answerable and len(answers) == len(current.calls):
            return self._answered(response, current, answers, current.held_back)
        self.done.last, self.done.answer_id = self._replayable(current), current.id
        await self._show(response, current, current.release())
        await self._start(response)
        await self._answer_beside(current.calls, answers)
        self._into.outcome = Outcome.COMPLETED
        return None

    async def _whole(self, response: UpstreamResponse, joined: Joined) -> Answered | None:
        chunks, body = response.chunks(), bytearray()
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_READ_BYTES:
                await self._pass_rest(response, bytes(body), chunks)
                return None
        current = self._new_round(joined)
        current.read_whole(bytes(body))
        shown = self._dialect.joined_object(bytes(body), joined)
        answers = await self._answers_to(current, joined)
        if current.is_answerable and len(answers) == len(current.calls):
            return self._answered(response, current, answers, [shown])
        self.done.last, self.done.answer_id = self._replayable(current), current.id
        self._settle()
        await self._answer_beside(current.calls, answers)
        await self._emit(response, [shown])
        self._into.outcome = Outcome.COMPLETED
        return None

    def _new_round(self, joined: Joined) -> Round:
        may_answer = self._may_answer if self._may_go_on(joined) else _nothing
        return Round(self._dialect.reading(joined, may_answer), joined, reads_on=self._is_ours is not None)

    def _replayable(self, current: Round) -> tuple[JsonObject, ...]:
        return tuple(map(self._dialect.replayable, current.messages))

    def _answered(
        self, response: UpstreamResponse, current: Round, answers: Sequence[ToolAnswer], held: Sequence[bytes]
    ) -> Answered:
        results = self._dialect.results(answers)
        return Answered(response, self._replayable(current), current.id, results, answers, held, current.after())

    async def _pass_rest(self, response: UpstreamResponse, body: bytes, chunks: AsyncIterator[bytes]) -> None:
        """An answer that is too large to be read."""
        if self._before is not None:
            raise UpstreamBrokenError(f"The model server's answer is larger than {MAX_READ_BYTES} bytes.")
        await self._start(response, is_own=True)
        await self._client.write(body)
        self._into.keep(body)
        await relay(chunks, self._client.write, self._into)

    async def _answers_to(self, current: Round, joined: Joined) -> list[ToolAnswer]:
        """An answer to each call of the round, in order, up to the first that has none."""
        if not (current.is_answerable and self._may_go_on(joined)):
            return []
        answers: dict[tuple[str, str], ToolAnswer] = {}
        until_s = asyncio.get_running_loop().time() + self._limits.look_up_s
        found = []
        for call in current.calls:
            same = answers.get((call.name, call.arguments))  # asked twice in one breath is not asked again
            answer = await self._answer(call, until_s=until_s) if same is None else replace(same, call=call)
            if answer is None:
                break
            answers[call.name, call.arguments] = answer
            found.append(answer)
        return found

    async def _answer_beside(self, calls: Sequence[ToolCall], answers: Sequence[ToolAnswer]) -> None:
        """Answer the calls that the client does not get; the agent's own results will join them in its next request."""
        is_ours = self._is_ours
        if is_ours is None:
            return
        known = {answer.call.id: answer for answer in answers}
        # Many a client leaves with the last byte: what the model asked for is done all the same.
        with anyio.CancelScope(shield=True):
            beside: list[ToolAnswer] = []
            for call in filter(lambda call: is_ours(call.name), calls):
                answer = known.get(call.id) or await self._answer(call)
                if answer is not None:
                    self.done.answers.append(answer)
                    beside.append(answer)
            self.done.beside += self._dialect.results(beside)

    async def _answer(self, call: ToolCall, *, until_s: float | None = None) -> ToolAnswer | None:
        source = next((source for source in self._sources if source.may_answer(call.name)), None)
        if source is None or not call.id:
            return None
        is_ours = self._is_ours is not None and self._is_ours(call.name)
        try:
            async with asyncio.timeout_at(None if is_ours else until_s):
                return await source.answer(call)
        except (StoreError, TimeoutError) as error:
            log.warning("the call of a tool goes to the client: %s", str(error) or "looking it up took too long")
            return None

    def _may_answer(self, name: str) -> bool:
        return any(source.may_answer(name) for source in self._sources)

    def _may_go_on(self, joined: Joined) -> bool:
        return joined.rounds < self._limits.rounds and time.monotonic() - self._began_s < self._limits.seconds

    def _settle(self) -> None:
        """The round before was answered for good: the client gets something of what followed it."""
        before, self._before = self._before, None
        if before is not None:
            self.done.answers += before.answers
            self.done.hidden += before.hidden
            self.done.rounds += 1

    def _can_fall_back(self, before: Answered) -> bool:
        """That round has something for the client: words, or a call that it can carry out."""
        is_ours = self._is_ours
        says = self._client.has_started or bool(before.joined.words)
        return says or not (is_ours and all(is_ours(answer.call.name) for answer in before.answers))

    async def _give_up(self, error: UpstreamError) -> None:
        """The current round failed. Raises the error if the client got nothing and nothing else is there for it."""
        before, self._before = self._before, None
        if before is not None and self._can_fall_back(before):
            log.warning("an inner round failed, the one before goes to the client: %s", error)
            self.done.last, self.done.answer_id = before.messages, before.answer_id
            await self._answer_beside([answer.call for answer in before.answers], before.answers)
            await self._emit(before.response, before.held)
            self._into.outcome = Outcome.COMPLETED
        elif self._client.has_started:
            self._into.outcome, self._into.error = Outcome.FAILED, str(error)
        else:
            raise error

    async def _pass(self, response: UpstreamResponse) -> None:
        """A response that is nothing for this loop: an error, or one that can't be read."""
        await self._start(response, is_own=True)
        await relay(response.chunks(), self._client.write, self._into)

    async def _show(self, response: UpstreamResponse, current: Round, pieces: Sequence[bytes]) -> None:
        """Write pieces of the current round."""
        if current.has_begun:
            self._settle()
        await self._emit(response, pieces)

    async def _emit(self, response: UpstreamResponse, pieces: Sequence[bytes]) -> None:
        if self._is_ours is not None and self._strainer is not None:
            if _is_stream(response):
                pieces = [strained for piece in pieces for strained in self._strainer.feed(piece)]
            else:
                pieces = [self._dialect.strained_object(piece, self._is_ours) for piece in pieces]
        if pieces:
            await self._start(response)
            data = b"".join(pieces)
            await self._client.write(data)
            self._into.keep(data)

    async def _start(self, response: UpstreamResponse, *, is_own: bool = False) -> None:
        """Begin the client's response; its length is not known when a body was put together here."""
        if self._client.has_started:
            return
        self._into.status = response.status
        self._into.content_type = response.header(b"content-type")
        self._into.content_encoding = response.header(b"content-encoding")
        is_whole = is_own or not (self.done.rounds or self._is_ours or _is_stream(response))
        headers = [(name, value) for name, value in response.headers if is_whole or name != b"content-length"]
        await self._client.start(response.status, [*headers, *self._headers(self.done)])


def _nothing(_: str) -> bool:
    return False


def _is_stream(response: UpstreamResponse) -> bool:
    return response.header(b"content-type").lower().startswith("text/event-stream")
