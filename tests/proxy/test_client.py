"""The client's connection: its body in bounds, its leaving noticed, its answer written."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from memproxy.errors import BodyTooLargeError
from memproxy.proxy.client import Client, ClientLeftError
from memproxy.tasks import Tasks

LEFT = {"type": "http.disconnect"}


def piece(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


class Connection:
    """ASGI's two ends, played by hand."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for message in messages:
            self.queue.put_nowait(message)
        self.sent: list[Any] = []

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def client(self, *, headers: Sequence[tuple[bytes, bytes]] = (), **scope: Any) -> Client:
        told = {"method": "POST", "path": "/v1", "headers": headers, **scope}
        return Client(told, self.queue.get, self.send, Tasks())


def test_a_request_is_told_from_its_scope() -> None:
    """The raw path and the headers as they were sent decide, not a server's reading of them."""
    client = Connection().client(
        headers=[(b"X-Name", b"M\xfcller"), (b"X-NAME", b"last")], path="/ä", raw_path=b"/%C3%A4", query_string=b"a=1"
    )
    assert (client.method, client.raw_path, client.query) == ("POST", b"/%C3%A4", b"a=1")
    assert client.headers == {"x-name": "last"}
    assert Connection().client(path="/ä").raw_path == "/ä".encode()


@pytest.mark.parametrize(
    ("headers", "has_body"),
    [
        ([], False),
        ([(b"content-length", b"0")], False),
        ([(b"Content-Length", b"5")], True),
        ([(b"transfer-encoding", b"chunked")], True),
    ],
)
def test_a_body_is_announced_by_its_headers(headers: list[tuple[bytes, bytes]], has_body: bool) -> None:
    """A GET is forwarded without an empty body, an upload with all of it."""
    assert Connection().client(headers=headers).has_body is has_body


async def test_a_body_is_read_whole() -> None:
    """However many pieces it comes in."""
    client = Connection(piece(b"ab", more=True), piece(b"", more=True), piece(b"c")).client()
    assert await client.body(max_bytes=3) == b"abc"
    assert await Connection({"type": "http.request"}).client().body(max_bytes=0) == b""


async def test_a_body_beyond_the_limit_is_refused_early() -> None:
    """What is announced as too large is not even read; what lies about its length is read up to the limit."""
    announced = Connection(piece(b"x" * 10))
    with pytest.raises(BodyTooLargeError, match=r"exceeds 2 MB.*max_body_mb") as refused:
        await announced.client(headers=[(b"content-length", b"2097153")]).body(max_bytes=2_097_152)
    assert refused.value.status == 413
    assert not announced.queue.empty()
    unannounced = Connection(piece(b"abc", more=True), piece(b"de", more=True), piece(b"f"))
    with pytest.raises(BodyTooLargeError):
        await unannounced.client(headers=[(b"content-length", b"nonsense")]).body(max_bytes=4)
    assert unannounced.queue.qsize() == 1


async def test_a_body_that_came_in_one_piece_is_passed_on_as_one() -> None:
    """A provider that wants a length is sent one; an upload of gigabytes still streams."""
    sized = [(b"content-length", b"2")]
    assert await Connection(piece(b"ab")).client(headers=sized).body_as_it_comes() == b"ab"
    assert await Connection(piece(b"")).client().body_as_it_comes() == b""
    client = Connection(piece(b"a", more=True), piece(b"b", more=True), piece(b"c")).client(headers=sized)
    body = await client.body_as_it_comes()
    assert not isinstance(body, bytes)
    assert [one async for one in body] == [b"a", b"b", b"c"]
    with pytest.raises(ClientLeftError):
        await Connection(LEFT).client(headers=sized).body_as_it_comes()


async def test_a_client_that_leaves_while_sending_is_noticed() -> None:
    """Half a request is never forwarded."""
    with pytest.raises(ClientLeftError):
        await Connection(piece(b"ab", more=True), LEFT).client().body(max_bytes=100)


async def test_work_for_a_client_ends_when_it_leaves() -> None:
    """A user who closes the window stops the model, too."""
    connection = Connection(piece(b"ab"))
    client = connection.client()
    await client.body(max_bytes=100)
    waits = asyncio.Event()
    scopes = []
    async with asyncio.timeout(10), client.while_present() as scope:
        scopes.append(scope)
        connection.queue.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        connection.queue.put_nowait(LEFT)
        await waits.wait()
    assert scopes[0].cancelled_caught


async def test_work_that_ends_first_ends_the_watching() -> None:
    """Nothing of a served request stays behind."""
    connection, tasks = Connection(piece(b"ab")), Tasks()
    client = Client({"method": "GET", "path": "/", "headers": []}, connection.queue.get, connection.send, tasks)
    async with client.while_present() as scope:
        assert await client.body(max_bytes=100) == b"ab"
    assert not scope.cancelled_caught
    assert await tasks.drain(5) == 0


async def test_a_body_that_is_still_read_is_not_taken_by_the_watcher() -> None:
    """An upload that streams through loses no piece to whoever looks out for the client."""
    connection = Connection()
    client = connection.client()
    async with asyncio.timeout(10), client.while_present():
        for number in range(50):
            connection.queue.put_nowait(piece(b"%d," % number, more=number < 49))
        assert b"".join([part async for part in client.body_stream()]) == b"".join(b"%d," % n for n in range(50))


async def test_an_answer_is_written_in_pieces_or_refused_at_once() -> None:
    """What goes out is what ASGI expects, and that it has begun is known."""
    connection = Connection()
    client = connection.client()
    await client.start(200, [(b"a", b"b")])
    assert client.has_started
    await client.write(b"x")
    await client.end()
    assert connection.sent == [
        {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]},
        {"type": "http.response.body", "body": b"x", "more_body": True},
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]
    refusing = Connection()
    assert not refusing.client().has_started
    await refusing.client().refuse(BodyTooLargeError("too large"), [(b"x", b"y")], b"{}")
    assert refusing.sent == [
        {
            "type": "http.response.start",
            "status": 413,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"2"), (b"x", b"y")],
        },
        {"type": "http.response.body", "body": b"{}", "more_body": False},
    ]
