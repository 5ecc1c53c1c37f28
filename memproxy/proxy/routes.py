"""Receive: the routes with memory, and pass-through for every other path of the provider's API.

A plain ASGI app that is mounted into the web application: the hot path has no injection, no validation and no framing
of its own. Paths: an identity may stand before `/v1`, a missing `/v1` and a trailing slash are accepted.
"""

from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

import msgspec

from memproxy.errors import NotFoundError, RequestError
from memproxy.identity import SplitPath, split_path
from memproxy.proxy.client import Client, ClientLeftError, Message, Receive, Send
from memproxy.proxy.forward import forward
from memproxy.proxy.pipeline import Pipeline
from memproxy.proxy.relay import Relayed
from memproxy.proxy.socket_frames import SocketRelay, refuse
from memproxy.proxy.upstream import Upstream
from memproxy.proxy.watched import WatchedSender
from memproxy.tasks import Tasks
from memproxy.telemetry.requests import RequestWatch
from memproxy.wire.anthropic_dialect import MESSAGES
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from memproxy.wire.dialect import Dialect
from memproxy.wire.response_dialect import RESPONSES

DIALECTS: Mapping[bytes, Dialect] = {
    b"/chat/completions": CHAT_COMPLETIONS,
    b"/responses": RESPONSES,
    b"/messages": MESSAGES,
}
"""The routes with memory, and what is spoken there."""

OWN_FIRST_SEGMENTS = frozenset({b"u", b"s", b"n", b"v1"})
"""A path that begins otherwise has no `/v1`: it is forwarded only if it names a resource of the provider's."""

PROVIDER_RESOURCES = frozenset(
    {
        b"assistants", b"audio", b"batches", b"chat", b"completions", b"containers", b"conversations", b"embeddings",
        b"evals", b"files", b"fine_tuning", b"images", b"messages", b"models", b"moderations", b"organization",
        b"realtime", b"responses", b"threads", b"uploads", b"vector_stores", b"videos", b"engines", b"rerank",
        b"score", b"tokenize",
    }
)  # fmt: skip
"""First segments of paths in OpenAI's API reference and in servers that are compatible with it."""


class ProxyApp:
    """The ASGI app of the provider's API."""

    def __init__(
        self,
        pipeline: Pipeline,
        upstream: WatchedSender,
        tasks: Tasks,
        watch: RequestWatch,
        *,
        sockets: Upstream | None,
    ) -> None:
        """`sockets`: who is asked when the Responses API is spoken over WebSockets, too."""
        self._sockets = SocketRelay(pipeline, sockets, tasks, watch) if sockets is not None else None
        self._pipeline = pipeline
        self._upstream = upstream
        self._tasks = tasks
        self._watch = watch

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket; what goes wrong before a response has begun becomes an error in its shape."""
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
            return
        client = Client(scope, receive, send, self._tasks)
        with self._watch.request(client.seen):
            try:
                await self._serve(client)
            except ClientLeftError:
                client.seen.kind = ""
            except RequestError as error:
                if client.has_started:
                    raise
                body = msgspec.json.encode(_dialect_of(client.raw_path).error_body(error))
                await client.refuse(error, [(b"x-memproxy-request-id", client.seen.id.encode())], body)

    def drain(self) -> None:
        """Take no new WebSocket, and end each one between two exchanges."""
        if self._sockets is not None:
            self._sockets.drain()

    async def _serve_socket(self, scope: Message, receive: Receive, send: Send) -> None:
        """The Responses API may be spoken over a WebSocket; nothing else may."""
        try:
            path = split_path(scope.get("raw_path") or scope["path"].encode())
        except RequestError:
            path = SplitPath({}, b"/")
        if self._sockets is not None and path.rest.rstrip(b"/") == b"/responses":
            await self._sockets.serve(scope, receive, send, path=path)
        else:
            await refuse(send)

    async def _serve(self, client: Client) -> None:
        path = split_path(client.raw_path)
        if client.headers.get("upgrade", "").lower() == "websocket":
            await client.start(426, [(b"content-length", b"0"), (b"connection", b"close")])
            await client.end()
        elif client.method == "POST" and (dialect := DIALECTS.get(path.rest.rstrip(b"/"))) is not None:
            await self._pipeline.run(client, path, dialect)
        elif _is_forwarded(client.raw_path, path):
            await self._pass_through(client, path)
        else:
            raise NotFoundError(
                f"Nothing is served at {client.raw_path.decode('latin-1')[:200]}. "
                "The provider's API is under /v1; an identity may stand before it, as in /u/alice/v1."
            )

    async def _pass_through(self, client: Client, path: SplitPath) -> None:
        """Forward a request as it streams in, relay the response as it streams out."""
        relayed = Relayed(keeps=False)
        client.seen.route = route_of(path)
        await forward(
            client,
            self._upstream,
            headers=client.raw_headers,
            path=await self._pipeline.path_of(client, path),
            body=await client.body_as_it_comes(),
            readable=False,
            extra_headers=(),
            into=relayed,
        )
        client.seen.kind = "passed"


def route_of(path: SplitPath) -> str:
    """What is told of a path without memory: the provider's resource, and nothing that names one of them."""
    resource = path.rest.split(b"/")[1]
    return f"/v1/{resource.decode('latin-1')}" if resource in PROVIDER_RESOURCES else "/v1/other"


def _dialect_of(raw_path: bytes) -> Dialect:
    """Whose clients read the errors at this path."""
    resource = raw_path.rstrip(b"/").rpartition(b"/")[2]
    return DIALECTS.get(b"/" + resource, CHAT_COMPLETIONS)


def _is_forwarded(raw_path: bytes, path: SplitPath) -> bool:
    if {b".", b".."} & set(unquote_to_bytes(path.rest).split(b"/")):
        return False  # an upstream that resolves them would be asked outside of its base path, perhaps with our own key
    first = raw_path.lstrip(b"/").split(b"/")[0]
    if first in OWN_FIRST_SEGMENTS:
        return path.rest != b"/" or first == b"v1"
    return path.rest.split(b"/")[1] in PROVIDER_RESOURCES
