"""The floor: the least that a Python relay costs which uses memproxy's own server and transport, and does nothing else.

uvicorn, a plain ASGI app, httpx's types over the aiohttp-backed transport. What memproxy costs is told as a multiple of
this; whatever is above 1 is memproxy's own doing. It has no error handling and must not be used for anything else.
"""

import argparse
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import httpx
import uvicorn
from httpx_aiohttp import AiohttpTransport

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

NOT_FORWARDED = frozenset({b"host", b"content-length", b"connection", b"transfer-encoding", b"accept-encoding"})
TIMEOUT = httpx.Timeout(connect=10, read=600, write=None, pool=None).as_dict()


class Floor:
    """The relay as an ASGI application."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._transport = AiohttpTransport(client=_session)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Relay one request, its body read as a whole and the answer sent as it arrives."""
        pieces, more = [], True
        while more:
            message = await receive()
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        headers = [pair for pair in scope["headers"] if pair[0] not in NOT_FORWARDED]
        headers.append((b"accept-encoding", b"identity"))
        url = self._origin + scope["raw_path"].decode("ascii")
        request = httpx.Request(scope["method"], url, headers=headers, content=b"".join(pieces))
        request.extensions["timeout"] = TIMEOUT
        response = await self._transport.handle_async_request(request)
        kept = [pair for pair in response.headers.raw if pair[0].lower() not in {b"connection", b"transfer-encoding"}]
        await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
        async for chunk in response.stream:  # type: ignore[union-attr]  # an async stream, always
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        await response.aclose()


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1_000),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
        auto_decompress=False,
    )


def main() -> None:
    """Serve the relay until a signal ends it."""
    parser = argparse.ArgumentParser(prog="python -m bench.floor", description="A relay that does nothing else.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--origin", required=True, help="scheme, host and port of the model server")
    chosen = parser.parse_args()
    uvicorn.run(
        Floor(chosen.origin),
        port=chosen.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=2048,
        timeout_keep_alive=75,
    )


if __name__ == "__main__":
    main()
