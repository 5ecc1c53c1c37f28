"""Tasks over REST."""

import httpx
import pytest

from tests.fakes.serving import Serve

VIEW = {"source": "long_term", "group_by": ["user_id"]}


@pytest.mark.parametrize(
    ("given", "path"), [("plain", "plain"), ("with/slash", "with/slash"), ("a b", "a%20b"), ("50%25", "50%25")]
)
async def test_a_task_is_found_under_the_id_it_was_given(serve: Serve, given: str, path: str) -> None:
    """agent-memory-client puts ids into paths as they are."""
    async with serve() as served, httpx.AsyncClient(base_url=served.origin) as http:
        view = (await http.post("/v1/summary-views", json=VIEW)).json()["id"]
        begun = (await http.post(f"/v1/summary-views/{view}/run", json={"task_id": given})).json()
        known = (await http.get(f"/v1/tasks/{path}")).json()
        assert known["id"] == begun["id"] == given
        assert known["type"] == "summary_view_full_run"
        assert known.keys() == {
            "id",
            "type",
            "status",
            "view_id",
            "created_at",
            "started_at",
            "completed_at",
            "error_message",
        }


async def test_an_unknown_task_is_not_found(serve: Serve) -> None:
    """The client makes None of it."""
    async with serve() as served, httpx.AsyncClient(base_url=served.origin) as http:
        response = await http.get("/v1/tasks/none")
        assert response.status_code == 404
        assert response.json() == {"detail": "Task none not found"}


@pytest.mark.parametrize("task_id", ["", " ", 5, "x" * 10_000])
async def test_an_id_that_cannot_be_one_is_refused(serve: Serve, task_id: object) -> None:
    """Before anything is run."""
    async with serve() as served, httpx.AsyncClient(base_url=served.origin) as http:
        view = (await http.post("/v1/summary-views", json=VIEW)).json()["id"]
        assert (await http.post(f"/v1/summary-views/{view}/run", json={"task_id": task_id})).status_code == 422
