"""The openai SDK as agents use it, through a running memproxy."""

import asyncio
import itertools
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI

from memproxy.demo.scripted_model import ModelRequest, Reply, ToolCallReply, in_order
from tests.fakes.serving import Serve, Served

ODD_STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"caf\xc3\xa9 \xe2\x80\xa8"}}]}\r\n\r\n'
    b": comment\r\n\r\n"
    b'data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\r\n\r\n'
    b"data: [DONE]\r\n\r\n"
)
ODD_OBJECT = (
    b'{ "id": "x",  "choices": [ {"index":0, "message": {"role":"assistant","content":"ok"}, '
    b'"finish_reason":"stop"} ], "unknown": 1.0 }\n'
)


async def ask(client: AsyncOpenAI, *messages: dict[str, Any], **options: Any) -> str:
    """One request, not streaming."""
    answer = await client.chat.completions.create(model="gpt-4o", messages=list(messages), **options)  # type: ignore[arg-type]  # plain dicts
    return str(answer.choices[0].message.content)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def conversation(served: Served, index: int = -1) -> list[tuple[str, str]]:
    """What the model server received, as role and text."""
    return [(each["role"], each["content"]) for each in served.model.requests[index].messages]


async def test_newest_message_only_gets_its_history(serve: Serve) -> None:
    """An agent that keeps no history has a conversation all the same."""
    async with serve(in_order(Reply(text="One."), Reply(text="Two."))) as served:
        async with served.openai("/u/alice/s/chat-1/v1") as client:
            await ask(client, user("first"))
            await ask(client, user("second"))
        assert conversation(served) == [("user", "first"), ("assistant", "One."), ("user", "second")]


async def test_resent_history_leaves_byte_identical(serve: Serve) -> None:
    """An agent that keeps its history, with nothing to remember, is a plain reverse proxy's client."""
    async with serve(in_order(Reply(text="One."), Reply(text="Two."))) as served, served.openai() as client:
        await ask(client, user("first"))
        await ask(client, user("first"), assistant("One."), user("second"))
        again = served.model.requests[-1]
        assert [each["role"] for each in again.messages] == ["user", "assistant", "user"]
        async with served.openai("/v1", **{"X-Memproxy-Memory": "off"}) as plain:
            await ask(plain, user("first"), assistant("One."), user("second"))
        assert served.model.requests[-1].raw_body == again.raw_body


async def test_resent_history_is_recognised_without_any_header(serve: Serve) -> None:
    """Sessions are recognised from the conversation itself."""
    async with serve(in_order(Reply(text="One."), Reply(text="Two."), Reply(text="Three."))) as served:
        async with served.openai() as client:
            make = client.chat.completions.with_raw_response.create
            first = await make(model="m", messages=[{"role": "user", "content": "hi"}])
            again = await make(
                model="m",
                messages=[
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "content": "One."},
                    {"role": "user", "content": "more"},
                ],
            )
            other = await make(model="m", messages=[{"role": "user", "content": "hi"}])
        assert first.headers["x-memproxy-session"] == again.headers["x-memproxy-session"]
        assert other.headers["x-memproxy-session"] != first.headers["x-memproxy-session"]
        assert first.headers["x-memproxy-identity"] == "chain"


async def test_a_new_session_recalls_what_the_user_said_in_another(serve: Serve) -> None:
    """Long-term memory crosses sessions of one user, and only of that one."""
    async with serve() as served:
        async with served.openai("/u/alice/s/one/v1") as client:
            await ask(client, user("My dog is called Barnaby and he is allergic to chicken."))
        await served.settled()
        async with served.openai("/u/alice/s/two/v1") as client:
            await ask(client, user("What food can I buy for my dog?"))
        assert "Barnaby" in served.model.requests[-1].raw_body.decode()
        async with served.openai("/u/bob/s/two/v1") as client:
            await ask(client, user("What food can I buy for my dog?"))
        assert "Barnaby" not in served.model.requests[-1].raw_body.decode()


async def test_injection_is_replayed_byte_for_byte(serve: Serve) -> None:
    """The provider's prompt cache keeps hitting: each prompt begins with the one before."""
    async with serve(lambda _: Reply(text="Fine.")) as served:
        async with served.openai("/u/alice/s/one/v1") as client:
            await ask(client, user("My sister Clara lives in Lisbon and collects stamps."))
        await served.settled()
        history: list[dict[str, Any]] = []
        async with served.openai("/u/alice/v1") as client:
            for text in ("Where does my sister Clara live?", "And what does Clara collect?", "Thanks, that helps."):
                history.append(user(text))
                history.append(assistant(await ask(client, *history)))
        prompts = [request.messages for request in served.model.requests[-3:]]
        assert "Lisbon" in prompts[0][0]["content"]
        for earlier, later in itertools.pairwise(prompts):
            assert later[: len(earlier)] == earlier


@pytest.mark.parametrize("stream", [False, True])
async def test_response_bytes_are_those_of_the_model_server(serve: Serve, stream: bool) -> None:
    """Nothing is reframed: what the model server wrote is what the client reads."""
    body = ODD_STREAM if stream else ODD_OBJECT
    pieces = tuple(body[at : at + 7] for at in range(0, len(body), 7))
    reply = Reply(raw_stream=pieces) if stream else Reply(raw_body=body)
    async with serve(lambda _: reply) as served, served.openai("/u/alice/s/one/v1") as client:
        options: dict[str, Any] = {"stream": True} if stream else {}
        async with client.chat.completions.with_streaming_response.create(
            model="m", messages=[{"role": "user", "content": "hello there"}], **options
        ) as response:
            received = b"".join([chunk async for chunk in response.iter_bytes()])
        assert received == body


async def test_tool_loop_resends_and_is_not_doubled(serve: Serve) -> None:
    """A tool loop is one turn: its calls and results are stored once, and pairs stay together."""
    script = in_order(
        Reply(tool_calls=(ToolCallReply("get_order", {"id": "A-77"}, id="call_1"),)),
        Reply(text="It arrives on Friday."),
        Reply(text="You are welcome."),
    )
    async with serve(script) as served, served.openai("/u/alice/s/one/v1") as client:
        tools: Any = [{"type": "function", "function": {"name": "get_order", "parameters": {"type": "object"}}}]
        history: list[Any] = [user("Where is my order A-77?")]
        first = await client.chat.completions.create(model="m", messages=history, tools=tools)
        history.append(first.choices[0].message.model_dump())
        history.append({"role": "tool", "tool_call_id": "call_1", "content": '{"eta":"Friday"}'})
        await client.chat.completions.create(model="m", messages=history, tools=tools)
        await ask(client, user("Thank you!"))
        roles = [each["role"] for each in served.model.requests[-1].messages]
        assert roles == ["user", "assistant", "tool", "assistant", "user"]


async def test_provider_errors_come_through_verbatim(serve: Serve) -> None:
    """A rate limit of the provider is a rate limit to the client, with its own words."""
    reply = Reply(status=429, error={"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"})
    async with serve(lambda _: reply) as served, served.openai("/u/alice/s/one/v1") as client:
        with pytest.raises(APIStatusError) as caught:
            await ask(client, user("hello"))
        assert caught.value.status_code == 429
        assert "slow down" in str(caught.value)


async def test_a_failed_request_leaves_nothing_behind(serve: Serve) -> None:
    """What the provider refused was never said: the next request's history is free of it."""
    script = in_order(Reply(status=500, error={"message": "oops"}), Reply(text="Hello."))
    async with serve(script) as served, served.openai("/u/alice/s/one/v1") as client:
        with pytest.raises(APIStatusError):
            await ask(client, user("first try"))
        await ask(client, user("second try"))
        assert conversation(served) == [("user", "second try")]


async def test_client_leaving_midstream_closes_upstream_and_keeps_the_partial_turn(serve: Serve) -> None:
    """Nothing is paid for that nobody reads, and the conversation goes on from what was said."""

    def script(request: ModelRequest) -> Reply:
        slow = request.last_user_text == "tell me a story"
        return Reply(text="word " * 200, event_delay_s=0.05) if slow else Reply(text="Fine.")

    async with serve(script) as served, served.openai("/u/alice/s/one/v1") as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "tell me a story"}], stream=True
        )
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == 5:
                break
        left_at = asyncio.get_running_loop().time()
        await stream.close()
        await served.model.wait_until(lambda: bool(served.model.disconnects))
        assert served.model.disconnects[0].at - left_at < 1.0
        await served.settled()
        await ask(client, user("go on"))
        received = conversation(served)
        assert received[0] == ("user", "tell me a story")
        assert received[1][0] == "assistant"
        assert received[1][1].startswith("word")
        assert received[-1] == ("user", "go on")


async def test_memory_can_be_switched_off_for_a_request(serve: Serve) -> None:
    """With the header off a request is neither read nor remembered."""
    async with serve() as served:
        async with served.openai("/u/alice/s/one/v1", **{"X-Memproxy-Memory": "off"}) as client:
            await ask(client, user("first"))
            await ask(client, user("second"))
        assert conversation(served) == [("user", "second")]
