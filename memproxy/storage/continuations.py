"""How to go on from an answer whose id the client knows but the provider does not know as its end.

Where calls were answered inside, the answer that the client has is the work of several responses of the provider's. A
next request that refers to it by the first one's id has to refer to the last one, and may have to bring along results
that the client never saw.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from memproxy.errors import StoreError
from memproxy.records import JsonObject, Scope
from memproxy.storage import schema
from memproxy.storage.connection import translated

if TYPE_CHECKING:
    from redis.asyncio import Redis


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a request says in place of the id that its client knows."""

    answer_id: str
    """Empty where the client's own stays."""
    messages: tuple[JsonObject, ...] = ()
    """Results of calls that the client did not see: they go before its own messages."""


_DECODER = msgspec.json.Decoder(Continuation)


class ContinuationStore:
    """Continuations by the id that the client knows. Every method is one round trip and raises `StoreError`."""

    def __init__(self, redis: "Redis", *, ttl_s: float) -> None:
        self._redis = redis
        self._ttl_ms = int(ttl_s * 1000)

    async def put(self, scope: Scope, answer_id: str, continuation: Continuation) -> None:
        """Keep one."""
        with translated("remembering how to go on from an answer"):
            raw = msgspec.json.encode(continuation)
            await self._redis.set(schema.continuation_key(scope, answer_id), raw, px=self._ttl_ms or None)

    async def get(self, scope: Scope, answer_id: str) -> Continuation | None:
        """The one for this id, if there is one."""
        with translated("reading how to go on from an answer"):
            raw = await self._redis.get(schema.continuation_key(scope, answer_id))
        try:
            return None if raw is None else _DECODER.decode(raw)
        except msgspec.DecodeError as error:
            raise StoreError(f"The store holds a continuation in a form that is not understood: {error}") from error
