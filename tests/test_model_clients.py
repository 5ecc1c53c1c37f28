"""Which models are asked, with which keys."""

import pytest

from memproxy.demo.scripted_model import ScriptedModel
from memproxy.embedding import LocalEmbedder
from memproxy.model_clients import extraction_model, open_embedder
from memproxy.settings import settings_without_environment


async def test_without_a_setting_vectors_are_made_inside() -> None:
    """No key, no network: the default works on an aeroplane."""
    async with open_embedder(settings_without_environment({})) as embedder:
        assert isinstance(embedder, LocalEmbedder)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"upstream_api_key": "sk-upstream"}, "Bearer sk-upstream"),
        ({"upstream_api_key": "sk-upstream", "embedding_api_key": "sk-own"}, "Bearer sk-own"),
        ({"upstream_api_key": "sk-upstream", "embedding_base_url": "there"}, "Bearer none"),
    ],
)
async def test_the_upstreams_key_goes_to_the_upstream_alone(given: dict[str, str], key: str) -> None:
    """A key that is sent to another endpoint is a key that is given away."""
    async with ScriptedModel().serve() as service:
        address = {name: service.base_url if value == "there" else value for name, value in given.items()}
        settings = {"upstream_base_url": service.base_url, "embedding_model": "text-embedding-3-small", **address}
        async with open_embedder(settings_without_environment(settings)) as embedder:
            (vector,) = await embedder.embed_documents(["tea"])
    assert vector.shape == (1_536,)
    assert dict(service.model.requests[-1].headers)["authorization"] == key


def test_no_model_makes_memories_unless_one_is_named() -> None:
    """Nobody's key is spent on what nobody asked for."""
    assert extraction_model(settings_without_environment({"upstream_api_key": "sk"})) is None
    assert extraction_model(settings_without_environment({"upstream_api_key": "sk", "extraction_model": "m"}))
