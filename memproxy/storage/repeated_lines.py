"""Which of a user's sessions with the same line this one is: what tells a template from what somebody said.

One hash a user, of digests only, with the newest few thousand lines; it ends when none of them came for a month.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from memproxy.records import Scope
from memproxy.storage import schema
from memproxy.storage.connection import translated

if TYPE_CHECKING:
    from redis.asyncio import Redis

REMEMBERED_SESSIONS = 3
"""Of each line; nobody asks for more."""

KEPT_LINES = 2_000
"""Of each user: about 300 KB."""

TTL_S = 30 * 86_400


class RepeatedLines:
    """Counts the sessions of lines. One round trip; raises `StoreError`.

    The answer for a session stays the same however often and however late it is asked: what two sessions learned from
    is not taken back because a third came before their turn.
    """

    def __init__(self, redis: "Redis", *, kept: int = KEPT_LINES) -> None:
        self._kept = kept
        lua = files("memproxy.storage") / "lua" / "count_lines.lua"
        self._count = redis.register_script(lua.read_text("utf-8"))

    async def sessions_with(self, scope: Scope, session: str, digests: Sequence[str]) -> list[int]:
        """For each line 1 if this session of the user had it first, 2 if second, at most REMEMBERED_SESSIONS."""
        if not digests:
            return []
        which = schema.digest_of("session", session)[:8]
        with translated("counting repeated lines"):
            ranks = await self._count(
                keys=[schema.lines_key(scope)],
                args=[which, REMEMBERED_SESSIONS, self._kept, TTL_S * 1000, *digests],
            )
        return [int(rank) for rank in ranks]
