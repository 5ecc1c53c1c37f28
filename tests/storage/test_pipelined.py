"""Commands that travel together: each has its own reply, and nobody's trouble is another's."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from redis import exceptions
from redis.asyncio import Redis
from typing_extensions import override

from memproxy.storage.connection import open_redis
from memproxy.storage.pipelined import EXCHANGE_S, LANES, TOGETHER, Pipelined, Script
from tests.fakes.stores import store_process

ECHO = Script("return ARGV[1]")


class Counted(Pipelined):
    """Says how many commands each exchange had."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self.sizes: list[int] = []

    @override
    async def _round_trip(self, packed: bytes, *, count: int) -> list[Any]:
        self.sizes.append(count)
        return await super()._round_trip(packed, count=count)


async def test_each_caller_has_its_own_replies(redis: Redis) -> None:
    """A reply that reached another request would be another user's memory."""
    pipelined = Counted(redis)
    asked = [pipelined.ask([["ECHO", f"{who}-{at}"] for at in range(who % 3 + 1)]) for who in range(200)]
    replies = await asyncio.gather(*asked)
    assert replies == [[f"{who}-{at}".encode() for at in range(who % 3 + 1)] for who in range(200)]
    assert len(pipelined.sizes) < 20
    assert max(pipelined.sizes) <= TOGETHER + 2


async def test_a_refused_command_is_an_error_for_whoever_gave_it(redis: Redis) -> None:
    """One request's trouble must not take memory from the others."""
    pipelined = Pipelined(redis)
    asked = [pipelined.one("ECHO", "a"), pipelined.one("NOSUCHCOMMAND"), pipelined.one("ECHO", "b")]
    replies: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(replies.pop(1), exceptions.ResponseError)
    assert replies == [b"a", b"b"]


async def test_a_command_that_cannot_be_sent_fails_alone(redis: Redis) -> None:
    """Whatever one request asks for, the others that happen to ask at that moment have their memory."""
    pipelined = Pipelined(redis)
    asked = [pipelined.one("ECHO", "a"), pipelined.one("ECHO", "\ud800"), pipelined.one("ECHO", "b")]
    replies: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(replies.pop(1), UnicodeEncodeError)
    assert replies == [b"a", b"b"]


async def test_connections_that_are_dead_are_left_when_all_have_given_up(redis_url: str) -> None:
    """A path that swallows packets costs memory for a second, and not for as long as an exchange may take."""
    held: list[asyncio.StreamWriter] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(held) < LANES:
            held.append(writer)
            return
        inner, store = await asyncio.open_unix_connection(redis_url.removeprefix("unix://"))
        async with asyncio.TaskGroup() as both:
            both.create_task(_copied(reader, store))
            both.create_task(_copied(inner, writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with open_redis(f"redis://127.0.0.1:{port}", connect_timeout_s=1, max_connections=4) as redis:
            pipelined = Pipelined(redis)
            async with asyncio.timeout(EXCHANGE_S / 2):
                while await _within(0.1, pipelined.one("ECHO", "a")) != b"a":
                    pass
            assert len(held) == LANES
        for writer in held:
            writer.close()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


async def _within(deadline_s: float, work: Coroutine[Any, Any, Any]) -> Any:
    with suppress(TimeoutError):
        async with asyncio.timeout(deadline_s):
            return await work


async def test_who_gives_up_takes_nothing_from_the_others(redis: Redis) -> None:
    """A deadline passes for one request; the replies of the others still find their way."""
    pipelined = Counted(redis)
    slow = []
    for lane in range(LANES):
        slow.append(asyncio.ensure_future(pipelined.one("EVAL", _BUSY, 0, 2_000_000)))  # noqa: TID251
        await _until(lambda: len(pipelined.sizes) > lane)  # noqa: B023  waited for at once
    left = asyncio.ensure_future(pipelined.one("SET", "left", "x"))  # noqa: TID251
    stays = asyncio.ensure_future(pipelined.one("ECHO", "stays"))  # noqa: TID251
    await asyncio.sleep(0)
    left.cancel()
    slow[0].cancel()
    assert await stays == b"stays"
    assert await slow[1] is None
    assert await redis.get("left") is None, "a command that nobody waits for is not sent"


async def test_a_store_that_goes_away_fails_all_and_is_found_again(tmp_path: Path) -> None:
    """An outage is told at once to whoever asked, and ends by itself."""
    with ExitStack() as first:
        port, process = first.enter_context(store_process(tmp_path, engine=False))
        async with open_redis(f"redis://127.0.0.1:{port}", connect_timeout_s=1, max_connections=4) as redis:
            pipelined = Pipelined(redis)
            assert await pipelined.one("ECHO", "a") == b"a"
            process.kill()
            process.wait()
            failed = await asyncio.gather(*(pipelined.one("ECHO", "b") for _ in range(20)), return_exceptions=True)
            assert all(isinstance(each, exceptions.ConnectionError) for each in failed)
            with store_process(tmp_path, engine=False, port=port):
                assert await _answered(pipelined) == b"c"


async def test_a_script_that_the_store_does_not_know_is_sent_whole(redis: Redis) -> None:
    """After a restart of the store the first call works like every other."""
    pipelined = Counted(redis)
    await redis.script_flush()
    assert await pipelined.run(ECHO, keys=[], arguments=["a"]) == b"a"
    assert await pipelined.run(ECHO, keys=[], arguments=["b"]) == b"b"
    assert pipelined.sizes == [1, 1, 1]
    await redis.script_flush()
    call = ECHO, ECHO.called([], ["c"])
    assert await pipelined.scripts([call, call], ["ECHO", "d"]) == [b"c", b"c", b"d"]


async def test_what_goes_along_with_a_script_does_not_undo_it(redis: Redis) -> None:
    """A turn is recorded even where its receipt can't be: told otherwise, the recorder would hold up all others."""
    call = ECHO, ECHO.called([], ["recorded"])
    recorded, receipt = await Pipelined(redis).scripts([call], ["NOSUCHCOMMAND"])
    assert recorded == b"recorded"
    assert isinstance(receipt, exceptions.ResponseError)


async def test_nothing_is_asked_for_nothing(redis: Redis) -> None:
    """No round trip where there is no command."""
    pipelined = Counted(redis)
    assert await pipelined.ask([]) == []
    assert pipelined.sizes == []


@settings(max_examples=30, deadline=None)
@given(plan=st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=40))
async def test_replies_stay_with_their_commands_whoever_leaves(redis_url: str, plan: list[tuple[int, bool]]) -> None:
    """However many commands each gives, and whoever is cancelled: what comes is what was asked for."""
    async with open_redis(redis_url, connect_timeout_s=1, max_connections=4) as redis:
        pipelined = Pipelined(redis)
        asked = [
            asyncio.ensure_future(pipelined.ask([["ECHO", f"{who}.{at}"] for at in range(count)]))  # noqa: TID251
            for who, (count, _) in enumerate(plan)
        ]
        await asyncio.sleep(0)
        for task, (_, leaves) in zip(asked, plan, strict=True):
            if leaves:
                task.cancel()
        replies = await asyncio.gather(*asked, return_exceptions=True)
    for who, (reply, (count, leaves)) in enumerate(zip(replies, plan, strict=True)):
        if not (leaves and isinstance(reply, asyncio.CancelledError)):
            assert reply == [f"{who}.{at}".encode() for at in range(count)]


_BUSY = "local n = 0; for i = 1, tonumber(ARGV[1]) do n = n + i % 7 end"


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0)


async def _answered(pipelined: Pipelined) -> Any:
    async with asyncio.timeout(10):
        while True:
            try:
                return await pipelined.one("ECHO", "c")
            except exceptions.ConnectionError:
                await asyncio.sleep(0.05)
