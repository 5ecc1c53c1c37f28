"""Sessions over REST, before the real proxy: the same sessions, whoever writes them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from memproxy.demo.scripted_model import ModelRequest, Reply, ToolCallReply
from memproxy.records import Scope, SessionKey
from tests.fakes.serving import Serve, Served, until

PATH = "/v1/working-memory"
Json = dict[str, Any]


@asynccontextmanager
async def rest(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.origin, verify=False, timeout=60) as client:
        yield client


def message(text: str, role: str = "user", **given: Any) -> Json:
    return {"role": role, "content": text, "created_at": datetime.now(UTC).isoformat(), **given}


async def ask(served: Served, *messages: Json, path: str = "/u/alice/s/chat-1/v1", **more: Any) -> Json:
    """One exchange through the proxy; the answer's message."""
    async with served.openai(path) as client:
        given: Any = list(messages)
        answer = await client.chat.completions.create(model="gpt-4o", messages=given, **more)
        found: Json = answer.choices[0].message.model_dump(exclude_none=True)
        return found


def said(text: str, role: str = "user") -> Json:
    return {"role": role, "content": text}


def texts(document: Json) -> list[str]:
    return [one["content"] for one in document["messages"]]


def received(served: Served) -> list[str]:
    """What the model was sent last, memories apart."""
    return [str(one["content"]).rpartition("</memproxy-memory>\n\n")[2] for one in served.model.requests[-1].messages]


async def read(client: httpx.AsyncClient, name: str = "chat-1", **query: Any) -> Json:
    response = await client.get(f"{PATH}/{name}", params={"user_id": "alice", **query})
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


async def write(client: httpx.AsyncClient, document: Json, name: str = "chat-1", **query: Any) -> Json:
    response = await client.put(f"{PATH}/{name}", params={"user_id": "alice", **query}, json=document)
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


# The same sessions


async def test_what_an_agent_says_is_read_over_rest(serve: Serve) -> None:
    """At once, without a line of code in the agent."""
    async with serve() as served, rest(served) as client:
        answer = await ask(served, said("My order is LX-4417."))
        document = await read(client)
        assert texts(document) == ["My order is LX-4417.", answer["content"]]
        assert [one["role"] for one in document["messages"]] == ["user", "assistant"]
        assert (document["user_id"], document["namespace"], document["session_id"]) == ("alice", None, "chat-1")
        assert document["tokens"] > 0
        assert document["created_at"] <= document["updated_at"] == document["last_accessed"]


async def test_a_client_that_sends_its_newest_message_gets_what_code_wrote_before_it(serve: Serve) -> None:
    """The model sees the session that code has made, changed, and cut."""
    async with serve() as served, rest(served) as client:
        await write(client, {"messages": [message("I am in Bern.", id="a"), message("Noted.", "assistant", id="b")]})
        await ask(served, said("Where am I?"))
        assert received(served) == ["I am in Bern.", "Noted.", "Where am I?"]
        document = await read(client)
        document["messages"][0]["content"] = "I am in Rome."
        del document["messages"][1]
        await write(client, document)
        await ask(served, said("And now?"))
        assert received(served) == ["I am in Rome.", "Where am I?", "You said: Where am I?", "And now?"]
        await write(client, {**await read(client), "messages": []})
        await ask(served, said("Hello?"))
        assert received(served) == ["Hello?"]


async def test_a_client_that_sends_all_of_it_goes_on_in_the_same_session(serve: Serve) -> None:
    """What code put in between stays in the session; what the agent says of the conversation is what the model sees."""
    async with serve() as served, rest(served) as client:
        history = [said("one")]
        history += [await ask(served, *history), said("two")]
        document = await read(client)
        await write(client, {**document, "messages": [*document["messages"], message("A note.", id="note")]})
        for question in ("three", "four"):
            history += [await ask(served, *history), said(question)]
        last = await ask(served, *history)
        assert received(served) == [one["content"] for one in history]
        assert texts(await read(client)) == [
            "one", history[1]["content"], "A note.", *(one["content"] for one in history[2:]), last["content"],
        ]  # fmt: skip
        listed = (await client.get(PATH)).json()
        assert listed == {"sessions": ["chat-1"], "total": 1}


async def test_a_client_that_sends_all_of_it_goes_on_after_code_has_cut_the_session(serve: Serve) -> None:
    """The agent's own history is longer; only what is new goes into the session."""
    async with serve() as served, rest(served) as client:
        history = [said("one")]
        history += [await ask(served, *history), said("two")]
        history += [await ask(served, *history)]
        document = await read(client)
        await write(client, {**document, "messages": document["messages"][2:]})
        await ask(served, *history, said("three"))
        assert received(served) == [*(one["content"] for one in history), "three"]
        assert texts(await read(client))[:3] == ["two", "You said: two", "three"]


async def test_what_both_write_down_is_there_once(serve: Serve) -> None:
    """An application that kept its history over REST before it had a proxy may go on doing so."""
    async with serve() as served, rest(served) as client:
        own: list[Json] = []
        for text in ("one", "two"):
            own.append(message(text, id=f"id of {text}"))
            answer = await ask(served, said(text))
            own.append(message(answer["content"], "assistant", id=f"id of {text}'s answer"))
            document = await write(client, {"messages": own})
            assert texts(document) == [one["content"] for one in own]
        assert texts(await read(client)) == [one["content"] for one in own]


async def test_calls_of_tools_survive_a_client_that_knows_none(serve: Serve) -> None:
    """They are shown as text, and are sent to the model again as what they are."""

    def answer(request: ModelRequest) -> Reply:
        if request.messages[-1]["role"] == "user" and "order" in str(request.messages[-1]["content"]):
            return Reply(tool_calls=(ToolCallReply("get_order", '{"id": 1}', id="call_1"),))
        return Reply(text="It is on its way.")

    tools = [{"type": "function", "function": {"name": "get_order", "parameters": {"type": "object"}}}]
    async with serve(answer, tool_cache="off") as served, rest(served) as client:
        history = [said("My order?")]
        call = await ask(served, *history, tools=tools)
        history += [call, {"role": "tool", "tool_call_id": "call_1", "content": "LX-4417"}]
        await ask(served, *history, tools=tools)
        document = await read(client)
        assert texts(document) == ["My order?", '[calls get_order({"id": 1})]', "LX-4417", "It is on its way."]
        short = await read(client, recent_messages_limit=2)
        assert texts(short) == ["It is on its way."], "no result without its call"
        await write(client, {**document, "messages": [*document["messages"], message("Thanks.", id="n")]})
        await ask(served, said("Bye."))
        sent = served.model.requests[-1].messages
        assert [one["role"] for one in sent] == ["user", "assistant", "tool", "assistant", "user", "user"]
        assert sent[1]["tool_calls"][0]["function"] == {"name": "get_order", "arguments": '{"id": 1}'}


async def test_a_role_that_no_provider_knows_is_sent_as_the_assistants(serve: Serve) -> None:
    """Code may write any role; the agent's request must not be refused for it."""
    async with serve() as served, rest(served) as client:
        odd = [message("Once upon a time", "narrator"), message("Be brief.", "system"), message("r", "tool")]
        document = await write(client, {"messages": odd})
        assert [one["role"] for one in document["messages"]] == ["narrator", "system", "tool"]
        await ask(served, said("Go on."))
        sent = served.model.requests[-1].messages
        assert [one["role"] for one in sent] == ["assistant", "system", "user"]


async def test_a_write_in_the_middle_of_a_turn_is_kept_with_it(serve: Serve) -> None:
    """While the model answers, code writes; what is recorded then finds another session than the request did."""

    def answer(_: ModelRequest) -> Reply:
        return Reply(text="The answer is", cut_after=4, hang=True)

    async with serve(answer) as served, rest(served) as client:
        await write(client, {"messages": [message("A note.", id="a")]})
        async with served.openai("/u/alice/s/chat-1/v1") as agent:
            stream = await agent.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "question"}], stream=True
            )
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    break
            document = await read(client)
            await write(client, {**document, "messages": [message("Another note.", id="b")]})
            await stream.close()
        await served.settled()
        assert texts(await read(client))[:2] == ["Another note.", "question"]


async def test_a_session_is_found_by_exactly_who_and_where(serve: Serve) -> None:
    """No other user's, no other namespace's, none without a user; path, query and body say whose it is."""
    async with serve() as served, rest(served) as client:
        await ask(served, said("mine"), path="/u/alice/n/shop/s/chat-1/v1")
        for query in ({}, {"user_id": "bob", "namespace": "shop"}, {"user_id": "alice"}, {"namespace": "shop"}):
            response = await client.get(f"{PATH}/chat-1", params=query)
            assert (response.status_code, response.json()) == (404, {"detail": "Session chat-1 not found"})
        for path, query in ((PATH, {"user_id": "alice", "namespace": "shop"}), (f"/u/alice/n/shop{PATH}", {})):
            assert (await client.get(f"{path}/chat-1", params=query)).status_code == 200
        body = {"user_id": "bob", "namespace": "shop", "messages": [message("his")]}
        in_query = await client.put(f"{PATH}/chat-1", params={"user_id": "carol"}, json=body)
        assert in_query.json()["user_id"] == "carol"
        in_body = await client.put(f"/u/alice{PATH}/chat-1", json=body)
        assert (in_body.json()["user_id"], in_body.json()["namespace"]) == ("bob", "shop")
        assert texts((await client.get(f"/u/alice/n/shop{PATH}/chat-1")).json()) == ["mine", "You said: mine"]


async def test_an_operators_default_user_is_the_user_here_too(serve: Serve) -> None:
    """Else the agent's sessions would not be found by code that names nobody, either."""
    async with serve(default_user="me") as served, rest(served) as client:
        await ask(served, said("hi"), path="/s/chat-1/v1")
        response = await client.get(f"{PATH}/chat-1")
        assert (response.status_code, response.json()["user_id"]) == (200, "me")


@pytest.mark.parametrize("name", ["a b", "a/b", "é", "a%b", "a?b#c", "x" * 256])
async def test_sessions_may_have_any_name(serve: Serve, name: str) -> None:
    """What the proxy takes for one is found under it."""
    async with serve() as served, rest(served) as client:
        escaped = quote(name, safe="")
        await ask(served, said("hi"), path=f"/u/alice/s/{escaped}/v1")
        assert (await read(client, escaped))["session_id"] == name
        assert (await client.delete(f"{PATH}/{escaped}", params={"user_id": "alice"})).json() == {"status": "ok"}
        assert (await client.get(f"{PATH}/{escaped}", params={"user_id": "alice"})).status_code == 404


async def test_a_name_that_can_not_be_one_is_refused(serve: Serve) -> None:
    """As the proxy refuses it."""
    async with serve() as served, rest(served) as client:
        for name in ("x" * 257, "%00", "%20"):
            response = await client.get(f"{PATH}/{name}")
            assert response.status_code == 400
            assert "session" in response.json()["detail"]


# Documents


async def test_the_golden_answer(serve: Serve) -> None:
    """Every field of the reference's answer, with its values where there is nothing to tell."""
    async with serve() as served, rest(served) as client:
        body = {"messages": [{"role": "user", "content": "hi there"}], "namespace": "nsA"}
        response = await client.put(f"{PATH}/g1", json=body)
        assert response.headers["x-deprecation-warning"]
        document = response.json()
        (kept,) = document.pop("messages")
        assert {**kept, "id": "", "created_at": ""} == {
            "role": "user", "content": "hi there", "id": "", "created_at": "", "persisted_at": None,
            "discrete_memory_extracted": "f",
        }  # fmt: skip
        for name in ("last_accessed", "created_at", "updated_at"):
            assert document.pop(name).endswith("Z")
        assert document.pop("tokens") > 0
        assert document == {
            "memories": [], "data": None, "context": None, "user_id": None, "session_id": "g1", "namespace": "nsA",
            "long_term_memory_strategy": {"strategy": "discrete", "config": {}}, "ttl_seconds": None,
            "context_percentage_total_used": None, "context_percentage_until_summarization": None,
        }  # fmt: skip
        assert (await client.get(f"{PATH}/g1", params={"namespace": "nsA"})).json()["data"] == {}
        dated = await client.put(f"{PATH}/g2", json={"messages": [message("hi")]})
        assert "x-deprecation-warning" not in dated.headers


async def test_all_of_a_document_comes_back(serve: Serve) -> None:
    """Numbers, nulls, empty lists, any letters; and a document that says less leaves the rest as it is."""
    data: Json = {"step": 3, "big": 2**70, "none": None, "list": [], "nested": {"é": [1.5, {"x": False}]}}
    strategy = {"strategy": "summary", "config": {"max_summary_length": 50}}
    async with serve() as served, rest(served) as client:
        given = {"messages": [message("hi", id="a")], "data": data, "context": "They met.", "ttl_seconds": 3_600}
        await write(client, {**given, "long_term_memory_strategy": strategy})
        for _ in range(2):
            found = await read(client)
            assert (found["data"], found["context"], found["ttl_seconds"]) == (data, "They met.", 3_600)
            assert found["long_term_memory_strategy"] == strategy
            assert (await write(client, {"messages": given["messages"]}))["data"] == data
        cleared = await write(client, {**await read(client), "data": {}, "context": None, "ttl_seconds": None})
        assert (cleared["data"], cleared["context"], cleared["ttl_seconds"]) == ({}, None, None)
        assert (await read(client))["context"] is None


async def test_what_an_agent_notes_and_what_code_sets_is_one(serve: Serve) -> None:
    """The data of a session has no two owners, and a document does not undo what was noted meanwhile."""
    async with serve() as served, rest(served) as client:
        await write(client, {"messages": [message("hi", id="a")], "data": {"by code": 1}})
        document = await read(client)
        notes = served.instance.services.session_data
        await notes.merge(SessionKey(Scope("single", "alice"), "chat-1"), {"noted": True}, max_bytes=1_000)
        after = await write(client, {**document, "data": {**document["data"], "more": 2}})
        assert after["data"] == {"by code": 1, "noted": True, "more": 2}


@pytest.mark.parametrize(
    ("query", "shown", "shares"),
    [
        ({}, 6, (None, None)),
        ({"recent_messages_limit": 2}, 2, (None, None)),
        ({"recent_messages_limit": 0}, 6, (None, None)),
        ({"recent_messages_limit": -1}, 6, (None, None)),
        ({"context_window_max": "100000"}, 6, (0, 1)),
        ({"model_name": "a-model-of-next-year"}, 6, (0, 1)),
        ({"context_window_max": 20}, 2, (50, 100)),
        ({"context_window_max": 1}, 1, (100, 100)),
        ({"context_window_max": 20, "recent_messages_limit": 1}, 1, (25, 60)),
    ],
)
async def test_a_session_is_shown_as_far_as_it_fits(
    serve: Serve, query: Json, shown: int, shares: tuple[float | None, float | None]
) -> None:
    """The newest messages, and how much of the window they take."""
    async with serve() as served, rest(served) as client:
        await write(client, {"messages": [message(f"number {number}") for number in range(6)]})
        document = await read(client, **query)
        assert texts(document) == [f"number {number}" for number in range(6 - shown, 6)]
        total, until = document["context_percentage_total_used"], document["context_percentage_until_summarization"]
        if shares[0] is None:
            assert (total, until) == (None, None)
        else:
            assert total <= until
            assert abs(total - shares[0]) < 30
        whole = await read(client)
        assert len(whole["messages"]) == 6, "nothing of it was written"
        assert whole["updated_at"] == document["updated_at"]


async def test_an_empty_session_takes_nothing_of_a_window(serve: Serve) -> None:
    """Zero, not null: a window was named."""
    async with serve() as served, rest(served) as client:
        document = await write(client, {}, context_window_max=1_000)
        assert (document["context_percentage_total_used"], document["context_percentage_until_summarization"]) == (0, 0)


async def test_a_session_that_ends_is_gone(serve: Serve) -> None:
    """With all that belongs to it; a turn through the proxy puts it off."""
    async with serve() as served, rest(served) as client:
        await write(client, {"messages": [message("hi")], "ttl_seconds": 1_000})
        redis = served.instance.services.session_documents._redis
        found: Any = await redis.keys("mp:*")
        keys = [key for key in found if key.split(b":")[1] in {b"s", b"log", b"idx", b"card"}]
        assert len(keys) == 4
        for key in keys:
            await redis.pexpire(key, 60_000)
        await ask(served, said("still there?"))
        await read(client)
        assert all([900_000 < await redis.pttl(key) <= 1_000_000 for key in keys])
        for key in keys:
            await redis.pexpire(key, 1)

        async def is_gone() -> bool:
            listed = (await client.get(PATH)).json()
            return bool(listed["total"] == 0)

        await until(is_gone)
        assert (await client.get(f"{PATH}/chat-1", params={"user_id": "alice"})).status_code == 404


# Errors


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"messages": [message(" ", id="m1")]}, 400),
        ({"messages": [message("x", created_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())]}, 422),
        ({"messages": [{"role": "user"}]}, 422),
        ({"ttl_seconds": 0}, 422),
        ({"long_term_memory_strategy": {"strategy": "custom", "config": {}}}, 422),
        ([], 422),
    ],
)
async def test_documents_that_can_not_be_kept_are_refused(serve: Serve, body: Any, status: int) -> None:
    """With the reason, in the reference's shape; nothing of them is kept."""
    async with serve() as served, rest(served) as client:
        response = await client.put(f"{PATH}/chat-1", params={"user_id": "alice"}, json=body)
        assert response.status_code == status
        detail = response.json()["detail"]
        if status == 400:
            assert detail == "Message content cannot be empty (message ID: m1)"
        else:
            assert detail[0]["loc"][0] == "body"
        assert (await client.get(f"{PATH}/chat-1", params={"user_id": "alice"})).status_code == 404


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "offset=-1", "limit=x", "user_id="])
async def test_lists_that_can_not_be_meant_are_refused(serve: Serve, query: str) -> None:
    """As the reference refuses them."""
    async with serve() as served, rest(served) as client:
        assert (await client.get(f"{PATH}?{query}")).status_code == 422
        assert (await client.get(f"{PATH}/x?context_window_max=0")).status_code == 422


async def test_older_clients_may_be_shown_an_empty_session(serve: Serve) -> None:
    """If the operator wants it: then a session that is not there looks like one that has not been saved."""
    async with serve(legacy_unsaved_sessions=True) as served, rest(served) as client:
        document = await read(client, "unknown")
        assert (document["unsaved"], document["new_session"], document["messages"]) == (True, True, [])
        await write(client, {"messages": [message("hi")]}, "unknown")
        assert "unsaved" not in await read(client, "unknown")


# Lists and deletions


@pytest.mark.parametrize("path", [PATH, f"{PATH}/"])
async def test_sessions_are_listed_newest_first(serve: Serve, path: str) -> None:
    """Those of agents and those of code, each once, for whom they are asked."""
    async with serve() as served, rest(served) as client:
        await ask(served, said("hi"), path="/u/alice/n/shop/s/one/v1")
        await write(client, {"messages": [message("hi")]}, "two")
        await client.put(f"{PATH}/three", json={"messages": []})
        history = [said("a"), said("b", "assistant"), said("c")]
        await ask(served, *history, path="/u/alice/s/two/v1")
        await ask(served, said("other"), said("b", "assistant"), said("d"), path="/u/alice/s/two/v1")
        await served.settled()
        assert (await client.get(path)).json() == {"sessions": ["two", "three", "one"], "total": 3}
        assert (await client.get(path, params={"limit": 1, "offset": 1})).json() == {"sessions": ["three"], "total": 3}
        narrowed = {"user_id=alice": ["two", "one"], "namespace=shop": ["one"], "user_id=bob": []}
        for query, names in narrowed.items():
            assert (await client.get(f"{path}?{query}")).json() == {"sessions": names, "total": len(names)}
        assert (await client.get(f"/u/alice{path}")).json()["sessions"] == ["two", "one"]


async def test_a_deleted_session_is_gone_and_may_begin_anew(serve: Serve) -> None:
    """For code and for the agent; deleting what is not there is no error."""
    async with serve() as served, rest(served) as client:
        await ask(served, said("secret"))
        for _ in range(2):
            response = await client.delete(f"{PATH}/chat-1", params={"user_id": "alice"})
            assert (response.status_code, response.json()) == (200, {"status": "ok"})
        assert (await client.get(PATH)).json() == {"sessions": [], "total": 0}
        await ask(served, said("hello"))
        assert received(served) == ["hello"]
        assert texts(await read(client)) == ["hello", "You said: hello"]


async def test_memories_put_beside_a_session_are_stored_as_memories(serve: Serve) -> None:
    """In the background, under their own ids; the session then says so."""
    memory = {"id": "m1", "text": "Alice is allergic to peanuts.", "memory_type": "semantic", "topics": ["health"]}
    async with serve() as served, rest(served) as client:
        document = await write(client, {"memories": [memory]})
        assert document["memories"][0]["persisted_at"] is None
        await served.settled()
        (shown,) = (await read(client))["memories"]
        assert (shown["id"], shown["user_id"], shown["session_id"]) == ("m1", "alice", "chat-1")
        assert shown["persisted_at"] is not None
        stored = (await client.get("/v1/long-term-memory/m1")).json()
        assert (stored["text"], stored["topics"]) == (memory["text"], ["health"])


async def test_what_code_writes_is_learned_from(serve: Serve) -> None:
    """As what is said through the proxy is; what it says is learned already is not."""
    async with serve() as served, rest(served) as client:
        told = [message("I live in Bern."), message("I like tea.", discrete_memory_extracted="t")]
        await write(client, {"messages": told})
        await served.settled()
        response = await client.post("/v1/long-term-memory/search", json={"user_id": {"eq": "alice"}})
        found = [one["text"] for one in response.json()["memories"]]
        assert len(found) == 1
        assert "Bern" in found[0]
