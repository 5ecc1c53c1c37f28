"""memproxy's own pages: health, metrics, receipts."""

import httpx
import msgspec
import pytest

from memproxy.demo.scripted_model import Reply
from memproxy.errors import StoreUnavailableError
from memproxy.storage.working import SessionStore
from tests.fakes.serving import Serve


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=False, timeout=30)


BODY = {"model": "m", "messages": [{"role": "user", "content": "My order is LX-1."}]}


async def test_health_and_readiness(serve: Serve) -> None:
    """Orchestrators find out whether it lives and whether to send requests."""
    async with serve() as served, client() as http:
        assert (await http.get(f"{served.origin}/healthz")).json() == {"status": "ok"}
        assert (await http.get(f"{served.origin}/readyz")).status_code == 200
        served.instance.app.drain()
        assert (await http.get(f"{served.origin}/readyz")).status_code == 503


async def test_metrics_count_without_naming_anybody(serve: Serve) -> None:
    """Prometheus gets numbers; who said what is in none of them."""
    async with serve() as served, client() as http:
        await http.post(f"{served.origin}/u/alice/s/one/v1/chat/completions", json=BODY)
        await served.settled()
        answer = await http.get(f"{served.origin}/metrics")
    metrics = answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'memproxy_requests_total{kind="memory",status="2xx"} 1.0' in metrics
    assert 'memproxy_turns_recorded_total{outcome="completed"} 1.0' in metrics
    assert "alice" not in metrics


async def test_a_receipt_says_what_was_done(serve: Serve) -> None:
    """`explain` answers the question why a request got the memory it got."""
    async with serve() as served, client() as http:
        first = await http.post(f"{served.origin}/u/alice/s/one/v1/chat/completions", json=BODY)
        await served.settled()
        asked = {"model": "m", "messages": [{"role": "user", "content": "When does my order arrive?"}]}
        second = await http.post(f"{served.origin}/u/alice/s/two/v1/chat/completions", json=asked)
        receipt = (await http.get(f"{served.origin}/memproxy/explain/{second.headers['x-memproxy-request-id']}")).json()
        other = await http.get(f"{served.origin}/memproxy/explain/{first.headers['x-memproxy-request-id']}")
    assert receipt["identity"]["user"] == "alice"
    assert receipt["identity"]["rule"] == second.headers["x-memproxy-identity"] == "path"
    assert len([memory for memory in receipt["memories"] if memory["injected"]]) == int(
        second.headers["x-memproxy-memories"]
    )
    assert "LX-1" in receipt["injected"]["block"]
    assert receipt["outcome"] == "completed"
    assert other.json()["unchanged"] is True


async def test_receipts_outlive_the_process_and_stay_in_their_tenant(serve: Serve) -> None:
    """Any instance shows any receipt, but only under the credential of the request."""
    mine, theirs = {"Authorization": "Bearer sk-mine"}, {"Authorization": "Bearer sk-theirs"}
    async with serve(tenancy="key") as served, client() as http:
        answer = await http.post(f"{served.origin}/u/alice/v1/chat/completions", json=BODY, headers=mine)
        await served.settled()
    path = f"/memproxy/explain/{answer.headers['x-memproxy-request-id']}"
    async with serve(tenancy="key") as served, client() as http:
        assert (await http.get(served.origin + path, headers=mine)).json()["recorded_at"]
        assert (await http.get(served.origin + path, headers=theirs)).status_code == 404
        assert (await http.get(served.origin + path)).status_code == 404


ASKED: dict[str, tuple[str, dict[str, object]]] = {
    "chat/completions": ("messages", {}),
    "responses": ("input", {}),
    "messages": ("messages", {"max_tokens": 100}),
}
LONG = "Please answer in full sentences. " * 300


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("path", ASKED)
async def test_the_account_says_what_the_prompt_cache_gave(serve: Serve, path: str, is_stream: bool) -> None:
    """Whoever pays sees for each session whether the provider's cache hits, whatever the format reports it as."""
    field, more = ASKED[path]
    body = {"model": "m", "stream": is_stream, field: [{"role": "user", "content": LONG}], **more}
    if is_stream and path == "chat/completions":
        body["stream_options"] = {"include_usage": True}
    async with serve(lambda _: Reply("Yes.")) as served, client() as http:
        receipts = []
        for _ in range(2):
            answer = await http.post(f"{served.origin}/u/alice/s/one/v1/{path}", json=body)
            assert answer.status_code == 200
            await served.settled()
            request_id = answer.headers["x-memproxy-request-id"]
            receipts.append((await http.get(f"{served.origin}/memproxy/explain/{request_id}")).json()["tokens"])
            body[field] = [{"role": "user", "content": "And more?"}]
        account = f"{served.origin}/memproxy/sessions/one/usage"
        told = (await http.get(account, headers={"X-Memproxy-User": "alice"})).json()
        again = (await http.get(account, params={"user_id": "alice"})).json()
        others = [await http.get(account), await http.get(account, params={"user_id": "bob"})]
    assert receipts[1]["cached"] > 1_000
    assert receipts[1]["prompt"] > receipts[0]["prompt"] > 1_000
    assert told == again
    assert told == {
        "session_id": "one",
        "answers": 2,
        "prompt_tokens": receipts[0]["prompt"] + receipts[1]["prompt"],
        "cached_tokens": receipts[0]["cached"] + receipts[1]["cached"],
        "completion_tokens": receipts[0]["completion"] + receipts[1]["completion"],
        "cached_share": pytest.approx(told["cached_tokens"] / told["prompt_tokens"]),
    }
    assert [each.status_code for each in others] == [404, 404], "nobody else's session is told of"


async def test_an_account_that_cannot_be_read_is_no_mistake_of_the_caller(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks tries again later, and learns nothing of where the store is."""

    async def away(*_: object) -> None:
        raise StoreUnavailableError("Error 111 connecting to redis.internal:6379.")

    async with serve() as served, client() as http:
        monkeypatch.setattr(SessionStore, "account", away)
        told = await http.get(f"{served.origin}/memproxy/sessions/one/usage")
    assert (told.status_code, told.json()["error"]["type"]) == (503, "api_error")
    assert "redis.internal" not in told.text


async def test_a_provider_that_tells_nothing_of_its_cache_leaves_the_account_empty(serve: Serve) -> None:
    """No report is not a miss: a share of zero would be a lie."""
    plain = {"choices": [{"message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}]}
    raw = msgspec.json.encode({**plain, "usage": {"prompt_tokens": 10, "completion_tokens": 1}})
    async with serve(lambda _: Reply(raw_body=raw)) as served, client() as http:
        await http.post(f"{served.origin}/u/alice/s/one/v1/chat/completions", json=BODY)
        await served.settled()
        told = (await http.get(f"{served.origin}/memproxy/sessions/one/usage", params={"user_id": "alice"})).json()
    assert (told["answers"], told["prompt_tokens"], told["cached_share"]) == (0, 0, None)


async def test_tenants_share_nothing(serve: Serve) -> None:
    """The same user and session names under another credential are another user and session."""
    async with serve(tenancy="key") as served, client() as http:
        for key, text in (("sk-one", "My order is LX-1."), ("sk-two", "Where is my order?")):
            body = {"model": "m", "messages": [{"role": "user", "content": text}]}
            headers = {"Authorization": f"Bearer {key}"}
            await http.post(f"{served.origin}/u/alice/s/one/v1/chat/completions", json=body, headers=headers)
            await served.settled()
        assert b"LX-1" not in served.model.requests[-1].raw_body
        anonymous = await http.post(f"{served.origin}/u/alice/s/one/v1/chat/completions", json=BODY)
    assert "x-memproxy-session" not in anonymous.headers


async def test_unknown_own_pages_answer_in_the_same_shape(serve: Serve) -> None:
    """One error shape everywhere."""
    async with serve(lambda _: Reply(text="x")) as served, client() as http:
        response = await http.get(f"{served.origin}/memproxy/nothing")
    assert response.status_code == 404
    assert response.json()["error"]["message"]


async def test_namespaces_part_a_users_memory(serve: Serve) -> None:
    """What was said at work does not come up at home."""
    async with serve() as served, client() as http:
        work = {"X-Memproxy-User": "alice", "X-Memproxy-Namespace": "work"}
        await http.post(f"{served.base_url}/chat/completions", json=BODY, headers=work)
        await served.settled()
        asked = {"model": "m", "messages": [{"role": "user", "content": "When does my order arrive?"}]}
        for namespace, expected in (("home", False), ("work", True)):
            headers = {"X-Memproxy-User": "alice", "X-Memproxy-Namespace": namespace}
            await http.post(f"{served.base_url}/chat/completions", json=asked, headers=headers)
            assert (b"LX-1" in served.model.requests[-1].raw_body) is expected


@pytest.mark.parametrize("path", ["/v1/health", "/v1/health/", "//v1/health", "/u/alice/n/shop/v1/health"])
async def test_the_memory_api_is_served_beside_the_providers(serve: Serve, path: str) -> None:
    """Its paths are its own, with and without a trailing slash, whatever stands before them."""
    async with serve() as served, client() as http:
        answer = await http.get(served.origin + path)
        assert answer.json().keys() == {"now"}
        assert served.model.requests == []
        assert 'kind="memory_api",status="2xx"} 1.0' in (await http.get(f"{served.origin}/metrics")).text


@pytest.mark.parametrize("path", ["/v1/models", "/v1/memory/other", "/u/alice/v1/echo", "/v1/files/long-term-memory"])
async def test_other_paths_stay_the_providers(serve: Serve, path: str) -> None:
    """A provider's resource does not vanish behind memproxy's."""
    async with serve() as served, client() as http:
        await http.get(served.origin + path)
        assert [request.path for request in served.model.requests] == [path.removeprefix("/u/alice")]


async def test_the_memory_api_refuses_in_its_own_shape(serve: Serve) -> None:
    """Each API's clients read their own errors."""
    async with serve() as served, client() as http:
        answer = await http.post(f"{served.origin}/u//v1/long-term-memory/search", json={})
        assert answer.status_code == 400
        assert "user" in answer.json()["detail"]
        assert (await http.get(f"{served.origin}/v1/tasks")).json() == {"detail": "Not Found"}
