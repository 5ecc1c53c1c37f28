"""The rolling summary of a session: how far it goes, and replacing it by a newer one.

It stands among the session's facts: `summary`, and `summarised`, the messages from the beginning of the log that it
covers. A replacement is written only while the session is still the one that it was made of.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from memproxy.errors import StoreError
from memproxy.records import SessionKey
from memproxy.storage import schema
from memproxy.storage.connection import translated
from memproxy.storage.working import IndexEntry, read_index

if TYPE_CHECKING:
    from redis.asyncio import Redis


@dataclass(frozen=True, slots=True)
class SummaryState:
    """A session, as far as its summary is concerned."""

    summary: str
    summarised: int
    """Messages that the summary covers."""
    cut: int
    """Messages that requests leave out by now."""
    wanted_within: int
    """Tokens that the session should fit into, where code has said so; 0 otherwise."""
    not_before: int
    """The length that the log must have before a summary is tried again."""
    rewrites: int
    index: tuple[IndexEntry, ...]
    """One entry a message."""


class SessionSummaries:
    """Reads and replaces rolling summaries. Each method is one round trip and raises `StoreError`."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        lua = files("memproxy.storage") / "lua" / "write_summary.lua"
        self._write = redis.register_script(lua.read_text("utf-8"))

    async def read(self, session: SessionKey) -> SummaryState | None:
        """The session's state; None when there is no session."""
        pipe: Any = self._redis.pipeline(transaction=True)
        # By their names: redis-py's own methods give a transaction in a cluster an option that it trips over.
        pipe.execute_command("HGETALL", schema.session_key("s", session))
        pipe.execute_command("GET", schema.session_key("idx", session))
        with translated("reading a session's summary"):
            facts, index = await pipe.execute()
        if not facts:
            return None
        try:
            return _state({name.decode(): value.decode() for name, value in facts.items()}, index or b"")
        except ValueError as error:
            raise StoreError("The store holds a session in a form that is not understood.") from error

    async def replace(self, session: SessionKey, state: SummaryState, *, summary: str, summarised: int) -> bool:
        """Put a new summary in the place of the one that was read; False when the session is no longer as it was."""
        facts = {"summary": summary, "summarised": str(summarised), "summary_after": "0"}
        return await self._set(session, state, facts, least=summarised)

    async def put_off(self, session: SessionKey, state: SummaryState, *, until: int) -> bool:
        """Try no summary before the log has `until` messages; False when the session is no longer as it was."""
        return await self._set(session, state, {"summary_after": str(until)}, least=0)

    async def _set(self, session: SessionKey, state: SummaryState, facts: Mapping[str, str], *, least: int) -> bool:
        pairs = [part for pair in facts.items() for part in pair]
        with translated("replacing a session's summary"):
            done = await self._write(
                keys=[schema.session_key("s", session)], args=[state.summarised, state.rewrites, least, *pairs]
            )
        return bool(done)


def _state(facts: Mapping[str, str], index: bytes) -> SummaryState:
    entries = read_index(index)
    return SummaryState(
        summary=facts.get("summary", ""),
        summarised=min(int(facts.get("summarised", 0)), len(entries)),
        cut=min(int(facts.get("cut", 0)), len(entries)),
        wanted_within=int(facts.get("wants_summary", 0)),
        not_before=int(facts.get("summary_after", 0)),
        rewrites=int(facts.get("rewrites", 0)),
        index=entries,
    )
