"""What an agent notes for one session: a JSON object, kept as a hash of its top-level names.

A hash and not one document, so that two notes made at once are both kept and numbers and empty lists come back as they
were. All threads of a session share its data, and it lives as long as the session: each access gives it the time to
live that the session's facts have. The session may not be recorded yet when its first note is made.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec

from memproxy.errors import StoreError
from memproxy.records import JsonObject, SessionKey
from memproxy.storage import schema
from memproxy.storage.connection import translated

if TYPE_CHECKING:
    from redis.asyncio import Redis


class SessionDataStore:
    """The data of sessions. Every method is one round trip, raises `StoreError`, and has its caller's deadline."""

    def __init__(self, redis: "Redis", *, unrecorded_ttl_s: float) -> None:
        """`unrecorded_ttl_s`: the time to live of data whose session has no recorded turn; 0 keeps it."""
        self._redis = redis
        self._unrecorded_ttl_ms = int(unrecorded_ttl_s * 1000)
        lua = files("memproxy.storage") / "lua" / "merge_session_data.lua"
        self._merge = redis.register_script(lua.read_text("utf-8"))

    async def data(self, session: SessionKey) -> JsonObject:
        """The session's data, its names in alphabetical order; empty when there is none."""
        with translated("reading session data"):
            reply = await self._merge(keys=_keys(session), args=[0, self._unrecorded_ttl_ms, 0])
        return _read(reply)

    async def merge(self, session: SessionKey, patch: Mapping[str, Any], *, max_bytes: int) -> JsonObject | None:
        """Set top-level names, remove those whose value is None, and give back all data as it is then.

        None when names and values would have more than `max_bytes` of JSON together: nothing is changed then. What is
        too large already can still be made smaller by removing names.
        """
        gone = [_as_bytes(name) for name, value in patch.items() if value is None]
        kept = [(_as_bytes(name), _as_json(value)) for name, value in patch.items() if value is not None]
        if sum(len(name) + len(value) for name, value in kept) > max_bytes:
            return None
        limits: list[int | bytes] = [max_bytes, self._unrecorded_ttl_ms, len(gone)]
        arguments = [*limits, *gone, *(part for pair in kept for part in pair)]
        with translated("storing session data"):
            reply = await self._merge(keys=_keys(session), args=arguments)
        return None if reply is None else _read(reply)

    async def clear(self, session: SessionKey) -> bool:
        """Remove the session's data, and say whether there was any."""
        with translated("removing session data"):
            return bool(await self._redis.unlink(_keys(session)[0]))


def _keys(session: SessionKey) -> list[str]:
    whole = SessionKey(session.scope, session.session)
    return [schema.session_key("data", whole), schema.session_key("s", whole)]


def _read(reply: Sequence[bytes]) -> JsonObject:
    try:
        pairs = [(name.decode(), msgspec.json.decode(value)) for name, value in zip(*[iter(reply)] * 2, strict=True)]
    except ValueError as error:
        raise StoreError("The store holds session data in a form that is not understood.") from error
    return dict(sorted(pairs))


def _as_json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # a lone surrogate, which JSON can bring and UTF-8 can't hold
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _as_bytes(name: str) -> bytes:
    return name.encode("utf-8", "replace")
