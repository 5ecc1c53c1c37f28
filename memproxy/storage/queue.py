"""Turns that wait to be learned from: durable, delivered at least once, one stream a partition.

Learning has stages, and each has its own streams, so that a stage which can't go on (a model that is away) only lets
its own streams grow. A `TurnQueue` is one stage's streams over all partitions:

    add ──► claim ──► acknowledge            done: gone from the stream
                 ├──► hand_over              done here: the next stage's stream has it instead
                 ├──► count_attempt          still ours, one delivery more
                 ├──► release                not ours any more: whoever asks next takes over
                 └──► dead_letter ──► replay given up: kept with the reason, a bounded number of them

A turn belongs to the consumer that claimed it. A consumer calls `renew` now and then for what it holds; what nobody
has renewed for `take_over_s` goes to the next consumer that asks. The store counts the deliveries, so a turn that ends
every worker it meets is recognised as such.

Entries have one field, `turn`: the turn as JSON. The proxy's record step adds them inside its own script.

One call reads all partitions, so all of them have to be on the store at hand; on a Redis Cluster give each worker the
`partitions` of one shard.
"""

import asyncio
import enum
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from memproxy.records import Turn
from memproxy.storage import schema
from memproxy.storage.connection import translated

FIELD = "turn"
MAX_DEAD = 1_000
"""Dead letters kept a partition and stage: enough to see what went wrong, too few to fill the store."""
TAKE_OVER_BATCH = 16
"""Turns taken over at a time and partition; the next look continues where this one stopped."""
FORGET_CONSUMER_S = 86_400.0
"""A consumer without turns that has been silent for a day will not come back: names are made anew at each start."""
GROUP_LOST = ("NOGROUP", "UNBLOCKED")
"""What replies say when a stream or its group is gone: the store was emptied, or has lost its data."""

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Turn)

Reply = TypeVar("Reply")

Address = tuple[str, str]
"""Where a turn stands in the queue: partition and entry id."""


class Stage(enum.StrEnum):
    """What a turn waits for; the value is part of its stream's name."""

    INDEX = "turns"
    """Its messages become memories. Where the proxy adds."""
    LEARN = "learn"
    """A model reads it."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A turn that a consumer holds."""

    partition: str
    id: str
    """The entry's id in its stream; the turn's own id is `turn.id`."""
    turn: Turn
    raw: bytes
    deliveries: int
    """How often it was delivered or tried so far, 1 at first."""

    @property
    def address(self) -> "Address":
        return self.partition, self.id


@dataclass(frozen=True, slots=True)
class Depth:
    """How much lies in a stage, over all partitions."""

    waiting: int
    pending: int
    """Claimed and not yet finished."""
    dead: int


def encode_turn(turn: Turn) -> bytes:
    """The turn as JSON; times in ISO 8601."""
    return _ENCODER.encode(turn)


def decode_turn(raw: bytes) -> Turn:
    """The turn that `encode_turn` wrote; raises ValueError for anything else. Unknown fields are ignored."""
    return _DECODER.decode(raw)  # msgspec's errors are ValueErrors


class TurnQueue:
    """The streams of one stage.

    `take_over_s`: how long a turn must have lain unrenewed. `deadline_s`: for each exchange with the store, over and
    above the time that `claim` may wait. `redis` must have RESP2 and bytes replies (`protocol=2`).
    """

    def __init__(
        self,
        redis: Redis,
        *,
        stage: Stage = Stage.INDEX,
        partitions: Sequence[str] = schema.partitions(),
        take_over_s: float = 60.0,
        deadline_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage = stage
        self.take_over_s = take_over_s
        self._redis = redis
        self._partitions = tuple(partitions)
        self._deadline_s = deadline_s
        self._clock = clock
        self._take_over_due = clock()
        self._cursors = dict.fromkeys(self._partitions, "0-0")
        self._block_limit_s = _block_limit_s(redis)
        scripts = resources.files("memproxy.storage") / "lua"
        self._hold = (scripts / "turns_hold.lua").read_text()
        self._take_over = (scripts / "turns_take_over.lua").read_text()

    async def ensure_groups(self) -> None:
        """Create the streams and their consumer group where they are missing."""
        async with self._deadline("creating the consumer groups"):
            await self._create_groups()

    async def add(self, turn: Turn) -> None:
        """Put a turn at the end of its user's partition."""
        async with self._deadline("adding a turn"):
            await self._redis.xadd(self._key(schema.partition_of(turn.scope)), {FIELD: encode_turn(turn)})

    async def claim(self, consumer: str, count: int, block_s: float) -> list[Claimed]:
        """Turns for this consumer; waits up to `block_s` for one, or less if the client's socket timeout is short.

        `count` is about how many: each partition gives at least one if it has one. Turns of consumers that are gone
        come first; they are looked for at most four times in `take_over_s`. What can't be read as a turn goes to the
        dead letters at once.
        """
        found = await self._take_over_if_due(consumer, count)
        return found or await self._read_new(consumer, count, min(block_s, self._block_limit_s))

    async def renew(self, consumer: str, held: Iterable[Claimed]) -> set[Address]:
        """Keep the hold on these turns for another `take_over_s`; the addresses of those that are still held."""
        return await self._set_hold(consumer, held, idle_s=0, add=0, doing="renewing turns")

    async def count_attempt(self, consumer: str, claimed: Claimed) -> bool:
        """Count one delivery more, durably; False if the turn is no longer this consumer's."""
        return bool(await self._set_hold(consumer, [claimed], idle_s=0, add=1, doing="counting an attempt"))

    async def release(self, consumer: str, held: Iterable[Claimed]) -> None:
        """Let others take these turns over at once, as if they had not been delivered this time."""
        idle_s = max(self.take_over_s * 2, 3_600.0)  # above every other worker's idea of too long
        await self._set_hold(consumer, held, idle_s=idle_s, add=-1, doing="releasing turns")

    async def acknowledge(self, claimed: Claimed) -> None:
        """The turn is done with: it leaves the stream."""
        async with self._deadline("acknowledging a turn"), self._pipeline(atomic=True) as pipe:
            self._finish(pipe, claimed.partition, claimed.id)
            await pipe.execute()

    async def hand_over(self, claimed: Claimed, stage: Stage) -> None:
        """The turn is done with in this stage: it moves to the next one's stream, in one step."""
        async with self._deadline("handing a turn over"), self._pipeline(atomic=True) as pipe:
            pipe.xadd(schema.queue_key(claimed.partition, stage), {FIELD: claimed.raw})
            self._finish(pipe, claimed.partition, claimed.id)
            await pipe.execute()

    async def dead_letter(self, claimed: Claimed, reason: str) -> None:
        """Give the turn up: in one step it moves to the dead letters, with the reason; the oldest make room."""
        await self._bury(claimed.partition, claimed.id, claimed.raw, deliveries=claimed.deliveries, reason=reason)

    async def replay(self, count: int) -> int:
        """Move up to `count` dead letters of each partition back into the queue; how many were moved."""
        moved = 0
        async with self._deadline("replaying dead letters"):
            for partition in self._partitions:
                dead = schema.dead_key(partition, self.stage)
                letters: Any = await self._redis.xrange(dead, count=count)
                for entry_id, fields in letters:
                    async with self._pipeline(atomic=True) as pipe:
                        pipe.xdel(dead, entry_id)
                        pipe.xadd(self._key(partition), {FIELD: fields.get(FIELD.encode(), b"")})
                        await pipe.execute()
                    moved += 1
        return moved

    async def depth(self) -> Depth:
        """How many turns wait, are being worked on, and were given up. Cost: one round trip."""
        async with self._deadline("measuring the queue"):
            return await self._with_groups(self._depth)

    def _key(self, partition: str) -> str:
        return schema.queue_key(partition, self.stage)

    def _pipeline(self, *, atomic: bool) -> Any:
        """Any: redis-py types a queued command as something to await, which it is not."""
        return self._redis.pipeline(transaction=atomic)

    @asynccontextmanager
    async def _deadline(self, doing: str, *, extra_s: float = 0.0) -> AsyncIterator[None]:
        with translated(doing):
            async with asyncio.timeout(self._deadline_s + extra_s), _cancellable():
                yield

    async def _create_groups(self) -> None:
        async with self._pipeline(atomic=False) as pipe:
            for partition in self._partitions:
                # From the beginning of the stream: turns may be older than the group, or than its loss.
                pipe.xgroup_create(self._key(partition), schema.GROUP, id="0", mkstream=True)
            replies = await pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception) and "BUSYGROUP" not in str(reply):
                raise reply

    async def _with_groups(self, command: Callable[[], Awaitable[Reply]]) -> Reply:
        """The command's reply; when the store has lost the groups, they are made and the command is sent again."""
        try:
            return await command()
        except ResponseError as error:
            if not any(sign in str(error) for sign in GROUP_LOST):
                raise
        await self._create_groups()
        return await command()

    async def _read_new(self, consumer: str, count: int, block_s: float) -> list[Claimed]:
        streams = {self._key(partition): ">" for partition in self._partitions}

        async def read() -> Any:
            return await self._redis.xreadgroup(
                schema.GROUP,
                consumer,
                streams,  # type: ignore[arg-type]  # a dict of str is one of KeyT; dict is invariant
                count=max(1, count // len(self._partitions)),
                block=max(1, round(block_s * 1000)),
            )

        async with self._deadline("claiming turns", extra_s=block_s):
            replies = await self._with_groups(read)
        partition_of = {self._key(partition).encode(): partition for partition in self._partitions}
        found = []
        for stream, entries in replies:
            for entry_id, fields in entries:
                found.append(await self._open(partition_of[stream], entry_id, fields, deliveries=1))
        return [claimed for claimed in found if claimed is not None]

    async def _take_over_if_due(self, consumer: str, count: int) -> list[Claimed]:
        now = self._clock()
        if now < self._take_over_due:
            return []

        async def take_over() -> list[Any]:
            async with self._pipeline(atomic=False) as pipe:
                for partition in self._partitions:
                    arguments = self._take_over_args(partition, consumer, count)
                    pipe.eval(self._take_over, 1, self._key(partition), *arguments)
                replies: list[Any] = await pipe.execute()
                return replies

        async with self._deadline("taking over turns"):
            replies = await self._with_groups(take_over)
        found = []
        for partition, (cursor, entries) in zip(self._partitions, replies, strict=True):
            self._cursors[partition] = cursor.decode()
            for entry_id, deliveries, flat in entries:
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                found.append(await self._open(partition, entry_id, fields, deliveries=deliveries))
        if not found:  # else there may be more: look again with the next claim
            self._take_over_due = now + self.take_over_s / 4
        return [claimed for claimed in found if claimed is not None]

    def _take_over_args(self, partition: str, consumer: str, count: int) -> tuple[str | int, ...]:
        limit = min(max(1, count), TAKE_OVER_BATCH)
        idle_ms, forget_ms = round(self.take_over_s * 1000), round(FORGET_CONSUMER_S * 1000)
        return (schema.GROUP, consumer, idle_ms, self._cursors[partition], limit, forget_ms)

    async def _open(
        self, partition: str, entry_id: bytes, fields: Mapping[bytes, bytes], *, deliveries: int
    ) -> Claimed | None:
        """The entry as a claimed turn; None, and a dead letter, if it is none."""
        raw = fields.get(FIELD.encode(), b"")
        try:
            return Claimed(partition, entry_id.decode(), decode_turn(raw), raw, deliveries)
        except ValueError as error:
            reason = f"not a turn: {error}"
        await self._bury(partition, entry_id.decode(), raw, deliveries=deliveries, reason=reason)
        return None

    async def _set_hold(
        self, consumer: str, held: Iterable[Claimed], *, idle_s: float, add: int, doing: str
    ) -> set[Address]:
        ids: dict[str, list[str]] = {}
        for claimed in held:
            ids.setdefault(claimed.partition, []).append(claimed.id)

        async def hold() -> list[list[bytes]]:
            async with self._pipeline(atomic=False) as pipe:
                for partition, some in ids.items():
                    arguments = (schema.GROUP, consumer, round(idle_s * 1000), add, *some)
                    pipe.eval(self._hold, 1, self._key(partition), *arguments)
                replies: list[list[bytes]] = await pipe.execute()
                return replies

        async with self._deadline(doing):
            replies = await self._with_groups(hold)
        return {
            (partition, entry_id.decode()) for partition, some in zip(ids, replies, strict=True) for entry_id in some
        }

    async def _bury(self, partition: str, entry_id: str, raw: bytes, *, deliveries: int, reason: str) -> None:
        letter = {FIELD: raw, "reason": reason, "deliveries": deliveries, "entry": entry_id}
        async with self._deadline("burying a turn"), self._pipeline(atomic=True) as pipe:
            pipe.xadd(schema.dead_key(partition, self.stage), letter, maxlen=MAX_DEAD, approximate=False)
            self._finish(pipe, partition, entry_id)
            await pipe.execute()

    def _finish(self, pipe: Any, partition: str, entry_id: str) -> None:
        pipe.xack(self._key(partition), schema.GROUP, entry_id)
        pipe.xdel(self._key(partition), entry_id)

    async def _depth(self) -> Depth:
        async with self._pipeline(atomic=False) as pipe:
            for partition in self._partitions:
                pipe.xlen(self._key(partition))
                pipe.xpending(self._key(partition), schema.GROUP)
                pipe.xlen(schema.dead_key(partition, self.stage))
            replies = await pipe.execute()
        lengths, pending, dead = replies[0::3], sum(reply["pending"] for reply in replies[1::3]), replies[2::3]
        return Depth(waiting=max(0, sum(lengths) - pending), pending=pending, dead=sum(dead))


def _block_limit_s(redis: Redis) -> float:
    """Half of the client's socket timeout: a longer wait would look like a store that does not answer."""
    timeout_s = redis.connection_pool.connection_kwargs.get("socket_timeout", 5.0)  # 5 s is redis-py's default
    return float("inf") if timeout_s is None else timeout_s / 2


@asynccontextmanager
async def _cancellable() -> AsyncIterator[None]:
    """Raise CancelledError, late but surely, if the task was cancelled in the block and the block took no notice.

    redis-py sends under `asyncio.wait_for`, which before Python 3.12 drops a cancellation that comes just when the
    bytes have gone out (https://github.com/python/cpython/issues/81839). Remove with the support for 3.11.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
