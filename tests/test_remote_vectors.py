"""Vectors from a service: what is asked, and what becomes of each way in which it fails. Real HTTP on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from memproxy.embedding import RemoteEmbedder
from memproxy.errors import EmbeddingError
from memproxy.remote_vectors import BATCH, EmbeddingService

Answer = Callable[[dict[str, Any]], tuple[int, Any]]


def vectors(body: dict[str, Any], dims: int = 3) -> tuple[int, Any]:
    """A service's ordinary answer, its items in reverse: their `index` counts."""
    data = [
        {"object": "embedding", "index": index, "embedding": [float(len(text)), 1.0, *[0.0] * (dims - 2)]}
        for index, text in enumerate(body["input"])
    ]
    return 200, {"object": "list", "model": body["model"], "data": data[::-1], "usage": {}}


@asynccontextmanager
async def endpoint(answer: Answer) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A service's address, and what it was asked."""
    asked: list[dict[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].split("\r\n")[0])
        asked.append(json.loads(await reader.readexactly(length)))
        status, body = answer(asked[-1])
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        start = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n"
        writer.write(start.encode() + b"connection: close\r\n\r\n" + raw)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", asked


def service(url: str, *, query_timeout_s: float = 5) -> EmbeddingService:
    return EmbeddingService(url, api_key="k", model="small", dims=3, timeout_s=5, query_timeout_s=query_timeout_s)


async def test_documents_come_back_in_their_order() -> None:
    """A memory with another's vector is found for the wrong questions, for good."""
    texts = ["x" * number for number in range(BATCH + 10)]
    async with endpoint(vectors) as (url, asked), service(url) as one:
        assert [vector[0] for vector in await one.aembed_many(texts)] == [float(len(text)) for text in texts]
    assert [len(each["input"]) for each in asked] == [BATCH, 10]
    assert {each["model"] for each in asked} == {"small"}


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: (401, {"error": {"message": "you asked about a secret"}}),
        lambda _: (200, {"data": []}),
        lambda _: (200, {"data": [{"index": 0, "embedding": "AAAA"}]}),
        lambda _: (200, b"no json"),
        lambda body: vectors(body, dims=4),
    ],
)
async def test_what_is_no_answer_is_an_error_of_ours(answer: Answer) -> None:
    """Nothing is stored under a vector that is none, and the service's words, which may quote the user, stay away."""
    async with endpoint(answer) as (url, _), service(url) as one:
        with pytest.raises(EmbeddingError) as told:
            await one.aembed_many(["a"])
    assert "secret" not in str(told.value)


async def test_wrong_dimensions_say_what_to_set() -> None:
    """Nobody knows such numbers by heart."""
    async with endpoint(lambda body: vectors(body, dims=7)) as (url, _), service(url) as one:
        with pytest.raises(EmbeddingError, match="set it to 7"):
            await one.aembed("a")


async def test_a_moment_of_too_much_is_waited_out_for_documents() -> None:
    """Providers answer 429 now and then; a turn should not wait for the queue's next attempt."""
    answers: Iterator[tuple[int, Any] | None] = iter([(429, {}), None])

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        return next(answers) or vectors(body)

    async with endpoint(answer) as (url, asked), service(url) as one:
        assert len(await one.aembed_many(["a"])) == 1
    assert len(asked) == 2


async def test_without_an_answer_a_question_has_no_direction_and_the_next_has() -> None:
    """Memories are then searched by words alone, and the failure is not remembered as the question's vector."""
    answers: Iterator[tuple[int, Any] | None] = iter([(503, {}), None])

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        return next(answers) or vectors(body)

    async with endpoint(answer) as (url, asked), service(url) as one:
        embedder = RemoteEmbedder(one, dims=one.dims)
        assert not (await embedder.embed_query("tea")).any()
        assert np.linalg.norm(await embedder.embed_query("tea")) == pytest.approx(1.0)
    assert len(asked) == 2


async def test_a_slow_service_does_not_hold_a_request_up() -> None:
    """The question's call has a deadline of its own."""
    left = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/v1"
        async with asyncio.timeout(5), service(url, query_timeout_s=0.05) as one:
            assert not (await RemoteEmbedder(one, dims=3).embed_query("tea")).any()
            await left.wait()


async def test_nobody_there_is_an_error_of_ours() -> None:
    async with service("http://127.0.0.1:1/v1") as one:
        with pytest.raises(EmbeddingError, match="APIConnectionError"):
            await one.aembed("a")
