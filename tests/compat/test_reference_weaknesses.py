"""What agent-memory-server does badly, done right: one test for each weakness of section 5 of its specification.

Data loss 1 to 7, isolation 8 to 14, correctness 15 to 18. Their numbers stand before the tests.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from memproxy.demo.scripted_model import ModelRequest, Reply
from memproxy.embedding import LocalEmbedder
from tests.fakes.serving import Serve, Served, until

LONG_TERM, SESSIONS, PROMPT = "/v1/long-term-memory", "/v1/working-memory", "/v1/memory/prompt"
MODEL: dict[str, Any] = {"extraction_model": "small", "upstream_api_key": "sk-background"}
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NOTHING = Reply(text='{"memories": [], "summary": ""}')


def http_of(served: Served, **headers: str) -> httpx.AsyncClient:
    """A plain client, which sends what the reference's does not let through."""
    return httpx.AsyncClient(base_url=served.origin, timeout=30, headers=headers)


def fact(text: str, evidence: str) -> Reply:
    """A model's answer with one memory."""
    return Reply(text=json.dumps({"memories": [{"text": text, "type": "semantic", "evidence": evidence}]}))


def message(content: str, *, role: str = "user", minute: int = 0) -> dict[str, Any]:
    """One message of a session."""
    at = (NOON + timedelta(minutes=minute)).isoformat()
    return {"role": role, "content": content, "id": f"m-{minute}", "created_at": at}


async def put(http: httpx.AsyncClient, session: str, *messages: dict[str, Any], **given: Any) -> httpx.Response:
    """Store a session."""
    answer = await http.put(f"{SESSIONS}/{session}", json={"messages": list(messages), **given})
    assert answer.status_code == 200, answer.text
    return answer


async def contents(http: httpx.AsyncClient, session: str, **query: str) -> list[str]:
    """What its messages say."""
    answer = await http.get(f"{SESSIONS}/{session}", params=query)
    assert answer.status_code == 200, answer.text
    return [one["content"] for one in answer.json()["messages"]]


async def create(http: httpx.AsyncClient, *memories: dict[str, Any]) -> None:
    """Store memories."""
    numbered = [{"id": f"id-{number}", **memory} for number, memory in enumerate(memories)]
    answer = await http.post(LONG_TERM, json={"memories": numbered})
    assert answer.status_code == 200, answer.text


async def found(http: httpx.AsyncClient, text: str, **given: Any) -> list[dict[str, Any]]:
    """What a search finds."""
    answer = await http.post(f"{LONG_TERM}/search", json={"text": text, **given})
    assert answer.status_code == 200, answer.text
    memories: list[dict[str, Any]] = answer.json()["memories"]
    return memories


def texts(memories: list[dict[str, Any]]) -> list[str]:
    """What they say."""
    return [memory["text"] for memory in memories]


def asked_in_background(served: Served) -> list[ModelRequest]:
    """The requests to the background model."""
    return [request for request in served.model.requests if request.model == "small"]


# ---- 1 to 7: nothing is lost ----


async def test_1_what_is_put_while_a_model_reads_is_kept(serve: Serve) -> None:
    """There, learning wrote the session back as it was before the model was asked."""
    async with serve(lambda _: Reply(text=NOTHING.text, delay_s=0.3), **MODEL) as served, http_of(served) as http:
        await put(http, "s", message("One."), user_id="alice")

        async def is_reading() -> bool:
            return bool(asked_in_background(served))

        await until(is_reading)
        await put(http, "s", message("One."), message("Two.", minute=1), user_id="alice")
        await served.settled()
        assert await contents(http, "s", user_id="alice") == ["One.", "Two."]


async def test_1_two_who_write_at_once_both_stay(serve: Serve) -> None:
    """There, whoever wrote last won: the client reads the whole session, adds to it, and writes it back."""
    async with serve() as served, http_of(served) as ann, http_of(served) as ben:
        await put(ann, "s", message("One."), user_id="alice")
        read = [await contents(http, "s", user_id="alice") for http in (ann, ben)]
        assert read == [["One."], ["One."]]
        await put(ann, "s", message("One."), message("From Ann.", minute=1), user_id="alice")
        await put(ben, "s", message("One."), message("From Ben.", minute=2), user_id="alice")
        assert await contents(ann, "s", user_id="alice") == ["One.", "From Ann.", "From Ben."]


async def test_2_a_message_right_after_learning_is_learned(serve: Serve) -> None:
    """There, it fell into a pause in which nothing was scheduled."""

    def answer(request: ModelRequest) -> Reply:
        text = request.last_user_text
        return fact("Alice has a cat called Mog.", "a cat called Mog") if "Mog" in text else NOTHING

    async with serve(answer, **MODEL) as served, http_of(served) as http:
        first, second = message("Hello there."), message("I have a cat called Mog.", minute=1)
        await put(http, "s", first, user_id="alice")
        await served.settled()
        await put(http, "s", first, second, user_id="alice")
        await served.settled()
        assert "Alice has a cat called Mog." in texts(await found(http, "cat", user_id={"eq": "alice"}))


async def test_3_a_model_that_fails_is_asked_again(serve: Serve) -> None:
    """There, what it should have read was marked as read, and lost."""
    failures = iter([Reply(status=500)])

    def answer(_: ModelRequest) -> Reply:
        return next(failures, fact("Alice has a cat called Mog.", "a cat called Mog"))

    async with serve(answer, **MODEL) as served, http_of(served) as http:
        await put(http, "s", message("I have a cat called Mog."), user_id="alice")
        await served.settled()
        assert "Alice has a cat called Mog." in texts(await found(http, "cat", user_id={"eq": "alice"}))


LONG = [message(f"Sentence {number}: " + "word " * 60, minute=number) for number in range(40)]


async def test_4_a_summary_is_of_what_came_first_in_its_order(serve: Serve) -> None:
    """There, messages were read backwards, and the answer `NONE` wiped the summary there was."""
    answers = {"summary": "They began with sentence zero."}

    def answer(_: ModelRequest) -> Reply:
        return Reply(text=json.dumps({"memories": [], **answers}))

    async with serve(answer, **MODEL) as served, http_of(served) as http:
        query = {"context_window_max": "2000"}
        await http.put(f"{SESSIONS}/s", params=query, json={"messages": LONG, "user_id": "alice"})
        await served.settled()
        session = (await http.get(f"{SESSIONS}/s", params={"user_id": "alice"})).json()
        assert "sentence zero" in session["context"]
        bodies = [request.raw_body.decode() for request in asked_in_background(served)]
        read = next(body for body in bodies if "Sentence 0:" in body and "Sentence 2:" in body)
        assert read.index("Sentence 0:") < read.index("Sentence 1:") < read.index("Sentence 2:")
        answers["summary"] = "NONE"
        longer = [*LONG, *(message(f"Later {number}: " + "word " * 60, minute=100 + number) for number in range(40))]
        await http.put(f"{SESSIONS}/s", params=query, json={**session, "messages": longer})
        await served.settled()
        assert "sentence zero" in (await http.get(f"{SESSIONS}/s", params={"user_id": "alice"})).json()["context"]


async def test_5_storing_does_not_depend_on_a_model(serve: Serve) -> None:
    """There, a session that was due for a summary could not be stored while the model was away."""
    async with serve(lambda _: Reply(status=500), **MODEL) as served, http_of(served) as http:
        query = {"context_window_max": "2000"}
        answer = await http.put(f"{SESSIONS}/s", params=query, json={"messages": LONG, "user_id": "alice"})
        assert answer.status_code == 200
        assert (await contents(http, "s", user_id="alice"))[-1] == LONG[-1]["content"]


async def test_6_the_old_is_there_until_the_new_is(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, a memory was deleted before its successor had been embedded."""
    async with serve() as served, http_of(served) as http:
        await create(http, {"text": "Likes tea", "user_id": "alice"})

        async def fail(*_: object) -> None:
            raise RuntimeError("the embedding fails")

        monkeypatch.setattr(LocalEmbedder, "embed_documents", fail)
        coffee = {"id": "id-0", "text": "Likes coffee", "user_id": "alice"}
        again = await http.post(LONG_TERM, json={"memories": [coffee]})
        moved = await http.patch(f"{LONG_TERM}/id-0", json={"user_id": "bob"})
        edited = await http.patch(f"{LONG_TERM}/id-0", json={"text": "Likes water"})
        assert [again.status_code, moved.status_code, edited.status_code] == [500, 500, 500]
        kept = (await http.get(f"{LONG_TERM}/id-0")).json()
        assert (kept["text"], kept["user_id"]) == ("Likes tea", "alice")


@pytest.mark.parametrize("word", ["important", "token", "system", "password policy"])
async def test_7_a_custom_strategy_keeps_what_it_made(serve: Serve, word: str) -> None:
    """There, memories with the word `important` in them, and others, were dropped."""
    said = f"The {word} meeting is on Friday."
    custom = {"strategy": "custom", "config": {"custom_prompt": "Note the dates in this: {message}"}}
    async with serve(lambda _: fact(said, said), **MODEL) as served, http_of(served) as http:
        await put(http, "s", message(said), user_id="alice", long_term_memory_strategy=custom)
        await served.settled()
        made = await found(http, "meeting", user_id={"eq": "alice"}, extraction_strategy={"eq": "custom"})
        assert texts(made) == [said]


# ---- 8 to 14: nothing is shown to others ----


@pytest.mark.parametrize("given", [{}, {"relax_filters": True}, {"search_mode": "semantic", "relax_filters": True}])
async def test_8_a_namespace_with_nothing_in_it_shows_nothing(serve: Serve, given: dict[str, Any]) -> None:
    """There, a search that found nothing was made again without the namespace."""
    async with serve() as served, http_of(served) as http:
        await create(http, {"text": "Likes tea", "namespace": "a", "user_id": "alice"})
        assert await found(http, "tea", namespace={"eq": "b"}, topics={"any": ["x"]}, **given) == []
        assert await found(http, "tea", user_id={"eq": "bob"}, topics={"any": ["x"]}, **given) == []


async def test_9_a_session_is_its_users(serve: Serve) -> None:
    """There, who named no user got whichever session had that id."""
    async with serve() as served, http_of(served) as http:
        await put(http, "s", message("Alice's secret."), user_id="alice", namespace="a")
        for query in ({}, {"user_id": "bob"}, {"namespace": "a"}, {"user_id": "alice"}):
            assert (await http.get(f"{SESSIONS}/s", params=query)).status_code == 404, query
            await http.delete(f"{SESSIONS}/s", params=query)
        assert await contents(http, "s", user_id="alice", namespace="a") == ["Alice's secret."]


async def test_10_what_a_model_made_has_an_owner(serve: Serve) -> None:
    """There, it had no user and no namespace, and so matched everybody's."""
    answer = fact("Alice has a cat.", "a cat called Mog")
    async with serve(lambda _: answer, **MODEL) as served, http_of(served) as http:
        await put(http, "s", message("I have a cat called Mog."), user_id="alice", namespace="a")
        await served.settled()
        made = await found(http, "cat")
        assert "Alice has a cat." in texts(made)
        assert {(one["user_id"], one["namespace"], one["session_id"]) for one in made} == {("alice", "a", "s")}


async def test_11_an_id_belongs_to_its_owner(serve: Serve) -> None:
    """There, whoever created an id again overwrote what others had under it."""
    async with serve() as served, http_of(served) as http:
        await create(http, {"text": "Alice's", "user_id": "alice"})
        await create(http, {"text": "Bob's", "user_id": "bob"})
        assert sorted(texts(await found(http, ""))) == ["Alice's", "Bob's"]
        unclear = await http.get(f"{LONG_TERM}/id-0")
        assert unclear.status_code == 409
        assert "user_id" in unclear.json()["detail"]
        assert (await http.patch(f"{LONG_TERM}/id-0", json={"text": "x"})).status_code == 409
        assert (await http.delete(LONG_TERM, params={"memory_ids": "id-0"})).status_code == 409
        alices = {"user_id": "alice"}
        assert (await http.get(f"{LONG_TERM}/id-0", params=alices)).json()["text"] == "Alice's"
        assert (await http.patch(f"{LONG_TERM}/id-0", params=alices, json={"text": "New"})).json()["text"] == "New"
        taken = await http.patch(f"{LONG_TERM}/id-0", params=alices, json={"user_id": "bob"})
        assert taken.status_code == 409
        gone = await http.delete(LONG_TERM, params={"memory_ids": "id-0", **alices})
        assert gone.json() == {"status": "ok, deleted 1 memories"}
        assert texts(await found(http, "")) == ["Bob's"]


async def test_12_equal_names_of_sessions_do_not_disturb_each_other(serve: Serve) -> None:
    """There, one user's session kept another's of the same name from being learned."""

    def answer(request: ModelRequest) -> Reply:
        who = "Alice" if "Alice" in request.last_user_text else "Bob"
        return fact(f"{who} has a cat.", f"{who} here")

    async with serve(answer, **MODEL) as served, http_of(served) as http:
        for who in ("Alice", "Bob"):
            await put(http, "s", message(f"{who} here, I have a cat."), user_id=who.lower())
        await served.settled()
        for who in ("Alice", "Bob"):
            assert f"{who} has a cat." in texts(await found(http, "cat", user_id={"eq": who.lower()}))


async def test_13_a_filter_can_not_become_another(serve: Serve) -> None:
    """There, a filter's `field` came from the client and went into the query as it was."""
    async with serve() as served, http_of(served) as http:
        await create(http, {"text": "Bob's", "user_id": "bob"})
        for attack in (
            {"namespace": {"field": "user_id", "eq": "bob"}},
            {"namespace": {"field": "user_id:{bob} | @x", "startswith": "b"}},
        ):
            answer = await http.post(f"{LONG_TERM}/search", json={"text": "x", **attack})
            assert answer.status_code == 422
        for query in ("bob} | @user_id:{*", "*", "alice|bob"):
            assert await found(http, "x", user_id={"eq": query}) == []
            assert await found(http, "x", user_id={"startswith": query}) == []
            compacted = await http.post(f"{LONG_TERM}/compact", params={"user_id": query, "namespace": query})
            assert compacted.json() == {"status": "ok, 0 memories remaining after compaction"}


async def test_14_what_would_restrict_nothing_is_refused(serve: Serve) -> None:
    """There, `filters` was passed over, and everybody's memories were searched."""
    filters = {"filters": {"user_id": {"eq": "alice"}}}
    async with serve() as served, http_of(served) as http:
        await create(http, {"text": "Bob's", "user_id": "bob"})
        for path, body in (
            (f"{LONG_TERM}/search", {"text": "x", **filters}),
            (PROMPT, {"query": "x", "long_term_search": filters}),
        ):
            answer = await http.post(path, json=body)
            assert answer.status_code == 422, path
            assert "filters" in answer.text


async def test_14_a_credential_decides_whose_memory_it_is(serve: Serve) -> None:
    """There, any valid one read and wrote everything."""
    async with (
        serve(tenancy="key") as served,
        http_of(served, Authorization="Bearer sk-mine") as mine,
        http_of(served, Authorization="Bearer sk-theirs") as theirs,
        http_of(served) as nobody,
    ):
        await create(mine, {"text": "Mine", "user_id": "alice"})
        await put(mine, "s", message("Mine."), user_id="alice")
        assert await found(theirs, "") == []
        assert (await theirs.get(f"{LONG_TERM}/id-0")).status_code == 404
        assert (await theirs.get(f"{SESSIONS}/s", params={"user_id": "alice"})).status_code == 404
        deleted = await theirs.delete(LONG_TERM, params={"memory_ids": "id-0"})
        assert deleted.json() == {"status": "ok, deleted 0 memories"}
        for path in (f"{LONG_TERM}/id-0", f"{SESSIONS}/s", SESSIONS, "/v1/summary-views", "/v1/tasks/x"):
            refused = await nobody.get(path)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert (await nobody.get("/v1/health")).status_code == 200
        assert texts(await found(mine, "")) == ["Mine"]


# ---- 15 to 18: it does what it says ----


async def test_15_a_search_counts_and_pages(serve: Serve) -> None:
    """There, the total was the page's length, and there was never a next page."""
    async with serve() as served, http_of(served) as http:
        await create(http, *({"text": f"Fact {number} about tea"} for number in range(7)))
        for mode in ({}, {"search_mode": "semantic"}, {"search_mode": "keyword"}, {"search_mode": "hybrid"}):
            seen: set[str] = set()
            offset: int | None = 0
            while offset is not None:
                body = {"text": "fact tea", "limit": 3, "offset": offset, **mode}
                page = (await http.post(f"{LONG_TERM}/search", json=body)).json()
                assert page["total"] == 7, mode
                seen |= {memory["id"] for memory in page["memories"]}
                offset = page["next_offset"]
            assert len(seen) == 7, mode


async def test_15_recency_of_the_server_is_the_same_formula(serve: Serve) -> None:
    """There, `server_side_recency` never worked."""
    old = (datetime.now(UTC) - timedelta(days=300)).isoformat()
    async with serve() as served, http_of(served) as http:
        monday, friday = {"text": "The meeting is on Monday", "created_at": old}, {"text": "The meeting is on Friday"}
        await create(http, monday, friday)
        for given in ({}, {"server_side_recency": True}):
            body = {"recency_boost": True, "recency_semantic_weight": 0.01, "recency_recency_weight": 1.0, **given}
            assert texts(await found(http, "The meeting is on Monday", **body))[0] == "The meeting is on Friday"


async def test_16_a_prompt_searches_for_its_question(serve: Serve) -> None:
    """There, `long_term_search: true` gave any twenty memories, whoever's they were."""
    async with serve() as served, http_of(served) as http:
        await create(
            http,
            {"text": "Alice likes green tea", "user_id": "alice", "namespace": "a"},
            {"text": "Bob likes green tea", "user_id": "bob", "namespace": "a"},
            {"text": "Alice likes green tea at work", "user_id": "alice", "namespace": "b"},
        )
        await put(http, "s", message("Hello."), user_id="alice", namespace="a")
        body = {
            "query": "Which tea does she like?",
            "session": {"session_id": "s", "user_id": "alice", "namespace": "a", "model_name": "a-model-of-next-year"},
            "long_term_search": True,
        }
        answer = await http.post(PROMPT, json=body)
        assert answer.status_code == 200, answer.text
        assert texts(answer.json()["long_term_memories"]) == ["Alice likes green tea"]


async def test_17_times_are_counted_from_when_something_was_said(serve: Serve) -> None:
    """There, `yesterday` was the day before the model was asked, and no time was shown to it."""
    async with serve(lambda _: NOTHING, **MODEL) as served, http_of(served) as http:
        await put(http, "s", message("I met Marta yesterday."), user_id="alice")
        await served.settled()
        (asked,) = asked_in_background(served)
        assert "2024" in asked.last_user_text
        assert str(datetime.now(UTC).year) not in asked.last_user_text


async def test_18_a_summary_view_leaves_nothing_behind(serve: Serve) -> None:
    """There, its summaries stayed when it was deleted, and a run summarised all again though nothing had changed."""
    async with serve(lambda _: Reply(text='{"summary": "Likes tea."}'), **MODEL) as served, http_of(served) as http:

        async def summaries() -> int:
            store = served.instance.services.session_data._redis
            return len([key async for key in store.scan_iter("mp:part:*")])

        await create(http, {"text": "Likes tea", "user_id": "alice"})
        ordered = {"source": "long_term", "group_by": ["user_id"]}
        view = (await http.post("/v1/summary-views", json=ordered)).json()["id"]
        made = await http.post(f"/v1/summary-views/{view}/partitions/run", json={"group": {"user_id": "alice"}})
        assert made.json()["summary"] == "Likes tea."
        asked = len(asked_in_background(served))
        task = (await http.post(f"/v1/summary-views/{view}/run", json={})).json()["id"]

        async def is_done() -> bool:
            return bool((await http.get(f"/v1/tasks/{task}")).json()["status"] == "success")

        await until(is_done)
        assert len(asked_in_background(served)) == asked
        assert await summaries() == 1
        await http.delete(f"/v1/summary-views/{view}")
        assert (await http.get(f"/v1/summary-views/{view}/partitions")).status_code == 404
        assert await summaries() == 0
