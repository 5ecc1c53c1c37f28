"""Vectors from a service that speaks OpenAI's embeddings API; the other door to the openai package.

redisvl's own vectorizer for this API asks the service when it is made and tries six times with pauses up to a minute,
which suits a script. Here the number of dimensions is configured, and whoever waits says for how long.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import openai

from memproxy.errors import EmbeddingError

BATCH = 256
"""Texts a call: services take 2,048 at most, and answer in one piece."""
DOCUMENT_RETRIES = 2


class EmbeddingService:
    """One model of one endpoint. Every method raises `EmbeddingError`."""

    def __init__(
        self, base_url: str, *, api_key: str | None, model: str, dims: int, timeout_s: float, query_timeout_s: float
    ) -> None:
        """`timeout_s`: for one call about documents; `query_timeout_s`: for one about a question, never repeated."""
        self._model = model
        self._dims = dims
        client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key or "none", timeout=timeout_s, max_retries=0)
        self._client = client
        self._documents = client.with_options(max_retries=DOCUMENT_RETRIES)
        self._queries = client.with_options(timeout=query_timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.close()

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    @property
    def dims(self) -> int:
        """The length of every vector."""
        return self._dims

    async def aembed(self, content: str) -> list[float]:
        """The vector of a question, soon or not at all."""
        return (await self._ask(self._queries, [content]))[0]

    async def aembed_many(self, contents: list[str]) -> list[list[float]]:
        """The vectors of documents, in their order."""
        vectors: list[list[float]] = []
        for first in range(0, len(contents), BATCH):
            vectors += await self._ask(self._documents, contents[first : first + BATCH])
        return vectors

    async def _ask(self, client: openai.AsyncOpenAI, texts: Sequence[str]) -> list[list[float]]:
        try:
            answer: Any = await client.embeddings.create(model=self._model, input=list(texts), encoding_format="float")
            vectors = [list(map(float, one.embedding)) for one in sorted(answer.data, key=lambda one: one.index)]
        except openai.OpenAIError as error:
            raise EmbeddingError(f"The embedding model {self._model} gave no vectors: {_reason(error)}") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise EmbeddingError(f"The embedding model {self._model} gave something that is no vectors.") from error
        if len(vectors) != len(texts):
            raise EmbeddingError(
                f"The embedding model {self._model} gave {len(vectors)} vectors for {len(texts)} texts."
            )
        for vector in vectors:
            if len(vector) != self._dims:
                raise EmbeddingError(
                    f"The embedding model {self._model} gives {len(vector)} dimensions, but embedding_dimensions is"
                    f" {self._dims}: set it to {len(vector)}."
                )
        return vectors


def _reason(error: openai.OpenAIError) -> str:
    """What went wrong, without the words that were asked about: providers quote them in refusals."""
    if isinstance(error, openai.APIStatusError):
        return f"{type(error).__name__}, status {error.status_code}"
    return type(error).__name__
