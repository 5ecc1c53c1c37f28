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


@pytest.mark.parametrize("path", ["/u/alice/v1/chat/completions", "/u/alice/v1/messages"])
async def test_instructions_behind_the_question_are_no_answer(serve: Serve, path: str) -> None:
    """Some coding agents remind the model of their rules after each question; the question still gets memories."""
    async with serve(lambda _: Reply(text="Noted.")) as served, client() as http:
        for text in ("I am allergic to peanuts.", "What am I allergic to?"):
            spoken = [{"role": "user", "content": text}, {"role": "system", "content": "Return whole files."}]
            body = {"model": "m", "messages": spoken, "max_tokens": 300}
            assert (await http.post(served.origin + path, json=body)).status_code == 200
            await served.settled()
        asked = served.model.requests[-1]
    assert "I am allergic to peanuts." in asked.last_user_text


def worker(calls: int) -> Any:
    """A model that looks something up again and again before it answers."""
    numbers = itertools.count()

    def answer(request: ModelRequest) -> Reply:
        number = next(numbers)
        if number == calls:
            return Reply(text="Done.")
        return Reply(tool_calls=(ToolCallReply("look_up", {"parcel": f"PX-{1000 + number}"}, id=f"call_{number}"),))

    return answer


LOOP_CALLS = 60


async def work(served: Served, http: httpx.AsyncClient, *, path: str, task: bool, resends: bool) -> list[list[Any]]:
    """One long tool loop in a small window; every prompt that the model server received."""
    system = {"role": "system", "content": "You check parcels."}
    history: list[dict[str, Any]] = [{"role": "user", "content": "Check all parcels of Mr Ray, RX-77."}] if task else []
    if not task:
        call = {"id": "call_a", "type": "function", "function": {"name": "list_all", "arguments": "{}"}}
        history += [{"role": "assistant", "content": None, "tool_calls": [call]}]
        history += [{"role": "tool", "tool_call_id": "call_a", "content": "many"}]
    new, calls = list(history), 1
    while calls:
        body = {"model": "small", "messages": [system, *(history if resends else new)], "max_tokens": 300}
        response = await http.post(f"{served.origin}{path}", json=body)
        assert response.status_code == 200, response.text
        message = response.json()["choices"][0]["message"]
        calls = message.get("tool_calls")
        new = [
            {"role": "tool", "tool_call_id": call["id"], "content": f"{call['id']}: " + "all is well. " * 20}
            for call in calls or ()
        ]
        history += [{key: value for key, value in message.items() if value is not None}, *new]
    return [request.messages for request in served.model.requests]


@pytest.mark.parametrize(("task", "resends"), [(True, True), (True, False), (False, True)])
async def test_a_tool_loop_longer_than_the_window_is_cut_inside(serve: Serve, task: bool, resends: bool) -> None:
    """An agent may work for hours on one request: its prompts fit, it knows its task, and pairs stay whole.

    The model server refuses halves of pairs, so every 200 shows that none was torn.
    """
    async with serve(worker(LOOP_CALLS), **SMALL) as served, client() as http:
        prompts = await work(served, http, path="/u/alice/s/one/v1/chat/completions", task=task, resends=resends)
    sizes = [sum(count_tokens(countable_text(message)) + 4 for message in prompt) for prompt in prompts]
    assert len(prompts) == LOOP_CALLS + 1
    assert WINDOW / 3 < max(sizes) < WINDOW - 300
    last = prompts[-1]
    assert [message["role"] for message in last[:3]] == ["system", "user", "assistant"]
    assert last[1]["content"].startswith("<memproxy-earlier")
    assert ("Check all parcels of Mr Ray" in last[1]["content"]) is task
    assert "PX-1003" in last[1]["content"], "what was looked up is known"
    assert last[-1]["content"].startswith(f"call_{LOOP_CALLS - 1}:"), "the newest result is there"
    breaks = [
        at for at, (one, two) in enumerate(itertools.pairwise(prompts)) if digests(two)[: len(one)] != digests(one)
    ]
    assert 1 <= len(breaks) <= 8, "between two cuts the prompt only grows"


async def test_what_an_agent_puts_before_the_question_is_not_searched_for(serve: Serve) -> None:
    """Coding agents put the project's rules before what the user says, more than is searched with."""
    rules = "<system-reminder>\n" + "Write tests for every change.\n" * 50 + "</system-reminder>\n\n"
    async with serve(lambda _: Reply(text="Noted.")) as served, client() as http:
        for text in ("I am allergic to peanuts.", "What am I allergic to?"):
            body = {"model": "m", "messages": [{"role": "user", "content": rules + text}]}
            address = f"{served.origin}/u/alice/v1/chat/completions"
            assert (await http.post(address, json=body)).status_code == 200
            await served.settled()
        asked = served.model.requests[-1]
    assert "I am allergic to peanuts." in asked.last_user_text


MARK = {"type": "ephemeral"}


def marked(words: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": words, "cache_control": MARK}]}


def marks_of(body: dict[str, Any]) -> list[str]:
    """The texts that the client has marked for the provider's cache, in their order."""
    blocks = [*body["system"], *(block for message in body["messages"] for block in _blocks(message))]
    return [block["text"] for block in blocks if "cache_control" in block]


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


@pytest.mark.parametrize("resends", [True, False])
async def test_marks_for_the_providers_cache_keep_their_worth(serve: Serve, resends: bool) -> None:
    """What a client has marked is cached as it marked it: nothing new is put before it, and there are never too many.

    Anthropic takes four marks in a request. Clients mark their instructions and their newest message.
    """
    system = [{"type": "text", "text": "Be brief. " * 50, "cache_control": MARK}]
    async with serve(lambda _: Reply(text="Noted.")) as served, client() as http:
        first = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "I drink oolong tea."}]}
        assert (await http.post(f"{served.origin}/u/alice/s/old/v1/messages", json=first)).status_code == 200
        await served.settled()
        history: list[dict[str, Any]] = []
        for turn in range(7):
            newest = marked(f"Question {turn}: which tea do I drink?")
            body = {**first, "system": system, "messages": [*(history if resends else ()), newest]}
            answer = await http.post(f"{served.origin}/u/alice/s/new/v1/messages", json=body)
            assert answer.status_code == 200
            await served.settled()
            plain = {"role": "user", "content": [{"type": "text", "text": newest["content"][0]["text"]}]}
            history += [plain, {"role": "assistant", "content": answer.json()["content"]}]
        bodies = [request.body for request in served.model.requests[1:]]
    for turn, body in enumerate(bodies):
        assert marks_of(body) == [system[0]["text"], f"Question {turn}: which tea do I drink?"]
        assert body["system"] == system, "instructions carry no memories"
    texts = [[[block["text"] for block in _blocks(message)] for message in body["messages"]] for body in bodies]
    assert "oolong" in texts[0][0][0], "a memory was put before the newest words"
    assert all(two[: len(one)] == one for one, two in itertools.pairwise(texts)), "each prompt begins with the last one"


def two_at_once(rounds: int) -> Any:
    """A model that looks up two things at a time, and thinks before."""
    numbers = itertools.count()

    def answer(request: ModelRequest) -> Reply:
        number = next(numbers)
        if number == rounds:
            return Reply(text="Done.")
        calls = (
            ToolCallReply("look_up", {"parcel": f"PX-{2 * number + at}"}, id=f"call_{number}_{at}") for at in (0, 1)
        )
        return Reply(tool_calls=tuple(calls), reasoning="Let me see.")

    return answer


def asked_in(path: str, history: list[dict[str, Any]]) -> dict[str, Any]:
    """A request in the format of this path."""
    if path == "responses":
        return {"model": "small", "instructions": "You check.", "input": history, "max_output_tokens": 300}
    return {"model": "small", "system": "You check.", "messages": history, "max_tokens": 300}


def went_on(path: str, answer: dict[str, Any], result: str) -> tuple[list[dict[str, Any]], bool]:
    """What the client adds to its history after this answer, and whether it asked for tools."""
    if path == "responses":
        ids = [item["call_id"] for item in answer["output"] if item["type"] == "function_call"]
        results = [{"type": "function_call_output", "call_id": id_, "output": f"{id_} {result}"} for id_ in ids]
        return [*answer["output"], *results], bool(ids)
    ids = [block["id"] for block in answer["content"] if block["type"] == "tool_use"]
    blocks = [{"type": "tool_result", "tool_use_id": id_, "content": f"{id_} {result}"} for id_ in ids]
    return [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": blocks}], bool(ids)


def is_of_client(message: dict[str, Any]) -> bool:
    """Whether a client that sends its newest messages alone sends this one."""
    return message.get("type") == "function_call_output" or message.get("role") == "user"


def ids_in(path: str, body: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The ids of calls and of results in a prompt."""
    if path == "responses":
        kinds = ("function_call", "function_call_output")
        calls, results = ([i["call_id"] for i in body["input"] if i.get("type") == kind] for kind in kinds)
        return calls, results
    blocks = [block for message in body["messages"] for block in _blocks(message)]
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    return calls, [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]


def opening_of(path: str, body: dict[str, Any]) -> str:
    """The first message of a prompt."""
    return str((body["input"] if path == "responses" else body["messages"])[0])


@pytest.mark.parametrize("resends", [True, False])
@pytest.mark.parametrize("path", ["responses", "messages"])
async def test_loops_of_other_formats_are_cut_between_pairs_too(serve: Serve, path: str, resends: bool) -> None:
    """Calls that are made at once stay together with all their results, and the task stays before them."""
    async with serve(two_at_once(30), **SMALL) as served, client() as http:
        history: list[dict[str, Any]] = [{"role": "user", "content": "Check all parcels of Mr Ray, RX-77."}]
        goes_on = True
        while goes_on:
            response = await http.post(f"{served.origin}/u/alice/s/one/v1/{path}", json=asked_in(path, history))
            assert response.status_code == 200, response.text
            added, goes_on = went_on(path, response.json(), "all is well. " * 15)
            history = [*history, *added] if resends else [each for each in added if is_of_client(each)]
            await served.settled()
        bodies = [request.body for request in served.model.requests]
    assert len(bodies) == 31
    for body in bodies:
        calls, results = ids_in(path, body)
        assert calls == results
        assert "Check all parcels of Mr Ray" in opening_of(path, body)
    assert len(ids_in(path, bodies[-1])[0]) < 40, "it was cut"
    assert "PX-3" in opening_of(path, bodies[-1]), "what was looked up is known"
