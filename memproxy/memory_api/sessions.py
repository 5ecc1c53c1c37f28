"""Sessions for code: read, written, listed and deleted, whatever asks for it."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from memproxy.clock import Clock
from memproxy.errors import RequestError, StoreUnavailableError
from memproxy.memory.session_change import Aligned, Wish, align_with, plan
from memproxy.memory.session_merge import to_count
from memproxy.proxy.record import counted
from memproxy.records import WRITTEN_TURN, SessionKey
from memproxy.storage.session_documents import SessionDocuments
from memproxy.storage.session_index import SessionIndex
from memproxy.storage.session_state import Document, View, Witness
from memproxy.tokens import Windows
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS

ATTEMPTS = 20
"""How often a write begins anew because the session changed meanwhile; each time somebody else's write went through."""


MANY_MESSAGES = 500
"""Comparing them with a session's takes about 5 ms."""

T = TypeVar("T")


async def _at_once(_: SessionKey) -> None:
    """Nothing is on its way to a session."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """What the memory API does with sessions. Raises `StoreError`; deadlines are the callers'."""

    documents: SessionDocuments
    index: SessionIndex
    windows: Windows
    clock: Clock
    settled: Callable[[SessionKey], Awaitable[None]] = _at_once
    """Waits, for a moment, until what was said through the proxy is in the session."""
    shows_unsaved: bool = False
    """A session that is not there is shown as an empty one, as by older servers, and not refused."""
    recall_memories: int = 15
    recall_tokens: int = 800
    """What the proxy injects at most."""

    async def read(self, key: SessionKey, view: View, *, connection: str | None) -> Document:
        """The session, or the part of it that is shown. Without a connection nobody will write it back."""
        await self.settled(key)
        reader = None if connection is None else Witness(connection, self.clock.now())
        return await self.documents.read(key, view, reader=reader)

    async def put(self, key: SessionKey, wish: Wish, *, connection: str, turn_id: str) -> Document:
        """Put a document in the session's place, and give back what there is then.

        Raises:
            RequestError: a new message has no words.
            StoreUnavailableError: others were always faster.
        """
        await self.settled(key)
        for _ in range(ATTEMPTS):
            document, marks = await self.documents.read_for_change(key)
            writer, size = Witness(connection, self.clock.now()), document.length + len(wish.messages)
            aligned = await _computed(size, partial(align_with, document, marks, wish, writer=writer))
            _check_words(aligned)
            tokens = await counted(CHAT_COMPLETIONS, to_count(aligned.matches))
            change = await _computed(size, partial(plan, aligned, tokens=tokens, turn_id=turn_id))
            if await self.documents.change(change):
                return change.after
        raise StoreUnavailableError("The session kept changing while it was written.")


async def _computed(size: int, work: Callable[[], T]) -> T:
    """What `work` gives; in a thread, if it is about so many messages that it takes more than a few milliseconds."""
    return await asyncio.to_thread(work) if size > MANY_MESSAGES else work()


def new_turn_id() -> str:
    """What the turn is called that one write puts into the queue; it begins the ids of messages that have none."""
    return f"{WRITTEN_TURN}{uuid.uuid4().hex}"


def _check_words(aligned: Aligned) -> None:
    for one in aligned.matches:
        if not one.is_same and not one.sent.text.strip():
            raise RequestError(f"Message content cannot be empty (message ID: {one.sent.id})")
