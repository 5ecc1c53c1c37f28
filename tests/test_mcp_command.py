"""`memproxy mcp` as hosts run it: a process of its own, spoken to over its standard streams."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from redis.asyncio import Redis

from memproxy.memory_api.mcp_tools import TOOLS
from tests.fakes.mcp_clients import called, mcp_client, refused
from tests.fakes.serving import Serve

COMMAND = (sys.executable, "-m", "memproxy", "mcp")


def plain_environment() -> Mapping[str, str]:
    """This machine's own settings stay outside."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MEMPROXY_", "OPENAI_", "COV_"))}


@asynccontextmanager
async def host(
    tmp_path: Path, redis_url: str, *arguments: str, mode: str = "auto", **environment: str
) -> AsyncIterator[Client]:
    """A host that has started the command; what it logs goes to a file."""
    parameters = StdioServerParameters(
        command=COMMAND[0],
        args=[*COMMAND[1:], "--redis-url", redis_url, *arguments],
        env={**plain_environment(), **environment},
    )
    with (tmp_path / "log").open("w") as log:
        async with Client(stdio_client(parameters, errlog=log), mode=mode, read_timeout_seconds=30) as client:
            yield client


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_host_uses_the_tools(tmp_path: Path, redis: Redis, redis_url: str, mode: str) -> None:
    """A desktop host has memory by one line of its configuration, without any server that runs."""
    async with host(tmp_path, redis_url, "--user", "alice", mode=mode) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == set(TOOLS)
        made = await called(client, "create_long_term_memories", memories=[{"text": "Alice plays the cello."}])
        found = await called(client, "search_long_term_memory", text="cello")
        assert [one["id"] for one in found["memories"]] == [made["memories"][0]["id"]]
        assert found["memories"][0]["user_id"] == "alice"
        assert "txet" in await refused(client, "search_long_term_memory", txet="cello")


async def test_it_works_on_the_store_of_a_memproxy_that_serves(tmp_path: Path, serve: Serve, redis_url: str) -> None:
    """What the desktop host notes, the proxied agent knows, and the other way round."""
    async with serve() as served:
        async with host(tmp_path, redis_url, "--user", "alice") as client:
            await called(client, "create_long_term_memories", memories=[{"text": "Alice plays the cello."}])
        async with mcp_client(served, "/u/alice/mcp") as client:
            found = await called(client, "search_long_term_memory", text="cello")
            assert [one["text"] for one in found["memories"]] == ["Alice plays the cello."]


async def test_a_credential_says_whose_it_is(tmp_path: Path, serve: Serve, redis_url: str) -> None:
    """Where tenants are told apart, the process acts for one of them."""
    async with serve(tenancy="key") as served:
        settings = {"MEMPROXY_TENANCY": "key", "MEMPROXY_MCP_KEY": "one"}
        async with host(tmp_path, redis_url, "--user", "alice", **settings) as client:
            await called(client, "create_long_term_memories", memories=[{"text": "Alice plays the cello."}])
        for key, number in (("one", 1), ("two", 0)):
            async with mcp_client(served, authorization=f"Bearer {key}") as client:
                assert (await called(client, "search_long_term_memory"))["total"] == number


async def run(redis_url: str, sent: bytes, **environment: str) -> tuple[int | None, bytes, bytes]:
    """Exit code, output and log of the command, which is sent these bytes and no more."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("--redis-url", redis_url),
        env={**plain_environment(), **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(40):
        output, log = await process.communicate(sent)
    return process.returncode, output, log


async def test_without_a_credential_it_says_what_is_missing(redis: Redis, redis_url: str) -> None:
    """A host shows its user the last line of the log."""
    code, output, log = await run(redis_url, b"", MEMPROXY_TENANCY="key")
    assert code == 2
    assert output == b""
    assert b"MEMPROXY_MCP_KEY" in log.splitlines()[-1]


async def test_only_messages_go_to_standard_output(redis: Redis, redis_url: str) -> None:
    """One stray line there, and a host gives the server up; garbage from it must not end the server either."""
    ping: Any = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    lines = [b"garbage \xff", b"", b"[]", json.dumps(ping).encode()]
    code, output, _ = await run(redis_url, b"\n".join(lines) + b"\n", MEMPROXY_LOG_LEVEL="debug")
    assert code == 0
    answers = [json.loads(line) for line in output.splitlines()]
    assert all(answer["jsonrpc"] == "2.0" for answer in answers)
    assert answers[-1]["id"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_though_its_input_is_open(redis: Redis, redis_url: str, number: int) -> None:
    """A host that is in a hurry does not close the input first; the store is left in order all the same."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("--redis-url", redis_url),
        env=plain_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
    async with asyncio.timeout(40):
        assert json.loads(await process.stdout.readline())["id"] == 1
        process.send_signal(number)
        assert await process.wait() == 0
        process.stdin.close()
