"""The object graph below HTTP."""

import asyncio
from pathlib import Path

import httpx
from redis.asyncio import Redis

from memproxy.services import open_services
from memproxy.settings import Settings
from memproxy.storage.embedded import EmbeddedStore
from tests.fakes.serving import Serve, until


async def test_a_store_that_is_away_at_start_is_no_reason_not_to_serve(serve: Serve, tmp_path: Path) -> None:
    """Requests go through without memory; when the store comes, memory comes, without a restart."""
    url = f"unix://{tmp_path / 'store' / 'store.sock'}"
    body = {"model": "m", "messages": [{"role": "user", "content": "My order is LX-1."}]}
    async with serve(redis_url=url) as served, httpx.AsyncClient(verify=False, timeout=30) as http:
        address = f"{served.origin}/u/alice/s/one/v1/chat/completions"
        response = await http.post(address, json=body)
        assert response.status_code == 200
        assert response.headers["x-memproxy-degraded"] == "session"
        async with EmbeddedStore(tmp_path) as store:
            assert store.url == url

            async def remembers() -> bool:
                await http.post(address, json=body)
                return len(served.model.requests[-1].messages) > 1

            await until(remembers)
            await until(served.instance.is_quiet)


async def test_the_secret_is_one_for_all_instances(redis: Redis, redis_url: str) -> None:
    """A credential is the same tenant at every instance, and after a restart."""
    settings = Settings.model_validate({"redis_url": redis_url, "tenancy": "key"})

    async def tenant() -> str | None:
        async with open_services(settings) as services:
            return services.tenants.tenant_of("sk-one")

    one, two = await asyncio.gather(tenant(), tenant())
    assert one == two == await tenant()
    assert one is not None


async def test_extraction_is_on_only_with_a_model_and_access(redis: Redis, redis_url: str) -> None:
    """In pass-through without a key of its own, memproxy never spends anybody's money."""
    for given, expected in (
        ({}, False),
        ({"extraction_model": "m"}, False),
        ({"extraction_model": "m", "extraction_base_url": "http://127.0.0.1:9/v1"}, True),
        ({"extraction_model": "m", "upstream_api_key": "sk-one"}, True),
    ):
        settings = Settings.model_validate({"redis_url": redis_url, **given})
        async with open_services(settings) as services:
            assert services.extractor.has_model is expected
