"""Every key that memproxy writes, its time to live, and how it is made.

    mp:<kind>:{<partition>}:<digest of the parts>[...]

The partition is derived from tenant and user and is the hash tag, so that all keys of one user, and the stream their
turns are queued on, live on one shard of a Redis Cluster and one script may touch them together. Parts that come from
outside are digested under an injective encoding: no two different identities share a key, no identity can name that of
another, and nothing that a client sent is readable in a key.

| kind | type | holds | time to live |
|---|---|---|---|
| `s` | hash | a session's facts: names, length, tokens, cut, summary, what its answers cost | session |
| `log` | list | the session's messages, complete, append-only | session |
| `idx` | string | one fixed-size entry a message: digest, tokens, flags | session |
| `pin` | hash | position in the log -> the block injected there | session |
| `sys` | string | the instructions that the session came with last | session |
| `data` | hash | what the agent noted for the session: name -> JSON | session |
| `mem` | hash | memories that code put beside the session: `m:`id -> JSON, `p:`id -> when it was stored | session |
| `threads` | set | the session's other threads, by what their keys end in | session |
| `card` | hash | how a session is listed; indexed by the query engine | session |
| `read` | hash | what readers of the session have seen, until they write it back | 10 minutes |
| `c` | string | conversation chain: digest of a prefix -> its session | chain |
| `next` | string | an answer's id that the client knows -> how the provider can be made to go on from it | chain |
| `r` | string | a request's receipt | receipt |
| `tool` | hash | results of tool calls that a session, user or tenant may be given | its longest-lived result |
| `m` | hash | one memory; indexed by the query engine | permanent |
| `done` | string | that the memories of a turn are stored | 7 days |
| `q` | stream | turns waiting to be learned from, a stream a stage | permanent, trimmed when acknowledged |
| `dead` | stream | turns that could not be learned from, a stream a stage | permanent, bounded |
| `lease` | string | which worker works on a partition's turns, a lease a stage | the lease |
| `workers` | zset | the workers of a stage, by when they were heard last | the lease |
| `secret` | string | what keys the digests of credentials | permanent |
| `stats` | hash | what became of tool calls, by tool | permanent, bounded |
| `view` | hash | a tenant's summary views, by id | permanent, bounded |
| `part` | hash | a view's summaries, one for each group of memories | permanent, bounded; goes with its view |
| `due` | zset | views that are kept fresh, by when they are looked at next | permanent, bounded by the views |
| `check` | string, stream | nothing: what `memproxy doctor` tries to write | 10 s |
| `spent` | string | the tokens that the background model cost a tenant on one day | 2 days |
| `line` | hash | lines of a user's messages, as digests: in which sessions each came | 30 days |
| `task` | string | a run of a view that was asked for, and how it goes | 7 days |
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

from memproxy.records import Scope, SessionKey

PARTITIONS = 16
"""Enough shards for a large cluster, few enough for one worker to read all streams in one call."""

PERMANENT = frozenset({"m", "q", "dead", "secret", "stats", "view", "part", "due"})
"""Kinds without a time to live; every other key expires."""

MEMORY_PREFIX = "mp:m:"
CARD_PREFIX = "mp:card:"
SECRET_KEY = "mp:secret:credentials"  # noqa: S105  a key's name, not a secret
TOOL_COUNTS_KEY = "mp:stats:tools"
CHECK_PREFIX = "mp:check:"

REMEMBERED_SCOPES = 4_096
"""Scopes whose part of a key is kept: a request makes twenty keys of one."""

REMEMBERED_MEMORIES = 16_384
"""Keys of memories that are kept: those that a conversation has been shown are left out of each further search."""

GROUP = "memproxy"
"""The consumer group on every stream of turns."""


def encode_parts(parts: Iterable[str | None]) -> bytes:
    """Join parts so that different parts always give different bytes; None differs from the empty string."""
    out = bytearray()
    for part in parts:
        if part is None:
            out += b"-"
        else:
            raw = part.encode("utf-8", "surrogatepass")
            out += b"%d:" % len(raw) + raw
    return bytes(out)


def digest_of(*parts: str | None) -> str:
    """32 hexadecimal digits that stand for these parts."""
    return hashlib.blake2b(encode_parts(parts), digest_size=16).hexdigest()


@lru_cache(maxsize=REMEMBERED_SCOPES)
def partition_of(scope: Scope) -> str:
    """The partition (hash tag without braces) in which everything of this user lives."""
    number = int(digest_of("partition", scope.tenant, scope.user)[:8], 16) % PARTITIONS
    return f"p{number:02d}"


def partitions() -> tuple[str, ...]:
    """All partitions in order."""
    return tuple(f"p{number:02d}" for number in range(PARTITIONS))


def key(kind: str, scope: Scope, *parts: str | None) -> str:
    """A key of one user's: kind, partition, digest of scope and parts."""
    name = hashlib.blake2b(_encoded_scope(scope) + encode_parts(parts), digest_size=16).hexdigest()
    return f"mp:{kind}:{{{partition_of(scope)}}}:{name}"


@lru_cache(maxsize=REMEMBERED_SCOPES)
def _encoded_scope(scope: Scope) -> bytes:
    return encode_parts((scope.tenant, scope.user, scope.namespace))


def session_key(kind: str, session: SessionKey) -> str:
    """A key of one session's; `kind` is one of s, log, idx, pin, sys, of its main thread also data, mem, card, read."""
    return key(kind, session.scope, session.session, session.thread)


def session_keys(kinds: Iterable[str], session: SessionKey) -> list[str]:
    """Keys of these kinds of one session, digested once."""
    _, _, name = session_key("", session).partition("::")
    return [f"mp:{kind}:{name}" for kind in kinds]


def chain_key(scope: Scope, session: str | None, chain: str) -> str:
    """Where the conversation with this chain digest is remembered; `session` is the name the client gave, if any."""
    return key("c", scope, session, chain)


def continuation_key(scope: Scope, answer_id: str) -> str:
    """What stands for this id of an answer, or of a conversation at the provider."""
    return key("next", scope, answer_id)


def tool_key(session: SessionKey, shared_by: str = "session") -> str:
    """Where the tool results are that this session shares with itself, with its `user`, or with its `tenant`.

    A session without a user has none to share with: it keeps to itself. No kind crosses namespaces.
    """
    owner = session.scope
    if shared_by == "tenant":
        return key("tool", Scope(owner.tenant, None, owner.namespace))
    if shared_by == "user" and owner.user is not None:
        return key("tool", owner)
    return session_key("tool", session)


def receipt_key(tenant: str, request_id: str) -> str:
    """A request's receipt: readable only with the same tenant's credential."""
    return key("r", Scope(tenant, None), request_id)


@lru_cache(maxsize=REMEMBERED_MEMORIES)
def memory_key(scope: Scope, memory_id: str) -> str:
    """One memory's document."""
    return key("m", scope, memory_id)


def done_key(scope: Scope, mark: str) -> str:
    """The mark that says that some work on this user's memories is done."""
    return key("done", Scope(scope.tenant, scope.user), mark)


def queue_key(partition: str, stage: str = "turns") -> str:
    """The stream of turns of one partition that wait for one stage of learning; new turns go to the first, "turns"."""
    return f"mp:q:{{{partition}}}:{stage}"


def dead_key(partition: str, stage: str = "turns") -> str:
    """The stream of turns of one partition at which this stage gave up."""
    return f"mp:dead:{{{partition}}}:{stage}"


def lease_key(partition: str, stage: str) -> str:
    """Which worker may work on one stage's turns of one partition."""
    return f"mp:lease:{{{partition}}}:{stage}"


def workers_key(stage: str) -> str:
    """Who works at one stage."""
    return f"mp:workers:{stage}"


def views_key(tenant: str) -> str:
    """A tenant's summary views."""
    return key("view", Scope(tenant, None))


def summaries_key(tenant: str, view_id: str) -> str:
    """The summaries of one view."""
    return key("part", Scope(tenant, None), view_id)


def due_key(partition: str) -> str:
    """The views of one partition's tenants that are kept fresh."""
    return f"mp:due:{{{partition}}}:views"


def spent_key(tenant: str, day: str) -> str:
    """What the background model cost this tenant on this day."""
    return key("spent", Scope(tenant, None), day)


def lines_key(scope: Scope) -> str:
    """The lines that came in this user's messages, in all namespaces: a template is one wherever it is used."""
    return key("line", Scope(scope.tenant, scope.user))


def task_key(tenant: str, task_id: str) -> str:
    """One task; readable only with the same tenant's credential."""
    return key("task", Scope(tenant, None), task_id)
