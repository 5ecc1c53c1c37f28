"""Carry out the model's calls of memory tools, inside the proxy; the agent never sees one.

Every call gets an answer in JSON. What is wrong with a call becomes `{"error": "..."}`, a short text that tells the
model how to ask rightly. The scope is the request's: nothing that a model writes into its arguments reaches another
user's memory. Found memories carry their ids, so that an edit or a deletion can follow.

What a model creates is kept as it is given. Its id is a digest of its words, so the same said twice is one memory.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, assert_never
from zoneinfo import ZoneInfo

import msgspec
from msgspec.structs import replace

from memproxy.clock import Clock
from memproxy.errors import StoreError
from memproxy.memory.long_term import LongTermMemory
from memproxy.proxy import memory_tool_forms as forms
from memproxy.proxy.memory_tool_forms import UnusableCallError
from memproxy.records import JsonObject, MemoryRecord, MemoryType, Scope, SessionKey, ToolAnswer, ToolCall
from memproxy.storage.memory_filter import Filter, Rule, TagField, any_of, created_between, types
from memproxy.storage.schema import digest_of
from memproxy.storage.session_data import SessionDataStore

log = logging.getLogger(__name__)

MAX_RESULT_CHARS = 12_000
"""Of found memories' texts, about 3,000 tokens: a result stays in the conversation."""

UNAVAILABLE = "memory is not available right now"
NOBODY = "no user is known for this conversation, so nothing can be remembered beyond it"


class MemoryTools:
    """Answers calls of memory tools. Calls may run at the same time."""

    def __init__(
        self, long_term: LongTermMemory, session_data: SessionDataStore, *, clock: Clock, deadline_s: float = 5.0
    ) -> None:
        """`deadline_s`: how long one call may take before the model is told that memory is not available."""
        self._long_term = long_term
        self._session_data = session_data
        self._clock = clock
        self._deadline_s = deadline_s

    async def answer(self, call: ToolCall, *, scope: Scope, session: SessionKey) -> ToolAnswer:
        """Carry out one call. Never raises: what goes wrong is told to the model."""
        try:
            asked = forms.read_call(call)
            if scope.user is None and not isinstance(asked, forms.UpdateData | forms.Now):
                raise UnusableCallError(NOBODY)
            async with asyncio.timeout(self._deadline_s):
                result = await self._carry_out(asked, scope, session)
        except UnusableCallError as error:
            result = {"error": str(error)}
        except (StoreError, TimeoutError) as error:
            log.warning("a memory tool could not be used: %s: %s", type(error).__name__, error)
            result = {"error": UNAVAILABLE}
        except Exception:  # the model can go on without its tool, and the request must not fail because of it
            log.exception("a memory tool failed")
            result = {"error": UNAVAILABLE}
        return ToolAnswer(call, content=msgspec.json.encode(result).decode(), source="memory")

    async def _carry_out(self, asked: forms.Arguments, scope: Scope, session: SessionKey) -> JsonObject:
        match asked:
            case forms.Search():
                return await self._search(asked, scope)
            case forms.Create():
                return await self._create(asked, scope, session.session)
            case forms.Edit():
                return await self._edit(asked, scope)
            case forms.Delete():
                return await self._delete(asked, scope)
            case forms.UpdateData():
                return await self._update_data(asked, session)
            case forms.Now():
                return await self._now(asked)
            case _:
                assert_never(asked)

    async def _search(self, asked: forms.Search, scope: Scope) -> JsonObject:
        """Candidates without a floor: who asks for "preferences" shares no word with them, and can judge what comes."""
        limit = min(max(forms.DEFAULT_FOUND if asked.limit is None else asked.limit, 1), forms.MAX_FOUND)
        where = _filter_of(asked)
        if not asked.query.strip():
            _, newest = await self._long_term.newest(scope, limit=limit, where=where)
            return _shown_in_part(newest)
        found = await self._long_term.search(scope, asked.query, limit=limit, where=where, relevant_only=False)
        return _shown_in_part([hit.record for hit in found])

    async def _create(self, asked: forms.Create, scope: Scope, session: str) -> JsonObject:
        wanted = [self._new_record(memory, scope, session) for memory in forms.memories_of(asked)]
        known = {record.id: record for record in await self._long_term.get(scope, [new.id for new in wanted])}
        settled = [_beside(known.get(new.id), new) for new in wanted]
        await self._long_term.remember(list({new.id: new for new in settled if new.id not in known}.values()))
        return {"memories": [{"id": new.id, "is_new": new.id not in known} for new in settled]}

    def _new_record(self, memory: forms.NewMemory, scope: Scope, session: str) -> MemoryRecord:
        text = forms.text_of(memory.text)
        return MemoryRecord(
            id=digest_of("created", _plain(text)),
            scope=scope,
            text=text,
            type=MemoryType(memory.memory_type or MemoryType.SEMANTIC),
            created_at=self._clock.now(),
            session=session,
            topics=forms.labels_of(memory.topics, "topics"),
            entities=forms.labels_of(memory.entities, "entities"),
            event_date=forms.time_of(memory.event_date, "event_date"),
        )

    async def _edit(self, asked: forms.Edit, scope: Scope) -> JsonObject:
        changes = _changes(asked)
        if not changes:
            raise UnusableCallError("there is nothing to change: give text, topics, entities or event_date")
        edited = await self._long_term.edit(scope, asked.memory_id, lambda known: replace(known, **changes))
        if edited is None:
            raise UnusableCallError("there is no memory with this id; search for it first")
        return {"memory": _shown(edited)}

    async def _delete(self, asked: forms.Delete, scope: Scope) -> JsonObject:
        ids = forms.ids_of(asked)
        deleted = await self._long_term.forget(scope, ids)
        return {"deleted": deleted, "unknown": len(ids) - deleted}

    async def _update_data(self, asked: forms.UpdateData, session: SessionKey) -> JsonObject:
        merged = await self._session_data.merge(session, forms.data_of(asked), max_bytes=forms.MAX_DATA_BYTES)
        if merged is None:
            raise UnusableCallError(
                f"nothing was stored: all notes may take {forms.MAX_DATA_BYTES} bytes together; shorten or remove some"
            )
        return {"data": merged}

    async def _now(self, asked: forms.Now) -> JsonObject:
        zone = (asked.timezone or "").strip() or "UTC"
        try:
            now = self._clock.now().astimezone(await asyncio.to_thread(ZoneInfo, zone))
        except (LookupError, ValueError, OSError):
            raise UnusableCallError("this time zone is not known; give an IANA name such as Europe/Lisbon") from None
        return {"datetime": now.isoformat(timespec="seconds"), "weekday": f"{now:%A}", "timezone": zone}


def _filter_of(asked: forms.Search) -> Filter:
    first, last = (
        forms.time_of(asked.created_after, "created_after"),
        forms.time_of(asked.created_before, "created_before"),
    )
    rules: list[Rule] = [created_between(first, last)]
    if asked.memory_type is not None:
        rules.append(types(MemoryType(asked.memory_type)))
    if topics := forms.labels_of(asked.topics, "topics"):
        rules.append(any_of(TagField.TOPICS, topics))
    if entities := forms.labels_of(asked.entities, "entities"):
        rules.append(any_of(TagField.ENTITIES, entities))
    return Filter(tuple(rules))


def _changes(asked: forms.Edit) -> dict[str, Any]:
    """The fields to replace. A new text loses the old one's context, by which it would be found under the old words."""
    changes: dict[str, Any] = {}
    if asked.text is not None:
        changes |= {"text": forms.text_of(asked.text), "context": ""}
    if asked.topics is not None:
        changes["topics"] = forms.labels_of(asked.topics, "topics")
    if asked.entities is not None:
        changes["entities"] = forms.labels_of(asked.entities, "entities")
    if asked.event_date is not None:
        changes["event_date"] = forms.time_of(asked.event_date, "event_date")
    return changes


def _plain(text: str) -> str:
    """Equal for texts that differ in case and blanks only: they are the same memory."""
    return " ".join(text.split()).casefold()


def _beside(known: MemoryRecord | None, new: MemoryRecord) -> MemoryRecord:
    """The new memory, under another id where its own belongs to one that says something else since it was edited."""
    if known is None or _plain(known.text) == _plain(new.text):
        return new
    return replace(new, id=digest_of("created", _plain(new.text), new.created_at.isoformat()))


def _shown_in_part(records: Sequence[MemoryRecord]) -> JsonObject:
    """What a search gives the model: the first memories, as many as are not too much to read."""
    shown: list[JsonObject] = []
    size = 0
    for record in records:
        size += len(record.text)
        if shown and size > MAX_RESULT_CHARS:
            return {"memories": shown, "left_out": len(records) - len(shown)}
        shown.append(_shown(record))
    return {"memories": shown}


def _shown(record: MemoryRecord) -> JsonObject:
    shown: JsonObject = {"id": record.id, "text": record.text, "memory_type": record.type.value}
    if record.topics:
        shown["topics"] = record.topics
    if record.entities:
        shown["entities"] = record.entities
    if record.event_date is not None:
        shown["event_date"] = _written(record.event_date)
    return shown | {"created_at": _written(record.created_at)}


def _written(at: datetime) -> str:
    """A time in ISO 8601, to the minute; of midnight, the date alone."""
    is_date = (at.hour, at.minute) == (0, 0)
    return at.date().isoformat() if is_date else at.isoformat(timespec="minutes").replace("+00:00", "Z")
