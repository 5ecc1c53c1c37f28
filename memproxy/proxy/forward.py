"""Forward one request and relay its response, whatever becomes of the client meanwhile."""

from collections.abc import AsyncIterator, Sequence

import anyio

from memproxy.proxy.client import Client
from memproxy.proxy.relay import Relayed, relay
from memproxy.proxy.upstream import Sender
from memproxy.records import Outcome

CLOSE_DEADLINE_S = 1.0
"""For closing the upstream connection after the client left."""


async def forward(
    client: Client,
    upstream: Sender,
    *,
    path: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes | AsyncIterator[bytes],
    readable: bool,
    extra_headers: Sequence[tuple[bytes, bytes]],
    into: Relayed,
) -> None:
    """Send the request on and the response back; `into` tells how it went.

    If the client leaves, the upstream connection is closed at once. If the model server breaks off in the middle, the
    client's connection breaks off too: a made-up ending would be taken for a whole answer.

    Raises:
        UpstreamError: no response came about; nothing was sent to the client yet.
    """
    async with client.while_present():
        response = await upstream.send(
            client.method, path, query=client.query, headers=headers, body=body, readable=readable
        )
        try:
            into.status = response.status
            into.content_type = response.header(b"content-type")
            into.content_encoding = response.header(b"content-encoding")
            await client.start(response.status, [*response.headers, *extra_headers])
            await relay(response.chunks(), client.write, into)
        finally:
            if into.outcome is Outcome.COMPLETED:
                await response.aclose()  # gives its connection back, which waits for nothing
            else:
                with anyio.move_on_after(CLOSE_DEADLINE_S, shield=True):
                    await response.aclose()
    if into.outcome is Outcome.COMPLETED:
        await client.end()
