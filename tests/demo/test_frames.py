"""The scripted model over a WebSocket."""

import aiohttp
import pytest

from memproxy.demo.scripted_model import Reply, ScriptedModel


async def test_each_event_is_a_frame() -> None:
    """The same events as over HTTP, and an error where HTTP has a status."""
    async with (
        ScriptedModel(lambda _: Reply(text="hi"), has_sockets=True).serve() as model,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{model.base_url}/responses") as socket,
    ):
        await socket.send_str('{"type":"response.create","model":"m","input":"x"}')
        kinds: list[str] = []
        while not kinds or kinds[-1] != "response.completed":
            kinds.append((await socket.receive_json())["type"])
        assert kinds[0] == "response.created"
        await socket.send_str('{"type":"response.create","input":"x"}')
        error = await socket.receive_json()
        assert (error["type"], error["status"]) == ("error", 400)


async def test_a_server_without_sockets_says_so() -> None:
    """As most providers do."""
    async with ScriptedModel().serve() as model, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(f"{model.base_url}/responses")
