"""Conversations that outgrow the model's window."""

import itertools
import json
from typing import Any

import httpx
import pytest

from memproxy.demo.scripted_model import ModelRequest, Reply, ToolCallReply
from memproxy.tokens import count_tokens
from memproxy.wire.chat_completions import countable_text, digest
from tests.fakes.serving import Serve, Served

WINDOW = 3_000
SMALL = {"default_window": WINDOW}


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=False, timeout=30)


def tool_user(request: ModelRequest) -> Reply:
    """Looks something up for each message of the user, then answers with a paragraph."""
    if request.messages[-1]["role"] == "user":
        return Reply(tool_calls=(ToolCallReply("look_up", {"q": request.last_user_text[-40:]}),))
    return Reply(text="Here is what I found for you. " * 8)


async def talk(served: Served, http: httpx.AsyncClient, *, turns: int, resends: bool) -> list[list[dict[str, Any]]]:
    """A conversation with a tool loop in each turn; gives back every prompt that the model server received."""
    history: list[dict[str, Any]] = [{"role": "system", "content": "You are a support agent."}]
    for turn in range(turns):
        new: list[dict[str, Any]] = [{"role": "user", "content": f"Question {turn} on parcel PX-{1000 + turn}. " * 6}]
        while True:
            sent = [*history, *new] if resends else [history[0], *new]
            body = {"model": "small", "messages": sent, "max_tokens": 300}
            response = await http.post(f"{served.origin}/u/alice/s/one/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            message = response.json()["choices"][0]["message"]
            new.append({key: value for key, value in message.items() if value is not None})
            calls = message.get("tool_calls")
            if not calls:
                break
            new.append({"role": "tool", "tool_call_id": calls[0]["id"], "content": json.dumps({"row": turn})})
        history += new
    return [request.messages for request in served.model.requests]


def digests(prompt: list[dict[str, Any]]) -> list[bytes]:
    """What the messages mean: a client sends an answer back in another form than it was received in."""
    return [digest(message) for message in prompt]


@pytest.mark.parametrize("resends", [True, False])
async def test_prompts_stay_within_the_window_and_whole(serve: Serve, resends: bool) -> None:
    """A session may be longer than the window: old turns leave whole, pairs stay together, instructions stay.

    The model server refuses calls without results and results without calls, so every 200 shows that none was torn.
    """
    async with serve(tool_user, **SMALL) as served, client() as http:
        prompts = await talk(served, http, turns=25, resends=resends)
    sizes = [sum(count_tokens(countable_text(message)) + 4 for message in prompt) for prompt in prompts]
    assert WINDOW / 3 < max(sizes) < WINDOW - 300
    assert all(prompt[0]["content"] == "You are a support agent." for prompt in prompts)
    assert all(prompt[1]["role"] == "user" for prompt in prompts)
    assert "PX-1024" in prompts[-1][-3]["content"]


@pytest.mark.parametrize("resends", [True, False])
async def test_cuts_are_seldom_and_far(serve: Serve, resends: bool) -> None:
    """Between two cuts each prompt begins with the whole one before it, so the provider's prompt cache hits."""
    async with serve(tool_user, **SMALL) as served, client() as http:
        prompts = await talk(served, http, turns=25, resends=resends)
    breaks = [
        number
        for number, (earlier, later) in enumerate(itertools.pairwise(prompts))
        if digests(later)[: len(earlier)] != digests(earlier)
    ]
    assert 1 <= len(breaks) <= 6
    assert all(second - first >= 4 for first, second in itertools.pairwise(breaks))


async def test_what_was_cut_is_represented(serve: Serve) -> None:
    """Order numbers of the part that left are still in the prompt: later tool calls need them."""
    async with serve(tool_user, **SMALL) as served, client() as http:
        prompts = await talk(served, http, turns=25, resends=False)
    last = prompts[-1][1]["content"]
    assert last.startswith("<memproxy-earlier")
    assert "PX-1003" in last


async def test_instructions_are_restored_for_a_client_that_sends_none(serve: Serve) -> None:
    """A client may send its instructions once; its later messages are still answered under them."""
    async with serve(lambda _: Reply(text="Yes.")) as served, served.openai("/u/alice/s/one/v1") as agent:
        system: Any = {"role": "system", "content": "Answer in one word."}
        hello: Any = {"role": "user", "content": "Is it raining?"}
        more: Any = {"role": "user", "content": "Is it cold?"}
        await agent.chat.completions.create(model="m", messages=[system, hello])
        await served.settled()
        await agent.chat.completions.create(model="m", messages=[more])
        roles = [message["role"] for message in served.model.requests[-1].messages]
    assert roles == ["system", "user", "assistant", "user"]
    assert served.model.requests[-1].messages[0] == system


async def test_long_sessions_read_only_what_they_send(serve: Serve) -> None:
    """Beyond what is read along with the session, the rest of the history is looked up; nothing is missing."""
    async with serve(lambda request: Reply(text=f"Answer {len(request.messages)}")) as served, client() as http:
        for turn in range(70):
            body = {"model": "m", "messages": [{"role": "user", "content": f"Question {turn}"}]}
            await http.post(f"{served.origin}/s/long/v1/chat/completions", json=body)
        messages = served.model.requests[-1].messages
    assert [message["content"] for message in messages[::2]] == [f"Question {turn}" for turn in range(70)]
