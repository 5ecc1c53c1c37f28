"""Serve the Responses API over a WebSocket: a frame is a request, each event of its answer a frame; ASGI."""

from collections.abc import Callable

from memproxy.demo.deliver import Delivery, Receive, Send
from memproxy.wire.sse import parse_stream


async def serve_frames(answer: Callable[[bytes], Delivery], receive: Receive, send: Send, *, is_offered: bool) -> None:
    """Answers frame after frame until the client leaves; refuses with 404 where no WebSocket is offered."""
    await receive()
    if not is_offered:
        head = {"type": "websocket.http.response.start", "status": 404, "headers": [(b"content-length", b"0")]}
        await send(head)
        await send({"type": "websocket.http.response.body", "body": b"", "more_body": False})
        return
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        delivery = answer(message["text"].encode())
        for event in parse_stream(delivery.pieces) if delivery.is_stream else ():
            await send({"type": "websocket.send", "text": event.data.decode()})
        if not delivery.is_stream:
            error = delivery.pieces[0].decode().removeprefix("{")
            await send({"type": "websocket.send", "text": f'{{"type":"error","status":{delivery.status},{error}'})
        if delivery.is_cut:
            await send({"type": "websocket.close", "code": 1011})
            return
