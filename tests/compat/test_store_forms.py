"""Every form in which a Redis comes: the same agent, the same memory. Real processes, and real refusals."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as blocking_redis
from redis.asyncio import Redis

from memproxy.demo.scripted_model import ScriptedModel
from memproxy.errors import StoreUnfitError
from memproxy.server import running
from memproxy.settings import settings_without_environment
from memproxy.sockets import listening_socket
from tests.fakes.serving import Served, until
from tests.fakes.stores import behind_tls, certificate, sentinel_process, store_process

LEAST_RIGHTS = ("on", ">secret", "resetkeys", "~mp:*", "~memproxy-*", "resetchannels", "-@all")
RIGHTS = (
    *("+@read", "+@write", "+@connection", "+@scripting", "+@stream", "+@transaction"),
    *(
        "+info",
        "+time",
        "+ft.create",
        "+ft.info",
        "+ft.search",
        "+ft.aggregate",
        "+ft._list",
        "+ft.dropindex",
        "+ft.tagvals",
    ),
)
"""What docs/deployment.md tells to grant."""


@asynccontextmanager
async def serving(redis_url: str, **more: Any) -> AsyncIterator[Served]:
    """A memproxy on this store, before a scripted model."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedModel().serve())
        listening = stack.enter_context(listening_socket("127.0.0.1", 0))
        given = {"redis_url": redis_url, "upstream_base_url": upstream.base_url, "recall_deadline_s": 5, **more}
        instance = await stack.enter_async_context(running(settings_without_environment(given), sockets=[listening]))
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", upstream.model, instance)


async def say(served: Served, words: str, session: str = "one") -> str:
    """One message of alice, newest only; what memproxy left out."""
    async with served.openai(f"/u/alice/s/{session}/v1") as client:
        answer = await client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": words}]
        )
    assert answer.status_code == 200
    return answer.headers.get("x-memproxy-degraded", "")


async def remembers(served: Served) -> None:
    """What is said is known in the next message of the session, and in another session."""
    assert await say(served, "I am allergic to peanuts.") == ""
    assert await say(served, "What did I just say?") == ""
    assert "peanuts" in str(served.model.requests[-1].body)
    await served.settled()
    assert await say(served, "Am I allergic to peanuts?", session="two") == ""
    assert "memory" in str(served.model.requests[-1].body)


async def test_tls_and_a_user_with_the_least_rights(tmp_path: Path) -> None:
    """What a security review asks for: no clear text on the wire, and no right that is not needed."""
    public, private = certificate(tmp_path)
    with store_process(tmp_path / "store") as (port, _), blocking_redis.Redis(port=port) as operator:
        operator.execute_command("ACL", "SETUSER", "app", *LEAST_RIGHTS, *RIGHTS)
        async with behind_tls(port, public=public, private=private) as tls_port:
            url = f"rediss://app:secret@127.0.0.1:{tls_port}/0?ssl_ca_certs={public}"
            async with serving(url) as served:
                await remembers(served)


async def test_tls_that_nobody_vouches_for_is_no_store(tmp_path: Path) -> None:
    """Whoever stands in between gets no memories; the agent gets its answer all the same."""
    public, private = certificate(tmp_path)
    with store_process(tmp_path / "store") as (port, _):
        async with (
            behind_tls(port, public=public, private=private) as tls_port,
            serving(f"rediss://127.0.0.1:{tls_port}/0") as served,
        ):
            assert "session" in await say(served, "hello")


async def test_a_socket_and_a_login_apart_from_the_address(tmp_path: Path) -> None:
    """A Redis on the same machine needs no port; a password may hold any characters, and lie in a secret of its own."""
    options = ("--unixsocket", str(tmp_path / "s.sock"), "--user", "app", "on", ">p@ss:w/rd%", "~*", "&*", "+@all")
    with store_process(tmp_path / "store", *options):
        login = {"redis_username": "app", "redis_password": "p@ss:w/rd%"}
        async with serving(f"unix://{tmp_path / 's.sock'}", **login) as served:
            await remembers(served)


async def test_a_store_that_is_still_loading_is_waited_for(tmp_path: Path) -> None:
    """After a restart a large store reads its file for minutes: agents go on without memory, and then have it again."""
    with store_process(tmp_path, *DURABLE) as (port, process), blocking_redis.Redis(port=port) as operator:
        async with serving(f"redis://127.0.0.1:{port}") as served:
            await say(served, "number 0")
            await served.settled()
        _fill(operator)
        operator.execute_command("WAITAOF", 1, 0, 5_000)
        process.kill()
        process.wait()
    slowly = ("--key-load-delay", "300")
    with store_process(tmp_path, *DURABLE, *slowly, port=port) as (port, _):
        assert _is_loading(port)
        async with serving(f"redis://127.0.0.1:{port}") as served:
            assert "session" in await say(served, "number 1")
            assert _is_loading(port)
            with blocking_redis.Redis(port=port) as operator:
                operator.config_set("key-load-delay", "0")
            await until(lambda: _is_loaded(port))
            await served.settled()
            assert await say(served, "the last") == ""
        sent = str(served.model.requests[-1].body)
        assert all(f"number {number}" in sent for number in range(2))


DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def _fill(operator: "blocking_redis.Redis") -> None:
    """Something to load for a while; a server that loads looks at its connections after each thousand commands."""
    for at in range(0, 40_000, 1_000):
        pipe = operator.pipeline(transaction=False)
        for number in range(at, at + 1_000):
            pipe.set(f"filler:{number}", "x")
        pipe.execute()


def _is_loading(port: int) -> bool:
    with blocking_redis.Redis(port=port) as operator:
        return bool(operator.info("persistence")["loading"])


async def _is_loaded(port: int) -> bool:
    return not await asyncio.to_thread(_is_loading, port)


async def test_what_is_no_redis_is_told_at_start() -> None:
    """The reason is the address, so nobody goes looking for modules."""
    async with ScriptedModel().serve() as other:
        with pytest.raises(StoreUnfitError, match="no Redis"):
            async with serving(f"redis://127.0.0.1:{other.port}"):
                pass


async def test_a_fail_over_under_traffic_costs_no_request(tmp_path: Path) -> None:
    """The primary dies, the Sentinel promotes the replica: memory is away for seconds, and every turn is kept."""
    copying = ("--repl-diskless-sync-delay", "0", "--replicaof")
    with (
        store_process(tmp_path / "a") as (primary, process),
        store_process(tmp_path / "b", *copying, f"127.0.0.1 {primary}") as (replica, _),
        sentinel_process(tmp_path / "s", primary=primary, service="memories") as sentinel,
    ):
        await _replicating(sentinel, replica)
        async with serving(f"redis+sentinel://127.0.0.1:{sentinel}/memories") as served:
            await say(served, "number 0")
            await until(lambda: _is_caught_up(replica, primary))
            process.kill()
            degraded = [await say(served, f"number {number}") for number in range(1, 20)]
            assert any(degraded)
            await until(lambda: _is_primary(replica))
            await until(served.instance.is_quiet)
            assert await say(served, "the last") == ""
        sent = str(served.model.requests[-1].body)
        assert all(f"number {number}" in sent for number in range(20))


async def _replicating(sentinel: int, replica: int) -> None:
    async def is_known() -> bool:
        async with Redis(port=sentinel) as asked, Redis(port=replica) as copy:
            known = await asked.execute_command("SENTINEL", "REPLICAS", "memories")  # type: ignore[no-untyped-call]
            return bool(known) and (await copy.info("replication"))["master_link_status"] == "up"

    await until(is_known)


async def _is_caught_up(replica: int, primary: int) -> bool:
    async with Redis(port=replica) as copy, Redis(port=primary) as original:
        return bool(await copy.dbsize() == await original.dbsize())


async def _is_primary(port: int) -> bool:
    async with Redis(port=port) as redis:
        return bool((await redis.info("replication"))["role"] == "master")


@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CLIENT", "PAUSE", "60000", "WRITE"), ("CLIENT", "UNPAUSE")),
    ],
    ids=["full", "read-only", "stuck"],
)
async def test_a_store_that_takes_no_writes_keeps_the_turns_waiting(
    tmp_path: Path, break_it: tuple[str, ...], mend_it: tuple[str, ...]
) -> None:
    """Full, demoted or stuck for a while: every request is answered, and afterwards nothing is missing."""
    with store_process(tmp_path) as (port, _), blocking_redis.Redis(port=port) as operator:
        async with serving(f"redis://127.0.0.1:{port}") as served:
            await say(served, "number 0")
            await served.settled()
            await asyncio.to_thread(operator.execute_command, *break_it)
            for number in range(1, 5):
                await say(served, f"number {number}")
            await asyncio.to_thread(operator.execute_command, *mend_it)
            await served.settled()
            assert await say(served, "the last") == ""
        sent = str(served.model.requests[-1].body)
        assert all(f"number {number}" in sent for number in range(5))
