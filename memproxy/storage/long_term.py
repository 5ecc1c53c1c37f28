"""Write, search and delete memories and their vectors.

A memory is one document (`memory_documents`). Each is written by one script, so that it is there as a whole or not at
all. A search is two round trips: both ranked lists without any content in one pipeline, then the documents of the few
that the caller chose. Fetching the documents of all hundred candidates in the first trip costs more than the second
trip.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import resources
from typing import Any

from redis.asyncio import Redis

from memproxy.errors import StoreError
from memproxy.records import MemoryRecord, Scope
from memproxy.storage import memory_index, schema
from memproxy.storage.connection import translated
from memproxy.storage.memory_changes import CONFLICT, Change, Put, Swap, by_partition, changing
from memproxy.storage.memory_documents import (
    FIELDS,
    JUDGED,
    FoundMemory,
    IndexedMemory,
    UnreadMemory,
    Vector,
    packed_vector,
    read_document,
)
from memproxy.storage.memory_filter import Filter, TagField, any_of, of_scope
from memproxy.storage.memory_index import Argument, Made
from memproxy.storage.outdated import OutdatedMemories
from memproxy.storage.paging import Window
from memproxy.storage.pipelined import Pipelined, Script, checked
from memproxy.storage.query_engine import QueryEngine

log = logging.getLogger(__name__)

PAGE = 1000
"""Memories found and deleted at a time when a user is erased."""

WRITTEN_AT_ONCE = 50
"""Memories in one script: it holds up all other commands for 2 to 3 ms."""

SENT_AT_ONCE, SENT_EACH = 20, 200
"""Scripts in one pipeline: of those that write many memories, and of those that change one each."""

ASKED_AT_ONCE = 200
"""Ids or hashes in one query."""

MOST_HOLDERS = 100_000
"""Memories of a tenant that have one of so many ids or hashes."""

ACCESS_REST_S = 900
"""After one access the next is noted so much later: each note replaces a document."""


@dataclass(frozen=True, slots=True)
class Hits:
    """Two ranked lists by document key, best first: BM25 scores and cosine similarities."""

    text: dict[str, float]
    vector: dict[str, float]
    candidates: int
    """How many memories were compared by vector, or matched by text if there was none."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """The heads of two ranked lists by document key, best first: BM25 scores and cosine similarities."""

    text: dict[str, float]
    vector: dict[str, float]
    total: int
    """How many memories can be ranked."""
    text_is_whole: bool
    vector_is_whole: bool

    @property
    def are_whole(self) -> bool:
        """Whether nothing is left that could be ranked."""
        return self.text_is_whole and self.vector_is_whole


class LongTermStore:
    """The memories of all users, for vectors of one embedding model."""

    def __init__(self, redis: Redis, *, model: str, dims: int, commands: Pipelined | None = None) -> None:
        self._redis = redis
        self._commands = commands or Pipelined(redis)
        self._made = Made(model, dims)
        self._name = self._made.index_name
        self._engine = QueryEngine(redis, self._made, self._commands)
        self.outdated = OutdatedMemories(redis, self._engine, self._made)
        scripts = resources.files("memproxy.storage") / "lua"
        self._write = (scripts / "write_memories.lua").read_text("utf-8")
        self._touch = (scripts / "touch_memories.lua").read_text("utf-8")
        self._read_memories = Script((scripts / "read_memories.lua").read_text("utf-8"))

    async def ensure_index(self, *, deadline_s: float = 60.0) -> None:
        """Make the index unless it is there, and wait until it has read all memories: see `QueryEngine`."""
        await self._engine.ensure_index(deadline_s=deadline_s)

    def turn_off(self, reason: str) -> None:
        """Refuse from now on what needs the query engine, and to write what nobody would find; `StoreUnfitError`."""
        self._engine.missing = reason

    async def write(self, memories: Sequence[IndexedMemory]) -> int:
        """Store memories and say how many are new; an equal id is replaced and keeps its first time.

        One round trip for each thousand.
        """
        puts = by_partition((schema.memory_key(each.record.scope, each.record.id), Put(each)) for each in memories)
        scripts = [
            ["EVAL", self._write, *changing(part[at : at + WRITTEN_AT_ONCE], self._made)]
            for part in puts.values()
            for at in range(0, len(part), WRITTEN_AT_ONCE)
        ]
        new = 0
        for at in range(0, len(scripts), SENT_AT_ONCE):
            with translated("storing memories"):
                new += sum(await self._sent(scripts[at : at + SENT_AT_ONCE]))
        return new

    async def change(self, changes: Sequence[Change], *, mark: str | None = None) -> int | None:
        """Make changes to one user's memories, all or none, and say how many are new; one round trip.

        None when somebody else changed or deleted what was read: then nothing is written. With a mark that was set
        before, nothing is written, and nothing is new; else it is set for a week.
        """
        if not changes:
            return 0
        with translated("changing memories"):
            (new,) = await self._sent([["EVAL", self._write, *changing(changes, self._made, mark=mark)]])
        return None if new == CONFLICT else max(new, 0)

    async def change_each(self, changes: Sequence[Change]) -> list[bool]:
        """Make changes, each by itself, and say which were made: not where what was read changed since."""
        scripts = [["EVAL", self._write, *changing([change], self._made)] for change in changes]
        made: list[bool] = []
        for at in range(0, len(scripts), SENT_EACH):
            with translated("changing memories"):
                made += [reply != CONFLICT for reply in await self._sent(scripts[at : at + SENT_EACH])]
        return made

    async def rewrite(self, memory: IndexedMemory, *, known: FoundMemory) -> bool:
        """Store a memory anew in place of what was found under its id. One round trip.

        False when that was changed or deleted meanwhile: then nothing is written.
        """
        return await self.change([Swap(memory, known)]) is not None

    async def search(
        self,
        scope: Scope,
        terms: Sequence[str],
        *,
        vector: Vector | None,
        limit: int,
        where: Filter,
        excluded_ids: Iterable[str] = (),
        counted: int = 0,
    ) -> Hits:
        """The best `limit` of one user's memories by text and by vector, without content. One round trip.

        `counted`: how far to count the candidates; counting 310 costs 0.1 ms more than counting 50.
        """
        excluded = {schema.memory_key(scope, memory_id) for memory_id in excluded_ids}
        selected = memory_index.selection(scope.tenant, where.and_(*of_scope(scope)))
        wanted = limit + len(excluded)
        queries = []
        if terms:
            queries.append(memory_index.text_search(self._name, selected, terms, limit=wanted))
        if vector is not None:
            queries.append(self._near(selected, vector, nearest=max(wanted, counted), limit=wanted))
        replies = await self._engine.ask(queries)
        by_text = memory_index.read_scores(replies[0]) if terms else {}
        by_vector = memory_index.read_distances(replies[-1]) if vector is not None else {}
        candidates = int(replies[-1][0]) if replies else 0
        return Hits(_without(by_text, excluded, limit), _without(by_vector, excluded, limit), candidates)

    async def rank(
        self,
        tenant: str,
        where: Filter,
        *,
        terms: Sequence[str],
        phrases: Sequence[Sequence[str]],
        vector: Vector | None,
        depth: int,
    ) -> Ranked:
        """The best `depth` memories of a tenant by text and by vector, without content. One round trip.

        `phrases`: rows of terms that a memory's text must have. Terms or vector may be missing, not both.
        """
        selected = memory_index.with_phrases(memory_index.selection(tenant, where), phrases)
        depth = min(depth, memory_index.MOST_RESULTS)
        queries = []
        if terms:
            queries.append(memory_index.text_search(self._name, selected, terms, limit=depth, patient=True))
        if vector is not None:
            rankable = memory_index.with_vector_or_term(selected, self._made, terms)
            queries += [
                memory_index.some(self._name, rankable, limit=0),
                self._near(selected, vector, nearest=depth, limit=depth, patient=True),
            ]
        replies = await self._engine.ask(queries)
        text = memory_index.read_scores(replies[0]) if terms else {}
        near = memory_index.read_distances(replies[-1]) if vector is not None else {}
        total = int(replies[0][0]) if vector is None else int(replies[-2][0])
        return Ranked(
            text,
            near,
            total,
            text_is_whole=not terms or len(text) >= int(replies[0][0]) or depth >= total,
            vector_is_whole=vector is None or len(near) < depth or depth >= total,
        )

    async def lacking(
        self, tenant: str, where: Filter, heads: Ranked, *, terms: Sequence[str], vector: Vector | None
    ) -> Ranked:
        """The heads, in which whatever stands in one list stands in the other, too. One round trip, if any.

        Numbers come from the engine for all: others would differ in the last digits, and order ties by chance.
        """
        selected = memory_index.selection(tenant, where)
        unscored = [] if heads.text_is_whole else [key for key in heads.vector if key not in heads.text]
        unmeasured = [] if heads.vector_is_whole else [key for key in heads.text if key not in heads.vector]
        queries = []
        if unscored:
            queries.append(memory_index.text_search(self._name, selected, terms, limit=len(unscored), keys=unscored))
        if unmeasured and vector is not None:
            queries.append(
                self._near(selected, vector, nearest=len(unmeasured), limit=len(unmeasured), keys=unmeasured)
            )
        replies = await self._engine.ask(queries)
        text = memory_index.read_scores(replies[0]) if unscored else {}
        near = memory_index.read_distances(replies[-1]) if unmeasured else {}
        return replace(heads, text=heads.text | text, vector=heads.vector | near)

    async def listing(
        self, tenant: str, where: Filter, *, offset: int, limit: int, newest_first: bool = True
    ) -> tuple[int, list[str]]:
        """How many memories pass the filter, and the keys of a part of them in the order of creation.

        What was created at the same moment stands in the order of keys: see `Window`.
        """
        selected = memory_index.selection(tenant, where)
        window = Window(offset, offset + limit).within(memory_index.MOST_RESULTS)
        while window is not None:
            query = memory_index.listing(
                self._name, selected, offset=window.begin, limit=window.length, newest_first=newest_first
            )
            total, rows = memory_index.read_page((await self._engine.ask([query]))[0])
            if (keys := window.cut(rows, total=total)) is not None:
                return total, keys
            window = window.wider().within(memory_index.MOST_RESULTS)
        return await self.count(tenant, where), []

    async def having(self, tenant: str, where: Filter, *, field: TagField, values: Sequence[str]) -> list[str]:
        """The keys of the memories that have one of these values and pass the filter; for ids and hashes."""
        keys: list[str] = []
        for at in range(0, len(values), ASKED_AT_ONCE):
            part = where.and_(any_of(field, values[at : at + ASKED_AT_ONCE]))
            query = memory_index.some(self._name, memory_index.selection(tenant, part), limit=MOST_HOLDERS)
            keys += memory_index.read_keys((await self._engine.ask([query]))[0])[1]
        return keys

    async def near_each(
        self, scope: Scope, vectors: Sequence[Vector | None], *, where: Filter, limit: int
    ) -> list[dict[str, float]]:
        """For each vector the keys of the nearest memories of a scope with their cosines; for None, nothing."""
        selected = memory_index.selection(scope.tenant, where.and_(*of_scope(scope)))
        asked = [vector for vector in vectors if vector is not None]
        queries = [self._near(selected, vector, nearest=limit, limit=limit) for vector in asked]
        replies = iter(await self._engine.ask(queries))
        return [{} if vector is None else memory_index.read_distances(next(replies)) for vector in vectors]

    async def count(self, tenant: str, where: Filter) -> int:
        """How many memories pass the filter."""
        query = memory_index.some(self._name, memory_index.selection(tenant, where), limit=0)
        ((number, *_),) = await self._engine.ask([query])
        return int(number)

    async def scopes(self, tenant: str, where: Filter) -> list[Scope]:
        """The scopes that have memories which pass the filter. Two round trips."""
        query = memory_index.one_of_each_scope(self._name, memory_index.selection(tenant, where))
        ((_, *rows),) = await self._engine.ask([query])
        found = await self.fetch([row[-1].decode() for row in rows], only_readable=True)
        return [memory.record.scope for memory in found.values()]

    async def fetch(
        self, keys: Sequence[str], *, with_vectors: bool = False, only_readable: bool = False
    ) -> dict[str, FoundMemory]:
        """The documents under these keys, in this order; what is gone is left out. One round trip.

        Raises `StoreError` for one that can't be read, unless `only_readable` leaves it out.
        """
        fields = (*FIELDS, self._made.vector_field) if with_vectors else FIELDS
        found = {}
        for key, row in (await self._read(keys, fields)).items():
            try:
                if row[0] is not None:
                    found[key] = read_document(row, self._made)
            except StoreError as error:
                if not only_readable:
                    raise
                log.warning("%s: %s", key, error)
        return found

    async def unread(self, keys: Sequence[str]) -> dict[str, UnreadMemory]:
        """The documents under these keys, in this order and not decoded; what is gone is left out. One round trip."""
        rows = await self._read(keys, JUDGED)
        return {key: UnreadMemory(row, self._made) for key, row in rows.items() if row[0] is not None}

    async def times(self, keys: Sequence[str]) -> dict[str, tuple[float, float]]:
        """When these memories were created and looked at last, in seconds since 1970. One round trip."""
        rows = await self._read(keys, ("created_at", "last_accessed"))
        return {key: (float(row[0]), float(row[1] or row[0])) for key, row in rows.items() if row[0] is not None}

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[MemoryRecord]:
        """The memories with these ids, in this order; unknown ids are left out. One round trip."""
        found = await self.fetch([schema.memory_key(scope, memory_id) for memory_id in ids])
        return [memory.record for memory in found.values()]

    async def touch(self, keys: Sequence[str], *, now: datetime) -> int:
        """Note that these memories were looked at, and say for how many: not for what is gone or was just noted."""
        scripts: list[list[Any]] = [
            ["EVAL", self._touch, len(part), *part, memory_index.moment(now), ACCESS_REST_S]
            for part in by_partition((key, key) for key in keys).values()
        ]
        with translated("noting accesses"):
            return sum(await self._sent(scripts))

    async def delete(self, scope: Scope, ids: Sequence[str]) -> int:
        """Delete the memories with these ids and say how many there were. One round trip."""
        return await self.delete_keys([schema.memory_key(scope, memory_id) for memory_id in ids])

    async def delete_keys(self, keys: Sequence[str]) -> int:
        """Delete the documents under these keys and say how many there were. One round trip."""
        with translated("deleting memories"):
            return sum(await self._sent([["UNLINK", key] for key in keys]))

    async def delete_user(self, scope: Scope) -> int:
        """Delete every memory of this user, in all namespaces, and say how many there were.

        Waits until the index knows every memory, since it is asked which are the user's.
        """
        await self.ensure_index()
        deleted = 0
        while True:
            query = memory_index.some(self._name, memory_index.everything_of_user(scope), limit=PAGE)
            _, keys = memory_index.read_keys((await self._engine.ask([query]))[0])
            gone = await self.delete_keys(keys)
            deleted += gone
            if not gone:
                return deleted

    async def _sent(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        if not commands:
            return []
        self._engine.require()
        pipe: Any = self._redis.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        return checked(await pipe.execute(raise_on_error=False))

    async def _read(self, keys: Sequence[str], fields: Sequence[str]) -> dict[str, list[bytes | None]]:
        parts = list(by_partition((key, key) for key in keys).values())
        script = self._read_memories
        with translated("reading memories"):
            replies = await self._commands.scripts([(script, script.called(part, fields)) for part in parts])
        read = {
            key: row for part, rows in zip(parts, replies, strict=True) for key, row in zip(part, rows, strict=True)
        }
        return {key: read[key] for key in keys}

    def _near(
        self,
        selected: str,
        vector: Vector,
        *,
        nearest: int,
        limit: int,
        keys: Sequence[str] = (),
        patient: bool = False,
    ) -> list[Argument]:
        packed = packed_vector(vector, self._made)
        field = self._made.vector_field
        return memory_index.vector_search(
            self._name, selected, packed, field=field, nearest=nearest, limit=limit, keys=keys, patient=patient
        )


def _without(ranked: dict[str, float], excluded: set[str], limit: int) -> dict[str, float]:
    kept = [(key, score) for key, score in ranked.items() if key not in excluded]
    return dict(kept[:limit])
