"""The conversation in a request, as digests: what alignment compares and what the chain remembers. Pure.

The chain is a rolling hash over the digests of the messages. After each turn its value is kept as a pointer to the
session, so a client that sends its history again is recognised in one look-up, and two conversations that merely begin
alike part where they differ.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from memproxy.proxy.align import Entry
from memproxy.records import JsonObject
from memproxy.storage.working import ANSWER, MAX_PREFIXES, PARTIAL, USER, WRITTEN, IndexEntry
from memproxy.wire import chat_completions as chat
from memproxy.wire.chat_completions import ChatRequest

_SEED = b"memproxy chain 1"


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a conversation up to one of its answers."""

    length: int
    chain: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of a request behind its leading instructions."""

    entries: tuple[Entry, ...]
    prefixes: tuple[Prefix, ...]
    """Up to the newest answers, the longest first."""
    chain: bytes
    """Over all messages."""

    @property
    def newest_user(self) -> int | None:
        """The newest message of the user, if no answer follows it."""
        for index in range(len(self.entries) - 1, -1, -1):
            if self.entries[index].is_user:
                return index
        return None


def read_conversation(request: ChatRequest) -> Conversation:
    """Digest the request's messages. Cost: a few microseconds a message."""
    entries, prefixes, chain = [], [], _SEED
    for message in request.messages[request.instructions :]:
        entry = entry_of(message)
        entries.append(entry)
        chain = extend(chain, entry.digest)
        if entry.is_answer:
            prefixes.append(Prefix(len(entries), chain.hex()))
    return Conversation(tuple(entries), tuple(prefixes[: -MAX_PREFIXES - 1 : -1]), chain)


def entry_of(message: JsonObject) -> Entry:
    """One message as alignment sees it."""
    role = message.get("role")
    return Entry(chat.digest(message), is_answer=role == "assistant", is_user=role == "user")


def extend(chain: bytes, digest: bytes) -> bytes:
    """The chain after one more message."""
    return hashlib.blake2b(chain + digest, digest_size=16).digest()


def stored_entries(index: Sequence[IndexEntry]) -> tuple[Entry, ...]:
    """A session's index as alignment sees it."""
    return tuple(
        Entry(
            entry.digest,
            is_answer=bool(entry.flags & ANSWER),
            is_partial=bool(entry.flags & PARTIAL),
            tokens=entry.tokens,
            is_user=bool(entry.flags & USER),
            is_written=bool(entry.flags & WRITTEN),
        )
        for entry in index
    )


def flags_of(message: JsonObject, *, is_partial: bool) -> int:
    """The index entry's flags for a message."""
    role = message.get("role")
    return (ANSWER if role == "assistant" else USER if role == "user" else 0) | (PARTIAL if is_partial else 0)
