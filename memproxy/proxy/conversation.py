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
from memproxy.storage.schema import digest_of
from memproxy.storage.working import ANSWER, MAX_PREFIXES, PARTIAL, ROLE_FLAGS, SILENT, USER, WRITTEN, IndexEntry
from memproxy.wire.dialect import Dialect, Request

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
    chains: tuple[str, ...] = ()
    """What may be known of it in the store: these prefixes, or the answer that it goes on from."""
    dialect: str = "chat"
    is_chained: bool = False
    """The messages stand behind others that the provider has."""
    is_compacted: bool = False

    @property
    def newest_user(self) -> int | None:
        """The newest message of the user, if no answer follows it."""
        for index in range(len(self.entries) - 1, -1, -1):
            if self.entries[index].is_user:
                return index
        return None


def read_conversation(request: Request) -> Conversation:
    """Digest the request's messages. Cost: a few microseconds a message."""
    entries, prefixes, chain = [], [], _SEED
    for message in request.conversation:
        entry = entry_of(request.dialect, message)
        entries.append(entry)
        if entry.is_silent:
            continue
        chain = extend(chain, entry.digest)
        if entry.is_answer:
            prefixes.append(Prefix(len(entries), chain.hex()))
    newest = tuple(prefixes[: -MAX_PREFIXES - 1 : -1])
    chains = tuple(prefix.chain for prefix in newest)
    if request.is_chained:
        chains = (answer_chain(request.continues),) if request.continues else ()
    return Conversation(
        tuple(entries),
        newest,
        chain,
        chains,
        dialect=request.dialect.name,
        is_chained=request.is_chained,
        is_compacted=request.is_compacted,
    )


def entry_of(dialect: Dialect, message: JsonObject) -> Entry:
    """One message as alignment sees it."""
    role = dialect.role_of(message)
    return Entry(
        dialect.digest(message),
        is_answer=role == "assistant",
        is_user=role == "user",
        is_silent=dialect.is_silent(message),
    )


def answer_chain(answer_id: str) -> str:
    """What stands in the chain's place for a client that refers to an answer, or a part of one, by its id."""
    return digest_of("answer", answer_id)


def extend(chain: bytes, digest: bytes) -> bytes:
    """The chain after one more message."""
    return hashlib.blake2b(chain + digest, digest_size=16).digest()


def chain_after(dialect: Dialect, chain: bytes, messages: Sequence[JsonObject]) -> bytes:
    """The chain after these messages."""
    for message in messages:
        if not dialect.is_silent(message):
            chain = extend(chain, dialect.digest(message))
    return chain


def stored_entries(index: Sequence[IndexEntry]) -> tuple[Entry, ...]:
    """A session's index as alignment sees it."""
    return tuple(
        Entry(
            entry.digest,
            is_answer=bool(entry.flags & ANSWER),
            is_partial=bool(entry.flags & PARTIAL),
            tokens=entry.tokens,
            is_user=bool(entry.flags & USER),
            is_silent=bool(entry.flags & SILENT),
            is_written=bool(entry.flags & WRITTEN),
        )
        for entry in index
    )


def flags_of(dialect: Dialect, message: JsonObject, *, is_partial: bool) -> int:
    """The index entry's flags for a message."""
    flags = ROLE_FLAGS.get(dialect.role_of(message), 0) | (PARTIAL if is_partial else 0)
    return flags | (SILENT if dialect.is_silent(message) else 0)
