"""The models that memproxy itself asks, as the settings name them: one makes vectors, one makes memories."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from memproxy.embedding import Embedder, LocalEmbedder, RemoteEmbedder
from memproxy.llm import JsonModel
from memproxy.remote_vectors import EmbeddingService
from memproxy.settings import Settings
from memproxy.telemetry.traces import Traces


@asynccontextmanager
async def open_embedder(settings: Settings) -> AsyncIterator[Embedder]:
    """What makes vectors: the model inside, or the configured service. Nothing is asked yet."""
    if not settings.embedding_model:
        yield await asyncio.to_thread(LocalEmbedder)
        return
    own_endpoint = settings.embedding_base_url
    key = settings.embedding_api_key or (None if own_endpoint else settings.upstream_api_key)
    service = EmbeddingService(
        own_endpoint or settings.upstream_base_url,
        api_key=key.get_secret_value() if key else None,
        model=settings.embedding_model,
        dims=settings.embedding_dimensions,
        timeout_s=settings.embedding_timeout_s,
        query_timeout_s=settings.embedding_query_timeout_s,
    )
    async with service:
        yield RemoteEmbedder(service, dims=service.dims)


def extraction_model(settings: Settings, traces: Traces | None = None) -> JsonModel | None:
    """What makes memories, to be entered; None where no model is configured for it."""
    if not settings.extracts:
        return None
    own_endpoint = settings.extraction_base_url
    key = settings.extraction_api_key or (None if own_endpoint else settings.upstream_api_key)
    return JsonModel(
        own_endpoint or settings.upstream_base_url,
        key.get_secret_value() if key else None,
        settings.extraction_model,
        settings.extraction_timeout_s,
        traces,
    )
