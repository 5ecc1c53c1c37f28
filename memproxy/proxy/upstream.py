"""Forward a request to the model server; the only door to httpx and to the client behind it.

httpx's request and response types travel over an aiohttp-backed transport that is called directly: measured at half to
an eighth of the cost of httpx's own pool, whose cost also grows with concurrency.

Headers: hop-by-hop headers (RFC 9110, section 7.6.1) and memproxy's own are dropped in both directions; everything else
passes, but `Expect`: who asked for it has memproxy's own answer, and aiohttp would wait for another one without end.
Cookies are never kept: callers share the connections. Redirects are the client's to follow. Only a connect that
failed is tried again, since nothing of the request can have arrived.
"""

import io
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self
from urllib.parse import quote_from_bytes

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from typing_extensions import override
from yarl import URL

from memproxy.errors import UpstreamBrokenError, UpstreamConnectError, UpstreamError, UpstreamTimeoutError

Headers = Sequence[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
OWN_PREFIX = b"x-memproxy-"

CONNECT_ATTEMPTS = 2
POOL_WAIT_S = 30.0
"""For one of the connections to come free, beside the time to connect."""

MAX_HEADER_BYTES = 64 * 1024
"""Providers send long rate-limit and policy headers; aiohttp's own limit is 8 KB."""

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Of a frame of the model server's: a generated image arrives as one."""

CLOSE_S = 2.0
"""For the model server to answer a close."""

LARGE_BYTES = 1_048_576
"""From here on aiohttp warns that writing a body in one go blocks the event loop."""

_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True, slots=True)
class UpstreamResponse:
    """An open response: its head is there, its body is still to be read. Close it in any case."""

    status: int
    headers: list[tuple[bytes, bytes]]
    """As the model server sent them, without hop-by-hop headers; names in lower case."""
    _response: httpx.Response
    closed: Callable[[], None] | None = None
    """Told when it is let go of."""

    def header(self, name: bytes) -> str:
        """A header's value, or the empty string."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive.

        Raises:
            UpstreamError: the model server broke off or fell silent.
        """
        try:
            async for chunk in self._response.stream:  # type: ignore[union-attr]  # an async stream, always
                yield chunk
        except (httpx.HTTPError, aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _translated(error, doing="reading its answer") from error

    async def aclose(self) -> None:
        """Let go of the connection; one whose body was not read to the end is closed."""
        try:
            await self._response.aclose()
        finally:
            if self.closed is not None:
                self.closed()


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, pieces: AsyncGenerator[bytes]) -> None:
        self._pieces = pieces

    @override
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    @override
    async def aclose(self) -> None:
        await self._pieces.aclose()


def event_stream(pieces: AsyncGenerator[bytes]) -> UpstreamResponse:
    """A response that comes otherwise than over HTTP: its pieces raise UpstreamError where it breaks off."""
    headers = [(b"content-type", b"text/event-stream")]
    return UpstreamResponse(200, headers, httpx.Response(200, headers=headers, stream=_Pieces(pieces)))


class Sender(Protocol):
    """Something that requests can be sent to."""

    async def send(
        self,
        method: str,
        path: bytes,
        *,
        query: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | AsyncIterator[bytes],
        readable: bool,
    ) -> UpstreamResponse:
        """Send a request and wait for the head of its response. Raises UpstreamError."""
        ...


class UpstreamSocket:
    """An open WebSocket to the model server. Close it in any case."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    @property
    def protocol(self) -> str | None:
        """The subprotocol that was agreed upon."""
        return self._socket.protocol

    @property
    def close_code(self) -> int | None:
        """Why it closed, as far as that may be passed on."""
        code = self._socket.close_code
        return None if code in {None, 1005, 1006, 1015} else code

    async def send(self, frame: bytes) -> None:
        """Send a text frame. Raises UpstreamError."""
        try:
            await self._socket.send_str(frame.decode("utf-8", "replace"))
        except (aiohttp.ClientError, OSError) as error:
            raise _translated(error, doing="sending a frame") from error

    async def frames(self) -> AsyncIterator[bytes]:
        """Its frames as they come, until it closes."""
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                yield message.data.encode()
            elif message.type is aiohttp.WSMsgType.BINARY:
                yield message.data

    async def close(self) -> None:
        """Let go of the connection."""
        await self._socket.close()


class _Body(httpx.AsyncByteStream):
    """A response's body as it arrives; its errors are aiohttp's own. One layer less for each event of a stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @override
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.content.iter_any()

    @override
    async def aclose(self) -> None:
        await self._response.__aexit__(None, None, None)


class ExactTransport(AiohttpTransport):
    """The aiohttp-backed transport with URLs and headers as they are: its own way through `yarl` and a mapping decodes
    what was percent-encoded in a query, and joins repeated headers."""

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self.get_client()
        timeout = request.extensions["timeout"]
        response = await self.client.request(
            request.method,
            URL(request.extensions["url"], encoded=True),
            headers=[(name.decode("latin-1"), _header_text(value)) for name, value in request.extensions["headers"]],
            data=_sendable(request.extensions["body"]),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                connect=timeout["pool"], sock_connect=timeout["connect"], sock_read=timeout["read"]
            ),
        )
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response))


class Upstream:
    """The model server behind `base_url`, which ends in `/v1` or whatever the provider uses in its place."""

    def __init__(
        self, base_url: str, *, api_key: str | None, connect_timeout_s: float, idle_timeout_s: float, connections: int
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._origin = httpx.URL(self._base_url)
        self._api_key = api_key
        self._timeout = httpx.Timeout(
            connect=connect_timeout_s, read=idle_timeout_s, write=None, pool=connect_timeout_s + POOL_WAIT_S
        )
        self._timeouts = self._timeout.as_dict()
        self._connections = connections
        self._transport = ExactTransport(client=self._session)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=httpx.create_ssl_context()),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
            auto_decompress=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            trust_env=any(os.environ.get(name) for name in _PROXY_VARIABLES),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    async def send(
        self,
        method: str,
        path: bytes,
        *,
        query: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | AsyncIterator[bytes],
        readable: bool,
    ) -> UpstreamResponse:
        """Send a request and wait for the head of its response.

        `path` is raw and relative to the base URL. `readable` asks the model server for an uncompressed answer.

        Raises:
            UpstreamConnectError, UpstreamBrokenError, UpstreamTimeoutError: no answer came about.
        """
        url = self._base_url + _ascii(path) + ("?" + _ascii(query) if query else "")
        kept = self._request_headers(headers, readable=readable, is_sized=isinstance(body, bytes))
        attempts = CONNECT_ATTEMPTS if isinstance(body, bytes) else 1
        while True:
            attempts -= 1
            extensions = {"timeout": self._timeouts, "url": url, "headers": kept, "body": body}
            request = httpx.Request(method, self._origin, extensions=extensions)
            try:
                response = await self._transport.handle_async_request(request)
            except (httpx.HTTPError, aiohttp.ClientError, OSError, TimeoutError) as error:
                translated = _translated(error, doing=f"asking {httpx.URL(self._base_url).host}")
                if attempts and isinstance(translated, UpstreamConnectError):
                    continue
                raise translated from error
            return UpstreamResponse(response.status_code, end_to_end(response.headers.raw), response)

    async def connect(self, path: bytes, *, query: bytes, headers: Iterable[tuple[bytes, bytes]]) -> UpstreamSocket:
        """Open a WebSocket.

        Raises:
            UpstreamError: the model server offers none there, or can't be reached.
        """
        if not isinstance(self._transport.client, aiohttp.ClientSession):
            self._transport.client = self._session()
        url = self._base_url + _ascii(path) + ("?" + _ascii(query) if query else "")
        kept = [
            (name.decode("latin-1"), _header_text(value))
            for name, value in self._request_headers(headers, readable=False, is_sized=True)
            if not name.startswith(b"sec-websocket-") and name != b"content-encoding"
        ]
        try:
            socket = await self._transport.client.ws_connect(
                URL(url, encoded=True),
                headers=kept,
                protocols=_protocols(headers),
                max_msg_size=MAX_FRAME_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
            )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _translated(error, doing="opening a WebSocket") from error
        return UpstreamSocket(socket)

    def _request_headers(
        self, headers: Iterable[tuple[bytes, bytes]], *, readable: bool, is_sized: bool
    ) -> list[tuple[bytes, bytes]]:
        made_anew = {b"host", b"expect", b"content-length"} if is_sized else {b"host", b"expect"}
        kept = [(name, value) for name, value in end_to_end(headers) if name not in made_anew]
        if readable:
            kept = [(name, value) for name, value in kept if name != b"accept-encoding"]
            kept.append((b"accept-encoding", b"identity"))
        if self._api_key is not None:
            is_anthropic = any(name == b"anthropic-version" for name, _ in kept)
            kept = [(name, value) for name, value in kept if name not in {b"authorization", b"api-key", b"x-api-key"}]
            key = self._api_key.encode()
            kept.append((b"x-api-key", key) if is_anthropic else (b"authorization", b"Bearer " + key))
        return kept


def _protocols(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    offered = [value.decode("latin-1") for name, value in headers if name.lower() == b"sec-websocket-protocol"]
    return [token.strip() for value in offered for token in value.split(",") if token.strip()]


def _sendable(body: bytes | AsyncIterator[bytes]) -> bytes | io.BytesIO | AsyncIterator[bytes] | None:
    """The body as aiohttp writes it best: a large one piece by piece, so that other requests get their turn."""
    if isinstance(body, bytes) and len(body) > LARGE_BYTES:
        return io.BytesIO(body)
    return body or None


def _ascii(raw: bytes) -> str:
    """A raw part of a request's target; bytes that a target can't hold are percent-encoded, nothing else changes."""
    return quote_from_bytes(raw, safe=_TARGET)


_TARGET = bytes(range(0x21, 0x7F)).decode().replace("#", "")
"""A `#` would begin a fragment, which is not sent."""


def _header_text(value: bytes) -> str:
    """A header's value so that aiohttp, which writes UTF-8, sends the bytes that came; Latin-1 becomes UTF-8."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that pass on: without hop-by-hop headers, those that `Connection` names, and memproxy's own."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in lowered if name == b"connection" for token in value.split(b",")}
    return [
        (name, value)
        for name, value in lowered
        if name not in HOP_BY_HOP and name not in named and not name.startswith(OWN_PREFIX)
    ]


def _translated(error: Exception, *, doing: str) -> UpstreamError:
    """memproxy's error for what the client library raised; under httpx's name lies aiohttp's, which says more."""
    cause = (error.__cause__ or error) if isinstance(error, httpx.HTTPError) else error
    text = str(cause)
    reason = f"{type(cause).__name__}: {text}" if text and "<" not in text else type(cause).__name__
    if isinstance(cause, aiohttp.ConnectionTimeoutError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return UpstreamConnectError(f"The model server could not be reached while {doing}: the connect timed out.")
    if isinstance(cause, aiohttp.ClientConnectorError | httpx.ConnectError | httpx.UnsupportedProtocol):
        return UpstreamConnectError(f"The model server could not be reached while {doing}: {reason}")
    if isinstance(cause, TimeoutError | httpx.TimeoutException):
        return UpstreamTimeoutError(f"The model server did not answer in time while {doing}.")
    return UpstreamBrokenError(f"The connection to the model server broke while {doing}: {reason}")
