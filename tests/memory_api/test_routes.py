"""The application as a whole: its routes, who may ask, and how errors look. Faults of the store are played."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, cast

import httpx
import pytest

from memproxy.clock import SystemClock
from memproxy.errors import MemproxyError, ModelCallError, StoreError, StoreUnavailableError
from memproxy.identity import Tenants
from memproxy.memory.search import Found
from memproxy.memory_api.api import MemoryApi
from memproxy.memory_api.routes import memory_app
from memproxy.tasks import Tasks

SEARCH = "/v1/long-term-memory/search"


class Playing:
    """A memory whose every search does what it is told."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act

    async def find(self, tenant: str, query: object) -> Found:
        result = self._act()
        if isinstance(result, BaseException):
            raise result
        return cast("Found", await result if asyncio.iscoroutine(result) else result)


def nothing() -> Found:
    return Found([], 0, None, None)


@asynccontextmanager
async def client(
    act: Callable[[], Any] = nothing, *, tenants: Tenants | None = None, **given: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the memory API over such a memory."""
    parts: dict[str, Any] = {
        "tenants": tenants or Tenants(tells_apart=False),
        "clock": SystemClock(),
        "tasks": Tasks(),
        "long_term": Playing(act),
        "deadline_s": 5,
        "max_body_bytes": 10_000,
        "is_on": True,
    }
    api = MemoryApi(**{field.name: None for field in fields(MemoryApi)} | parts | given)
    transport = httpx.ASGITransport(cast("Any", memory_app(api)))
    async with httpx.AsyncClient(transport=transport, base_url="http://memory", verify=False) as http:
        yield http


@pytest.mark.parametrize("path", ["/v1/health", "/v1/health/"])
async def test_health_is_open_and_tells_the_time(path: str) -> None:
    """Whoever may ask nothing else may ask whether it lives."""
    async with client(tenants=Tenants(tells_apart=True)) as http:
        response = await http.get(path)
    assert response.status_code == 200
    age = datetime.now(UTC).timestamp() * 1000 - response.json()["now"]
    assert abs(age) < 60_000


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/health", 405),
        ("PUT", "/v1/long-term-memory/x", 405),
        ("GET", "/v1/long-term-memory", 405),
    ],
)
async def test_wrong_paths_and_methods_have_the_references_shape(method: str, path: str, status: int) -> None:
    """Its clients look for `detail`."""
    async with client() as http:
        response = await http.request(method, path)
    assert response.status_code == status
    assert response.json() == {"detail": {404: "Not Found", 405: "Method Not Allowed"}[status]}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/long-term-memory"), ("POST", SEARCH), ("GET", "/v1/long-term-memory/x"),
        ("PATCH", "/v1/long-term-memory/x"), ("DELETE", "/v1/long-term-memory"),
        ("POST", "/v1/long-term-memory/forget"), ("POST", "/v1/long-term-memory/compact"),
    ],
)  # fmt: skip
async def test_a_credential_is_needed_where_tenants_are_told_apart(method: str, path: str) -> None:
    """Nobody reads memory who can't say whose it is; what they sent is not even looked at."""
    tenants = Tenants(tells_apart=True)
    tenants.secret = b"secret"
    async with client(tenants=tenants) as http:
        response = await http.request(method, path, content=b"no JSON")
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert isinstance(response.json()["detail"], str)
        empty = await http.request(method, path, headers={"Authorization": "Bearer "})
        assert empty.status_code == 401


async def test_no_credential_stands_for_anybody_before_the_store_was_reached() -> None:
    """What tells tenants apart is read from it; the client should try again."""
    async with client(tenants=Tenants(tells_apart=True)) as http:
        response = await http.post(SEARCH, json={}, headers={"Authorization": "Bearer k"})
    assert response.status_code == 503
    assert response.headers["retry-after"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreUnavailableError("redis said secret things"), 503),
        (StoreError("redis said secret things"), 503),
        (TimeoutError(), 503),
        (ModelCallError("m did not answer", retryable=True), 502),
        (MemproxyError("secret things"), 500),
        (ZeroDivisionError("secret things"), 500),
    ],
)
async def test_what_goes_wrong_inside_is_told_without_details(error: Exception, status: int) -> None:
    """A client learns whether to try again, and nothing of what lies behind."""
    async with client(lambda: error) as http:
        response = await http.post(SEARCH, json={"text": "x"})
    assert response.status_code == status
    assert "secret" not in response.text
    assert isinstance(response.json()["detail"], str)
    assert ("retry-after" in response.headers) is (status == 503)


async def test_a_store_that_does_not_answer_ends_in_time() -> None:
    """A client's own patience is not what ends it."""
    async with client(lambda: asyncio.sleep(30), deadline_s=0.05) as http:
        response = await http.post(SEARCH, json={"text": "x"})
    assert response.status_code == 503


async def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    """Memory is not filled by one request."""
    async with client() as http:
        response = await http.post(SEARCH, json={"text": "x" * 10_000})
    assert response.status_code == 413
    assert isinstance(response.json()["detail"], str)


async def test_a_wrong_body_is_refused_as_a_list() -> None:
    """As FastAPI does: where, what, why."""
    async with client() as http:
        response = await http.post(SEARCH, json={"limit": 101, "namespace": {"eqq": "a"}})
    assert response.status_code == 422
    assert {tuple(problem["loc"]) for problem in response.json()["detail"]} == {
        ("body", "limit"),
        ("body", "namespace", "eqq"),
    }


@pytest.mark.parametrize("header", ["X-Memproxy-User", "X-Memproxy-Namespace"])
async def test_a_header_that_can_be_no_name_is_refused(header: str) -> None:
    """An unset variable must not open everybody's memory."""
    async with client() as http:
        response = await http.post(SEARCH, json={"text": "x"}, headers={header: " "})
    assert response.status_code == 400
    assert header in response.json()["detail"]


async def test_memory_that_is_off_says_so() -> None:
    """In the reference's words."""
    async with client(is_on=False) as http:
        response = await http.post(SEARCH, json={"text": "x"})
    assert response.status_code == 400
    assert response.json() == {"detail": "Long-term memory is disabled"}
