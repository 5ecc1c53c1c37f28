"""The provider's API as clients reach it: what passes through untouched, and what is refused clearly."""

import hashlib
from typing import Any

import httpx
import pytest

from memproxy.demo.scripted_model import Reply
from tests.fakes.serving import Serve


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=False, timeout=30)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_other_paths_pass_with_method_query_and_body(serve: Serve, method: str) -> None:
    """Whatever the provider offers beside chat works through memproxy as it does directly."""
    body = b'{"a": 1.0,\n "b": "\xc3\xa9"}' if method in {"POST", "PUT", "PATCH"} else b""
    async with serve() as served, client() as http:
        response = await http.request(
            method, f"{served.base_url}/echo?x=1&y=%2F&empty=", content=body, headers={"X-Custom": "kept"}
        )
        seen = response.json()
    assert seen["method"] == method
    assert seen["path"] == "/v1/echo"
    assert seen["query"] == "x=1&y=%2F&empty="
    assert seen["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert ["x-custom", "kept"] in seen["headers"]
    assert not [name for name, _ in seen["headers"] if name.startswith("x-memproxy")]


async def test_multipart_uploads_stream_through(serve: Serve) -> None:
    """A file of 20 MB reaches the provider byte for byte."""
    content = bytes(range(256)) * 80_000
    async with serve() as served, client() as http:
        request = http.build_request(
            "POST", f"{served.base_url}/files", files={"file": ("big.bin", content)}, data={"purpose": "x"}
        )
        sent = await request.aread()
        response = await http.send(request)
    assert response.status_code == 200
    assert response.json()["bytes"] == len(sent)
    assert hashlib.sha256(sent).hexdigest() in response.text


async def test_bodies_of_unknown_length_stream_through(serve: Serve) -> None:
    """A client that sends in chunks need not know the length beforehand."""

    async def pieces() -> Any:
        for number in range(50):
            yield bytes([number]) * 1000

    async with serve() as served, client() as http:
        response = await http.post(f"{served.base_url}/echo", content=pieces())
    assert response.json()["body_sha256"] == hashlib.sha256(b"".join(bytes([n]) * 1000 for n in range(50))).hexdigest()


async def test_binary_downloads_come_through(serve: Serve) -> None:
    """Audio and files are bytes, not text."""
    async with serve() as served, client() as http:
        direct = await http.get(f"{served.instance.services.settings.upstream_base_url}/files/blob300000/content")
        through = await http.get(f"{served.base_url}/files/blob300000/content")
    assert through.content == direct.content
    assert len(through.content) == 300_000
    assert through.headers["content-type"] == direct.headers["content-type"]


@pytest.mark.parametrize("base", ["", "/v1", "/v1/", "//v1", "/u/alice", "/u/alice/s/one/v1/", "/n/shop/u/alice/v1"])
async def test_base_urls_as_people_write_them(serve: Serve, base: str) -> None:
    """A missing /v1, a trailing slash, an identity before it: all reach the provider."""
    async with serve() as served, client() as http:
        models = await http.get(f"{served.origin}{base}/models")
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        chat = await http.post(f"{served.origin}{base}/chat/completions", json=body)
    assert models.status_code == 200
    assert chat.status_code == 200
    assert served.model.requests[-1].path == "/v1/chat/completions"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"model": "m"}',
        b'{"model": "m", "messages": "hello"}',
        b'{"model": "m", "messages": []}',
        b'{"model": "m", "messages": [1]}',
        b'{"model": 5, "messages": [{"role": "user", "content": "hello"}]}',
        b'{"model": "m", "messages": [{"role": "wizard", "content": "hello"}]}',
    ],
)
async def test_what_is_no_request_is_refused_by_the_provider(serve: Serve, body: bytes) -> None:
    """The model server says what is wrong, in its words; memproxy forwards the very bytes and remembers nothing."""
    async with serve() as served, client() as http:
        headers = {"content-type": "application/json"}
        response = await http.post(f"{served.origin}/u/alice/s/one/v1/chat/completions", content=body, headers=headers)
        assert response.status_code == 400
        assert response.json()["error"]["message"]
        assert served.model.requests[-1].raw_body == body
        await served.settled()
        again = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        await http.post(f"{served.origin}/u/alice/s/one/v1/chat/completions", json=again)
        assert len(served.model.requests[-1].messages) == 1


async def test_a_body_beyond_the_limit_is_refused_clearly(serve: Serve) -> None:
    """100 MB of JSON get 413 with the setting's name, whether the length is announced or not."""
    async with serve(max_body_mb=1) as served, client() as http:

        async def pieces() -> Any:
            for _ in range(40):
                yield b" " * 65_536

        url = f"{served.base_url}/chat/completions"
        announced = await http.post(url, content=b" " * 2_000_000)
        assert announced.status_code == 413
        assert "max_body_mb" in announced.json()["error"]["message"]
        try:
            streamed = await http.post(url, content=pieces())
        except httpx.WriteError:
            return  # the connection was closed on what came after the refusal
        assert streamed.status_code == 413


@pytest.mark.parametrize(
    ("path", "headers", "words"),
    [
        ("/v1", {"X-Memproxy-User": ""}, "X-Memproxy-User is empty"),
        ("/v1", {"X-Memproxy-User": "x" * 257}, "257 characters"),
        ("/v1", {"X-Memproxy-Session": "a\tb"}, "control characters"),
        ("/v1", {"X-Memproxy-Memory": "sometimes"}, "one of: off, read, write, full"),
        ("/v1", {"X-Memproxy-Tool-Cache": "perhaps"}, "one of: off, observe, answer"),
        ("/u/%00/v1", {}, "control characters"),
        ("/u/%FF/v1", {}, "not UTF-8"),
        ("/u/%20/v1", {}, "is empty"),
        ("/s/" + "x" * 300 + "/v1", {}, "300 characters"),
    ],
)
async def test_identities_that_cannot_be_used_are_refused(
    serve: Serve, path: str, headers: dict[str, str], words: str
) -> None:
    """A wrong identity is the caller's mistake and told at once; a silent fallback would mix memories up."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    async with serve() as served, client() as http:
        response = await http.post(f"{served.origin}{path}/chat/completions", json=body, headers=headers)
        assert response.status_code == 400
        assert words in response.json()["error"]["message"]
        assert not served.model.requests


@pytest.mark.parametrize(
    "path", ["/nothing", "/", "/wp-login.php", "/u/alice", "/v1/%2e%2e/echo", "/v1/files/..%2f../echo"]
)
async def test_unknown_paths_are_not_found(serve: Serve, path: str) -> None:
    """A wrong base URL is told apart from a provider's 404."""
    async with serve() as served, client() as http:
        response = await http.get(f"{served.origin}{path}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "memproxy_not_found"


async def test_websocket_upgrades_are_declined_at_once(serve: Serve) -> None:
    """Clients that try a WebSocket first fall back to HTTP at once on 426, and only after seconds on anything else."""
    async with serve() as served, client() as http:
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
        headers = {"Connection": "Upgrade", "Upgrade": "websocket", **key}
        response = await http.get(f"{served.base_url}/responses", headers=headers)
    assert response.status_code == 426


async def test_an_unreachable_provider_is_502(serve: Serve) -> None:
    """The error names what could not be reached, in the shape that OpenAI's clients parse."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    async with serve(upstream_base_url="http://127.0.0.1:9/v1") as served, client() as http:
        for path in ("chat/completions", "embeddings"):
            response = await http.post(f"{served.base_url}/{path}", json=body)
            assert response.status_code == 502
            assert response.json()["error"]["code"] == "memproxy_upstream_unreachable"


async def test_a_silent_provider_is_504(serve: Serve) -> None:
    """A provider that says nothing does not hold the client for ever."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    async with serve(lambda _: Reply(hang=True), upstream_idle_timeout_s=0.3) as served, client() as http:
        response = await http.post(f"{served.base_url}/chat/completions", json=body)
    assert response.status_code == 504
    assert response.json()["error"]["type"] == "timeout_error"
