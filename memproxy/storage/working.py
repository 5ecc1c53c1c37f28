"""Sessions in the store: find and read one in one round trip, append a turn in another.

The proxy only appends to the log of a session; code may rewrite it (`session_documents`), which changes `rewrites`.
Beside the log stands an index of fixed-size entries (digest, tokens, flags, version), so that aligning and budgeting a
long session reads 24 bytes a message and no bodies.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from memproxy.errors import StoreError
from memproxy.records import Pin, Scope, SessionKey, StoredMessage, StrategyChoice
from memproxy.storage import schema
from memproxy.storage.connection import translated
from memproxy.storage.pipelined import Command, Pipelined, Script, checked
from memproxy.storage.session_index import card_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

ENTRY = struct.Struct("<16sII")
"""One index entry: digest, tokens, and a byte of flags below three of the version that brought the message."""

ANSWER, PARTIAL, USER, RESULT, WRITTEN = 1, 2, 4, 8, 16
"""Flags of an index entry. A `RESULT` is a tool's, and stands behind the call that it answers; what is `WRITTEN` code
put there, and was not said through the proxy."""

SILENT = 32
"""Flag of a message that clients may leave out of the history that they send again."""

ROLE_FLAGS: Mapping[str, int] = {"assistant": ANSWER, "user": USER, "tool": RESULT, "function": RESULT}

MAX_VERSION = 2**24 - 1
"""Later changes of a session count as this one."""

MAX_PREFIXES = 4
"""Chain pointers asked for at once: the newest answer's, and a few before it for clients that dropped or edited it."""


class IndexEntry(NamedTuple):
    """One message of the log without its body. A tuple, since a long history has thousands."""

    digest: bytes
    tokens: int
    flags: int
    version: int = 0
    """Which change of the session brought it."""


@dataclass(frozen=True, slots=True)
class LoadedSession:
    """A session as one request needs it."""

    key: SessionKey
    length: int
    """Messages in the log."""
    tokens: int
    """Tokens of the whole log."""
    exact_prefix: int | None
    """Which of the asked chain pointers names exactly this log (0 is the first); None when none does."""
    pins: Mapping[int, Pin] = field(default_factory=dict)
    index: tuple[IndexEntry, ...] = ()
    """Empty when the chain fits exactly and nothing was cut."""
    tail: tuple[StoredMessage, ...] = ()
    """The newest messages; read only when the chain does not fit exactly."""
    sends_newest: bool = True
    """No request has sent earlier messages again so far."""
    known_to: int | None = None
    """How many messages of the log the matched chain pointer stands for; None when none matched."""
    dialect: str = ""
    """The format of its messages; empty while code alone has written it, in words that every format takes."""
    cut: int = 0
    """Messages of the log that requests leave out by now."""
    cut_note: str = ""
    """The block that stands for what was cut."""
    summary: str = ""
    """The rolling summary of what was cut, where the background stage has written one."""
    instructions: str = ""
    """Digest of the instructions that were stored for this session."""
    turns: int = 0
    last_turn: str = ""
    """The id of the turn that was recorded last."""
    rewrites: int = 0
    """How often code changed or removed messages of the log."""
    strategies: tuple[StrategyChoice, ...] = ()
    """How memories are made of this session; empty means as it is configured."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a session's answers cost, of those whose provider tells what its prompt cache gave."""

    answers: int = 0
    prompt_tokens: int = 0
    """All that was read, what came from the cache included."""
    cached_tokens: int = 0
    completion_tokens: int = 0

    def counts(self) -> dict[str, int]:
        """As a session's facts name it; empty where there is nothing to add."""
        pairs = zip(ACCOUNT_FACTS, (self.answers, *self._tokens), strict=True)
        return {name: count for name, count in pairs if count}

    @property
    def _tokens(self) -> tuple[int, int, int]:
        return self.prompt_tokens, self.cached_tokens, self.completion_tokens


ACCOUNT_FACTS = ("told_answers", "told_prompt", "told_cached", "told_completion")
"""The facts of a session that hold its account."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was done to a request, as JSON. Its key belongs to the tenant, not to the user."""

    tenant: str
    request_id: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class NewTurn:
    """All that one recording writes, decided before."""

    key: SessionKey
    turn_id: str
    expected_length: int
    keep: int
    messages: tuple[StoredMessage, ...]
    flags: tuple[int, ...]
    facts: Mapping[str, str]
    pins: Mapping[int, Pin]
    queued: bytes
    """The turn for the queue; empty when nothing is to be learned."""
    chain: str
    """Digest of the conversation's chain after this turn; empty when it has no answer."""
    chain_is_whole: bool = field(default=True, kw_only=True)
    """The conversation is all of the log."""
    is_named: bool
    """The client named the session."""
    parent: SessionKey | None = None
    copied: int = 0
    """Messages of the parent's log that come first."""
    rewrites: int = 0
    """How often the log (of the parent, if there is one) had been rewritten when this was decided."""
    instructions: bytes = b""
    """The instructions that the session came with, a JSON list of messages; empty when the store has them."""
    answers: tuple[str, ...] = ()
    """Further chain digests that stand for the whole log: a next request may refer to the answer by its id alone."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What is added to the named session's account; one of a thread's goes there, too."""

    @property
    def length(self) -> int:
        """Messages in the log after this turn."""
        return (self.keep if self.parent is None else self.copied) + len(self.messages)

    @property
    def pointer(self) -> str:
        """What a chain pointer holds that stands for the log after this turn."""
        return f"{_base(self.key)} {self.length} {0 if self.parent is not None else self.rewrites}"


class SessionStore:
    """Reads and writes sessions. Every method raises `StoreError` and has the deadline that its caller sets."""

    def __init__(
        self,
        redis: "Redis",
        *,
        named_ttl_s: float,
        unnamed_ttl_s: float,
        receipt_ttl_s: float,
        commands: Pipelined | None = None,
    ) -> None:
        self._commands = commands or Pipelined(redis)
        self._ttls_ms = {True: int(named_ttl_s * 1000), False: int(unnamed_ttl_s * 1000)}
        self._receipt_ttl_ms = int(receipt_ttl_s * 1000)
        self._load = Script(script("load_session"))
        self._record = Script(script("session_parts", "record_turn"))
        self._keep = Script(script("keep_instructions"))

    async def load(
        self, scope: Scope, session: str | None, *, chains: Sequence[str], want_index: bool, tail: int
    ) -> LoadedSession | None:
        """The session that the client named or whose chain fits; None when there is none yet.

        `chains` are digests of the conversation's prefixes, the longest first. One round trip.
        """
        keys = [schema.chain_key(scope, session, chain) for chain in chains]
        if session is not None:
            keys.append(schema.session_key("s", SessionKey(scope, session)))
        if not keys:
            return None
        arguments = ["1" if session is not None else "0", "1" if want_index else "0", tail, ENTRY.size]
        with translated("reading a session"):
            reply = await self._commands.run(self._load, keys=keys, arguments=arguments)
        if not reply:
            return None
        with readable():
            return _loaded(scope, reply)

    async def record(self, turn: NewTurn, *, receipt: Receipt | None = None) -> bool:
        """Append the turn; False when the log is no longer as long as expected: align again, then try again.

        The receipt goes along in the same round trip, in either case; one that is refused is lost, and the turn is not.
        """
        key, parent = turn.key, turn.parent or turn.key
        parts = ("s", "log", "idx", "pin")
        own = schema.session_keys(parts, key)
        named = key.session if turn.is_named else None
        keys = [
            *own,
            schema.chain_key(key.scope, named, turn.chain),
            schema.queue_key(schema.partition_of(key.scope)),
            schema.session_key("s", SessionKey(key.scope, key.session)),
            *(own if parent is key else schema.session_keys(parts, parent)),
            *(schema.chain_key(key.scope, named, chain) for chain in turn.answers),
        ]
        call = self._record, self._record.called(keys, self._record_arguments(turn))
        with translated("recording a turn"):
            reply, *_ = await self._commands.scripts([call], *self._put(receipt))
        return bool(reply[0] != b"conflict")

    def _record_arguments(self, turn: NewTurn) -> list[Any]:
        index = b"".join(
            packed(index_entry(message, flags=flags)) for message, flags in zip(turn.messages, turn.flags, strict=True)
        )
        facts = {"turn": turn.turn_id, "length": str(turn.length), **turn.facts}
        if not turn.is_named:
            facts["unnamed"] = "1"
        whose = card_of(turn.key)
        return [
            turn.expected_length,
            turn.keep if turn.parent is None else 0,
            turn.turn_id,
            index,
            ENTRY.size,
            turn.pointer + ("" if turn.chain_is_whole else " partly") if turn.chain else "",
            self._ttls_ms[False],
            turn.queued,
            self._ttls_ms[turn.is_named],
            turn.copied,
            "1" if turn.is_named else "0",
            turn.rewrites,
            turn.instructions,
            turn.pointer,
            2 * len(whose),
            *(part for item in whose.items() for part in item),
            len(facts),
            *(part for item in facts.items() for part in item),
            len(turn.counts),
            *(part for item in turn.counts.items() for part in item),
            len(turn.pins),
            *(part for place, pin in turn.pins.items() for part in (place, msgspec.json.encode(pin))),
            *(msgspec.json.encode(_with_id(message, turn.turn_id, at)) for at, message in enumerate(turn.messages)),
        ]

    async def messages(self, key: SessionKey, first: int, last: int) -> tuple[StoredMessage, ...]:
        """The messages at positions first..last of the log, both included."""
        with translated("reading messages"):
            rows = await self._commands.one("LRANGE", schema.session_key("log", key), first, last)
        with readable():
            return tuple(_MESSAGE.decode(row) for row in rows)

    async def keep_instructions(self, key: SessionKey, *, raw: bytes, is_named: bool) -> None:
        """Remember the session's instructions, for requests that come without any."""
        keys = [schema.session_key("sys", key), schema.session_key("s", SessionKey(key.scope, key.session))]
        with translated("storing instructions"):
            await self._commands.run(self._keep, keys=keys, arguments=[raw, self._ttls_ms[is_named]])

    async def instructions(self, key: SessionKey) -> bytes:
        """The instructions last remembered, a JSON list of messages; empty when there are none."""
        with translated("reading instructions"):
            return await self._commands.one("GET", schema.session_key("sys", key)) or b""

    async def account(self, key: SessionKey) -> Account | None:
        """What this session's answers cost, in all its threads; None when there is no such session."""
        with translated("reading a session's account"):
            facts = await self._commands.one("HMGET", schema.session_key("s", key), "session", *ACCOUNT_FACTS)
        with readable():
            return None if facts[0] is None else Account(*(int(count or 0) for count in facts[1:]))

    async def put_receipt(self, receipt: Receipt) -> None:
        """Store what was done to a request."""
        with translated("storing a receipt"):
            checked(await self._commands.ask(self._put(receipt)))

    def _put(self, receipt: Receipt | None) -> list[Command]:
        if receipt is None:
            return []
        key = schema.receipt_key(receipt.tenant, receipt.request_id)
        return [["SET", key, receipt.raw, "PX", self._receipt_ttl_ms]]

    async def receipt(self, tenant: str, request_id: str) -> bytes | None:
        """A request's receipt as JSON, or None."""
        with translated("reading a receipt"):
            raw: bytes | None = await self._commands.one("GET", schema.receipt_key(tenant, request_id))
        return raw

    async def secret(self, proposed: bytes) -> bytes:
        """The installation's secret; `proposed` becomes it when there is none yet."""
        with translated("reading the credentials' secret"):
            commands: list[Command] = [["SET", schema.SECRET_KEY, proposed, "NX"], ["GET", schema.SECRET_KEY]]
            _, secret = checked(await self._commands.ask(commands))
        return secret or proposed


def _base(key: SessionKey) -> str:
    """What all keys of a session have in common."""
    return schema.session_key("s", key).removeprefix("mp:s:")


_MESSAGE = msgspec.json.Decoder(StoredMessage)
_PIN = msgspec.json.Decoder(Pin)
_STRATEGIES = msgspec.json.Decoder(tuple[StrategyChoice, ...])


class readable:  # noqa: N801  reads as a verb where it stands
    """Say `StoreError` where what the store holds can't be understood."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, msgspec.DecodeError | struct.error | UnicodeDecodeError | ValueError | KeyError):
            raise StoreError(f"The store holds a session in a form that is not understood: {error}") from error


def _loaded(scope: Scope, reply: list[Any]) -> LoadedSession:
    _, exact, reaches, facts, pins, index, tail = reply
    fact = {name.decode(): text.decode() for name, text in zip(facts[::2], facts[1::2], strict=True)}
    return LoadedSession(
        key=SessionKey(scope, fact["session"], fact.get("thread", "")),
        length=int(fact["length"]),
        tokens=int(fact.get("tokens", 0)),
        exact_prefix=exact - 1 if exact else None,
        known_to=int(reaches) if reaches else None,
        dialect=fact.get("dialect", ""),
        pins={int(place): _PIN.decode(raw) for place, raw in zip(pins[::2], pins[1::2], strict=True)},
        index=read_index(index),
        tail=tuple(_MESSAGE.decode(row) for row in tail),
        sends_newest=fact.get("resends") != "1",
        cut=int(fact.get("cut", 0)),
        cut_note=fact.get("cut_note", ""),
        summary=fact.get("summary", ""),
        instructions=fact.get("instructions", ""),
        turns=int(fact.get("turns", 0)),
        last_turn=fact.get("turn", ""),
        rewrites=int(fact.get("rewrites", 0)),
        strategies=read_strategies(fact.get("strategies", "")),
    )


def read_index(raw: bytes) -> tuple[IndexEntry, ...]:
    """The entries of an index."""
    return tuple(IndexEntry(digest, tokens, more & 255, more >> 8) for digest, tokens, more in ENTRY.iter_unpack(raw))


def index_entry(message: StoredMessage, *, flags: int = 0, version: int = 0) -> IndexEntry:
    """A message's entry in the index; the version of a recorded turn is put in when it is written."""
    flags |= ROLE_FLAGS.get(str(message.message.get("role")), 0)
    if flags & RESULT:
        flags &= ~USER  # a format may have results in messages of the user's; they begin no turn
    flags |= (PARTIAL if message.partial else 0) | (WRITTEN if message.is_written else 0)
    return IndexEntry(bytes.fromhex(message.digest), message.tokens, flags, version)


def packed(entry: IndexEntry) -> bytes:
    """The entry as it is stored."""
    return ENTRY.pack(entry.digest, entry.tokens, entry.flags | min(entry.version, MAX_VERSION) << 8)


def read_strategies(fact: str) -> tuple[StrategyChoice, ...]:
    """The strategies in a session's facts."""
    return _STRATEGIES.decode(fact) if fact else ()


def _with_id(message: StoredMessage, turn_id: str, at: int) -> StoredMessage:
    """A captured message is called after its turn and its place in it, for as long as it is kept."""
    return message if message.id else replace(message, id=f"{turn_id}-{at}")


def script(*names: str) -> str:
    """The text of these scripts as one."""
    folder = files("memproxy.storage") / "lua"
    return "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names)
