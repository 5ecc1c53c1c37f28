"""Summary views over REST, with the client of agent-memory-server and without."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from agent_memory_client.exceptions import MemoryServerError
from agent_memory_client.models import CreateSummaryViewRequest
from redis.asyncio import Redis

from memproxy.demo.script import ModelRequest, Reply
from memproxy.memory_api.summary_views import filter_rules
from memproxy.records import MemoryType
from memproxy.storage.memory_filter import TagField, any_of
from memproxy.storage.summary_views import MAX_VIEWS
from tests.fakes.memory_client import memory_client, record
from tests.fakes.serving import Serve, Served, until

BY_USER: dict[str, Any] = {"source": "long_term", "group_by": ["user_id"], "filters": {"memory_type": "semantic"}}


def scribe(request: ModelRequest) -> Reply:
    """A model that joins what it is shown."""
    shown = json.loads(request.last_user_text)
    texts = [shown.get("earlier", ""), *(memory["text"] for memory in shown["memories"])]
    return Reply(json.dumps({"summary": " ".join(texts).strip()}))


def settings_with_model(served_by: str) -> dict[str, Any]:
    return {"extraction_model": "scripted", "upstream_api_key": served_by}


@asynccontextmanager
async def http_of(served: Served, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.origin, headers=headers, timeout=30) as client:
        yield client


async def test_the_clients_whole_way(serve: Serve) -> None:
    """Whoever used views with agent-memory-client changes the address and nothing else."""
    async with serve(scribe, **settings_with_model("key")) as served, memory_client(served) as client:
        await client.create_long_term_memory(
            [
                record(text, id=f"{user}-{text}", user_id=user)
                for user, text in (("alice", "Likes tea."), ("bob", "Likes coffee."))
            ]
        )
        view = await client.create_summary_view(CreateSummaryViewRequest(name="by user", **BY_USER))
        assert [each.id for each in await client.list_summary_views()] == [view.id]
        assert await client.get_summary_view(view.id) == view
        one = await client.run_summary_view_partition(view.id, {"user_id": "alice"})
        assert (one.summary, one.memory_count, one.group) == ("Likes tea.", 1, {"user_id": "alice"})
        task = await client.run_summary_view(view.id, force=True)
        assert (task.type, task.status, task.view_id) == ("summary_view_full_run", "pending", view.id)

        async def is_over() -> bool:
            known = await client.get_task(task.id)
            return known is not None and known.status not in {"pending", "running"}

        await until(is_over)
        done = await client.get_task(task.id)
        assert done is not None
        assert (done.status, done.error_message) == ("success", None)
        both = await client.list_summary_view_partitions(view.id)
        assert {each.group["user_id"]: each.summary for each in both} == {
            "alice": "Likes tea.",
            "bob": "Likes coffee.",
        }
        (bob,) = await client.list_summary_view_partitions(view.id, user_id="bob")
        assert bob.summary == "Likes coffee."
        assert await client.list_summary_view_partitions(view.id, user_id="bob", namespace="x") == []
        assert (await client.delete_summary_view(view.id)).status == "ok"
        assert await client.get_summary_view(view.id) is None
        assert await client.list_summary_views() == []


async def test_what_goes_out(serve: Serve) -> None:
    """Clients in other languages read these fields, nulls included."""
    async with serve() as served, http_of(served) as http:
        view = (await http.post("/v1/summary-views", json=BY_USER)).json()
        assert view == {
            "id": view["id"],
            "name": None,
            "source": "long_term",
            "group_by": ["user_id"],
            "filters": {"memory_type": "semantic"},
            "time_window_days": None,
            "continuous": False,
            "prompt": None,
            "model_name": None,
        }
        group = {"group": {"user_id": "nobody"}}
        made = (await http.post(f"/v1/summary-views/{view['id']}/partitions/run", json=group)).json()
        assert made == {
            "view_id": view["id"],
            "group": {"user_id": "nobody"},
            "summary": "",
            "memory_count": 0,
            "empty": True,
            "empty_reason": "no_matching_memories",
            "computed_at": made["computed_at"],
        }
        assert made["computed_at"].endswith("Z")
        assert (await http.get(f"/v1/summary-views/{view['id']}/partitions")).json() == [made]


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ({"source": "working_memory"}, 400, "'working_memory' is not yet supported"),
        ({**BY_USER, "group_by": ["user_id", "colour"]}, 400, "Unsupported group_by fields: colour"),
        ({**BY_USER, "filters": {"zip": 1, "age": 2}}, 400, "Unsupported filter fields: age, zip"),
        ({**BY_USER, "filters": {"memory_type": "nonsense"}}, 422, ""),
        ({**BY_USER, "filters": {"user_id": {"field": "namespace", "eq": "x"}}}, 422, ""),
        ({**BY_USER, "filters": {"user_id": {"equals": "x"}}}, 422, ""),
        ({**BY_USER, "time_window_days": 0}, 422, ""),
        ({"source": "elsewhere"}, 422, ""),
        ({}, 422, ""),
    ],
)
async def test_what_cannot_be_a_view_is_refused(serve: Serve, given: Any, status: int, said: str) -> None:
    """A view that would silently cover everything is worse than none."""
    async with serve() as served, http_of(served) as http:
        response = await http.post("/v1/summary-views", json=given)
        assert response.status_code == status, response.text
        if status == 400:
            assert said in response.json()["detail"]
        else:
            assert response.json()["detail"][0]["loc"][0] == "body"
        assert (await http.get("/v1/summary-views")).json() == []


async def test_the_groups_fields_are_the_views(serve: Serve) -> None:
    """A group that says less or more would be another one."""
    async with serve() as served, http_of(served) as http:
        view = (await http.post("/v1/summary-views", json=BY_USER)).json()["id"]
        others: list[dict[str, Any]] = [{}, {"user_id": "a", "namespace": "b"}, {"namespace": "b"}]
        for group in others:
            response = await http.post(f"/v1/summary-views/{view}/partitions/run", json={"group": group})
            assert response.status_code == 400
            assert "must exactly match" in response.json()["detail"]
        for group in ({"user_id": 5}, {"user_id": ""}, {"user_id": "a\x00b"}):
            response = await http.post(f"/v1/summary-views/{view}/partitions/run", json={"group": group})
            assert response.status_code == 422


@pytest.mark.parametrize("path", ["", "/partitions", "/partitions/run", "/run"])
async def test_an_unknown_view_is_not_found(serve: Serve, path: str) -> None:
    """An id that nothing has is told from an empty view, whatever characters it has."""
    async with serve() as served, http_of(served) as http:
        for view in ("none", "a%20b", "%2e%2e", "x" * 2_000):
            method = "POST" if path.endswith("run") else "GET"
            response = await http.request(
                method, f"/v1/summary-views/{view}{path}", json={"group": {}} if method == "POST" else None
            )
            assert response.status_code == 404, response.text
        assert (await http.delete("/v1/summary-views/none")).json() == {"status": "ok"}


async def test_without_a_model_the_missing_setting_is_named(serve: Serve) -> None:
    """The operator learns what to set; the caller, why there is no summary."""
    async with serve() as served, memory_client(served) as client:
        memory = record("Likes tea.", id="m1", user_id="alice")
        await client.create_long_term_memory([memory])
        view = await client.create_summary_view(CreateSummaryViewRequest(**BY_USER))
        with pytest.raises(MemoryServerError, match="extraction_model") as caught:
            await client.run_summary_view_partition(view.id, {"user_id": "alice"})
        assert caught.value.status_code == 503
        task = await client.run_summary_view(view.id)

        async def has_failed() -> bool:
            known = await client.get_task(task.id)
            return known is not None and known.status == "failed" and "extraction_model" in (known.error_message or "")

        await until(has_failed)


async def test_a_model_that_fails_is_no_fault_of_the_caller(serve: Serve) -> None:
    """502 says where to look; nothing is stored."""
    async with (
        serve(lambda _: Reply(status=401, error="no such key"), **settings_with_model("key")) as served,
        memory_client(served) as client,
        http_of(served) as http,
    ):
        memory = record("Likes tea.", id="m1", user_id="alice")
        await client.create_long_term_memory([memory])
        view = await client.create_summary_view(CreateSummaryViewRequest(**BY_USER))
        group = {"group": {"user_id": "alice"}}
        response = await http.post(f"/v1/summary-views/{view.id}/partitions/run", json=group)
        assert response.status_code == 502
        assert "401" in response.json()["detail"]
        assert await client.list_summary_view_partitions(view.id) == []


async def test_summaries_count_against_the_tenants_budget(serve: Serve) -> None:
    """What a tenant's memory may cost a day holds for its views, too."""
    async with (
        serve(scribe, extraction_daily_tokens=1, **settings_with_model("key")) as served,
        memory_client(served) as client,
        http_of(served) as http,
    ):
        await client.create_long_term_memory([record("Likes tea.", id="m1", user_id="alice")])
        view = (await http.post("/v1/summary-views", json=BY_USER)).json()["id"]
        path, group = f"/v1/summary-views/{view}/partitions/run", {"group": {"user_id": "alice"}}
        assert (await http.post(path, json=group)).status_code == 200
        refused = await http.post(path, json=group)
        assert refused.status_code == 429
        assert "extraction_daily_tokens" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) > 0


async def test_views_and_tasks_are_their_tenants(serve: Serve) -> None:
    """Another key sees nothing: not the view, not its summaries, not its tasks."""
    async with (
        serve(scribe, tenancy="key", **settings_with_model("key")) as served,
        http_of(served, Authorization="Bearer one") as one,
        http_of(served, Authorization="Bearer two") as two,
        http_of(served) as nobody,
    ):
        view = (await one.post("/v1/summary-views", json=BY_USER)).json()["id"]
        memory = {"id": "m", "text": "Likes tea.", "user_id": "alice", "memory_type": "semantic"}
        await one.post("/v1/long-term-memory/", json={"memories": [memory]})
        task = (await one.post(f"/v1/summary-views/{view}/run", json={"task_id": "mine"})).json()["id"]
        assert task == "mine"
        assert (await two.get("/v1/summary-views")).json() == []
        for path in (f"/v1/summary-views/{view}", f"/v1/summary-views/{view}/partitions", "/v1/tasks/mine"):
            assert (await two.get(path)).status_code == 404
            assert (await nobody.get(path)).status_code == 401
        await two.delete(f"/v1/summary-views/{view}")
        assert (await one.get(f"/v1/summary-views/{view}")).status_code == 200
        other = (await two.post("/v1/summary-views", json=BY_USER)).json()["id"]
        group = {"group": {"user_id": "alice"}}
        empty = (await two.post(f"/v1/summary-views/{other}/partitions/run", json=group)).json()
        assert empty["empty"] is True


async def test_a_tenant_has_a_bounded_number_of_views(serve: Serve, redis: Redis) -> None:
    """A loop that makes views is stopped with words."""
    async with serve() as served, http_of(served) as http:
        for _ in range(MAX_VIEWS):
            assert (await http.post("/v1/summary-views", json=BY_USER)).status_code == 200
        response = await http.post("/v1/summary-views", json=BY_USER)
        assert response.status_code == 400
        assert str(MAX_VIEWS) in response.json()["detail"]


def test_filters_are_taken_plain_in_lists_and_as_a_search_has_them() -> None:
    """The reference's views have plain values; whoever knows the search's filters may use those."""
    semantic = (any_of(TagField.TYPE, [MemoryType.SEMANTIC]),)
    assert filter_rules({"memory_type": "semantic"}) == semantic
    assert filter_rules({"memory_type": ["semantic"]}) == semantic
    assert filter_rules({"memory_type": {"eq": "semantic"}}) == semantic
    assert filter_rules({"memory_type": {"in_": ["semantic"]}}) == semantic
    assert filter_rules({"memory_type": {}}) == filter_rules({}) == ()
