"""Anthropic's SDK through a running memproxy, at a base URL as ANTHROPIC_BASE_URL names one: the same as directly."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from anthropic import APIStatusError, AsyncAnthropic

from memproxy.demo.scripted_model import ModelRequest, Reply, ToolCallReply
from tests.fakes.serving import Serve, Served

FOLDER = Path(__file__).parents[1] / "corpus" / "messages"
CORPUS = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.sse"))}
TOOLS: Any = [{"name": "get_order", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}]
SEARCH = ToolCallReply("memproxy_search_memory", {"query": "dog"})

streaming = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def client_of(served: Served, path: str = "/u/alice/s/one", **headers: str) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=served.origin + path, api_key="sk", max_retries=0, default_headers=headers)


async def ask(client: AsyncAnthropic, messages: Any, *, stream: bool = False, **more: Any) -> Any:
    given: Any = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    if not stream:
        return await client.messages.create(model="m", max_tokens=500, messages=given, **more)
    async with client.messages.stream(model="m", max_tokens=500, messages=given, **more) as streamed:
        return await streamed.get_final_message()


def words(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@pytest.mark.parametrize("name", CORPUS)
async def test_a_stream_is_the_model_servers(serve: Serve, name: str) -> None:
    """Nothing is reframed: what the model server wrote is what the client reads."""
    body = CORPUS[name]
    pieces = tuple(body[at : at + 97] for at in range(0, len(body), 97))
    async with serve(lambda _: Reply(raw_stream=pieces)) as served, client_of(served) as client:
        async with client.messages.with_streaming_response.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hello"}], stream=True, tools=TOOLS
        ) as response:
            received = b"".join([chunk async for chunk in response.iter_bytes()])
        assert received == body
        await served.settled()


@streaming
async def test_memories_cross_sessions_and_are_replayed(serve: Serve, stream: bool) -> None:
    """What was said in one session is known in another, at the same place each time: the prompt only grows."""
    async with serve(lambda _: Reply(text="Fine.", reasoning="hm")) as served:
        async with client_of(served) as client:
            await ask(client, "My sister Clara lives in Lisbon and collects stamps.", stream=stream)
        await served.settled()
        history: list[Any] = []
        async with client_of(served, "/u/alice") as client:
            for text in ("Where does my sister Clara live?", "And what does Clara collect?", "Thanks, that helps."):
                history.append({"role": "user", "content": [{"type": "text", "text": text, "cache_control": {}}]})
                answer = await ask(client, history, stream=stream, system="Be brief.")
                blocks = [block.model_dump(exclude_none=True) for block in answer.content]
                history.append({"role": "assistant", "content": blocks})
        prompts = [request.body["messages"] for request in served.model.requests[-3:]]
        assert "Lisbon" in prompts[0][0]["content"][0]["text"]
        assert prompts[0][0]["content"][1]["cache_control"] == {}
        for earlier, later in itertools.pairwise(prompts):
            assert later[: len(earlier)] == earlier


async def test_newest_message_only_gets_its_history_and_instructions(serve: Serve) -> None:
    """An agent that keeps no history has a conversation all the same, thinking with its signature included."""
    async with serve(lambda _: Reply(text="One.", reasoning="hm")) as served, client_of(served) as client:
        system: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
        await ask(client, "first", system=system)
        await ask(client, "second")
        request = served.model.requests[-1]
        assert request.body["system"] == system
        assert [each["content"] for each in request.messages] == ["Be brief.", "first", "One.", "second"]
        assert request.body["messages"][1]["content"][0]["type"] == "thinking"


@streaming
async def test_memory_tools_beside_the_agents_own(serve: Serve, stream: bool) -> None:
    """The agent sees its own call alone; the model gets both results with the next request."""

    def script(request: ModelRequest) -> Reply:
        last = request.messages[-1]
        if last["role"] == "user" and "dog" in str(last["content"]):
            return Reply(reasoning="hm", tool_calls=(SEARCH, ToolCallReply("get_order", id="own")))
        return Reply(text=f"{[m['tool_call_id'] == 'own' for m in request.messages if m['role'] == 'tool']}")

    async with serve(script) as served, client_of(served, **{"X-Memproxy-Tools": "on"}) as client:
        first = await ask(client, "What of my dog?", stream=stream, tools=TOOLS)
        assert [block.name for block in first.content if block.type == "tool_use"] == ["get_order"]
        assert first.stop_reason == "tool_use"
        assert served.model.requests[-1].body["tools"][0] == TOOLS[0], "the client's mark stays where it was"
        blocks = [block.model_dump(exclude_none=True) for block in first.content]
        result = {"type": "tool_result", "tool_use_id": "own", "content": "{}"}
        history = [
            {"role": "user", "content": "What of my dog?"},
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": [result]},
        ]
        assert words(await ask(client, history, stream=stream, tools=TOOLS)) == "[False, True]"


async def test_errors_have_the_providers_shape(serve: Serve) -> None:
    """Those of the provider come verbatim, those of memproxy in the same form."""
    async with serve() as served:
        async with client_of(served, **{"X-Memproxy-Memory": "sometimes"}) as client:
            with pytest.raises(APIStatusError) as caught:
                await ask(client, "hi")
            assert caught.value.status_code == 400
            assert caught.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]  # an object
        async with client_of(served) as client:
            with pytest.raises(APIStatusError, match="first message must use"):
                await ask(client, [{"role": "assistant", "content": "x"}])
