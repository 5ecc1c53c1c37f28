"""The Responses API over a WebSocket, with a real client, a real proxy and a model server that speaks it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from memproxy.demo.scripted_model import ModelRequest, Reply, ToolCallReply
from memproxy.proxy.socket_frames import GOING_AWAY
from memproxy.records import JsonObject
from tests.fakes.agents import FUNCTIONS
from tests.fakes.serving import Serve, Served

TOOLS = [{"type": "function", "strict": False, **function} for function in FUNCTIONS]
SEARCH = ToolCallReply("search_orders", {"query": "laptop"}, id="call_1")


@asynccontextmanager
async def connected(served: Served, path: str = "/u/alice/s/one/v1") -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer x"}) as session,
        session.ws_connect(f"{served.origin}{path}/responses") as socket,
    ):
        yield socket


async def ask(socket: aiohttp.ClientWebSocketResponse, given: Any, **more: Any) -> JsonObject:
    """One request; the last event of its answer. The events are numbered, and their ids do not change."""
    await socket.send_str(json.dumps({"type": "response.create", "model": "m", "input": given, **more}))
    ids = set()
    number = 0
    while True:
        event: JsonObject = await socket.receive_json(timeout=20)
        if event["type"] == "error":
            return event
        assert event["sequence_number"] == number
        number += 1
        if "response" in event:
            ids.add(event["response"]["id"])
        if event["type"] == "response.completed":
            assert len(ids) == 1
            response: JsonObject = event["response"]
            return response


def words(response: JsonObject) -> str:
    return "".join(item["content"][0]["text"] for item in response["output"] if item["type"] == "message")


async def refused(served: Served, path: str = "/v1/responses") -> int:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(served.origin + path)
    return caught.value.status


async def test_frames_pass_and_the_conversation_is_remembered(serve: Serve) -> None:
    """What was said over a WebSocket is known over HTTP, and the other way round."""
    async with serve(has_sockets=True) as served:
        async with connected(served) as socket:
            first = await ask(socket, "My dog is called Barnaby and he is allergic to chicken.")
            assert words(first).startswith("You said: My dog")
            second = await ask(socket, "And he is old.", previous_response_id=first["id"])
            assert "allergic" in str(served.model.requests[-1].messages)
            assert second["previous_response_id"] == first["id"]
        await served.settled()
        async with served.openai("/u/alice/s/two/v1") as client:
            await client.responses.create(model="m", input="What food can I buy for my dog?")
        assert "Barnaby" in served.model.requests[-1].raw_body.decode()
        async with connected(served, "/u/alice/s/three/v1") as socket:
            await ask(socket, "Is my dog allergic?")
        assert "Barnaby" in served.model.requests[-1].body["input"]


async def test_without_anything_to_add_frames_are_the_clients(serve: Serve) -> None:
    """Byte for byte, in both directions."""
    async with serve(has_sockets=True) as served, connected(served) as socket:
        frame = '{ "type":"response.create","model":"m","input":"hi","x":1.0e0 }'
        await socket.send_str(frame)
        event = await socket.receive_str()
        assert event.startswith('{"type":"response.created"')
        assert served.model.requests[-1].raw_body == frame.encode()


async def test_repeated_calls_are_answered_inside(serve: Serve) -> None:
    """The tool runs once for two questions; a later request may name either answer."""

    def support(request: ModelRequest) -> Reply:
        if request.messages[-1]["role"] == "user":
            return Reply(text="Let me look.", reasoning="hm", tool_calls=(SEARCH,))
        return Reply(text=f"Order LX-7 after {sum(m['role'] == 'tool' for m in request.messages)}.")

    async with serve(support, has_sockets=True) as served, connected(served) as socket:
        first = await ask(socket, "Where is it?", tools=TOOLS)
        assert [item["type"] for item in first["output"]] == ["reasoning", "message", "function_call"]
        result = {"type": "function_call_output", "call_id": "call_1", "output": '{"id": "LX-7"}'}
        second = await ask(socket, [result], tools=TOOLS, previous_response_id=first["id"])
        third = await ask(socket, "And when?", tools=TOOLS, previous_response_id=second["id"])
        assert words(third) == "Let me look.Order LX-7 after 2."
        assert all(item["type"] != "function_call" for item in third["output"])
        assert [item["type"] for item in served.model.requests[-1].body["input"]] == ["function_call_output"]
        fourth = await ask(socket, "Thanks.", previous_response_id=third["id"])
        assert words(fourth) == "Let me look."


async def test_errors_are_frames(serve: Serve) -> None:
    """The provider's pass as they are; the connection stays."""
    async with serve(has_sockets=True) as served, connected(served) as socket:
        error = await ask(socket, "hi", previous_response_id="resp_unknown")
        assert (error["type"], error["error"]["code"]) == ("error", "previous_response_not_found")
        assert words(await ask(socket, "hi")) == "You said: hi"


async def test_a_bad_header_is_an_error_frame(serve: Serve) -> None:
    """What is wrong with a request is told in its own form."""
    async with (
        serve(has_sockets=True) as served,
        aiohttp.ClientSession(headers={"X-Memproxy-Memory": "x"}) as session,
        session.ws_connect(f"{served.origin}/v1/responses") as socket,
    ):
        error = await ask(socket, "hi")
        assert (error["status"], error["error"]["code"]) == (400, "memproxy_bad_identity")


async def test_a_provider_that_breaks_off_closes_the_connection(serve: Serve) -> None:
    """A made-up end would be taken for a whole answer; what was said is kept as broken off."""
    reply = Reply(text="one two three", cut_after=5)
    async with serve(lambda _: reply, has_sockets=True) as served, connected(served) as socket:
        await socket.send_str('{"type":"response.create","model":"m","input":"hi"}')
        told = [message async for message in socket]
        assert len(told) == 5
        assert socket.close_code == 1011
        await served.settled()


async def test_a_client_that_leaves_ends_the_connection(serve: Serve) -> None:
    """Nothing is left behind but what was said."""
    async with serve(has_sockets=True) as served:
        async with connected(served) as socket:
            await ask(socket, "hello")
        await served.settled()
        assert len(served.model.requests) == 1


async def test_clients_are_sent_to_http_at_once(serve: Serve) -> None:
    """On 426 codex falls back at once; on anything else only after seconds."""
    async with serve(has_sockets=False) as served:
        assert await refused(served) == 426
    async with serve(has_sockets=True, responses_websocket=False) as served:
        assert await refused(served) == 426
    async with serve(has_sockets=True) as served:
        assert await refused(served, "/v1/realtime") == 426
        for path in ("/mcp", "/v1/working-memory/one", "/healthz"):
            assert await refused(served, path) == 426, "our own pages have none"
        assert await refused(served, "/u//v1/responses") == 426


async def test_a_process_that_drains_ends_a_websocket_behind_its_answer(serve: Serve) -> None:
    """A new version comes: the answer under way is whole, the client is told to go, and HTTP takes the next."""
    slowly = Reply(text="One word after the other.", event_delay_s=0.02)
    async with serve(lambda _: slowly, has_sockets=True) as served, connected(served) as socket:
        await socket.send_str(json.dumps({"type": "response.create", "model": "m", "input": "Take your time."}))
        await socket.receive_json(timeout=20)
        served.instance.app.drain()
        events = [message.json() async for message in socket if message.type is aiohttp.WSMsgType.TEXT]
        assert events[-1]["type"] == "response.completed"
        assert socket.close_code == GOING_AWAY
        assert await refused(served) == 426
        async with served.openai() as client:
            answer = await client.responses.create(model="m", input="Hello?")
        assert answer.output_text == slowly.text
