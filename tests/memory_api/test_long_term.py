"""Long-term memory over REST, where agent-memory-client does not go; see also `tests/compat`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from memproxy.demo.scripted_model import ModelRequest, Reply
from tests.fakes.serving import Serve, Served

PATH = "/v1/long-term-memory"
MODEL: dict[str, Any] = {"extraction_model": "small", "upstream_api_key": "sk-background"}


@asynccontextmanager
async def client(served: Served, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.origin, timeout=30, headers=headers) as http:
        yield http


async def create(http: httpx.AsyncClient, *memories: dict[str, Any], **given: Any) -> None:
    """Store memories; without an id of their own they are 0, 1, 2, ..."""
    numbered = [{"id": str(number), "text": f"Statement {number}", **one} for number, one in enumerate(memories)]
    answer = await http.post(PATH, json={"memories": numbered, **given})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"}), answer.text


async def ids(http: httpx.AsyncClient, **body: Any) -> set[str]:
    """What a search finds."""
    answer = await http.post(f"{PATH}/search", json={"limit": 100, **body})
    assert answer.status_code == 200, answer.text
    return {memory["id"] for memory in answer.json()["memories"]}


async def test_paths_with_and_without_a_slash(serve: Serve) -> None:
    """Clients differ in it, and none follows a redirect."""
    memory = {"memories": [{"id": "1", "text": "x"}]}
    async with serve() as served, client(served) as http:
        for path in (PATH, f"{PATH}/"):
            assert (await http.post(path, json=memory)).json() == {"status": "ok"}
            assert (await http.get(f"{PATH}/1{path[len(PATH) :]}")).json()["id"] == "1"
            assert (await http.delete(path, params={"memory_ids": "1"})).json() == {"status": "ok, deleted 1 memories"}
            assert (await http.post(f"{path.rstrip('/')}/search{path[len(PATH) :]}", json={})).status_code == 200


async def test_all_that_was_given_comes_back(serve: Serve) -> None:
    """Also what the client's models do not have."""
    given = {
        "id": "1", "text": "Moved to Lisbon", "user_id": "alice", "namespace": "n", "session_id": "s", "pinned": True,
        "topics": ["moving, far"], "entities": ["Lisbon"], "memory_type": "episodic", "extracted_from": ["m1", "m2"],
        "created_at": "2024-05-01T10:00:00Z", "event_date": "2024-04-30T00:00:00Z", "extraction_strategy": "custom",
        "extraction_strategy_config": {"a": [1]}, "metadata": {"n": 1.5, "deep": {"b": [None, True, "ü\x00"]}},
    }  # fmt: skip
    decided = {"persisted_at": "2001-01-01T00:00:00Z", "memory_hash": "x", "access_count": 99}
    async with serve() as served, client(served) as http:
        await create(http, {**given, **decided})
        got = (await http.get(f"{PATH}/1")).json()
        (found,) = (await http.post(f"{PATH}/search", json={"text": "Lisbon"})).json()["memories"]
    assert got.items() >= given.items()
    assert got["persisted_at"] > "2026"
    assert (got["access_count"], got["memory_hash"] != "x") == (0, True)
    assert found.items() >= given.items()
    assert found["score_type"] == "hybrid"


async def test_path_and_headers_name_owner_and_bounds(serve: Serve) -> None:
    """An agent's address is enough; what the request itself says goes before it."""
    async with serve() as served, client(served) as http:
        await create(http, {"user_id": "bob"}, {"user_id": "alice", "namespace": "home"})
        for prefix, headers in (
            ("/u/alice/n/work", {}),
            ("", {"X-Memproxy-User": "alice", "X-Memproxy-Namespace": "work"}),
        ):
            async with httpx.AsyncClient(base_url=served.origin + prefix, headers=headers, timeout=30) as alice:
                await create(alice, {"id": "a"}, {"id": "c", "user_id": "carol", "namespace": "x"})
                stored = (await alice.get(f"{PATH}/a")).json()
                assert (stored["user_id"], stored["namespace"]) == ("alice", "work")
                assert await ids(alice) == {"a"}
                assert await ids(alice, user_id={"eq": "carol"}, namespace={"any": ["x", "work"]}) == {"c"}
                assert (await alice.get(f"{PATH}/0")).status_code == 404
                assert (await alice.patch(f"{PATH}/0", json={"text": "x"})).status_code == 404
                everything = {"memory_ids": ["0", "1", "a", "c"]}
                deleted = await alice.delete(PATH, params=everything)
                assert deleted.json() == {"status": "ok, deleted 1 memories"}
        assert await ids(http) == {"0", "1", "c"}


async def test_the_operators_default_user_owns_what_names_nobody(serve: Serve) -> None:
    """So the proxy, whose requests name nobody either, recalls it; a search still sees all."""
    async with serve(default_user="me") as served, client(served) as http:
        await create(http, {}, {"user_id": "bob"})
        assert (await http.get(f"{PATH}/0")).json()["user_id"] == "me"
        assert await ids(http) == {"0", "1"}


async def test_what_code_created_is_recalled_by_the_proxy(serve: Serve) -> None:
    """Both sides have the same memory."""
    async with serve() as served, client(served) as http:
        await create(http, {"text": "Alice is allergic to peanuts", "user_id": "alice"})
        body = {"model": "m", "messages": [{"role": "user", "content": "Is satay sauce with peanuts fine for me?"}]}
        await http.post("/u/alice/v1/chat/completions", json=body)
        assert b"Alice is allergic to peanuts" in served.model.requests[-1].raw_body


async def test_many_at_once_are_all_there_and_equal_ones_once(serve: Serve) -> None:
    """They are stored in parts, which nobody notices."""
    async with serve() as served, client(served) as http:
        await create(http, *({} for _ in range(120)), {"text": "Statement 7"})
        listed = (await http.post(f"{PATH}/search", json={"limit": 1})).json()
    assert listed["total"] == 120


# ---- searching ----


async def test_each_mode_is_what_it_says(serve: Serve) -> None:
    """Scores have their kind, distances are true ones in every mode, and no text means no score."""
    async with serve() as served, client(served) as http:
        await create(http, {"text": "Alice drinks green tea every morning"}, {"text": "The harbour closes at nine"})
        distances = []
        for mode, kind in ((None, "hybrid"), *((one, one) for one in ("semantic", "keyword", "hybrid"))):
            body = {"text": "green tea", "search_mode": mode}
            first = (await http.post(f"{PATH}/search", json=body)).json()["memories"][0]
            assert (first["id"], first["score_type"]) == ("0", kind)
            assert 0 < first["score"] <= 1
            distances.append(first["dist"])
        assert max(distances) - min(distances) < 1e-4
        listed = (await http.post(f"{PATH}/search", json={"search_mode": "keyword"})).json()
        assert {(one["dist"], one["score"], one["score_type"]) for one in listed["memories"]} == {(0.0, None, None)}


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
async def test_a_distance_is_for_meaning_only(serve: Serve, mode: str) -> None:
    """The reference refuses the rest, too."""
    async with serve() as served, client(served) as http:
        body = {"text": "x", "search_mode": mode, "distance_threshold": 0.5}
        answer = await http.post(f"{PATH}/search", json=body)
    assert answer.status_code == 400
    assert "distance_threshold" in answer.json()["detail"]


async def test_a_query_is_written_by_the_model_if_asked(serve: Serve) -> None:
    """One call; and if its query finds nothing, the text itself does."""
    written = {"query": "green tea"}
    async with (
        serve(lambda _: Reply(text=json.dumps(written)), **MODEL) as served,
        client(served) as http,
    ):
        await create(http, {"text": "Alice drinks green tea"}, {"text": "The harbour closes at nine"})
        body: dict[str, Any] = {"text": "Hello, and when is it open?", "search_mode": "keyword"}
        for query, expected in (("green tea", {"0"}), ("xyzzy", set())):
            written["query"] = query
            answer = await http.post(f"{PATH}/search", params={"optimize_query": "true"}, json=body)
            assert {memory["id"] for memory in answer.json()["memories"]} == expected
        assert len(served.model.requests) == 2
        body["text"] = "When does the harbour close?"
        answer = await http.post(f"{PATH}/search", params={"optimize_query": "true"}, json=body)
        assert {memory["id"] for memory in answer.json()["memories"]} == {"1"}
        await http.post(f"{PATH}/search", json=body)
        assert len(served.model.requests) == 3


async def test_a_model_that_fails_does_not_fail_the_search(serve: Serve) -> None:
    """It only could have made it better."""

    def fail(_: ModelRequest) -> Reply:
        return Reply(status=500)

    async with serve(fail, **MODEL) as served, client(served) as http:
        await create(http, {"text": "Alice drinks green tea"})
        answer = await http.post(f"{PATH}/search", params={"optimize_query": "true"}, json={"text": "tea"})
        assert [memory["id"] for memory in answer.json()["memories"]] == ["0"]


async def test_filters_are_relaxed_only_for_who_asks_for_it(serve: Serve) -> None:
    """`Nothing found` must be possible; and who owns a memory is never relaxed."""
    async with serve() as served, client(served) as http:
        await create(http, {"text": "Alice drinks green tea", "user_id": "alice", "topics": ["drinks"]})
        body = {"text": "tea", "topics": {"any": ["food"]}, "user_id": {"eq": "alice"}}
        assert await ids(http, **body) == set()
        answer = (await http.post(f"{PATH}/search", json={**body, "relax_filters": True})).json()
        assert ([memory["id"] for memory in answer["memories"]], answer["relaxed"]) == (["0"], ["topics"])
        assert await ids(http, **{**body, "user_id": {"eq": "bob"}, "relax_filters": True}) == set()


# ---- editing ----


async def test_nulls_change_nothing_and_lists_can_be_cleared(serve: Serve) -> None:
    """And an edit by nulls alone is none."""
    async with serve() as served, client(served) as http:
        await create(http, {"topics": ["a"], "entities": ["b"], "session_id": "s"})
        before = (await http.get(f"{PATH}/0")).json()
        body: dict[str, Any] = {"text": None, "topics": [], "entities": None, "pinned": True, "unknown": 1}
        after = (await http.patch(f"{PATH}/0", json=body)).json()
        assert after["updated_at"] > before["updated_at"]
        changed = {"topics": [], "pinned": True, "updated_at": after["updated_at"]}
        assert after == {**before, **changed} == (await http.get(f"{PATH}/0")).json()
        for nothing in ({}, {"text": None}, {"unknown": 1}):
            answer = await http.patch(f"{PATH}/0", json=nothing)
            assert (answer.status_code, answer.json()) == (400, {"detail": "No fields provided for update"})
        unknown = await http.patch(f"{PATH}/other", json={"text": "x"})
        assert (unknown.status_code, unknown.json()) == (404, {"detail": "Memory with ID other not found"})


# ---- forgetting and compacting ----


@pytest.mark.parametrize(
    ("agent", "query", "dry_run"),
    [
        ("curl/8", {}, True),
        ("curl/8", {"dry_run": "false"}, False),
        ("agent-memory-client/0.14.0", {}, False),
        ("agent-memory-client/0.14.0", {"dry_run": "true"}, True),
        ("agent-memory-client/0.15.0", {}, True),
        ("other agent-memory-client/0.14.0", {}, True),
    ],
)
async def test_forgetting_is_a_dry_run_unless_told_otherwise(
    serve: Serve, agent: str, query: dict[str, str], dry_run: bool
) -> None:
    """Only the client that can't say no is taken to mean it."""
    old = (datetime.now(UTC) - timedelta(days=10)).isoformat()
    async with serve() as served, client(served, **{"User-Agent": agent}) as http:
        await create(http, {"created_at": old}, {"created_at": old, "pinned": True}, {})
        answer = await http.post(f"{PATH}/forget", params=query, json={"policy": {"max_age_days": 5}})
        assert answer.json() == {"scanned": 3, "deleted": 1, "deleted_ids": ["0"], "dry_run": dry_run}
        assert await ids(http) == ({"0", "1", "2"} if dry_run else {"1", "2"})


async def test_forgetting_stays_within_its_bounds(serve: Serve) -> None:
    """User, namespace, session, kinds and number."""
    old = {"created_at": (datetime.now(UTC) - timedelta(days=10)).isoformat()}
    async with serve() as served, client(served) as http:
        await create(
            http,
            {**old, "user_id": "alice", "namespace": "n", "session_id": "s"},
            {**old, "user_id": "alice", "namespace": "n", "session_id": "s", "memory_type": "episodic"},
            {**old, "user_id": "alice", "namespace": "n"},
            {**old, "user_id": "alice"},
            {**old, "user_id": "bob", "namespace": "n", "session_id": "s"},
        )
        query = {"user_id": "alice", "namespace": "n", "session_id": "s", "dry_run": "false"}
        policy = {"max_age_days": 5, "memory_type_allowlist": ["semantic"]}
        answer = await http.post(f"{PATH}/forget", params=query, json={"policy": policy})
        assert (answer.json()["scanned"], answer.json()["deleted_ids"]) == (2, ["0"])
        assert await ids(http) == {"1", "2", "3", "4"}
        budget = {"policy": {"budget": 1}, "pinned_ids": ["4"]}
        answer = await http.post(f"{PATH}/forget", params={"dry_run": "false"}, json=budget)
        assert len(await ids(http)) == 2


async def test_compacting_leaves_explicit_memories_alone(serve: Serve) -> None:
    """What somebody created under two ids stays two memories."""
    async with serve() as served, client(served) as http:
        await create(http, {"text": "Likes tea"}, {"text": "Likes tea"}, {"user_id": "bob"}, deduplicate=False)
        for query, left in (({}, 3), ({"user_id": "bob"}, 1), ({"namespace": "n"}, 0)):
            answer = await http.post(f"{PATH}/compact", params=query)
            assert answer.json() == {"status": f"ok, {left} memories remaining after compaction"}


async def test_a_store_that_is_away_is_told(serve: Serve) -> None:
    """The client may try again; and where tenants are told apart nobody is let in meanwhile."""
    for tenancy in ("single", "key"):
        async with (
            serve(redis_url="redis://127.0.0.1:9", tenancy=tenancy, run_worker=False) as served,
            client(served, Authorization="Bearer k") as http,
        ):
            for answer in (
                await http.post(PATH, json={"memories": [{"id": "1", "text": "x"}]}),
                await http.post(f"{PATH}/search", json={"text": "x"}),
                await http.get(f"{PATH}/1"),
                await http.delete(PATH, params={"memory_ids": "1"}),
            ):
                assert answer.status_code == 503
                assert answer.json().keys() == {"detail"}
                assert int(answer.headers["retry-after"]) > 0
            assert (await http.get("/v1/health")).status_code == 200
