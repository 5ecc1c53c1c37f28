"""The model server at the other end of the wire: what arrives there, what comes back, what goes wrong in between."""

import asyncio
import gzip
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx
import pytest

from memproxy.demo.scripted_model import Reply, ScriptedModel
from memproxy.errors import UpstreamBrokenError, UpstreamConnectError, UpstreamError, UpstreamTimeoutError
from memproxy.proxy import upstream as module
from memproxy.proxy.upstream import Upstream, UpstreamResponse, end_to_end
from tests.fakes.serving import until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawServer:
    """A server that a test plays by hand, byte by byte."""

    handler: Handler
    port: int = 0
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """The other side has closed a connection."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def targets(self) -> list[bytes]:
        return [head.split(b" ")[1] for head in self.heads]

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of the newest request; names in lower case."""
        lines = self.heads[-1].split(b"\r\n")[1:-2]
        pairs = [line.partition(b": ") for line in lines]
        return [(name.lower(), value) for name, _, value in pairs]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other side hung up, as it may
        finally:
            writer.close()

    async def head(self, reader: asyncio.StreamReader) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))

    async def until_closed(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(65_536):
            pass
        self.closed.set()


@asynccontextmanager
async def raw_server(answer: bytes = OK, handler: Handler | None = None) -> AsyncIterator[RawServer]:
    """Answers every request of a connection alike, or leaves the connection to `handler`."""

    async def always(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await raw.head(reader)
            writer.write(answer)
            await writer.drain()

    raw = RawServer(handler or always)
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0, limit=1_000_000)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()


@asynccontextmanager
async def upstream(base_url: str, **given: Any) -> AsyncIterator[Upstream]:
    options: dict[str, Any] = {"api_key": None, "connect_timeout_s": 10.0, "idle_timeout_s": 10.0, "connections": 10}
    async with Upstream(base_url, **(options | given)) as opened:
        yield opened


async def send(to: Upstream, method: str = "POST", path: bytes = b"/echo", **given: Any) -> UpstreamResponse:
    options: dict[str, Any] = {
        "query": b"",
        "headers": [],
        "body": b"{}" if method == "POST" else b"",
        "readable": False,
    }
    return await to.send(method, path, **(options | given))


async def whole(response: UpstreamResponse) -> bytes:
    try:
        return b"".join([chunk async for chunk in response.chunks()])
    finally:
        await response.aclose()


# What arrives


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (b"/files/a%2Fb", b""),
        (b"/files/a%2fb%41%7e", b""),
        (b"/models/org%3Aname:tag@1;x=y,z", b""),
        (b"/100%", b"a=%zz&b=%"),
        (b"/a//b/", b""),
        (b"/a/../b/./c", b""),
        (b"/%2e%2e/b", b""),
        (b"/x'()*!~$", b"'()*!~$@:/?"),
        (b"/x|y^z", b'a=b|c^d`e{f}"g<h>\\'),
        (b"/x", b"a=%3D%26%2B%3F%23&b=a+b%20c"),
        (b"/x", b"a[]=1&b=[2]&c=%5B3%5D"),
        (b"/x", b"q=%e4"),
        (b"/x", b"after=&limit=&&="),
        (b"/x%00%E2%82%AC", b"%E2%82%AC=%00"),
    ],
)
async def test_a_target_arrives_as_the_client_wrote_it(path: bytes, query: bytes) -> None:
    """Signed URLs, encoded slashes in file names and odd queries mean something else once they are rewritten."""
    async with raw_server() as server, upstream(server.base_url) as to:
        await whole(await send(to, "GET", path, query=query))
    assert server.targets == [b"/v1" + path + (b"?" + query if query else b"")]


async def test_what_a_target_can_not_hold_is_percent_encoded() -> None:
    """Raw UTF-8 in a path is a path; it does not become question marks."""
    async with raw_server() as server, upstream(server.base_url) as to:
        await whole(await send(to, "GET", "/ä b#c".encode(), query="q=ä#".encode()))
    assert server.targets == [b"/v1/%C3%A4%20b%23c?q=%C3%A4%23"]


async def test_a_long_target_arrives() -> None:
    """Some list filters put hundreds of ids into a query."""
    async with raw_server() as server, upstream(server.base_url) as to:
        await whole(await send(to, "GET", b"/x", query=b"i" * 100_000))
    assert server.targets == [b"/v1/x?" + b"i" * 100_000]


async def test_hop_by_hop_headers_and_memproxys_own_stay_here() -> None:
    """What concerns this connection, or memproxy, is nothing to the provider."""
    given = [
        (b"Connection", b"keep-alive, X-Named"),
        (b"X-Named", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"TE", b"trailers"),
        (b"Upgrade", b"h2c"),
        (b"Proxy-Authorization", b"Basic x"),
        (b"Transfer-Encoding", b"chunked"),
        (b"X-Memproxy-User", b"alice"),
        (b"Host", b"memproxy.local"),
        (b"Content-Length", b"999"),
        (b"Authorization", b"Bearer sk-1"),
        (b"X-Twice", b"1"),
        (b"X-Twice", b"2"),
        (b"X-Utf8", "Grüße".encode()),
        (b"Accept-Encoding", b"gzip, br"),
    ]
    async with raw_server() as server, upstream(server.base_url) as to:
        await whole(await send(to, headers=given))
    assert sorted(server.headers()) == [
        (b"accept-encoding", b"gzip, br"),
        (b"authorization", b"Bearer sk-1"),
        (b"content-length", b"2"),
        (b"host", f"127.0.0.1:{server.port}".encode()),
        (b"x-twice", b"1"),
        (b"x-twice", b"2"),
        (b"x-utf8", "Grüße".encode()),
    ]


async def test_nothing_is_added_to_the_clients_headers() -> None:
    """The provider sees the agent's user agent or none, not the proxy's."""
    async with raw_server() as server, upstream(server.base_url) as to:
        await whole(await send(to, "GET"))
        assert server.headers() == [(b"host", f"127.0.0.1:{server.port}".encode())]
        await whole(await send(to, "POST", body=b""))
        assert (b"content-length", b"0") in server.headers()


async def test_latin1_header_values_arrive_as_utf8() -> None:
    """A name with an umlaut in a header does not end the request."""
    async with raw_server() as server, upstream(server.base_url) as to:
        await whole(await send(to, headers=[(b"x-old", "Müller".encode("latin-1")), (b"x-new", "Grüße".encode())]))
    assert (b"x-old", "Müller".encode()) in server.headers()
    assert (b"x-new", "Grüße".encode()) in server.headers()


async def test_a_readable_answer_is_asked_for_uncompressed() -> None:
    """What memproxy has to read is not compressed first; what it only passes on may be."""
    async with raw_server() as server, upstream(server.base_url) as to:
        await whole(await send(to, headers=[(b"Accept-Encoding", b"gzip")], readable=True))
    assert [value for name, value in server.headers() if name == b"accept-encoding"] == [b"identity"]


async def test_the_operators_key_takes_the_place_of_the_clients() -> None:
    """With a key in the settings the provider never sees what clients identify themselves with."""
    given = [(b"Authorization", b"Bearer mine"), (b"api-key", b"mine")]
    async with raw_server() as server, upstream(server.base_url, api_key="sk-ours") as to:
        await whole(await send(to, headers=given))
    assert b"mine" not in server.heads[0]
    assert (b"authorization", b"Bearer sk-ours") in server.headers()


async def test_an_expectation_of_the_client_does_not_stop_the_body() -> None:
    """curl asks for leave before it sends a large body; a provider that ignores the question must not hang it."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        bodies.append(await reader.readexactly(5))
        writer.write(OK)

    bodies: list[bytes] = []
    async with raw_server(handler=handler) as server, upstream(server.base_url, idle_timeout_s=2) as to:
        await whole(await send(to, headers=[(b"Expect", b"100-continue")], body=b"hello"))
    assert bodies == [b"hello"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_streamed_body_arrives_whole(announced: bool) -> None:
    """Uploads pass through piece by piece, with their length where the client said it."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield bytes([number]) * 1000

    given = [(b"content-length", b"100000")] if announced else [(b"transfer-encoding", b"chunked")]
    async with ScriptedModel().serve() as server, upstream(server.base_url) as to:
        await whole(await send(to, headers=given, body=pieces()))
    (request,) = server.model.requests
    assert request.raw_body == b"".join(bytes([number]) * 1000 for number in range(100))
    assert request.header("content-length") == ("100000" if announced else None)
    assert request.header("transfer-encoding") == (None if announced else "chunked")


# What comes back


async def test_an_answer_comes_back_as_it_was_sent() -> None:
    """Status, headers and bytes are the provider's; only what concerns its connection is left out."""
    packed = gzip.compress(b"words " * 1000)
    head = (
        b"HTTP/1.1 429 Too Many\r\nContent-Encoding: gzip\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\n"
        b"X-Named: 1\r\nConnection: keep-alive, x-named\r\nKeep-Alive: timeout=5\r\nX-Memproxy-User: forged\r\n"
        b"X-Latin: M\xfcller\r\nContent-Length: %d\r\n\r\n" % len(packed)
    )
    async with raw_server(head + packed) as server, upstream(server.base_url) as to:
        response = await send(to)
        assert response.status == 429
        assert response.headers == [
            (b"content-encoding", b"gzip"),
            (b"set-cookie", b"a=1; Path=/"),
            (b"set-cookie", b"b=2"),
            (b"x-latin", b"M\xfcller"),
            (b"content-length", str(len(packed)).encode()),
        ]
        assert (response.header(b"set-cookie"), response.header(b"absent")) == ("a=1; Path=/", "")
        assert await whole(response) == packed


async def test_long_headers_come_through() -> None:
    """Some gateways put whole policies into headers."""
    value = b"x" * 60_000
    answer = OK.replace(b"\r\n\r\n", b"\r\nx-policy: " + value + b"\r\n\r\n")
    async with raw_server(answer) as server, upstream(server.base_url) as to:
        response = await send(to)
        assert response.header(b"x-policy").encode() == value
        assert await whole(response) == b"ok"


async def test_cookies_of_one_caller_never_reach_another() -> None:
    """Callers share connections, and a provider's session cookie would share the session too."""
    answer = OK.replace(b"\r\n\r\n", b"\r\nset-cookie: session=alice; Path=/\r\n\r\n")
    async with raw_server(answer) as server, upstream(server.base_url) as to:
        await whole(await send(to))
        await whole(await send(to))
        assert b"cookie" not in dict(server.headers())
        await whole(await send(to, headers=[(b"cookie", b"own=1")]))
    assert dict(server.headers())[b"cookie"] == b"own=1"


async def test_redirects_are_the_clients_to_follow() -> None:
    """A credential is not carried to wherever a redirect points."""
    answer = b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/elsewhere\r\ncontent-length: 0\r\n\r\n"
    async with raw_server(answer) as server, upstream(server.base_url) as to:
        response = await send(to)
        await response.aclose()
    assert (response.status, response.header(b"location")) == (307, "http://127.0.0.1:1/elsewhere")
    assert len(server.heads) == 1


async def test_chunks_arrive_as_they_are_sent() -> None:
    """A stream is read while it is written; nothing waits for more."""
    go_on = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for chunk in (b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"):
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await writer.drain()
            await go_on.wait()
            go_on.clear()
        writer.write(b"0\r\n\r\n")

    async with raw_server(handler=handler) as server, upstream(server.base_url) as to:
        response = await send(to)
        seen = []
        async for chunk in response.chunks():
            seen.append(chunk)
            go_on.set()
        await response.aclose()
    assert seen == [b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"]
    assert response.header(b"transfer-encoding") == ""


async def test_a_connection_is_used_again() -> None:
    """No handshake for every request."""
    async with raw_server() as server, upstream(server.base_url) as to:
        for _ in range(3):
            await whole(await send(to))
    assert server.connections == 1


async def test_closing_a_response_early_closes_its_connection() -> None:
    """When the user stops a generation, the provider stops generating, too."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        await server.until_closed(reader)

    async with raw_server(handler=handler) as server, upstream(server.base_url) as to:
        response = await send(to)
        async for chunk in response.chunks():
            assert chunk == b"hello"
            break
        await response.aclose()
        async with asyncio.timeout(10):
            await server.closed.wait()


# What goes wrong


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


async def test_a_refused_connection_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the request can have arrived, so a second try is safe; a restarting server is often back by then."""
    tries = 0
    connect = aiohttp.TCPConnector.connect

    async def counted(self: aiohttp.TCPConnector, *args: Any, **given: Any) -> Any:
        nonlocal tries
        tries += 1
        return await connect(self, *args, **given)

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", counted)
    async with upstream(f"http://127.0.0.1:{free_port()}/v1") as to:
        with pytest.raises(UpstreamConnectError, match=r"asking 127\.0\.0\.1") as refused:
            await send(to)
        assert (refused.value.status, tries) == (502, 2)

        async def body() -> AsyncIterator[bytes]:
            yield b"once"

        with pytest.raises(UpstreamConnectError):
            await send(to, body=body())
        assert tries == 3, "a body that can be read only once can be sent only once"


async def test_an_unknown_host_is_told_as_such() -> None:
    """A typing error in the base URL is the commonest of all failures."""
    async with upstream("http://no-such-host.invalid/v1") as to:
        with pytest.raises(UpstreamConnectError, match=r"no-such-host\.invalid"):
            await send(to)


async def test_a_host_that_does_not_answer_to_a_connect_is_given_up() -> None:
    """A firewall that swallows packets holds nobody longer than the connect timeout."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(address)
            async with upstream(f"http://127.0.0.1:{address[1]}/v1", connect_timeout_s=0.1) as to:
                with pytest.raises(UpstreamConnectError, match="the connect timed out"):
                    await send(to)
        finally:
            for one in waiting:
                one.close()


async def test_a_server_that_never_answers_times_out() -> None:
    """A stuck provider ends in a clear 504, with the time that the operator chose."""
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    model = ScriptedModel(lambda _: Reply(hang=True))
    async with model.serve() as server, upstream(server.base_url, idle_timeout_s=0.1) as to:
        with pytest.raises(UpstreamTimeoutError) as late:
            await send(to, path=b"/chat/completions", headers=[(b"content-type", b"application/json")], body=body)
    assert late.value.status == 504


async def test_a_server_that_falls_silent_in_its_answer_times_out() -> None:
    """The idle time counts between pieces, so a long answer may take as long as it likes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await server.until_closed(reader)

    async with raw_server(handler=handler) as server, upstream(server.base_url, idle_timeout_s=0.1) as to:
        response = await send(to)
        with pytest.raises(UpstreamTimeoutError, match="reading its answer"):
            await whole(response)


@pytest.mark.parametrize(
    "head", [b"content-length: 100\r\n\r\nhello", b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"]
)
async def test_an_answer_that_breaks_off_is_known_as_broken(head: bytes) -> None:
    """Half an answer is never taken for a whole one."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + head)

    async with raw_server(handler=handler) as server, upstream(server.base_url) as to:
        response = await send(to)
        chunks = response.chunks()
        assert await anext(chunks) == b"hello"
        with pytest.raises(UpstreamBrokenError, match="reading its answer") as broken:
            await anext(chunks)
        await response.aclose()
    assert broken.value.status == 502


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200", b"SSH-2.0-OpenSSH_9\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad\x00: 1\r\n\r\n"]
)
async def test_what_is_no_answer_is_broken(said: bytes) -> None:
    """A server that hangs up or speaks another protocol is told apart from one that can't be reached."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(said)

    async with raw_server(handler=handler) as server, upstream(server.base_url) as to:
        with pytest.raises(UpstreamBrokenError):
            await send(to)
    assert len(server.heads) == 1


async def test_a_message_that_may_have_arrived_is_not_sent_again() -> None:
    """A question that was asked twice costs twice and may act twice; only what can be repeated without harm is."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(OK)
        await server.head(reader)  # the second one on this connection gets no answer

    async with raw_server(handler=handler) as server, upstream(server.base_url) as to:
        await whole(await send(to, body=b""))
        with pytest.raises(UpstreamBrokenError):
            await send(to, body=b"")
        assert [head.split(b" ")[0] for head in server.heads] == [b"POST", b"POST"]
        await whole(await send(to, "GET"))
        assert await whole(await send(to, "GET")) == b"ok"
    assert len(server.heads) == 5


async def has_hung_up(to: Upstream) -> bool:
    """The end of every kept connection has arrived."""
    session: Any = to._transport.client
    return not any(protocol.is_connected() for kept in session.connector._conns.values() for protocol, _ in kept)


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used() -> None:
    """Providers close idle connections after a minute; the next request must not fail for it."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(OK)  # and hangs up without a word

    async with raw_server(handler=handler) as server, upstream(server.base_url) as to:
        for _ in range(5):
            assert await whole(await send(to)) == b"ok"
            await until(lambda: has_hung_up(to))
    assert server.connections == 5


async def test_a_large_body_arrives_whole() -> None:
    """Pictures make a request of several megabytes; nothing is added to its headers."""
    body = bytes(range(256)) * 20_000
    async with ScriptedModel().serve() as server, upstream(server.base_url) as to:
        await whole(await send(to, body=body))
    (request,) = server.model.requests
    assert request.raw_body == body
    assert request.headers == (("host", f"127.0.0.1:{server.port}"), ("content-length", str(len(body))))


async def test_an_open_answer_does_not_hold_on_to_its_request() -> None:
    """A thousand open streams would keep a thousand histories in memory until the last byte."""
    body = b"x" * 100_000

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await raw.head(reader)
        await reader.readexactly(len(body))
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
        await writer.drain()
        await raw.until_closed(reader)

    async with raw_server(handler=handler) as raw, upstream(raw.base_url) as to:
        held = sys.getrefcount(body)
        response = await send(to, body=body)
        chunks = response.chunks()
        assert await anext(chunks) == b"ok"
        assert sys.getrefcount(body) == held
        assert isinstance(chunks, AsyncGenerator)
        await chunks.aclose()
        await response.aclose()


async def test_an_early_answer_to_a_large_body_is_not_lost() -> None:
    """A provider that refuses an upload at once is heard, though it read no more of it."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
        await server.until_closed(reader)

    async with raw_server(handler=handler) as server, upstream(server.base_url) as to:
        response = await send(to, body=b"x" * 5_000_000)
        assert (response.status, await whole(response)) == (413, b"no")


# Pure parts


def test_connection_names_further_headers_to_leave_out() -> None:
    """RFC 9110, section 7.6.1: several lists, any case, blanks, and names that are not there."""
    given = [(b"Connection", b"close , X-A,,"), (b"CONNECTION", b"x-b"), (b"x-a", b"1"), (b"X-B", b"2"), (b"X-C", b"3")]
    assert end_to_end(given) == [(b"x-c", b"3")]


EXCEPTIONS = sorted(
    {
        kind
        for package in (httpx, aiohttp)
        for kind in vars(package).values()
        if isinstance(kind, type) and issubclass(kind, httpx.HTTPError | aiohttp.ClientError)
    },
    key=lambda kind: f"{kind.__module__}.{kind.__name__}",
)


@pytest.mark.parametrize("kind", EXCEPTIONS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_exception_of_the_client_libraries_has_a_meaning(kind: type[Exception]) -> None:
    """No foreign exception reaches a client as an internal error."""
    made = type(kind.__name__, (kind,), {"__init__": lambda self: None, "__str__": lambda self: "made up"})
    error: Exception = made()
    told = module._translated(error, doing="testing")
    assert isinstance(told, UpstreamError)
    is_connect = issubclass(kind, aiohttp.ClientConnectorError | httpx.ConnectError | httpx.ConnectTimeout)
    if is_connect:
        assert isinstance(told, UpstreamConnectError)


def test_the_first_cause_decides() -> None:
    """The client library calls a broken connection a connect timeout; trying that again could ask twice."""
    renamed = httpx.ConnectTimeout("")
    renamed.__cause__ = aiohttp.ServerDisconnectedError()
    assert isinstance(module._translated(renamed, doing="x"), UpstreamBrokenError)
    assert isinstance(module._translated(httpx.ConnectTimeout(""), doing="x"), UpstreamConnectError)
    assert isinstance(module._translated(aiohttp.ConnectionTimeoutError(), doing="x"), UpstreamConnectError)
    assert isinstance(module._translated(aiohttp.SocketTimeoutError(), doing="x"), UpstreamTimeoutError)
    assert isinstance(module._translated(TimeoutError(), doing="x"), UpstreamTimeoutError)
    assert "OSError: gone" in str(module._translated(OSError("gone"), doing="x"))
