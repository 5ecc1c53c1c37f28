"""What a dependency raises becomes memproxy's own error at its door, whatever a new release adds to it."""

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

import aiohttp
import httpx
import openai
import pytest
from redis import exceptions as redis_exceptions
from typing_extensions import override

from memproxy.errors import (
    MemproxyError,
    ModelCallError,
    RequestError,
    StoreError,
    StoreUnavailableError,
    UpstreamError,
)
from memproxy.llm import model_call_error
from memproxy.proxy.upstream import Upstream
from memproxy.storage.connection import translated


def family(root: type[Exception]) -> Iterator[type[Exception]]:
    """A class of errors and all below it."""
    yield root
    for child in root.__subclasses__():
        yield from family(child)


def made(kind: type[Exception]) -> Exception:
    """An error of this class. Some classes want to know what they could not reach, so a child says it for them."""

    class Made(kind):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            Exception.__init__(self, "what the library says")

        @override
        def __str__(self) -> str:
            return "what the library says"

    return Made()


def name_of(kind: object) -> str:
    """What a test about this class is called."""
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)


REDIS = sorted({*family(redis_exceptions.RedisError), TimeoutError, ConnectionResetError, OSError}, key=name_of)


@pytest.mark.parametrize("kind", REDIS, ids=name_of)
def test_whatever_redis_raises_is_a_store_error(kind: type[Exception]) -> None:
    """The request path goes on without memory on a `StoreError`; on anything else it logs a traceback."""
    with pytest.raises(StoreError), translated("testing"):
        raise made(kind)


@pytest.mark.parametrize("kind", [redis_exceptions.ConnectionError, redis_exceptions.TimeoutError], ids=name_of)
def test_a_store_that_is_away_is_told_from_one_that_refuses(kind: type[Exception]) -> None:
    """Only the first is worth trying again."""
    for one in list(family(kind)):
        with pytest.raises(StoreUnavailableError), translated("testing"):
            raise made(one)


NEVER_RAISED = (httpx.HTTPStatusError, httpx.TooManyRedirects)
"""Of httpx's client, above the transport that is used here; they need a response to be made."""

HTTP = sorted(
    {
        *(kind for kind in family(httpx.HTTPError) if not issubclass(kind, NEVER_RAISED)),
        *family(aiohttp.ClientConnectionError),
        aiohttp.ClientPayloadError,
        TimeoutError,
        ConnectionResetError,
        ssl.SSLError,
    },
    key=name_of,
)


@pytest.mark.parametrize("kind", HTTP, ids=name_of)
async def test_whatever_the_http_client_raises_is_an_upstream_error(kind: type[Exception]) -> None:
    """The client gets an error in OpenAI's shape, not a connection that breaks off."""

    async def fail(_: httpx.Request) -> httpx.Response:
        raise made(kind)

    with pytest.raises(UpstreamError) as caught:
        await _ask(fail)
    assert caught.value.status in {502, 504}


class Breaking(httpx.AsyncByteStream):
    """An answer that breaks off after its first byte."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"a"
        raise self._error


@pytest.mark.parametrize("kind", HTTP, ids=name_of)
async def test_whatever_breaks_an_answer_is_an_upstream_error(kind: type[Exception]) -> None:
    """What the model server had said by then is kept, and the exchange is recorded as failed."""

    async def break_off(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Breaking(made(kind)))

    with pytest.raises(UpstreamError):
        await _ask(break_off)


Handler = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]


async def _ask(handler: Handler) -> bytes:
    """One request through the door, with the transport behind it replaced."""
    upstream = Upstream("http://host/v1", api_key=None, connect_timeout_s=1, idle_timeout_s=1, connections=1)
    upstream._transport = httpx.MockTransport(handler)  # type: ignore[assignment]  # any transport of httpx
    async with asyncio.timeout(5):
        response = await upstream.send("POST", b"/chat", query=b"", headers=[], body=b"{}", readable=True)
        return b"".join([chunk async for chunk in response.chunks()])


@pytest.mark.parametrize("kind", sorted(family(openai.OpenAIError), key=name_of), ids=name_of)
def test_whatever_the_openai_client_raises_is_a_model_call_error(kind: type[openai.OpenAIError]) -> None:
    """The queue decides by it whether to try again."""
    error = made(kind)
    assert isinstance(error, openai.OpenAIError)
    for attribute, value in {"code": None, "type": None, "param": None, "status_code": 500}.items():
        setattr(error, attribute, value)
    assert isinstance(model_call_error(error, model="m"), ModelCallError)


OWN = sorted(set(family(MemproxyError)), key=name_of)


@pytest.mark.parametrize("kind", OWN, ids=name_of)
def test_own_errors_are_drawn_in_the_tree(kind: type[Exception]) -> None:
    """The docstring of `errors` shows them all, and leaves end in `Error`."""
    drawn = inspect.getdoc(inspect.getmodule(MemproxyError)) or ""
    assert kind.__name__.endswith("Error")
    assert kind.__module__ == "memproxy.errors"
    assert kind.__name__ in drawn


@pytest.mark.parametrize("kind", sorted(set(family(RequestError)), key=name_of), ids=name_of)
def test_errors_of_requests_have_openais_shape(kind: type[RequestError]) -> None:
    """OpenAI's clients read message, type and code."""
    error = kind("what went wrong")
    assert 400 <= error.status < 600
    assert error.openai_body()["error"].keys() == {"message", "type", "param", "code"}
