"""The memory API and MCP, as an operator sees them."""

import httpx

from tests.fakes.serving import Serve
from tests.fakes.shown_metrics import counted

SEARCH = "/v1/long-term-memory/search"


async def test_requests_are_counted_by_their_route(serve: Serve) -> None:
    """Each session has a path of its own, and no series of its own."""
    async with serve() as served, httpx.AsyncClient(verify=False) as http:
        await http.post(f"{served.origin}{SEARCH}", json={"text": "cat"})
        for name in ("one", "two"):
            await http.get(f"{served.origin}/u/alice/v1/working-memory/{name}")
        await http.get(f"{served.origin}/v1/tasks/")
        shown = (await http.get(f"{served.origin}/metrics")).text
    assert counted(served, "memproxy_api_requests_total", route=SEARCH, status="2xx") == 1
    assert 'memproxy_api_requests_total{route="/v1/working-memory/{session_id}",status="' in shown
    assert "one" not in shown.partition("working-memory/")[2].partition("\n")[0]
    assert counted(served, "memproxy_request_seconds_count", kind="memory_api") == 4


async def test_a_path_that_is_none_is_counted_under_one_name(serve: Serve) -> None:
    """Somebody who guesses paths makes no new series."""
    async with serve() as served, httpx.AsyncClient(verify=False) as http:
        for name in ("x/y", "z/a/b"):
            assert (await http.put(f"{served.origin}/v1/health/{name}")).status_code == 404
    assert counted(served, "memproxy_api_requests_total", route="unmatched", status="4xx") == 2


async def test_responses_name_their_request(serve: Serve) -> None:
    """What the log says about it is found by that."""
    async with serve() as served, httpx.AsyncClient(verify=False) as http:
        ids = {(await http.get(f"{served.origin}/v1/health")).headers["x-memproxy-request-id"] for _ in range(2)}
    assert len(ids) == 2


async def test_mcp_is_one_route(serve: Serve) -> None:
    """Whoever it is for."""
    async with serve() as served, httpx.AsyncClient(verify=False) as http:
        for path in ("/mcp", "/u/alice/mcp"):
            assert (await http.get(f"{served.origin}{path}")).status_code == 405
    assert counted(served, "memproxy_api_requests_total", route="/mcp", status="4xx") == 2
    assert counted(served, "memproxy_requests_total", kind="mcp", status="4xx") == 2
