"""Turns that wait to be learned from: durable, delivered at least once, one stream a partition.

Learning has stages, and each has its own streams, so that a stage which can't go on (a model that is away) only lets
its own streams grow. A `TurnQueue` is one stage's streams over all partitions:

    add ──► claim ──► begin ──► finish       done: gone from the stream, and in the next stage's if there is one
                 │         ├──► uncount      broken off: the attempt does not count
                 │         └──► dead_letter  given up: kept with the reason, a bounded number of them
                 └──► take_over              a dead worker's turns, by the next one who works on their partition

Each partition has one worker at a time (`leases`), and a turn belongs to the consumer that the store's group names.
Who has lost a partition finds that out at `begin`, at the latest: what it no longer holds it can neither begin nor
finish nor bury. A turn leaves its stream in no other way, so nothing that waits is ever trimmed. The store counts the
attempts, so a turn that ends every worker it meets is recognised as such.

Entries have one field, `turn`: the turn as JSON. The proxy's record step adds them inside its own script.
"""

import enum
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from memproxy.records import Turn
from memproxy.storage import schema
from memproxy.storage.deadline import within
from memproxy.storage.leases import Leases

FIELD = "turn"
MAX_DEAD = 1_000
"""Dead letters kept a partition and stage: enough to see what went wrong, too few to fill the store."""
TAKE_OVER_BATCH = 100
"""Turns taken over by one script: it holds up the store for a millisecond."""
FORGET_CONSUMER_S = 86_400.0
"""A consumer without turns that has been silent for a day will not come back: names are made anew at each start."""
GROUP_LOST = ("NOGROUP", "UNBLOCKED")
"""What replies say when a stream or its group is gone: the store was emptied, or has lost its data."""

BEGINNING = "0-0"

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
    SUMMARISE = "summary"
    """Its session may have grown beyond what requests carry."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A turn that a consumer holds."""

    partition: str
    id: str
    """The entry's id in its stream; the turn's own id is `turn.id`."""
    turn: Turn
    size: int
    """Bytes of the turn as JSON."""
    attempts: int
    """How often it was begun so far."""

    @property
    def address(self) -> Address:
        return self.partition, self.id

    @property
    def order(self) -> tuple[int, int]:
        """Its place in the stream: the store's time in ms at which it was added, and a number."""
        milliseconds, _, number = self.id.partition("-")
        return int(milliseconds), int(number)


@dataclass(frozen=True, slots=True)
class TakenOver:
    """One look at what others hold in a partition."""

    found: list[Claimed]
    cursor: str
    """Where the next look begins."""

    @property
    def is_last(self) -> bool:
        return self.cursor == BEGINNING


@dataclass(frozen=True, slots=True)
class Depth:
    """How much lies in a stage, over all partitions."""

    waiting: int
    pending: int
    """Claimed and not yet finished."""
    dead: int
    oldest_s: float = 0.0
    """How long the oldest one that is not finished has been in the queue."""


def encode_turn(turn: Turn) -> bytes:
    """The turn as JSON; times in ISO 8601."""
    return _ENCODER.encode(turn)


def decode_turn(raw: bytes) -> Turn:
    """The turn that `encode_turn` wrote; raises ValueError for anything else. Unknown fields are ignored."""
    return _DECODER.decode(raw)  # msgspec's errors are ValueErrors


class TurnQueue:
    """The streams of one stage.

    `deadline_s`: for each exchange with the store, over and above the time that `claim` may wait. `redis` must have
    RESP2 and bytes replies (`protocol=2`).
    """

    def __init__(
        self,
        redis: Redis,
        *,
        stage: Stage = Stage.INDEX,
        partitions: Sequence[str] = schema.partitions(),
        deadline_s: float = 5.0,
    ) -> None:
        self.stage = stage
        self.partitions = tuple(partitions)
        self._redis = redis
        self._deadline_s = deadline_s
        self._block_limit_s = _block_limit_s(redis)
        scripts = resources.files("memproxy.storage") / "lua"
        self._hold, self._take_over, self._finish, self._bury = (
            (scripts / f"turns_{name}.lua").read_text() for name in ("hold", "take_over", "finish", "bury")
        )

    def leases_of(self, worker: str, *, ttl_s: float) -> Leases:
        """The leases of this stage's partitions, as this worker has them; its name must be its alone."""
        return Leases(
            self._redis,
            stage=self.stage,
            worker=worker,
            ttl_s=ttl_s,
            partitions=self.partitions,
            deadline_s=self._deadline_s,
        )

    async def ensure_groups(self) -> None:
        """Create the streams and their consumer group where they are missing."""
        async with within(self._deadline_s, "creating the consumer groups"):
            await self._create_groups()

    async def add(self, turn: Turn) -> None:
        """Put a turn at the end of its user's partition."""
        async with within(self._deadline_s, "adding a turn"):
            await self._redis.xadd(self._key(schema.partition_of(turn.scope)), {FIELD: encode_turn(turn)})

    async def claim(self, consumer: str, partitions: Collection[str], *, count: int, block_s: float) -> list[Claimed]:
        """Turns of these partitions that nobody has had yet, in order.

        Waits up to `block_s` for one, or less if the client's socket timeout is short. `count` is about how many: each
        partition gives at least one if it has one. What can't be read as a turn goes to the dead letters at once.
        """
        streams = {self._key(partition): ">" for partition in partitions}
        block_s = min(block_s, self._block_limit_s)

        async def read() -> Any:
            return await self._redis.xreadgroup(
                schema.GROUP,
                consumer,
                streams,  # type: ignore[arg-type]  # a dict of str is one of KeyT; dict is invariant
                count=max(1, count // len(streams)),
                block=max(1, round(block_s * 1000)),
            )

        async with within(self._deadline_s + block_s, "claiming turns"):
            replies = await self._with_groups(read)
        partition_of = {self._key(partition).encode(): partition for partition in partitions}
        found = []
        for stream, entries in replies:
            for entry_id, fields in entries:
                raw = fields.get(FIELD.encode(), b"")
                found.append(await self._open(consumer, partition_of[stream], entry_id, raw=raw, attempts=0))
        return [claimed for claimed in found if claimed is not None]

    async def take_over(self, consumer: str, partition: str, *, cursor: str = BEGINNING, known: int = -1) -> TakenOver:
        """Make this consumer's own what anybody holds in the partition, itself included, part by part; in order.

        Call it only with the partition's lease. With `known`, nothing is looked at unless more turns are held in the
        partition than these, which this consumer knows that it holds. Cost: a microsecond then.
        """
        arguments = (schema.GROUP, consumer, cursor, TAKE_OVER_BATCH, known, round(FORGET_CONSUMER_S * 1000))

        async def run() -> Any:
            return await self._eval(self._take_over, [self._key(partition)], arguments)

        async with within(self._deadline_s, "taking over turns"):
            following, entries = await self._with_groups(run)
        found = []
        for entry_id, deliveries, flat in entries:
            raw = dict(zip(flat[::2], flat[1::2], strict=True)).get(FIELD.encode(), b"")
            found.append(await self._open(consumer, partition, entry_id, raw=raw, attempts=deliveries - 1))
        return TakenOver([claimed for claimed in found if claimed is not None], following.decode())

    async def begin(self, consumer: str, batch: Iterable[Claimed]) -> set[Address]:
        """Count an attempt at each, durably; the addresses of those that are still this consumer's."""
        return await self._set_hold(consumer, batch, add=1, doing="counting an attempt")

    async def holds(self, consumer: str, batch: Iterable[Claimed]) -> set[Address]:
        """The addresses of those that are still this consumer's."""
        return await self._set_hold(consumer, batch, add=0, doing="looking after turns")

    async def uncount(self, consumer: str, batch: Iterable[Claimed]) -> None:
        """The attempt that was begun does not count: it was broken off for reasons that are not the turns'."""
        await self._set_hold(consumer, batch, add=-1, doing="taking back an attempt")

    async def finish(
        self,
        consumer: str,
        batch: Iterable[Claimed],
        *,
        then: Stage | None = None,
        forwarded: Mapping[Address, Turn | None] | None = None,
    ) -> set[Address]:
        """The turns are done with in this stage; the addresses of those that were still this consumer's to finish.

        With `then` each moves to that stage's stream in the same step, as it is, or as `forwarded` says: another turn
        in its place, or none.
        """
        ids: dict[str, list[str | bytes]] = {}
        for claimed in batch:
            replacement = (forwarded or {}).get(claimed.address, claimed.turn)
            as_it_is = replacement is claimed.turn
            goes_on: str | bytes = "=" if as_it_is else encode_turn(replacement) if replacement else ""
            ids.setdefault(claimed.partition, []).extend((claimed.id, goes_on if then else ""))
        return await self._on_each(
            self._finish, ids, consumer, other=lambda each: self._key(each, then), doing="finishing turns"
        )

    async def dead_letter(self, consumer: str, claimed: Claimed, reason: str) -> int | None:
        """Give the turn up: in one step it moves to the dead letters, with the reason.

        How many of the oldest letters made room for it; None when the turn is no longer this consumer's.
        """
        address = claimed.address
        return await self._move_to_dead(consumer, address, attempts=claimed.attempts, reason=reason)

    async def depth(self) -> Depth:
        """How many turns wait, are being worked on, and were given up. Cost: one round trip."""
        async with within(self._deadline_s, "measuring the queue"):
            return await self._with_groups(self._depth)

    def _key(self, partition: str, stage: Stage | None = None) -> str:
        return schema.queue_key(partition, stage or self.stage)

    def _pipeline(self) -> Any:
        """Any: redis-py types a queued command as something to await, which it is not."""
        return self._redis.pipeline(transaction=False)

    async def _eval(self, script: str, keys: Sequence[str], arguments: Iterable[object]) -> Any:
        command: Any = self._redis.eval  # Any: redis-py's types know no numbers and bytes as arguments
        return await command(script, len(keys), *keys, *arguments)

    async def _create_groups(self) -> None:
        async with self._pipeline() as pipe:
            for partition in self.partitions:
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

    async def _open(
        self, consumer: str, partition: str, entry_id: bytes, *, raw: bytes, attempts: int
    ) -> Claimed | None:
        """The entry as a claimed turn; None, and a dead letter, if it is none."""
        try:
            return Claimed(partition, entry_id.decode(), decode_turn(raw), len(raw), attempts)
        except ValueError as error:
            reason = f"not a turn: {error}"
        await self._move_to_dead(consumer, (partition, entry_id.decode()), attempts=attempts, reason=reason)
        return None

    async def _set_hold(self, consumer: str, batch: Iterable[Claimed], *, add: int, doing: str) -> set[Address]:
        ids: dict[str, list[str | bytes]] = {}
        for claimed in batch:
            ids.setdefault(claimed.partition, [str(add)]).append(claimed.id)
        return await self._on_each(self._hold, ids, consumer, other=None, doing=doing)

    async def _on_each(
        self,
        script: str,
        arguments: Mapping[str, Sequence[str | bytes]],
        consumer: str,
        *,
        other: Callable[[str], str] | None,
        doing: str,
    ) -> set[Address]:
        """Run a script over each partition's arguments in one round trip; the addresses of the ids that it gives."""

        async def run() -> list[list[bytes]]:
            async with self._pipeline() as pipe:
                for partition, some in arguments.items():
                    keys = [self._key(partition), *([other(partition)] if other else [])]
                    pipe.eval(script, len(keys), *keys, schema.GROUP, consumer, *some)
                replies: list[list[bytes]] = await pipe.execute()
                return replies

        async with within(self._deadline_s, doing):
            replies = await self._with_groups(run) if arguments else []
        return {
            (partition, entry_id.decode())
            for partition, some in zip(arguments, replies, strict=True)
            for entry_id in some
        }

    async def _move_to_dead(self, consumer: str, address: Address, *, attempts: int, reason: str) -> int | None:
        partition, entry_id = address
        keys = [self._key(partition), schema.dead_key(partition, self.stage)]
        arguments = (schema.GROUP, consumer, entry_id, reason, attempts, MAX_DEAD)

        async def run() -> Any:
            return await self._eval(self._bury, keys, arguments)

        async with within(self._deadline_s, "burying a turn"):
            done = await self._with_groups(run)
        return int(done) - 1 if done else None

    async def _depth(self) -> Depth:
        async with self._pipeline() as pipe:
            pipe.execute_command("TIME")
            for partition in self.partitions:
                pipe.xlen(self._key(partition))
                pipe.xpending(self._key(partition), schema.GROUP)
                pipe.xlen(schema.dead_key(partition, self.stage))
                pipe.xrange(self._key(partition), count=1)
            (seconds, _), *replies = await pipe.execute()
        length, pending = sum(replies[0::4]), sum(reply["pending"] for reply in replies[1::4])
        first = [int(entries[0][0].partition(b"-")[0]) for entries in replies[3::4] if entries]
        oldest_s = max(0.0, seconds - min(first) / 1000) if first else 0.0
        return Depth(max(0, length - pending), pending, sum(replies[2::4]), oldest_s)


def _block_limit_s(redis: Redis) -> float:
    """Half of the client's socket timeout: a longer wait would look like a store that does not answer."""
    timeout_s = redis.get_connection_kwargs().get("socket_timeout", 5.0)  # type: ignore[no-untyped-call]  # redis-py's gap
    return float("inf") if timeout_s is None else timeout_s / 2
