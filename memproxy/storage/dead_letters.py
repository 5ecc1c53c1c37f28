"""Dead letters: turns that a stage gave up, to be looked at, tried again, or dropped."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import msgspec
from redis.asyncio import Redis

from memproxy.records import Scope
from memproxy.storage import schema
from memproxy.storage.deadline import within
from memproxy.storage.queue import Stage

PAGE = 100
"""Letters read at a time; a letter has its whole turn with it."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One of them, without its words."""

    stage: Stage
    partition: str
    entry: str
    """Its id in the stream of dead letters."""
    reason: str
    attempts: int
    turn: str = ""
    """The turn's id; empty, as what follows, where it can't be read as a turn."""
    session: str = ""
    user: str | None = None
    namespace: str | None = None

    @property
    def name(self) -> str:
        """By which it can be told apart from all others."""
        return f"{self.stage}:{self.partition}:{self.entry}"

    @property
    def at(self) -> datetime:
        """When it was given up, by the store's clock."""
        return datetime.fromtimestamp(int(self.entry.partition("-")[0]) / 1000, UTC)


class _Head(msgspec.Struct):
    """What of a turn is read here."""

    id: str
    scope: Scope
    session: str


_HEAD = msgspec.json.Decoder(_Head)


class DeadLetters:
    """The dead letters of all stages. Every method raises `StoreError`; `deadline_s` is for each exchange with it."""

    def __init__(
        self, redis: Redis, *, partitions: Sequence[str] = schema.partitions(), deadline_s: float = 10.0
    ) -> None:
        self._redis = redis
        self._partitions = tuple(partitions)
        self._deadline_s = deadline_s
        self._retry = (resources.files("memproxy.storage") / "lua" / "turns_retry.lua").read_text()

    async def newest(self, stages: Iterable[Stage], *, limit: int) -> list[DeadLetter]:
        """The newest of these stages, newest first."""
        found: list[DeadLetter] = []
        for stage in stages:
            for partition in self._partitions:
                async with within(self._deadline_s, "reading dead letters"):
                    entries: Any = await self._redis.xrevrange(schema.dead_key(partition, stage), count=limit)
                found += (_letter(stage, partition, entry, fields) for entry, fields in entries)
        return sorted(found, key=lambda letter: letter.at, reverse=True)[:limit]

    async def each(self, stages: Iterable[Stage]) -> AsyncIterator[DeadLetter]:
        """All of these stages, the oldest of each partition first."""
        for stage in stages:
            for partition in self._partitions:
                begin = "-"
                while True:
                    async with within(self._deadline_s, "reading dead letters"):
                        key = schema.dead_key(partition, stage)
                        entries: Any = await self._redis.xrange(key, min=begin, count=PAGE)
                    for entry, fields in entries:
                        yield _letter(stage, partition, entry, fields)
                    if len(entries) < PAGE:
                        break
                    begin = f"({entries[-1][0].decode()}"

    async def retry(self, letters: Iterable[DeadLetter]) -> int:
        """Put them back at the end of their stage's queue, with all attempts before them; how many there were."""
        moved = 0
        for (stage, partition), entries in _by_stream(letters).items():
            keys = [schema.dead_key(partition, stage), schema.queue_key(partition, stage)]
            command: Any = self._redis.eval  # Any: redis-py's types are narrower than what it takes
            async with within(self._deadline_s, "putting turns back into the queue"):
                moved += int(await command(self._retry, len(keys), *keys, *entries))
        return moved

    async def drop(self, letters: Iterable[DeadLetter]) -> int:
        """Delete them; how many there were."""
        dropped = 0
        for (stage, partition), entries in _by_stream(letters).items():
            async with within(self._deadline_s, "dropping dead letters"):
                dropped += int(await self._redis.xdel(schema.dead_key(partition, stage), *entries))
        return dropped


def _by_stream(letters: Iterable[DeadLetter]) -> dict[tuple[Stage, str], list[str]]:
    streams: dict[tuple[Stage, str], list[str]] = {}
    for letter in letters:
        streams.setdefault((letter.stage, letter.partition), []).append(letter.entry)
    return streams


def _letter(stage: Stage, partition: str, entry: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    reason = fields.get(b"reason", b"").decode("utf-8", "replace")
    attempts = fields.get(b"attempts", b"")
    known = DeadLetter(stage, partition, entry.decode(), reason, int(attempts) if attempts.isdigit() else 0)
    try:
        head = _HEAD.decode(fields.get(b"turn", b""))
    except ValueError:  # msgspec's errors are ValueErrors
        return known
    return DeadLetter(
        known.stage,
        known.partition,
        known.entry,
        known.reason,
        known.attempts,
        turn=head.id,
        session=head.session,
        user=head.scope.user,
        namespace=head.scope.namespace,
    )
