"""Compressed request bodies."""

import gzip
import zlib
from collections.abc import Callable

import httpx
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from memproxy.errors import BodyTooLargeError
from memproxy.proxy.unpack import unpacked
from tests.fakes.serving import Serve

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
packed = pytest.mark.parametrize("encoding", PACK)


@packed
@given(body=st.binary(max_size=300))
def test_what_was_packed_is_read(encoding: str, body: bytes) -> None:
    """Whatever a client compresses with, its request is understood."""
    assert unpacked(PACK[encoding](body), encoding.upper(), max_bytes=300) == body


@packed
def test_a_bomb_is_refused_before_it_is_unpacked(encoding: str) -> None:
    """A few kilobytes that stand for gigabytes cost the limit, not what they stand for."""
    bomb = PACK[encoding](bytes(50_000_000))
    assert len(bomb) < 60_000
    with pytest.raises(BodyTooLargeError):
        unpacked(bomb, encoding, max_bytes=1_000)
    assert unpacked(PACK[encoding](bytes(1_000)), encoding, max_bytes=1_000) == bytes(1_000)


@packed
def test_what_is_not_packed_as_it_says_is_the_providers(encoding: str) -> None:
    """Its own error is better than one in between."""
    whole = PACK[encoding](b"hello" * 100)
    for body in (b"hello", whole[: len(whole) // 2], b""):
        assert unpacked(body, encoding, max_bytes=10_000) in {body, b"", b"hello" * 20}
    assert unpacked(b"x", "br", max_bytes=1) == b"x"
    assert unpacked(b"x", "", max_bytes=1) == b"x"


def test_several_frames_are_one_body() -> None:
    """A client that flushes as it writes makes several."""
    assert unpacked(PACK["zstd"](b"one") + PACK["zstd"](b"two"), "zstd", max_bytes=10) == b"onetwo"


@packed
async def test_a_packed_request_gets_its_memories(serve: Serve, encoding: str) -> None:
    """And goes out as it came where there is nothing to add."""
    async with serve() as served, httpx.AsyncClient(verify=False) as client:

        async def ask(text: str, session: str) -> bytes:
            sent = PACK[encoding](b'{"model":"m","input":"' + text.encode() + b'"}')
            headers = {"content-encoding": encoding, "content-type": "application/json"}
            url = f"{served.origin}/u/alice/s/{session}/v1/responses"
            assert (await client.post(url, content=sent, headers=headers)).status_code == 200
            return sent

        sent = await ask("My dog is called Barnaby and he is allergic to chicken.", "one")
        first = served.model.requests[-1]
        assert (first.raw_body, first.header("content-encoding")) == (sent, encoding)
        await served.settled()
        await ask("What food can I buy for my dog?", "two")
        second = served.model.requests[-1]
        assert "Barnaby" in second.body["input"]
        assert second.header("content-encoding") is None
