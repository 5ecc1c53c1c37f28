"""A prompt from what is remembered, before the real proxy: the memories are those that this would inject."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from memproxy.records import Scope, SessionKey
from tests.fakes.serving import Serve, Served

Json = dict[str, Any]
QUESTION = "Which dishes with peanuts may I eat?"


@asynccontextmanager
async def rest(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.origin, verify=False, timeout=60) as client:
        yield client


async def prompt(client: httpx.AsyncClient, query: str = QUESTION, *, path: str = "", **asked: Any) -> Json:
    response = await client.post(f"{path}/v1/memory/prompt", json={"query": query, **asked})
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


async def write(client: httpx.AsyncClient, name: str, *messages: tuple[str, str], **document: Any) -> None:
    told = [{"role": role, "content": text} for role, text in messages]
    response = await client.put(f"/v1/working-memory/{name}", json={"messages": told, "user_id": "alice", **document})
    assert response.status_code == 200, response.text


async def remember(client: httpx.AsyncClient, *memories: Json) -> None:
    response = await client.post("/v1/long-term-memory/", json={"memories": list(memories)})
    assert response.status_code == 200, response.text


def lines(found: Json) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]["text"]) for one in found["messages"]]


async def test_a_prompt_is_summary_history_memories_and_query(serve: Serve) -> None:
    """In this order, in the reference's form; what is neither system's nor the user's is the assistant's."""
    async with serve() as served, rest(served) as client:
        said = [("user", "hi"), ("assistant", "hello"), ("system", "Be brief."), ("developer", "Be kind.")]
        await write(client, "s", *said, ("tool", "LX-4417"), ("narrator", "Later"), context="They met.")
        await remember(client, {"id": "m1", "text": "Alice may not eat peanuts.", "user_id": "alice"})
        session = {"session_id": "s", "user_id": "alice"}
        found = await prompt(client, session=session, long_term_search={"limit": 5})
        assert lines(found) == [
            ("system", "## A summary of the conversation so far:\nThey met."),
            ("user", "hi"),
            ("assistant", "hello"),
            ("system", "Be brief."),
            ("system", "Be kind."),
            ("assistant", "LX-4417"),
            ("assistant", "Later"),
            ("system", "## Long term memories related to the user's query\n- Alice may not eat peanuts. (ID: m1)"),
            ("user", QUESTION),
        ]
        assert found["messages"][0]["content"] == {
            "type": "text", "text": lines(found)[0][1], "annotations": None, "_meta": None,
        }  # fmt: skip
        (memory,) = found["long_term_memories"]
        assert (memory["id"], memory["user_id"]) == ("m1", "alice")
        assert 0 <= memory["dist"] <= 2


async def test_a_session_that_is_not_there_has_no_history(serve: Serve) -> None:
    """A first message is no error; without a search there are no memories, and with one that finds none it says so."""
    async with serve() as served, rest(served) as client:
        session = {"session_id": "unknown", "user_id": "alice"}
        assert (await prompt(client, session=session)) == {
            "messages": [
                {"role": "user", "content": {"type": "text", "text": QUESTION, "annotations": None, "_meta": None}}
            ],
            "long_term_memories": None,
        }
        for search in (True, {}, {"user_id": {"eq": "nobody"}}):
            found = await prompt(client, session=session, long_term_search=search)
            assert found["long_term_memories"] == []
            assert lines(found)[0][1].endswith("No relevant long-term memories found.")


@pytest.mark.parametrize("asked", [{}, {"long_term_search": False}, {"session": None, "long_term_search": None}])
async def test_a_prompt_of_nothing_is_refused(serve: Serve, asked: Json) -> None:
    """There would be the query, and nothing else."""
    async with serve() as served, rest(served) as client:
        response = await client.post("/v1/memory/prompt", json={"query": "x", **asked})
        assert response.status_code == 400
        assert response.json() == {"detail": "Either session or long_term_search must be provided"}


@pytest.mark.parametrize(("most", "shown"), [("12", 1), (30, 2), ("100000", 6)])
async def test_the_history_fits_into_the_window(serve: Serve, most: Any, shown: int) -> None:
    """Its end, as much as fits; the window may come as a string."""
    async with serve() as served, rest(served) as client:
        await write(client, "s", *[("user", f"This is message number {number} of six") for number in range(6)])
        session = {"session_id": "s", "user_id": "alice", "context_window_max": most}
        found = await prompt(client, session=session)
        assert len(found["messages"]) == shown + 1
        assert "number 5" in lines(found)[-2][1]


async def test_true_finds_what_the_proxy_would_inject(serve: Serve) -> None:
    """The same memories in the same order, for this user and namespace, and nothing of this session itself."""
    async with serve() as served, rest(served) as client:
        facts = [
            "Alice is allergic to peanuts.",
            "Alice likes dishes with noodles.",
            "Alice asked which dishes have peanuts in them.",
            "Alice lives in Bern.",
        ]
        of_alice = [
            {"id": f"a{at}", "text": text, "user_id": "alice", "namespace": "n"} for at, text in enumerate(facts)
        ]
        others = [
            {"id": "b", "text": "Bob eats peanuts with all dishes.", "user_id": "bob", "namespace": "n"},
            {"id": "x", "text": "Alice eats peanuts elsewhere.", "user_id": "alice", "namespace": "other"},
            {"id": "s", "text": "Alice eats peanuts here.", "user_id": "alice", "namespace": "n", "session_id": "s"},
        ]
        await remember(client, *of_alice, *others)
        session = {"session_id": "s", "user_id": "alice", "namespace": "n"}
        found = await prompt(client, session=session, long_term_search=True)
        async with served.openai("/u/alice/n/n/s/s/v1") as agent:
            raw = await agent.chat.completions.with_raw_response.create(
                model="gpt-4o", messages=[{"role": "user", "content": QUESTION}]
            )
        receipt = await client.get(f"/memproxy/explain/{raw.headers['x-memproxy-request-id']}")
        injected = re.findall(r"^- (.*)$", str(served.model.requests[-1].messages[-1]["content"]), re.MULTILINE)
        assert receipt.status_code == 200
        assert injected == [one["text"] for one in found["long_term_memories"]]
        assert {one["id"] for one in found["long_term_memories"]} >= {"a0", "a2"}
        assert not {one["id"] for one in found["long_term_memories"]} & {"b", "x", "s"}


async def test_a_short_query_is_looked_up_with_what_was_said_before(serve: Serve) -> None:
    """As the proxy does it: "And peanuts?" alone says too little."""
    async with serve() as served, rest(served) as client:
        await remember(client, {"id": "m", "text": "Alice ordered a laptop on Monday.", "user_id": "alice"})
        await write(client, "s", ("user", "I ordered a laptop."), ("assistant", "Fine."))
        session = {"session_id": "s", "user_id": "alice"}
        found = await prompt(client, "When?", session=session, long_term_search=True)
        assert [one["id"] for one in found["long_term_memories"]] == ["m"]


async def test_a_search_of_its_own_stays_with_the_sessions_owner(serve: Serve) -> None:
    """Unless it names another; without a session it is narrowed by the path."""
    async with serve() as served, rest(served) as client:
        for user in ("alice", "bob"):
            await remember(client, {"id": user, "text": f"Peanuts are what {user} likes.", "user_id": user})
        session = {"session_id": "s", "user_id": "alice"}

        async def ids(**asked: Any) -> set[str]:
            return {one["id"] for one in (await prompt(client, **asked))["long_term_memories"]}

        assert await ids(session=session, long_term_search={}) == {"alice"}
        assert await ids(session=session, long_term_search={"user_id": {"eq": "bob"}}) == {"bob"}
        assert await ids(path="/u/bob", long_term_search={}) == {"bob"}
        assert await ids(path="/u/bob", long_term_search=True) == {"bob"}
        assert await ids(long_term_search={}) == {"alice", "bob"}
        assert await ids(long_term_search=True) == {"alice", "bob"}


async def test_a_look_through_a_prompt_is_nobodys_to_answer(serve: Serve) -> None:
    """What is shown there is no document: nobody puts it back, and no writer is waited for."""
    async with serve() as served, rest(served) as client:
        await write(client, "s", ("user", "one"))
        await prompt(client, session={"session_id": "s", "user_id": "alice"})
        documents = served.instance.services.session_documents
        _, marks = await documents.read_for_change(SessionKey(Scope("single", "alice"), "s"))
        assert {left.kind for left in marks.left} == {"own", "shown"}
