"""The openai SDK's responses through a running memproxy: the same as directly, with memory."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI
from pydantic import BaseModel

from memproxy.demo.scripted_model import ModelRequest, Reply, ToolCallReply, in_order
from memproxy.records import JsonObject, Scope, SessionKey
from tests.fakes.serving import Serve, Served

FOLDER = Path(__file__).parents[1] / "corpus" / "responses"
CORPUS = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.sse"))}
ALICE = Scope("single", "alice")
TOOLS: Any = [{"type": "function", "name": "get_order", "strict": False, "parameters": {"type": "object"}}]
SEARCH = ToolCallReply("memproxy_search_memory", {"query": "dog"})

streaming = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


async def ask(client: AsyncOpenAI, given: Any, *, stream: bool = False, **more: Any) -> Any:
    if not stream:
        return await client.responses.create(model="gpt-4o", input=given, **more)
    async with client.responses.stream(model="gpt-4o", input=given, **more) as streamed:
        return await streamed.get_final_response()


def shown(served: Served, index: int = -1) -> list[tuple[str, str]]:
    """What the model was shown, as role and text."""
    return [(each["role"], str(each["content"])) for each in served.model.requests[index].messages]


def user(text: str) -> JsonObject:
    return {"role": "user", "content": text}


@pytest.mark.parametrize("name", CORPUS)
async def test_a_stream_is_the_model_servers(serve: Serve, name: str) -> None:
    """Nothing is reframed, whatever the events are: what the model server wrote is what the client reads."""
    body = CORPUS[name]
    pieces = tuple(body[at : at + 97] for at in range(0, len(body), 97))
    async with serve(lambda _: Reply(raw_stream=pieces)) as served, served.openai("/u/alice/s/one/v1") as client:
        async with client.responses.with_streaming_response.create(
            model="m", input="hello", stream=True, tools=TOOLS
        ) as response:
            received = b"".join([chunk async for chunk in response.iter_bytes()])
        assert received == body
        await served.settled()


@streaming
async def test_a_string_gets_its_memories(serve: Serve, stream: bool) -> None:
    """Long-term memory crosses sessions and formats: what was said over one is known over the other."""
    async with serve() as served:
        async with served.openai("/u/alice/s/one/v1") as client:
            await ask(client, "My dog is called Barnaby and he is allergic to chicken.", stream=stream)
        await served.settled()
        async with served.openai("/u/alice/s/two/v1") as client:
            await ask(client, "What food can I buy for my dog?", stream=stream)
            request = served.model.requests[-1]
            assert "Barnaby" in request.body["input"]
            assert request.body["input"].endswith("What food can I buy for my dog?")
            await client.chat.completions.create(model="m", messages=[user("Is my dog allergic?")])  # type: ignore[list-item]  # a plain dict
            assert "Barnaby" in served.model.requests[-1].raw_body.decode()
        async with served.openai("/u/bob/s/two/v1") as client:
            await ask(client, "What food can I buy for my dog?", stream=stream)
        assert "Barnaby" not in served.model.requests[-1].raw_body.decode()


async def test_newest_items_only_get_their_history_and_instructions(serve: Serve) -> None:
    """An agent that keeps no history has a conversation all the same."""
    script = in_order(Reply(text="One.", reasoning="hm"), Reply(text="Two."))
    async with serve(script) as served, served.openai("/s/chat-1/v1") as client:
        await ask(client, "first", instructions="Be brief.")
        await ask(client, "second")
        assert shown(served) == [("system", "Be brief."), ("user", "first"), ("assistant", "One."), ("user", "second")]


async def test_a_chain_is_neither_doubled_nor_cut(serve: Serve) -> None:
    """The history lies at the provider; the log has it once."""
    async with serve(lambda _: Reply(text="word " * 300)) as served:
        async with served.openai("/u/alice/v1") as client:
            sessions: set[str] = set()
            options: Any = {}
            for number in range(4):
                raw = await client.responses.with_raw_response.create(
                    model="gpt-4", input=f"question {number}", **options
                )
                options = {"previous_response_id": raw.parse().id}
                sessions.add(raw.headers["x-memproxy-session"])
                assert served.model.requests[-1].body["input"].endswith(f"question {number}")
        assert len(sessions) == 1
        assert [text for role, text in shown(served) if role == "user"] == [f"question {n}" for n in range(4)]
        await served.settled()
        log = await served.instance.services.sessions.messages(SessionKey(ALICE, sessions.pop()), 0, -1)
        assert [kept.message["role"] for kept in log] == ["user", "assistant"] * 4


async def test_injection_is_replayed_byte_for_byte(serve: Serve) -> None:
    """The provider's prompt cache keeps hitting: each prompt begins with the one before."""
    async with serve(lambda _: Reply(text="Fine.", reasoning="hm")) as served:
        async with served.openai("/u/alice/s/one/v1") as client:
            await ask(client, "My sister Clara lives in Lisbon and collects stamps.")
        await served.settled()
        history: list[Any] = []
        async with served.openai("/u/alice/v1") as client:
            for text in ("Where does my sister Clara live?", "And what does Clara collect?", "Thanks, that helps."):
                history.append(user(text))
                history += [item.model_dump(exclude_unset=True) for item in (await ask(client, history)).output]
        prompts = [request.body["input"] for request in served.model.requests[-3:]]
        assert "Lisbon" in prompts[0][0]["content"]
        for earlier, later in itertools.pairwise(prompts):
            assert later[: len(earlier)] == earlier


async def test_encrypted_reasoning_comes_back_as_it_went(serve: Serve) -> None:
    """With nothing stored at the provider, one changed byte of it would be refused."""
    script = in_order(Reply(reasoning="hm", tool_calls=(ToolCallReply("get_order"),)), Reply(text="Shipped."))
    async with serve(script) as served, served.openai("/u/alice/s/one/v1") as client:
        options: Any = {"store": False, "include": ["reasoning.encrypted_content"], "tools": TOOLS}
        first = await ask(client, "Where is it?", **options)
        items = [item.model_dump(exclude_unset=True) for item in first.output]
        result = {"type": "function_call_output", "call_id": items[-1]["call_id"], "output": "{}"}
        await ask(client, [user("Where is it?"), *items, result], **options)
        assert served.model.requests[-1].body["input"] == [user("Where is it?"), *items, result]


async def test_a_long_history_is_cut_between_turns(serve: Serve) -> None:
    """What does not fit the window is left out in whole turns; calls and thoughts stay with what they led to."""
    text = "Order ZX-9981 is late. " + "word " * 1_500

    def script(request: ModelRequest) -> Reply:
        if request.messages[-1]["role"] == "user":
            return Reply(reasoning="hm", tool_calls=(ToolCallReply("get_order"),))
        return Reply(text=text)

    async with serve(script) as served, served.openai("/u/alice/s/one/v1") as client:
        history: list[Any] = []
        for number in range(6):
            history.append(user(f"question {number}"))
            for _ in range(2):
                answer = await client.responses.create(model="gpt-4", input=history, tools=TOOLS)
                items = [item.model_dump(exclude_unset=True) for item in answer.output]
                history += items
                history += [
                    {"type": "function_call_output", "call_id": item["call_id"], "output": "{}"}
                    for item in items
                    if item["type"] == "function_call"
                ]
        sent = served.model.requests[-1].body["input"]
        assert len(sent) < len(history) - 1
        assert sent[0]["role"] == "user"
        assert "ZX-9981" in sent[0]["content"]


@streaming
@pytest.mark.parametrize("words", [None, "Let me see."])
async def test_a_later_request_can_name_an_answer_that_rounds_inside_made(
    serve: Serve, stream: bool, words: str | None
) -> None:
    """The id that the client saw is good for a chain, for reading, and for deleting."""

    def script(request: ModelRequest) -> Reply:
        last = request.messages[-1]
        if last["role"] == "user" and "dog" in last["content"]:
            return Reply(text=words, reasoning="hm", tool_calls=(SEARCH,))
        return Reply(text=f"Seen {sum(m['role'] == 'tool' for m in request.messages)} results.")

    headers = {"X-Memproxy-Tools": "on"}
    async with serve(script) as served, served.openai("/u/alice/s/one/v1", **headers) as client:
        first = await ask(client, "What of my dog?", stream=stream)
        assert first.output_text == f"{words or ''}Seen 1 results."
        assert all(item.type != "function_call" for item in first.output)
        again = await ask(client, "And now?", stream=stream, previous_response_id=first.id)
        assert again.output_text == "Seen 1 results."
        stored = await client.responses.retrieve(first.id)
        assert stored.output_text == "Seen 1 results."
        await client.responses.delete(first.id)
        with pytest.raises(APIStatusError):
            await client.responses.retrieve(first.id)


@streaming
@pytest.mark.parametrize("way", ["resend", "chain", "conversation"])
async def test_memory_tools_beside_the_agents_own(serve: Serve, stream: bool, way: str) -> None:
    """The agent sees its own call alone; the model gets both results with the next request."""

    def script(request: ModelRequest) -> Reply:
        last = request.messages[-1]
        if last["role"] == "user" and "dog" in last["content"]:
            return Reply(reasoning="hm", tool_calls=(SEARCH, ToolCallReply("get_order", id="call_own")))
        return Reply(text=f"{[m['tool_call_id'] == 'call_own' for m in request.messages if m['role'] == 'tool']}")

    async with serve(script) as served, served.openai("/u/alice/s/one/v1", **{"X-Memproxy-Tools": "on"}) as client:
        options: dict[str, Any] = {"tools": TOOLS, "stream": stream}
        if way == "conversation":
            options["conversation"] = (await client.conversations.create()).id
        first = await ask(client, "What of my dog?", **options)
        assert [item.name for item in first.output if item.type == "function_call"] == ["get_order"]
        result = {"type": "function_call_output", "call_id": "call_own", "output": "{}"}
        given: list[Any] = [result]
        if way == "chain":
            options["previous_response_id"] = first.id
        elif way == "resend":
            output = [item.model_dump(exclude_unset=True) for item in first.output]
            for item in output:
                item.pop("parsed_arguments", None)
            given = [user("What of my dog?"), *output, result]
        second = await ask(client, given, **options)
        assert second.output_text == "[False, True]"
        more = await ask(
            client, "Thanks!", **(options | ({"previous_response_id": second.id} if way == "chain" else {}))
        )
        assert more.output_text == ("[False, True]" if way != "resend" else more.output_text)


class Order(BaseModel):
    item: str
    days: int


async def test_parsed_answers_are_the_same_as_directly(serve: Serve) -> None:
    """Structured output passes in both directions."""
    async with serve(lambda _: Reply(text='{"item": "laptop", "days": 3}')) as served:
        for base_url in (served.instance.services.settings.upstream_base_url, f"{served.origin}/u/alice/v1"):
            async with AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as client:
                parsed = await client.responses.parse(model="m", input="When?", text_format=Order)
                assert parsed.output_parsed == Order(item="laptop", days=3)


async def test_background_and_stored_answers_pass(serve: Serve) -> None:
    """What is about a stored answer is the provider's."""
    async with serve() as served, served.openai("/u/alice/s/one/v1") as client:
        made = await client.responses.create(model="m", input="hello", background=True)
        assert (await client.responses.retrieve(made.id)).id == made.id
        assert (await client.responses.cancel(made.id)).id == made.id
        items = await client.responses.input_items.list(made.id)
        assert items.data[0].content == "hello"  # type: ignore[union-attr]  # a message


async def test_provider_errors_come_through_verbatim(serve: Serve) -> None:
    """A rate limit of the provider is a rate limit to the client, with its own words."""
    reply = Reply(status=429, error={"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"})
    async with serve(lambda _: reply) as served, served.openai("/u/alice/s/one/v1") as client:
        with pytest.raises(APIStatusError) as caught:
            await ask(client, "hello")
        assert caught.value.status_code == 429
        assert "slow down" in str(caught.value)
