"""Text to unit vectors."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.embedding import CACHED_VECTORS, QUERY_CHARS, LocalEmbedder, RemoteEmbedder


@pytest.fixture(scope="module")
def local() -> LocalEmbedder:
    return LocalEmbedder()


class Vectorizer:
    """A remote model with two dimensions: the length of the text, and 1. Counts how often it is asked."""

    model = "org/two-dims"
    dims = 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def aembed(self, content: str) -> list[float]:
        self.asked.append(content)
        return [float(len(content)), 1.0]

    async def aembed_many(self, contents: list[str]) -> list[list[float]]:
        return [await self.aembed(content) for content in contents]


async def test_vectors_have_unit_length(local: LocalEmbedder) -> None:
    """Cosine similarity and the index assume it."""
    query = await local.embed_query("Where does Alice live?")
    documents = await local.embed_documents(["Alice lives in Lisbon.", "x" * 10_000])
    for vector in (query, *documents):
        assert vector.shape == (local.dims,)
        assert vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


async def test_the_nearer_text_is_nearer(local: LocalEmbedder) -> None:
    """Otherwise there would be no point."""
    query = await local.embed_query("suggest a restaurant")
    food, hike = await local.embed_documents(["Alice prefers vegetarian food", "Alice likes hiking"])
    assert query @ food > query @ hike


def test_vectors_equal_wordllamas_own(local: LocalEmbedder) -> None:
    """Texts are pooled here one by one, and must land where the model's authors put them."""
    texts = ["Alice lives in Lisbon.", "naïve café, 日本語"]
    code = (
        "import wordllama, pathlib, sys\n"
        "folder = pathlib.Path(wordllama.__file__).parent\n"
        "model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)\n"
        f"sys.stdout.buffer.write(model.embed({texts!r}, norm=True).tobytes())\n"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    theirs = np.frombuffer(output, np.float32).reshape(2, -1)
    assert np.allclose(asyncio.run(local.embed_documents(texts)), theirs, atol=1e-5)


def test_loading_is_silent_and_leaves_logging_alone() -> None:
    """wordllama sets up the root logger when imported, which would change how the whole proxy logs."""
    code = (
        "import logging, memproxy.embedding as embedding\n"
        "assert not logging.getLogger().handlers\n"
        "embedding.LocalEmbedder()\n"
        "assert not logging.getLogger().handlers\n"
        "assert logging.getLogger().level == logging.WARNING\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_loading_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """memproxy starts on a machine without internet."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert LocalEmbedder().dims == 256


async def test_stop_words_count_in_documents_only(local: LocalEmbedder) -> None:
    """Measured: out of the query they help, out of the documents they hurt."""
    asked = await local.embed_query("What is the name of the dog?")
    assert np.allclose(asked, await local.embed_query("name dog?"))
    whole, bare = await local.embed_documents(["What is the name of the dog?", "name dog?"])
    assert not np.allclose(whole, bare)


async def test_only_the_beginning_of_a_query_counts(local: LocalEmbedder) -> None:
    """A pasted file must not stop the event loop."""
    beginning = "dog " * (QUERY_CHARS // 4)
    assert np.array_equal(await local.embed_query(beginning + "cat " * 10_000), await local.embed_query(beginning))


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
async def test_nothing_said_is_no_direction(local: LocalEmbedder, text: str) -> None:
    """An all-zero vector tells the caller to leave vectors out."""
    assert not (await local.embed_query(text)).any()
    assert not (await local.embed_documents([text]))[0].any()


async def test_no_documents_are_no_vectors(local: LocalEmbedder) -> None:
    assert await local.embed_documents([]) == []


@settings(deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_has_a_vector(local: LocalEmbedder, text: str) -> None:
    """JSON can bring lone surrogates and control characters."""
    for vector in (asyncio.run(local.embed_query(text)), asyncio.run(local.embed_documents([text]))[0]):
        assert np.isfinite(vector).all()


async def test_telling_words_weigh_more(local: LocalEmbedder) -> None:
    """The floor asks how much of what a question is about stands in a memory."""
    assert local.weigh("want") < 0.6 < local.weigh("laptop") < local.weigh("penicillin")


async def test_a_remote_model_is_asked_once_for_the_same_query() -> None:
    """Clients that loop send the same message again, and each call costs time and money."""
    vectorizer = Vectorizer()
    remote = RemoteEmbedder(vectorizer, dims=2)
    first = await remote.embed_query("Where is my order?")
    assert np.array_equal(first, await remote.embed_query("Where is my order?"))
    assert vectorizer.asked == ["Where is my order?"]
    assert np.linalg.norm(first) == pytest.approx(1.0)


async def test_a_cached_vector_cannot_be_changed() -> None:
    remote = RemoteEmbedder(Vectorizer(), dims=2)
    with pytest.raises(ValueError, match="read-only"):
        (await remote.embed_query("x"))[0] = 5.0


async def test_the_cache_is_bounded() -> None:
    """A proxy runs for months."""
    vectorizer = Vectorizer()
    remote = RemoteEmbedder(vectorizer, dims=2)
    for number in range(CACHED_VECTORS + 1):
        await remote.embed_query(f"q{number}")
    await remote.embed_query("q1")
    assert vectorizer.asked[-1] == f"q{CACHED_VECTORS}"
    await remote.embed_query("q0")
    assert vectorizer.asked[-1] == "q0"


async def test_a_remote_model_is_not_asked_about_nothing() -> None:
    """Services refuse empty texts, and one empty memory must not lose the batch."""
    vectorizer = Vectorizer()
    remote = RemoteEmbedder(vectorizer, dims=2)
    assert not (await remote.embed_query(" ")).any()
    empty, full = await remote.embed_documents(["", "abc"])
    assert not empty.any()
    assert full.any()
    assert vectorizer.asked == ["abc"]
    assert len(await remote.embed_documents([""])) == 1


async def test_names_and_dimensions_are_known_before_the_first_text(local: LocalEmbedder) -> None:
    """They name the index, which is made at start."""
    remote = RemoteEmbedder(Vectorizer(), dims=2, unrelated=0.7)
    assert (local.name, local.dims, local.unrelated) == ("wordllama-l2_supercat", 256, 0.0)
    assert (remote.name, remote.dims, remote.unrelated, remote.weigh("x")) == ("org/two-dims", 2, 0.7, 1.0)


async def test_documents_keep_their_order(local: LocalEmbedder) -> None:
    texts: Sequence[str] = [f"fact number {number}" for number in range(50)]
    together = await local.embed_documents(texts)
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(vector, (await local.embed_documents([text]))[0])
