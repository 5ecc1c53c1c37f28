"""The life of a request where its stages meet."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from memproxy.demo.scripted_model import ModelRequest, Reply, in_order
from tests.fakes.serving import Serve, Served

FOLDER = Path(__file__).parents[1] / "corpus" / "chat_completions"
CORPUS = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.sse"))}


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=False, timeout=30)


async def say(served: Served, http: httpx.AsyncClient, *texts: str, **headers: str) -> httpx.Response:
    """Messages of a user and a model in turn, with X-Memproxy headers by their last word."""
    roles = ("user", "assistant")
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)],
    }
    named = {f"X-Memproxy-{name}": value for name, value in headers.items()}
    return await http.post(f"{served.base_url}/chat/completions", json=body, headers=named)


@pytest.mark.parametrize("name", CORPUS)
async def test_recorded_streams_are_relayed_and_remembered(serve: Serve, name: str) -> None:
    """Byte by byte from the model server, each recorded stream arrives as it is, and its words are kept."""
    stream = CORPUS[name]
    pieces = tuple(stream[at : at + 1] for at in range(len(stream)))
    async with serve(in_order(Reply(raw_stream=pieces), Reply(text="Fine."))) as served, client() as http:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Say something to me."}]}
        response = await http.post(f"{served.origin}/u/alice/s/one/v1/chat/completions", json=body)
        assert response.content == stream
        await served.settled()
        follow = {"model": "m", "messages": [{"role": "user", "content": "Go on then."}]}
        assert (await http.post(f"{served.origin}/u/alice/s/one/v1/chat/completions", json=follow)).status_code == 200
        assert served.model.requests[-1].messages[0]["content"] == "Say something to me."


async def test_read_mode_leaves_no_trace_and_write_mode_adds_nothing(serve: Serve) -> None:
    """An operator or a caller may want only half of memory."""
    async with serve(lambda _: Reply(text="Noted.")) as served, client() as http:
        await say(served, http, "My cat is called Whiskers.", User="alice", Session="one", Memory="write")
        await served.settled()
        await say(served, http, "What is my cat called?", User="alice", Session="two", Memory="write")
        assert b"Whiskers" not in served.model.requests[-1].raw_body
        await say(served, http, "What is my cat called?", User="alice", Session="three", Memory="read")
        assert b"Whiskers" in served.model.requests[-1].raw_body
        await served.settled()
        await say(served, http, "And my dog?", User="alice", Session="three")
        assert len(served.model.requests[-1].messages) == 1


async def test_without_a_user_long_term_memory_is_left_alone(serve: Serve) -> None:
    """Nobody's memories are nobody's: a session alone remembers only itself."""
    async with serve(lambda _: Reply(text="Noted.")) as served, client() as http:
        await say(served, http, "My cat is called Whiskers.", Session="one")
        await served.settled()
        answer = await say(served, http, "What is my cat called?", Session="two")
        assert b"Whiskers" not in served.model.requests[-1].raw_body
        assert answer.headers["x-memproxy-memories"] == "0"


async def test_a_default_user_makes_it_personal(serve: Serve) -> None:
    """One person's machine needs no identity in any agent."""
    async with serve(lambda _: Reply(text="Noted."), default_user="me") as served, client() as http:
        await say(served, http, "My cat is called Whiskers.", Session="one")
        await served.settled()
        answer = await say(served, http, "What is my cat called?", Session="two")
        assert b"Whiskers" in served.model.requests[-1].raw_body
        assert answer.headers["x-memproxy-identity"] == "default+header"


async def test_utility_calls_are_left_alone(serve: Serve) -> None:
    """A title for the chat is no part of the chat."""
    title = "Generate a concise title of three to five words for this conversation."
    async with serve(lambda _: Reply(text="Cats")) as served, client() as http:
        await say(served, http, "My cat is called Whiskers.", User="alice", Session="one")
        body = {
            "model": "m",
            "messages": [{"role": "system", "content": title}, {"role": "user", "content": "user: My cat ..."}],
        }
        headers = {"X-Memproxy-User": "alice", "X-Memproxy-Session": "one"}
        await http.post(f"{served.base_url}/chat/completions", json=body, headers=headers)
        assert len(served.model.requests[-1].messages) == 2
        await say(served, http, "And what does she eat?", User="alice", Session="one")
        texts = [message["content"] for message in served.model.requests[-1].messages]
    assert not any("title" in text for text in texts)


async def test_a_retry_of_the_sdk_is_not_said_twice(serve: Serve) -> None:
    """The SDK repeats a request whose answer it missed, and says so: the conversation holds it once."""
    async with serve(lambda _: Reply(text="Noted.")) as served, client() as http:
        headers = {"X-Memproxy-Session": "one"}
        for text, retries in (("My order is LX-1.", "0"), ("It is late.", "0"), ("It is late.", "1")):
            body = {"model": "m", "messages": [{"role": "user", "content": text}]}
            sent = {**headers, "x-stainless-retry-count": retries}
            await http.post(f"{served.base_url}/chat/completions", json=body, headers=sent)
        await say(served, http, "Hello?", Session="one")
        texts = [message["content"] for message in served.model.requests[-1].messages]
    assert texts == ["My order is LX-1.", "Noted.", "It is late.", "Noted.", "Hello?"]


async def test_an_edited_history_wins_and_loses_nothing(serve: Serve) -> None:
    """The client rewrote its last question: the model sees the client's version, and later messages follow it."""
    async with serve(in_order(*(Reply(text=f"A{number}") for number in range(9)))) as served, client() as http:
        await say(served, http, "Q0", Session="one")
        await say(served, http, "Q0", "A0", "Q1", Session="one")
        await say(served, http, "Q0", "A0", "Q1 rewritten", Session="one")
        assert [m["content"] for m in served.model.requests[-1].messages] == ["Q0", "A0", "Q1 rewritten"]
        await say(served, http, "Q2", Session="one")
        assert [m["content"] for m in served.model.requests[-1].messages] == ["Q0", "A0", "Q1 rewritten", "A2", "Q2"]


async def test_a_helper_under_the_same_session_name_gets_no_history_of_others(serve: Serve) -> None:
    """A program's sub-agent shares its base URL: under its own instructions it is asked its own question alone."""

    async def ask(http: httpx.AsyncClient, system: str, *texts: str) -> None:
        roles = ("user", "assistant")
        said = [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]
        body = {"model": "m", "messages": [{"role": "system", "content": system}, *said]}
        await http.post(f"{served.origin}/s/one/v1/chat/completions", json=body)

    async with serve(in_order(*(Reply(text=f"A{number}") for number in range(9)))) as served, client() as http:
        await ask(http, "Plan trips.", "To Rome.")
        await ask(http, "Plan trips.", "To Rome.", "A0", "By train.")
        await ask(http, "Check SQL.", "SELECT 1")
        assert [m["content"] for m in served.model.requests[-1].messages] == ["Check SQL.", "SELECT 1"]
        await ask(http, "Plan trips.", "To Rome.", "A0", "By train.", "A1", "In May.")
        assert len(served.model.requests[-1].messages) == 6
        await ask(http, "Plan trips.", "How many nights?")
        assert served.model.requests[-1].messages[1]["content"] == "To Rome."


async def test_a_conversation_beyond_the_window_fits_without_the_store(serve: Serve) -> None:
    """A long history is cut on first contact, too: the provider would refuse it, and the session never be known."""
    texts = [f"Message {number} about parcel PX-{number}. " * 20 for number in range(101)]
    async with serve(lambda _: Reply(text="Fine."), default_window=3_000) as served, client() as http:
        answer = await say(served, http, *texts, Session="one")
        first = served.model.requests[-1].messages
        assert answer.status_code == 200
        assert len(first) < 30
        assert first[-1]["content"].endswith(texts[-1])
        assert first[0]["content"].startswith("<memproxy-earlier")
        await say(served, http, *texts, "Fine.", "And now?", Session="one")
        assert served.model.requests[-1].messages[: len(first)] == first


async def test_a_million_blanks_are_recorded_like_anything_else(serve: Serve) -> None:
    """One odd message stops no recording, of nobody."""
    async with serve(lambda _: Reply(text="Fine.")) as served, client() as http:
        await say(served, http, " " * 1_000_000 + "x", Session="one")
        await say(served, http, "And now?", Session="one")
        await served.settled()
        metrics = served.instance.services.metrics.render()
    assert b"memproxy_turns_lost_total 0.0" in metrics
    assert len(served.model.requests[-1].messages) == 3


async def test_two_conversations_under_one_session_name_stay_apart(serve: Serve) -> None:
    """A session named in the base URL is shared by all agents of a program: each keeps its own history."""
    async with serve(in_order(*(Reply(text=f"A{number}") for number in range(9)))) as served, client() as http:
        await say(served, http, "Plan a trip.", Session="one")
        await say(served, http, "Plan a trip.", "A0", "To Rome.", Session="one")
        await say(served, http, "Write a poem.", "Gladly.", "About cats.", Session="one")
        await say(served, http, "Plan a trip.", "A0", "To Rome.", "A1", "By train.", Session="one")
        texts = [[m["content"] for m in request.messages] for request in served.model.requests]
    assert texts[2] == ["Write a poem.", "Gladly.", "About cats."]
    assert texts[3] == ["Plan a trip.", "A0", "To Rome.", "A1", "By train."]


async def test_parallel_requests_in_one_session_lose_nothing(serve: Serve) -> None:
    """An agent may ask several things at once: all of it is in the session afterwards, each once."""
    async with (
        serve(lambda request: Reply(text=f"re {request.last_user_text}", delay_s=0.05)) as served,
        client() as http,
    ):
        await asyncio.gather(*(say(served, http, f"Question {number}", Session="one") for number in range(8)))
        await say(served, http, "Done?", Session="one")
        texts = [m["content"] for m in served.model.requests[-1].messages]
    assert sorted(texts[:-1]) == sorted([f"Question {n}" for n in range(8)] + [f"re Question {n}" for n in range(8)])


async def test_echoed_memories_are_not_learned_again(serve: Serve) -> None:
    """A model that repeats its memory block word for word teaches memory nothing."""

    def echo(request: ModelRequest) -> Reply:
        return Reply(text=request.last_user_text)

    async with serve(echo) as served, client() as http:
        await say(served, http, "My cat is called Whiskers.", User="alice", Session="one")
        await served.settled()
        for session in ("two", "three", "four"):
            await say(served, http, "What is my cat called?", User="alice", Session=session)
            await served.settled()
        block = served.model.requests[-1].messages[0]["content"]
    assert block.count("<memproxy-memory") == 1
    assert block.count("My cat is called Whiskers.") <= 2
