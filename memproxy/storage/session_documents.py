"""Sessions as documents: read whole or in part, changed in one step, deleted with all that belongs to them.

The proxy appends to a session turn by turn (`working`); code reads it as one document, changes it, and puts it back.
Both work on the same log. A document that is put back was made from what its writer read some time ago, so a read
leaves a *mark* of what it showed, for as long as the answer to it may come back; from the marks `memory/read_marks`
tells what a writer has seen. A change is written only if the session is still as it was read for it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from memproxy.records import Scope, SessionKey, StoredMessage
from memproxy.storage import schema
from memproxy.storage.connection import translated
from memproxy.storage.session_index import SessionIndex, card_of
from memproxy.storage.session_state import Change, Document, KeptMemory, LeftMark, Marks, ReadMark, View, Witness
from memproxy.storage.working import ENTRY, RESULT, packed, read_index, read_strategies, readable, script

if TYPE_CHECKING:
    from redis.asyncio import Redis

MARK_TTL_S = 600.0
"""How long what a reader was shown is remembered: a turn of a slow agent between reading and writing."""

ERASED_AT_ONCE = 200
"""Sessions looked up at a time when a user is erased."""


class SessionDocuments:
    """Reads and changes sessions as documents. Every method raises `StoreError` and has its caller's deadline."""

    def __init__(self, redis: "Redis", index: SessionIndex, *, named_ttl_s: float, unnamed_ttl_s: float) -> None:
        self._redis = redis
        self._index = index
        self._ttls_ms = {True: int(named_ttl_s * 1000), False: int(unnamed_ttl_s * 1000)}
        self._load = redis.register_script(script("session_marks", "load_document"))
        self._change = redis.register_script(script("session_parts", "session_marks", "change_document"))
        self._delete = redis.register_script(script("delete_session"))
        self._persisted = redis.register_script(script("mark_persisted"))

    async def read(self, key: SessionKey, view: View, *, reader: Witness | None) -> Document:
        """The session, or the part of it that is shown; what a reader sees is marked. One round trip.

        Neither its time to live nor when it was changed is touched.
        """
        witness = [reader.connection, reader.at_ms] if reader is not None else ["", 0]
        reply = await self._loaded(key, [0, view.messages, view.tokens, ENTRY.size, RESULT, *witness])
        with readable():
            return _document(key, reply)

    async def read_for_change(self, key: SessionKey) -> tuple[Document, Marks]:
        """All of the session, and what readers of it have seen. One round trip."""
        reply = await self._loaded(key, [1, 0, 0, ENTRY.size, RESULT, "", 0])
        with readable():
            return _document(key, reply), _marks(reply[8])

    async def change(self, change: Change) -> bool:
        """Write the change; False when the session is no longer as it was read: read it again. One round trip."""
        key = change.document.key
        kinds = [schema.session_key(kind, key) for kind in ("s", "log", "idx", "pin")]
        keys = [_main("s", key), *kinds, schema.queue_key(schema.partition_of(key.scope))]
        with translated("changing a session"):
            return bool(await self._change(keys=keys, args=self._arguments(change)) == b"written")

    async def delete(self, key: SessionKey) -> bool:
        """Delete the session with all its threads and all that belongs to it, and say whether there was any."""
        with translated("deleting a session"):
            return bool(await self._delete(keys=[_main("s", key)]))

    async def mark_persisted(self, key: SessionKey, ids: Sequence[str], at: datetime) -> int:
        """Say of memories beside a session that they are stored as memories; how many of them are still there."""
        with translated("noting that memories are stored"):
            return int(await self._persisted(keys=[_main("mem", key)], args=[at.isoformat(), *ids]))

    async def erase_user(self, scope: Scope) -> int:
        """Delete every session of this user, in all namespaces, and say how many there were.

        Waits until the index knows every session, since it is asked which are the user's.
        """
        if scope.user is None:
            return 0
        await self._index.ensure_index()
        deleted = 0
        while True:
            found = await self._index.of_user(scope, limit=ERASED_AT_ONCE)
            gone = sum([await self.delete(key) for key in found])
            deleted += gone
            if not gone:
                return deleted

    async def _loaded(self, key: SessionKey, arguments: Sequence[Any]) -> list[Any]:
        with translated("reading a session"):
            reply: list[Any] = await self._load(keys=[_main("s", key)], args=[*arguments, int(MARK_TTL_S * 1000)])
        return reply

    def _arguments(self, change: Change) -> list[Any]:
        was, after, marks = change.document, change.after, change.marks
        ttl_ms = self._ttls_ms[was.is_named] if after.ttl_ms is None else after.ttl_ms
        rows = list(zip(after.messages, after.index, strict=True))[change.keep :]
        told = marks.witness if marks is not None else None
        return [
            was.base,
            was.version,
            was.born,
            change.keep,
            ENTRY.size,
            b"".join(packed(entry) for _, entry in rows),
            *_listed([msgspec.json.encode(message) for message, _ in rows]),
            *_listed(_flat(_facts(was, after))),
            *_listed(_flat(_main_facts(was, after))),
            *_listed([] if after.ttl_ms is not None else ["ttl_ms"]),
            *_listed([name for name, value in change.data.items() if value is None]),
            *_listed(_flat({name: value for name, value in change.data.items() if value is not None})),
            *_listed(_fields_that_go(change.memories)),
            *_listed(_fields_of(change.memories)),
            ttl_ms,
            "1" if after.ttl_ms != was.ttl_ms else "0",
            change.queued,
            *_listed(_flat(card_of(was.key))),
            *([told.connection, told.at_ms] if told is not None else ["", 0]),
            int(MARK_TTL_S * 1000),
            *([marks.used, marks.used if marks.aside else "", marks.aside] if marks is not None else ["", "", ""]),
            msgspec.json.encode(marks.knows) if marks is not None else "",
            msgspec.json.encode(marks.gone) if marks is not None and marks.gone else "",
        ]


def _facts(was: Document, after: Document) -> Mapping[str, str]:
    """Facts of the thread. What did not change is left to the background stage, which may be changing it."""
    scope = after.key.scope
    facts = {
        "session": after.key.session,
        "thread": after.key.thread,
        "user": scope.user or "",
        "namespace": scope.namespace or "",
        "length": str(after.length),
        "tokens": str(after.tokens),
        "updated_at": _iso(after.updated_at),
        "strategies": msgspec.json.encode(after.strategies).decode(),
    }
    if after.summary != was.summary:
        facts |= {"summary": after.summary, "summary_after": "0"}
    if after.summarised != was.summarised:
        facts["summarised"] = str(after.summarised)
    if after.wanted_within != was.wanted_within:
        facts["wants_summary"] = str(after.wanted_within)
    if after.cut != was.cut:
        facts |= {"cut": str(after.cut), "cut_note": ""}
    return facts


def _main_facts(was: Document, after: Document) -> Mapping[str, str]:
    facts = {
        "created_at": was.born or _iso(after.created_at),
        "strategies": msgspec.json.encode(after.strategies).decode(),
    }
    return facts if after.ttl_ms is None else {**facts, "ttl_ms": str(after.ttl_ms)}


def _main(kind: str, key: SessionKey) -> str:
    return schema.session_key(kind, SessionKey(key.scope, key.session))


def _listed(values: Sequence[Any]) -> list[Any]:
    """A list as the script takes it: its length before it."""
    return [len(values), *values]


def _flat(values: Mapping[str, Any]) -> list[Any]:
    return [part for item in values.items() for part in item]


def _fields_that_go(memories: Mapping[str, KeptMemory | None]) -> list[str]:
    """Of those that go, and of those that are others than before: they are not stored as memories yet."""
    changed = [f"p:{name}" for name, kept in memories.items() if kept is None or kept.record.persisted_at is None]
    return [*changed, *(f"m:{name}" for name, kept in memories.items() if kept is None)]


def _fields_of(memories: Mapping[str, KeptMemory | None]) -> list[Any]:
    fields: list[Any] = []
    for name, kept in memories.items():
        if kept is not None:
            fields += [f"m:{name}", msgspec.json.encode(kept)]
            if kept.record.persisted_at is not None:
                fields += [f"p:{name}", kept.record.persisted_at.isoformat()]
    return fields


_MESSAGE = msgspec.json.Decoder(StoredMessage)
_KEPT = msgspec.json.Decoder(KeptMemory)
_MARK = msgspec.json.Decoder(ReadMark)
_IDS = msgspec.json.Decoder(dict[str, int])
_GONE = "gone"
"""The field beside the marks that holds the messages removed lately."""


def _pairs(flat: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [(name.decode(), value) for name, value in zip(flat[::2], flat[1::2], strict=True)]


def _document(key: SessionKey, reply: Sequence[Any]) -> Document:
    base, main_facts, thread_facts, first, index, rows, data, memories, _ = reply
    main, facts = ({name: raw.decode() for name, raw in _pairs(flat)} for flat in (main_facts, thread_facts))
    if "length" not in facts:
        whole = SessionKey(key.scope, key.session)
        return Document(whole, base.decode(), data=dict(_pairs(data)), is_there=False)
    return Document(
        key=SessionKey(key.scope, key.session, facts.get("thread", "")),
        base=base.decode(),
        version=int(facts.get("version", 0)),
        length=int(facts["length"]),
        first=int(first),
        messages=tuple(_MESSAGE.decode(row) for row in rows),
        index=read_index(index),
        summary=facts.get("summary", ""),
        summarised=int(facts.get("summarised", 0)),
        wanted_within=int(facts.get("wants_summary", 0)),
        cut=int(facts.get("cut", 0)),
        shown=int(facts.get("shown", 0)),
        data=dict(sorted(_pairs(data))),
        memories=_memories(memories),
        strategies=read_strategies(main.get("strategies", "")),
        ttl_ms=int(main["ttl_ms"]) if "ttl_ms" in main else None,
        is_named="unnamed" not in main,
        created_at=_time(main.get("created_at")),
        updated_at=_time(facts.get("updated_at")),
        born=main.get("created_at", ""),
    )


def _memories(flat: Sequence[bytes]) -> tuple[KeptMemory, ...]:
    fields = dict(_pairs(flat))
    kept = [(name[2:], _KEPT.decode(raw)) for name, raw in fields.items() if name.startswith("m:")]
    found = [
        KeptMemory(msgspec.structs.replace(one.record, persisted_at=_time(fields[f"p:{name}"].decode())), one.version)
        if f"p:{name}" in fields
        else one
        for name, one in kept
    ]
    return tuple(sorted(found, key=lambda one: (one.version, one.record.created_at, one.record.id)))


def _iso(at: datetime | None) -> str:
    return at.isoformat() if at is not None else ""


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _marks(flat: Sequence[bytes]) -> Marks:
    fields = dict(_pairs(flat))
    gone = fields.pop(_GONE, b"{}")
    return Marks(tuple(_left_mark(name, raw) for name, raw in fields.items()), _IDS.decode(gone))


def _left_mark(name: str, raw: bytes) -> LeftMark:
    kind, _, rest = name.partition(" ")
    return LeftMark(name, kind, rest.partition(" ")[0] if kind != "shown" else "", _MARK.decode(raw))
