"""Text to unit vectors, on this machine or by a remote service; the only door to wordllama.

An embedder has a name and a number of dimensions, which are part of the index's name, and two verbs, because a question
is not embedded like what it asks for: stop words are taken out of queries and left in documents (measured: recall@10 of
the vectors alone rises from 0.46 to 0.47; taken out of both, the gain is lost).

`LocalEmbedder` is wordllama: averaged static word vectors from inside its package, 40 to 200 us a query, no network. A
query is embedded on the event loop, since a thread costs more; documents go to a thread. `RemoteEmbedder` asks a
service, or any redisvl vectorizer. Both keep the vectors of the newest queries by digest.
"""

import asyncio
import hashlib
import importlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from memproxy.errors import EmbeddingError
from memproxy.words import without_stop_words

log = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]
"""(dims,) float32, unit length; all zeros for a text without a known word."""

QUERY_CHARS = 600
"""A message's beginning says what it is about; cost grows with length: 0.2 ms for 600 characters, 1.5 ms for 4,000."""

DOCUMENT_CHARS = 4_000
"""The average over more words than this says nothing any more."""

CACHED_VECTORS = 2_048
"""2 MB at 256 dimensions."""

LOCAL_MODEL = "l2_supercat"
LOCAL_DIMS = 256

ORDINARY_WORD = 15.0
"""How long an ordinary word's vector is in wordllama, which learned to make telling words long: "want" has 6, "laptop"
17, "penicillin" 22."""


CACHED_TERMS = 10_000
"""Weights of terms that are kept; then all are let go."""


class Embedder(Protocol):
    """Makes vectors of texts."""

    @property
    def name(self) -> str:
        """The model, as it stands in the index's name."""

    @property
    def dims(self) -> int:
        """The length of every vector."""

    @property
    def unrelated(self) -> float:
        """The cosine of texts that have nothing to do with each other; models differ in it."""

    def weigh(self, term: str) -> float:
        """How much a word says about what a text is about: 1 for an ordinary word, less for a vague one."""

    async def embed_query(self, text: str) -> Vector:
        """The vector of a message that memories are sought for."""

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """The vectors of texts that are to be found, in their order."""


class Vectorizer(Protocol):
    """What is used of redisvl's `BaseVectorizer`; may raise `EmbeddingError`."""

    @property
    def model(self) -> str: ...
    @property
    def dims(self) -> int | None: ...
    async def aembed(self, content: str) -> list[float]: ...
    async def aembed_many(self, contents: list[str]) -> list[list[float]]: ...


class LocalEmbedder:
    """wordllama's 256 dimensions. Loading reads 16 MB from its package and takes 0.2 s."""

    def __init__(self) -> None:
        model = _load_wordllama()
        self._tokenizer: Any = model.tokenizer
        self._weights = _as_stored(model.embedding)
        self._queries = _VectorCache(CACHED_VECTORS)
        self._term_weights: dict[str, float] = {}

    @property
    def name(self) -> str:
        return f"wordllama-{LOCAL_MODEL}"

    @property
    def dims(self) -> int:
        return LOCAL_DIMS

    @property
    def unrelated(self) -> float:
        return 0.0

    def weigh(self, term: str) -> float:
        """Cost: 10 us for a term that was not asked lately."""
        known = self._term_weights.get(term)
        if known is None:
            known = float(np.linalg.norm(self._summed(term))) / ORDINARY_WORD
            if len(self._term_weights) >= CACHED_TERMS:
                self._term_weights.clear()
            self._term_weights[term] = known
        return known

    async def embed_query(self, text: str) -> Vector:
        """Never waits: 40 us for a short question, 0.2 ms for the longest."""
        words = without_stop_words(text[:QUERY_CHARS])
        known = self._queries.get(words)
        return self._queries.put(words, self._embed(words)) if known is None else known

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        return await asyncio.to_thread(lambda: [self._embed(text[:DOCUMENT_CHARS]) for text in texts])

    def _embed(self, text: str) -> Vector:
        return _unit(self._summed(text))

    def _summed(self, text: str) -> Vector:
        """wordllama's own `embed` tokenises in a thread pool of its own and pads; one text at a time needs neither."""
        ids = self._tokenizer.encode(_encodable(text).strip(), add_special_tokens=False).ids
        summed: Vector = np.add.reduce(self._weights.take(ids, axis=0), axis=0, dtype=np.float32)
        return summed


class RemoteEmbedder:
    """Any redisvl vectorizer. `dims` must be known: the index is made before the first text is embedded."""

    def __init__(self, vectorizer: Vectorizer, *, dims: int, unrelated: float = 0.2) -> None:
        """`unrelated`: see `Embedder`; 0.2 suits current models that don't say, text-embedding-ada-002 has 0.7."""
        self._vectorizer = vectorizer
        self._dims = dims
        self._unrelated = unrelated
        self._queries = _VectorCache(CACHED_VECTORS)

    @property
    def name(self) -> str:
        return self._vectorizer.model

    @property
    def dims(self) -> int:
        return self._dims

    @property
    def unrelated(self) -> float:
        return self._unrelated

    def weigh(self, term: str) -> float:  # noqa: ARG002  all words say the same
        """1: what a service would say about single words is not worth its price."""
        return 1.0

    async def embed_query(self, text: str) -> Vector:
        """One call of the service, unless the text was asked lately; a model that reads sentences gets whole ones.

        Without an answer there is no direction (zeros), and words alone are searched for: better than nothing.
        """
        asked = _encodable(text[:QUERY_CHARS])
        known = self._queries.get(asked)
        if known is not None:
            return known
        if not asked.strip():
            return np.zeros(self._dims, np.float32)
        try:
            vector = await self._vectorizer.aembed(asked)
        except EmbeddingError as error:
            log.warning("searching by words alone: %s", error)
            return np.zeros(self._dims, np.float32)
        return self._queries.put(asked, _unit(np.asarray(vector, np.float32)))

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """One call of the service for all texts; services refuse empty ones, so those get a blank's vector of zeros."""
        wanted = [_encodable(text[:DOCUMENT_CHARS]) for text in texts]
        asked = [text for text in wanted if text.strip()]
        answers = iter(await self._vectorizer.aembed_many(asked) if asked else [])
        zeros = np.zeros(self._dims, np.float32)
        return [_unit(np.asarray(next(answers), np.float32)) if text.strip() else zeros for text in wanted]


class _VectorCache:
    """The vectors of the most recently used texts, by digest. For one event loop."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._vectors: OrderedDict[bytes, Vector] = OrderedDict()

    def get(self, text: str) -> Vector | None:
        digest = _digest(text)
        if digest not in self._vectors:
            return None
        self._vectors.move_to_end(digest)
        return self._vectors[digest]

    def put(self, text: str, vector: Vector) -> Vector:
        """Keep a vector and give it back; it can't be changed from now on."""
        vector.setflags(write=False)
        self._vectors[_digest(text)] = vector
        if len(self._vectors) > self._capacity:
            self._vectors.popitem(last=False)
        return vector


def _load_wordllama() -> Any:
    """The model from wordllama's own package folder, without network.

    Importing wordllama calls `logging.basicConfig(level=INFO)`, which would decide how the whole process logs: it is
    imported here, and the root logger put back as it was.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        package = importlib.import_module("wordllama")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    folder = Path(str(package.__file__)).parent
    return package.WordLlama.load(LOCAL_MODEL, cache_dir=folder, dim=LOCAL_DIMS, disable_download=True)


def _as_stored(weights: Vector) -> npt.NDArray[np.floating[Any]]:
    """The weights in half the room, where that loses nothing: wordllama's files hold 16 bits each."""
    half = weights.astype(np.float16)
    return half if np.array_equal(half, weights) else weights


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return (vector / length).astype(np.float32) if length > 0 else np.zeros(vector.shape, np.float32)


def _encodable(text: str) -> str:
    """The text without lone surrogates, which JSON can bring and UTF-8 can't hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
