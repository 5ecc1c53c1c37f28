"""`memproxy mcp`: memory's tools on standard input and output, for a host that starts its servers itself.

It works on the store that the settings name, beside a memproxy that serves or without one, and ends when its input does
or at a signal. Whose memory it is, where tenants are told apart, the setting `mcp_key` says.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext

from memproxy.app import mcp_defaults, memory_api
from memproxy.errors import NotAuthenticatedError, SettingsError
from memproxy.memory_api.api import MemoryApi
from memproxy.memory_api.mcp_server import McpTools, serve_streams
from memproxy.memory_api.requests import Caller, caller_of
from memproxy.services import open_services
from memproxy.settings import Settings
from memproxy.worker.process import running_workers


def serve_mcp(settings: Settings) -> None:
    """Serve until the input ends, or SIGTERM or SIGINT."""
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with open_services(settings) as services:
        api = memory_api(services)
        tools = McpTools(api, defaults=mcp_defaults(settings), connected=_connected(api, settings))
        async with running_workers(services) if settings.run_worker else nullcontext():
            lines = await _standard_input(max_bytes=api.max_body_bytes)
            serving = services.tasks.spawn(serve_streams(tools, lines), name="MCP on standard input")
            waiting = services.tasks.spawn(stopped.wait(), name="wait for the signal to stop")
            await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
            for task in (serving, waiting):
                task.cancel()
            await asyncio.wait([serving, waiting])


def _connected(api: MemoryApi, settings: Settings) -> Caller:
    key = settings.mcp_key
    try:
        return caller_of(api, {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}, b"")
    except NotAuthenticatedError as error:
        raise SettingsError(
            "Tenants are told apart by their credentials, and none is known here. "
            "Set MEMPROXY_MCP_KEY to the one whose memory it is to be, or MEMPROXY_TENANCY=single."
        ) from error


async def _standard_input(*, max_bytes: int) -> AsyncIterator[str]:
    """The lines of standard input, read so that waiting for the next one can be broken off, which a thread's can't."""
    reader = asyncio.StreamReader(limit=max_bytes)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return _lines(reader)


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    async for line in reader:
        yield line.decode("utf-8", "replace")
