"""Send commands that come at about the same time together: one write and one read for those of many requests.

A round trip costs the client two system calls and an exchange with the connection pool, whatever it carries. Under load
that is most of what a command costs: sixteen together take a quarter of the time of sixteen by themselves. So commands
that are given while others are on their way wait for their return, and go out with whatever else has come up meanwhile.

Whoever is cancelled only stops waiting: its command, once sent, is answered with the others, and no connection is
closed in the middle of a reply. A command that nobody waits for any more is not sent. A connection that nobody waits
for any more is let go of soon: it may be dead, while another one would be answered.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import hiredis
from redis import exceptions
from redis.asyncio import Redis

from memproxy.storage.cluster import cluster_behind
from memproxy.tasks import Tasks

Argument = str | bytes | int | float
Command = Sequence[Argument]

LANES = 2
"""Exchanges under way at once: while the store works on one, the replies of the other are read."""

TOGETHER = 64
"""Commands in one exchange; more would hold up the first of them."""

EXCHANGE_S = 10.0
"""For one exchange. Callers give up earlier; this lets go of a connection that will not be answered."""

ABANDONED_S = 0.5
"""For the rest of one that nobody waits for any more."""


class Script:
    """A Lua script, which is sent as its digest once the store knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def called(self, keys: Sequence[str], arguments: Iterable[Argument]) -> Command:
        """The command that runs it, by its digest."""
        return ["EVALSHA", self.digest, len(keys), *keys, *arguments]


@dataclass(frozen=True, slots=True)
class _Asked:
    packed: bytes
    count: int
    """Commands in it."""
    replies: "asyncio.Future[list[Any]]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Pipelined:
    """Commands to one store, from all that a process does at once. For one event loop."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._cluster = cluster_behind(redis)
        self._tasks = Tasks()
        self._waiting: deque[_Asked] = deque()
        self._lanes = 0
        self._is_starting = False

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies in order; a command that the store refuses has its error as reply. No round trip for none.

        Raises redis-py's exceptions when there is no reply at all.
        """
        if not commands:
            return []
        if self._cluster is not None:  # one node that is away must not hold up what the others are asked
            return await self._cluster.replies(commands)
        packed = b"".join([_pack(tuple(command)) for command in commands])  # here: what is wrong in it is its giver's
        asked = _Asked(packed, len(commands))
        self._waiting.append(asked)
        if self._lanes < LANES and not self._is_starting:
            self._is_starting = True
            _ = self._tasks.spawn(self._lane(), name="commands to the store", alone=True)
        return await asked.replies

    async def one(self, *command: Argument) -> Any:
        """The reply to one command. Raises redis-py's exceptions."""
        return checked(await self.ask([command]))[0]

    async def run(self, script: Script, *, keys: Sequence[str], arguments: Iterable[Argument] = ()) -> Any:
        """What a script gives. Raises redis-py's exceptions."""
        return (await self.scripts([(script, script.called(keys, arguments))]))[0]

    async def scripts(self, calls: Sequence[tuple[Script, Command]], *others: Command) -> list[Any]:
        """What calls of scripts and the commands behind them give, in one round trip; two where a script is unknown.

        Raises redis-py's exceptions for the scripts; one of the other commands that is refused has its error as reply.
        """
        replies = await self.ask([*(command for _, command in calls), *others])
        for at, (script, command) in enumerate(calls):
            if isinstance(replies[at], exceptions.NoScriptError):
                (replies[at],) = await self.ask([["EVAL", script.text, *command[2:]]])
        checked(replies[: len(calls)])
        return replies

    async def _lane(self) -> None:
        self._is_starting = False
        self._lanes += 1
        try:
            while batch := self._next():
                await self._exchange(batch)
        finally:
            self._lanes -= 1

    def _next(self) -> list[_Asked]:
        """What goes out together now."""
        batch: list[_Asked] = []
        size = 0
        while self._waiting and size < TOGETHER:
            asked = self._waiting.popleft()
            if not asked.replies.done():
                batch.append(asked)
                size += asked.count
        return batch

    async def _exchange(self, batch: Sequence[_Asked]) -> None:
        try:
            async with asyncio.timeout(EXCHANGE_S) as limit:
                for asked in batch:
                    asked.replies.add_done_callback(partial(_hurry, limit, batch))
                packed = b"".join([asked.packed for asked in batch])
                replies = await self._round_trip(packed, count=sum(asked.count for asked in batch))
        except BaseException as error:
            reason = error if isinstance(error, Exception) else exceptions.ConnectionError("The process is ending.")
            for asked in batch:
                if not asked.replies.done():
                    asked.replies.set_exception(reason)
            if not isinstance(error, Exception):
                raise
            return
        at = 0
        for asked in batch:
            following = at + asked.count
            if not asked.replies.done():
                asked.replies.set_result(replies[at:following])
            at = following

    async def _round_trip(self, packed: bytes, *, count: int) -> list[Any]:
        pool = self._redis.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py's gap
        try:
            await connection.send_packed_command(packed)
            replies: list[Any] = []
            for _ in range(count):
                try:
                    replies.append(await connection.read_response(disable_decoding=True))
                except exceptions.ResponseError as error:
                    replies.append(error)
        except BaseException:
            await connection.disconnect(nowait=True)  # its next reply would be taken for another command's
            raise
        finally:
            await pool.release(connection)
        return replies


def _hurry(limit: asyncio.Timeout, batch: Sequence[_Asked], _: object) -> None:
    """Let an exchange end soon once all who waited for it gave up."""
    if all(asked.replies.cancelled() for asked in batch):
        with suppress(RuntimeError):  # it has ended
            limit.reschedule(asyncio.get_running_loop().time() + ABANDONED_S)


_pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub takes one


def checked(replies: list[Any]) -> list[Any]:
    """The replies, or the first error among them."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
