"""Repeated tool calls through a running memproxy, with the openai SDK's own tool loop."""

import itertools
import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from memproxy.demo.scripted_model import ModelRequest, Reply, ToolCallReply
from tests.fakes.serving import Serve

QUESTIONS = ("I ordered a laptop last week. Is it on its way?", "When will it arrive?", "Can I change the address?")
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "search_orders",
            "description": "Search the customer's orders.",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
        },
    },
    {"type": "function", "function": {"name": "cancel_order", "parameters": {"type": "object"}}},
]


def support(request: ModelRequest) -> Reply:
    """Looks the order up before each answer, and answers only from what the look-up said."""
    last = request.messages[-1]
    if last["role"] == "user":
        if "cancel" in last["content"]:
            return Reply(tool_calls=(ToolCallReply("cancel_order", {"id": "LX-7"}),))
        return Reply(text="Let me look." if "look" in last["content"] else None, tool_calls=(search(),))
    return Reply(text=f"{request.last_user_text} Order {json.loads(last['content'])['id']}.")


def search() -> ToolCallReply:
    return ToolCallReply("search_orders", {"query": "laptop"})


class Agent:
    """A tool loop as any agent has it; keeps its history, or only the newest turn."""

    def __init__(self, client: AsyncOpenAI, *, stream: bool, resends: bool = True) -> None:
        self.client = client
        self.stream = stream
        self.resends = resends
        self.history: list[Any] = []
        self.executed: list[str] = []
        self.usage = 0

    async def ask(self, text: str) -> str:
        if not self.resends:
            self.history = []
        self.history.append({"role": "user", "content": text})
        while True:
            message = await self.complete()
            self.history.append(message)
            if not message.get("tool_calls"):
                return str(message["content"])
            for call in message["tool_calls"]:
                self.executed.append(call["function"]["name"])
                result = json.dumps({"id": "LX-7", "run": len(self.executed)})
                self.history.append({"role": "tool", "tool_call_id": call["id"], "content": result})

    async def complete(self) -> dict[str, Any]:
        if not self.stream:
            answer = await self.client.chat.completions.create(model="m", messages=self.history, tools=TOOLS)
            self.usage += answer.usage.total_tokens if answer.usage else 0
            return answer.choices[0].message.model_dump(exclude_none=True)
        async with self.client.chat.completions.stream(
            model="m", messages=self.history, tools=TOOLS, stream_options={"include_usage": True}
        ) as stream:
            final = await stream.get_final_completion()
        self.usage += final.usage.total_tokens if final.usage else 0
        message = final.choices[0].message.model_dump(exclude_none=True)
        message.pop("parsed", None)
        for call in message.get("tool_calls") or ():
            call["function"].pop("parsed_arguments", None)
        return message


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("resends", [True, False])
async def test_three_questions_make_one_look_up(serve: Serve, stream: bool, resends: bool) -> None:
    """The story to beat: the same order is looked up once, and the answers are the same as without memproxy."""
    async with serve(support) as served:
        async with AsyncOpenAI(
            base_url=served.instance.services.settings.upstream_base_url, api_key="x", max_retries=0
        ) as direct:
            without = Agent(direct, stream=stream)
            plain = [await without.ask(question) for question in QUESTIONS]
        async with served.openai("/u/alice/s/one/v1") as client:
            agent = Agent(client, stream=stream, resends=resends)
            answers = [await agent.ask(question) for question in QUESTIONS]
    assert without.executed == ["search_orders"] * 3
    assert agent.executed == ["search_orders"]
    assert answers == plain


@pytest.mark.parametrize("stream", [False, True])
async def test_the_model_keeps_its_evidence_and_its_prompt(serve: Serve, stream: bool) -> None:
    """What was answered inside is sent again on every later request, so the prompt only grows at its end."""
    async with serve(support) as served, served.openai("/s/one/v1") as client:
        agent = Agent(client, stream=stream)
        for question in QUESTIONS:
            await agent.ask(question)
        prompts = [request.messages for request in served.model.requests]
    roles = [message["role"] for message in prompts[-1]]
    assert roles == ["user", "assistant", "tool", "assistant"] * 2 + ["user", "assistant", "tool"]
    for earlier, later in itertools.pairwise(prompts):
        assert [one["role"] for one in later[: len(earlier)]] == [one["role"] for one in earlier]
        assert [one.get("content") for one in later[: len(earlier)]] == [one.get("content") for one in earlier]


async def test_a_write_in_between_makes_the_agent_look_again(serve: Serve) -> None:
    """After a call that may have changed something, nothing that was known before is given."""
    async with serve(support) as served, served.openai("/s/one/v1") as client:
        agent = Agent(client, stream=True)
        await agent.ask(QUESTIONS[0])
        await agent.ask("Please cancel it.")
        await agent.ask(QUESTIONS[1])
        await agent.ask(QUESTIONS[2])
    assert agent.executed == ["search_orders", "cancel_order", "search_orders"]


@pytest.mark.parametrize("stream", [False, True])
async def test_words_before_a_call_are_kept(serve: Serve, stream: bool) -> None:
    """A preamble that the client has read already stands before the final answer."""
    async with serve(support) as served, served.openai("/s/one/v1") as client:
        agent = Agent(client, stream=stream)
        await agent.ask(QUESTIONS[0])
        answer = await agent.ask("Please look again.")
    assert answer == "Let me look.\n\nPlease look again. Order LX-7."


@pytest.mark.parametrize("stream", [False, True])
async def test_headers_and_receipts_list_what_was_answered(serve: Serve, stream: bool) -> None:
    """Nobody has to guess why a tool was not called."""
    async with serve(support) as served, served.openai("/s/one/v1") as client:
        agent = Agent(client, stream=False)
        await agent.ask(QUESTIONS[0])
        agent.history.append({"role": "user", "content": QUESTIONS[1]})
        response = await client.chat.completions.with_raw_response.create(
            model="m", messages=agent.history, tools=TOOLS, stream=stream
        )
        assert response.headers["x-memproxy-tool-answers"] == "1"
        await response.http_response.aread()
        await served.settled()
        receipt = await client.with_options(base_url=served.origin).get(
            f"/memproxy/explain/{response.headers['x-memproxy-request-id']}", cast_to=dict[str, Any]
        )
    assert receipt["rounds_inside"] == 1
    assert receipt["tool_answers"][0]["tool"] == "search_orders"
    assert receipt["tool_answers"][0]["age_s"] >= 0


async def test_usage_is_summed_over_the_rounds(serve: Serve) -> None:
    """The client pays for what ran inside, and sees it."""
    async with serve(support) as served:
        for stream in (False, True):
            async with served.openai(f"/s/{stream}/v1") as client:
                agent = Agent(client, stream=stream)
                await agent.ask(QUESTIONS[0])
                before = agent.usage
                await agent.ask(QUESTIONS[1])
                rounds = served.model.requests[-2:]
                assert len(rounds) == 2
                assert agent.usage - before > before / 2


@pytest.mark.parametrize(
    "headers", [{"Cache-Control": "no-cache"}, {"X-Memproxy-Tool-Cache": "off"}, {"X-Memproxy-Tool-Cache": "observe"}]
)
async def test_the_cache_can_be_passed_by(serve: Serve, headers: dict[str, str]) -> None:
    """A caller that wants the tool to run gets it."""
    async with serve(support) as served, served.openai("/s/one/v1", **headers) as client:
        agent = Agent(client, stream=True)
        for question in QUESTIONS:
            await agent.ask(question)
    assert agent.executed == ["search_orders"] * 3


async def test_another_session_looks_for_itself(serve: Serve) -> None:
    """Results are shared with nobody unless the operator says so."""
    async with serve(support) as served:
        executed = []
        for path in ("/u/alice/s/one/v1", "/u/alice/s/two/v1", "/u/bob/s/one/v1"):
            async with served.openai(path) as client:
                agent = Agent(client, stream=True)
                await agent.ask(QUESTIONS[0])
                executed += agent.executed
    assert executed == ["search_orders"] * 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [429, 500])
async def test_a_failing_inner_round_gives_the_client_the_calls(serve: Serve, stream: bool, status: int) -> None:
    """The provider refuses the round inside: the client gets the calls as they came, and runs its tool."""
    failing = {"now": False}

    def script(request: ModelRequest) -> Reply:
        if failing["now"] and request.messages[-1]["role"] == "tool":
            failing["now"] = False
            return Reply(status=status, error={"message": "busy"})
        return support(request)

    async with serve(script) as served, served.openai("/s/one/v1") as client:
        agent = Agent(client, stream=stream)
        await agent.ask(QUESTIONS[0])
        failing["now"] = True
        answer = await agent.ask(QUESTIONS[1])
    assert agent.executed == ["search_orders"] * 2
    assert answer == f"{QUESTIONS[1]} Order LX-7."


async def test_a_model_that_asks_again_reaches_the_tool(serve: Serve) -> None:
    """Asked twice in one turn, right after a cached answer, the model distrusts it: the tool runs."""
    turns = {"asked": 0}

    def script(request: ModelRequest) -> Reply:
        last = request.messages[-1]
        if last["role"] == "user":
            turns["asked"] = 0
        turns["asked"] += 1
        return Reply(tool_calls=(search(),)) if turns["asked"] <= 2 else Reply(text="Now I believe it.")

    async with serve(script) as served, served.openai("/s/one/v1") as client:
        agent = Agent(client, stream=True)
        await agent.ask(QUESTIONS[0])
        before = len(agent.executed)
        await agent.ask(QUESTIONS[1])
    assert len(agent.executed) == before + 1


@pytest.mark.parametrize("odd", [{"n": [1]}, {"n": {}}, {"tool_choice": []}, {"tools": [1, None]}])
async def test_odd_fields_reach_the_provider(serve: Serve, odd: dict[str, Any]) -> None:
    """What is wrong with a request is the provider's to say, never a failure in between."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "tools": TOOLS, **odd}
    async with serve(lambda _: Reply(text="Fine.")) as served, httpx.AsyncClient(verify=False) as client:
        response = await client.post(f"{served.origin}/s/one/v1/chat/completions", json=body)
        assert response.status_code in {200, 400}
        assert served.model.requests[-1].body == body
