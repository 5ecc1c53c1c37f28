"""The MCP server over HTTP, as the official client meets it."""

import asyncio
from typing import Any

import httpx
import pytest
from mcp.shared.exceptions import MCPError

from memproxy.memory_api.mcp_server import mcp_identity
from memproxy.memory_api.mcp_tools import TOOLS
from tests.fakes.mcp_clients import called, mcp_client, refused
from tests.fakes.serving import Serve

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
ASKS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_a_host_finds_the_tools(serve: Serve, mode: str) -> None:
    """Hosts of every generation connect, and list what agent-memory-server would list."""
    async with serve() as served, mcp_client(served, mode=mode) as client:
        info = client.server_info  # a host that says which version it speaks asks for none
        assert (info.name if info else None) == ("memproxy" if mode in {"auto", "legacy"} else None)
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == set(TOOLS)
        assert all(tool.description and tool.input_schema["type"] == "object" for tool in tools)
        assert {tool.name for tool in tools if tool.annotations and tool.annotations.read_only_hint} == {
            "get_current_datetime",
            "search_long_term_memory",
            "memory_prompt",
            "get_working_memory",
            "get_long_term_memory",
        }
        assert (await called(client, "get_current_datetime"))["timezone"] == "UTC"


async def test_wrong_calls_are_told_to_the_model(serve: Serve) -> None:
    """A model that is told what is wrong calls again, rightly; and it is never told what its values were."""
    async with serve() as served, mcp_client(served) as client:
        assert "memories" in await refused(client, "create_long_term_memories")
        assert "txet" in await refused(client, "search_long_term_memory", txet="tea")
        assert "limit" in await refused(client, "search_long_term_memory", text="tea", limit=1_000)
        assert "memory_type" in await refused(client, "search_long_term_memory", text="tea", memory_type="secret-7")
        assert "secret-7" not in await refused(client, "search_long_term_memory", text="tea", limit="secret-7")
        assert "not found" in await refused(client, "get_long_term_memory", memory_id="none")
        assert "nothing to change" in await refused(client, "edit_long_term_memory", memory_id="none")
        with pytest.raises(MCPError, match="create_long_term_memories"):
            await client.call_tool("create_memory", {})


async def test_a_store_that_is_away_is_told_to_the_model(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model goes on without its memory, and nothing of a bug reaches it."""
    async with serve() as served, mcp_client(served) as client:

        async def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a secret")

        monkeypatch.setattr(served.instance.services.long_term, "find", fail)
        assert await refused(client, "search_long_term_memory", text="tea") == "Memory is not available right now."


@pytest.mark.parametrize(
    ("path", "fixed", "created"),
    [
        ("/mcp", set(), (None, None)),
        ("/u/alice/mcp", {"user_id"}, ("alice", None)),
        ("/n/shop/mcp", {"namespace"}, (None, "shop")),
        ("/u/alice/n/shop/mcp", {"user_id", "namespace"}, ("alice", "shop")),
        ("/u/alice%40example.com/mcp/", {"user_id"}, ("alice@example.com", None)),
    ],
)
async def test_the_path_says_whose_memory_it_is(
    serve: Serve, path: str, fixed: set[str], created: tuple[str | None, str | None]
) -> None:
    """A host that has only an address to configure keeps its user's memory apart, whatever the model writes."""
    async with serve() as served, mcp_client(served, path) as client:
        told = {tool.name: tool.input_schema["properties"] for tool in (await client.list_tools()).tools}
        offered = {"user_id", "namespace"} - fixed
        assert {"user_id", "namespace"} & told["search_long_term_memory"].keys() == offered
        assert (
            {"user_id", "namespace"} & told["create_long_term_memories"]["memories"]["items"]["properties"].keys()
        ) == offered
        made = await called(client, "create_long_term_memories", memories=[{"text": "Likes tea."}])
        known = await called(client, "get_long_term_memory", memory_id=made["memories"][0]["id"])
        assert (known.get("user_id"), known.get("namespace")) == created
        for name in fixed:
            other: Any = {name: "other"}
            memories = [{"text": "Likes tea.", **other}]
            assert name in await refused(client, "create_long_term_memories", memories=memories)
            assert name in await refused(client, "search_long_term_memory", text="tea", **other)
            assert name in await refused(client, "search_long_term_memory", text="tea", **{name: {"ne": "nobody"}})
            assert name in await refused(client, "compact_long_term_memories", **other)


async def test_headers_say_whose_memory_it_is(serve: Serve) -> None:
    """A host that can send headers does as every other client of memproxy."""
    async with serve() as served:
        async with mcp_client(served, **{"x-memproxy-user": "alice"}) as client:
            await called(client, "create_long_term_memories", memories=[{"text": "Likes tea."}])
            assert "user_id" in await refused(client, "search_long_term_memory", user_id="bob")
        async with mcp_client(served, "/u/alice/mcp") as client:
            assert (await called(client, "search_long_term_memory"))["total"] == 1


async def test_settings_say_whose_memory_it_is_when_nobody_does(serve: Serve) -> None:
    """For personal use nobody is named anywhere; a call that names somebody is heard."""
    async with serve(mcp_user="me", mcp_namespace="home") as served, mcp_client(served) as client:
        memories = [{"text": "Likes tea."}, {"text": "Likes coffee.", "user_id": "bob"}]
        await called(client, "create_long_term_memories", memories=memories)
        mine = await called(client, "search_long_term_memory", text="What is liked?")
        assert [(one["user_id"], one["namespace"]) for one in mine["memories"]] == [("me", "home")]
        bobs = await called(client, "search_long_term_memory", text="What is liked?", user_id="bob")
        assert [one["text"] for one in bobs["memories"]] == ["Likes coffee."]


async def test_without_a_credential_nobody_gets_in(serve: Serve) -> None:
    """Where tenants are told apart, MCP asks for the same credential as everything else."""
    async with serve(tenancy="key") as served, httpx.AsyncClient(base_url=served.origin) as http:
        response = await http.post("/mcp", json=PING, headers=ASKS)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "credential" in response.json()["detail"]
        response = await http.post("/mcp", json=PING, headers={**ASKS, "authorization": "Bearer key"})
        assert response.status_code == 200


async def test_tenants_that_call_at_the_same_time_never_mix(serve: Serve) -> None:
    """Each request's own credential decides, however many are under way."""
    async with serve(tenancy="key") as served:

        async def live(name: str) -> None:
            async with mcp_client(served, authorization=f"Bearer {name}") as client:
                for number in range(5):
                    memories = [{"text": f"The word of {name} number {number}.", "user_id": "alice"}]
                    await called(client, "create_long_term_memories", memories=memories)
                    found = await called(client, "search_long_term_memory", user_id="alice", limit=100)
                    texts = sorted(one["text"] for one in found["memories"])
                    assert texts == [f"The word of {name} number {each}." for each in range(number + 1)]

        async with asyncio.TaskGroup() as group:
            for name in ("one", "two", "three", "four"):
                group.create_task(live(name))


async def test_users_that_call_at_the_same_time_never_mix(serve: Serve) -> None:
    """The same for paths, over one connection after the other and all at once."""
    async with serve() as served:

        async def live(user: str) -> None:
            async with mcp_client(served, f"/u/{user}/mcp", mode="legacy") as client:
                for number in range(5):
                    await called(client, "create_long_term_memories", memories=[{"text": f"{user} said {number}"}])
                    found = await called(client, "search_long_term_memory", limit=100)
                    assert {one["user_id"] for one in found["memories"]} == {user}
                    assert len(found["memories"]) == number + 1

        async with asyncio.TaskGroup() as group:
            for user in ("alice", "bob", "carol", "dora"):
                group.create_task(live(user))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8080"}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"content-type": "text/plain"}, 400),
    ],
)
async def test_pages_in_a_browser_stay_outside(serve: Serve, headers: dict[str, str], status: int) -> None:
    """On a loopback address nothing asks for a credential, so a page from elsewhere must not get in by a trick."""
    async with serve() as served, httpx.AsyncClient(base_url=served.origin) as http:
        response = await http.post("/mcp", json=PING, headers={**ASKS, **headers})
        assert response.status_code == status


async def test_only_post_is_served(serve: Serve) -> None:
    """There is nothing to listen to: a host that tries is told so at once, and no connection is kept open for it."""
    async with serve() as served, httpx.AsyncClient(base_url=served.origin) as http:
        for method in ("GET", "DELETE", "PUT"):
            response = await http.request(method, "/mcp", headers=ASKS)
            assert response.status_code == 405
            assert response.headers["allow"] == "POST"


async def test_a_path_that_names_nobody_is_refused(serve: Serve) -> None:
    """A variable that was not set in the address is an error, not a user without a name."""
    async with serve() as served, httpx.AsyncClient(base_url=served.origin) as http:
        assert (await http.post("/u/%20/mcp", json=PING, headers=ASKS)).status_code == 400


async def test_a_body_that_is_no_request_is_refused(serve: Serve) -> None:
    """Garbage, and too much of it, gets an answer and harms nobody."""
    async with serve(max_body_mb=0.01) as served, httpx.AsyncClient(base_url=served.origin) as http:
        for content in (b"", b"{", b"[]", b"null", b"\xff"):
            assert (await http.post("/mcp", content=content, headers=ASKS)).status_code == 400
        assert (await http.post("/mcp", content=b" " * 20_000, headers=ASKS)).status_code == 413
        assert (await http.post("/mcp", json=PING, headers=ASKS)).status_code == 200


@pytest.mark.parametrize(
    ("path", "identity"),
    [
        (b"/mcp", b"/"),
        (b"/mcp/", b"/"),
        (b"/u/alice/mcp", b"/u/alice/"),
        (b"/n/shop/u/a%2Fb/mcp", b"/n/shop/u/a%2Fb/"),
        (b"/u/mcp/mcp", b"/u/mcp/"),
        (b"/mcp/x", None),
        (b"/v1/mcp", None),
        (b"/u/mcp", None),
        (b"/s/chat/mcp", None),
        (b"/mcpx", None),
        (b"/", None),
    ],
)
def test_which_paths_are_meant(path: bytes, identity: bytes | None) -> None:
    """The provider's paths stay the provider's."""
    assert mcp_identity(path) == identity
