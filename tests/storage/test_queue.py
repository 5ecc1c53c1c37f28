"""The queue against a real server: nothing is lost, nothing is done by two workers at once, nothing is forgotten."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from memproxy.errors import StoreError, StoreUnavailableError
from memproxy.records import Outcome, Scope, StoredMessage, Turn
from memproxy.storage import schema
from memproxy.storage.connection import open_redis
from memproxy.storage.queue import MAX_DEAD, Claimed, Depth, Stage, TurnQueue, decode_turn, encode_turn

NOON = datetime(2023, 5, 8, 12, 0, 0, 123456, tzinfo=UTC)
SOON_S = 0.05
"""How long a queue of these tests waits for a turn that may not come."""


def turn(name: str, *, user: str = "ann", session: str = "s") -> Turn:
    message = {"role": "user", "content": f"words of {name}", "unknown": {"field": [1, 2.5, None]}}
    return Turn(
        id=name,
        scope=Scope("tenant", user),
        session=session,
        at=NOON,
        outcome=Outcome.COMPLETED,
        messages=(StoredMessage(message, digest="00", tokens=3, at=NOON, turn=name),),
    )


@pytest.fixture
async def queue(redis: Redis) -> TurnQueue:
    queue = TurnQueue(redis, take_over_s=60)
    await queue.ensure_groups()
    return queue


async def claim_one(queue: TurnQueue, consumer: str = "one") -> Claimed:
    claimed = await queue.claim(consumer, 10, SOON_S)
    assert len(claimed) == 1
    return claimed[0]


async def dead_letters(redis: Redis, partition: str, stage: Stage = Stage.INDEX) -> list[dict[bytes, bytes]]:
    letters: Any = await redis.xrange(schema.dead_key(partition, stage))
    return [fields for _, fields in letters]


def test_a_turn_survives_the_store() -> None:
    """What is learned is what was said, unknown fields and microseconds included."""
    written = replace(turn("a"), outcome=Outcome.ABORTED, context=turn("b").messages)
    assert decode_turn(encode_turn(written)) == written
    assert b'"2023-05-08T12:00:00.123456Z"' in encode_turn(written)


async def test_turns_of_all_partitions_are_claimed_in_one_call(queue: TurnQueue) -> None:
    """A worker serves every user without a connection for each."""
    users = [f"user-{number}" for number in range(40)]
    assert len({schema.partition_of(Scope("tenant", user)) for user in users}) > 10
    for user in users:
        await queue.add(turn(f"turn of {user}", user=user))
    found = await queue.claim("one", 1000, SOON_S)
    assert {claimed.turn.scope.user for claimed in found} == set(users)
    assert {claimed.deliveries for claimed in found} == {1}


async def test_turns_of_a_user_come_in_order(queue: TurnQueue) -> None:
    """What a user said last corrects what they said before, not the other way round."""
    for number in range(5):
        await queue.add(turn(str(number)))
    assert [claimed.turn.id for claimed in await queue.claim("one", 1000, SOON_S)] == ["0", "1", "2", "3", "4"]


async def test_a_claim_waits_for_a_turn(queue: TurnQueue) -> None:
    """Learning begins when the turn ends, not at the next look."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(queue.claim("one", 10, 2.0))
        await queue.add(turn("a"))
    assert [claimed.turn.id for claimed in waiting.result()] == ["a"]


async def test_a_claim_never_outwaits_the_clients_socket_timeout(redis_url: str, redis: Redis) -> None:
    """An empty queue is not taken for a store that does not answer."""
    impatient = Redis.from_url(redis_url, protocol=2, socket_timeout=0.2)
    async with impatient:
        queue = TurnQueue(impatient)
        assert await queue.claim("one", 10, 30.0) == []


async def test_a_claimed_turn_is_nobody_elses(queue: TurnQueue) -> None:
    """Two workers do not pay for the same model call."""
    await queue.add(turn("a"))
    await claim_one(queue, "one")
    assert await queue.claim("two", 10, SOON_S) == []


async def test_an_acknowledged_turn_leaves_nothing_behind(queue: TurnQueue, redis: Redis) -> None:
    """Words that were learned from are not kept in the queue."""
    await queue.add(turn("a"))
    claimed = await claim_one(queue)
    assert await queue.depth() == Depth(waiting=0, pending=1, dead=0)
    await queue.acknowledge(claimed)
    await queue.acknowledge(claimed)
    assert await queue.depth() == Depth(waiting=0, pending=0, dead=0)
    assert await redis.xlen(schema.queue_key(claimed.partition)) == 0


async def test_a_turn_whose_worker_died_is_taken_over(redis: Redis) -> None:
    """A crash loses nothing, and a turn that causes crashes is known by its count."""
    queue = TurnQueue(redis, take_over_s=0)
    await queue.add(turn("a"))
    await queue.claim("dead", 10, SOON_S)
    second = await claim_one(queue, "second")
    third = await claim_one(queue, "third")
    assert (second.deliveries, third.deliveries) == (2, 3)
    assert third.turn == turn("a")


async def test_taking_over_is_not_tried_in_each_call(redis: Redis) -> None:
    """Sixteen scripts for each look into the queue would keep the store busy with nothing."""
    now = [1000.0]
    queue = TurnQueue(redis, take_over_s=0.1, clock=lambda: now[0])
    await queue.claim("one", 10, SOON_S)
    dead = TurnQueue(redis, take_over_s=60)
    await dead.add(turn("a"))
    await dead.release("dead", await dead.claim("dead", 10, SOON_S))
    assert await queue.claim("one", 10, SOON_S) == []
    now[0] += 0.1
    assert [claimed.turn.id for claimed in await queue.claim("one", 10, SOON_S)] == ["a"]


async def test_more_turns_than_one_batch_are_taken_over(redis: Redis) -> None:
    """All turns of a dead worker are found, not only the first ones."""
    queue = TurnQueue(redis, take_over_s=0)
    for number in range(40):
        await queue.add(turn(str(number)))
    await queue.claim("dead", 1000, SOON_S)
    patient = TurnQueue(redis, take_over_s=0.001)
    found = [claimed for _ in range(3) for claimed in await patient.claim("heir", 1000, SOON_S)]
    assert {claimed.turn.id for claimed in found} == {str(number) for number in range(40)}


async def test_a_renewed_turn_is_not_taken_over(redis: Redis) -> None:
    """A slow model is no reason to ask it twice."""
    queue = TurnQueue(redis, take_over_s=30)
    await queue.add(turn("a"))
    claimed = await claim_one(queue, "slow")
    await redis.xclaim(schema.queue_key(claimed.partition), schema.GROUP, "slow", 0, [claimed.id], idle=60_000)
    assert await queue.renew("slow", [claimed]) == {claimed.address}
    assert await TurnQueue(redis, take_over_s=30).claim("other", 10, SOON_S) == []


async def test_renewing_says_what_was_lost(queue: TurnQueue, redis: Redis) -> None:
    """A worker that was away does not go on with what another has by now."""
    await queue.add(turn("a"))
    await queue.add(turn("b", user="bob"))
    mine, theirs = await queue.claim("one", 1000, SOON_S)
    await redis.xclaim(schema.queue_key(theirs.partition), schema.GROUP, "two", 0, [theirs.id])
    assert await queue.renew("one", [mine, theirs]) == {mine.address}
    assert not await queue.count_attempt("one", theirs)
    await redis.xdel(schema.queue_key(mine.partition), mine.id)
    assert await queue.renew("one", [mine]) == set()


async def test_an_attempt_is_counted_in_the_store(redis: Redis) -> None:
    """A turn that failed five times here and then lost its worker does not get six new attempts."""
    queue = TurnQueue(redis, take_over_s=0)
    await queue.add(turn("a"))
    claimed = await claim_one(queue)
    assert await queue.count_attempt("one", claimed)
    assert (await claim_one(queue, "two")).deliveries == 3


async def test_a_released_turn_goes_to_the_next_worker_at_once_and_uncounted(queue: TurnQueue, redis: Redis) -> None:
    """Restarting workers neither delays learning nor wears turns out."""
    await queue.add(turn("a"))
    await queue.release("one", [await claim_one(queue, "one")])
    assert (await claim_one(TurnQueue(redis), "two")).deliveries == 1


async def test_a_turn_is_handed_to_the_next_stage_in_one_step(queue: TurnQueue, redis: Redis) -> None:
    """A crash between two stages neither loses nor doubles a turn."""
    learning = TurnQueue(redis, stage=Stage.LEARN)
    await learning.ensure_groups()
    await queue.add(turn("a"))
    await queue.hand_over(await claim_one(queue), Stage.LEARN)
    assert await queue.depth() == Depth(0, 0, 0)
    assert (await claim_one(learning)).turn == turn("a")


async def test_a_given_up_turn_is_kept_with_the_reason_and_can_be_replayed(queue: TurnQueue, redis: Redis) -> None:
    """An operator sees what went wrong, mends it, and loses no memory."""
    await queue.add(turn("a"))
    claimed = await claim_one(queue)
    await queue.dead_letter(claimed, "the model refused")
    assert await queue.depth() == Depth(0, 0, dead=1)
    [letter] = await dead_letters(redis, claimed.partition)
    assert letter[b"reason"] == b"the model refused"
    assert decode_turn(letter[b"turn"]) == turn("a")
    assert await queue.replay(10) == 1
    assert await queue.depth() == Depth(waiting=1, pending=0, dead=0)
    assert (await claim_one(queue)).turn == turn("a")


async def test_dead_letters_are_bounded(queue: TurnQueue, redis: Redis) -> None:
    """A model that is never there does not fill the store."""
    partition = schema.partition_of(turn("a").scope)
    async with redis.pipeline() as pipe:
        for _ in range(MAX_DEAD + 10):
            pipe.xadd(schema.dead_key(partition), {"turn": b"old"})  # type: ignore[unused-awaitable]  # only queued
        await pipe.execute()
    await queue.add(turn("a"))
    await queue.dead_letter(await claim_one(queue), "newest")
    letters = await dead_letters(redis, partition)
    assert len(letters) == MAX_DEAD
    assert letters[-1][b"reason"] == b"newest"


@pytest.mark.parametrize("fields", [{"turn": b'{"id": 3}'}, {"turn": b"\xff\xfe"}, {"turn": b""}, {"other": b"field"}])
async def test_what_is_no_turn_goes_to_the_dead_letters_at_once(
    queue: TurnQueue, redis: Redis, fields: dict[str, bytes]
) -> None:
    """An entry of another version does not stand in the way of all that come after it."""
    good = turn("good")
    partition = schema.partition_of(good.scope)
    await redis.xadd(schema.queue_key(partition), fields)  # type: ignore[arg-type]  # dict is invariant
    await queue.add(good)
    found = await queue.claim("one", 1000, SOON_S)
    assert [claimed.turn for claimed in found] == [good]
    [letter] = await dead_letters(redis, partition)
    assert letter[b"reason"].startswith(b"not a turn")
    assert await queue.depth() == Depth(waiting=0, pending=1, dead=1)


async def test_what_is_no_turn_is_also_recognised_when_taken_over(redis: Redis) -> None:
    """The worker that claimed it may have died of it."""
    queue = TurnQueue(redis, take_over_s=0)
    await queue.ensure_groups()
    key = schema.queue_key("p00")
    await redis.xadd(key, {"turn": b"nonsense"})
    await redis.xreadgroup(schema.GROUP, "dead", {key: ">"})
    assert await queue.claim("one", 10, SOON_S) == []
    assert await queue.depth() == Depth(0, 0, dead=1)


async def test_groups_that_the_store_lost_are_made_again(queue: TurnQueue, redis: Redis) -> None:
    """A flushed or replaced store needs no restart of the workers, and turns added meanwhile are found."""
    await queue.add(turn("a"))
    claimed = await claim_one(queue)
    await redis.flushall()
    assert await queue.renew("one", [claimed]) == set()
    await redis.flushall()
    assert await queue.depth() == Depth(0, 0, 0)
    await redis.flushall()
    await queue.add(turn("b"))
    assert (await claim_one(queue)).turn.id == "b"
    await redis.flushall()
    assert await TurnQueue(redis).claim("one", 10, SOON_S) == []


async def test_a_store_emptied_during_a_claim_is_no_failure(queue: TurnQueue, redis: Redis) -> None:
    """The worker that is just waiting goes on as well."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(queue.claim("one", 10, 1.0))
        while not any(client["cmd"] == "xreadgroup" for client in await redis.client_list()):
            continue
        await redis.flushall()
        await queue.add(turn("a"))
    assert [claimed.turn.id for claimed in waiting.result()] == ["a"]


async def test_groups_are_made_any_number_of_times(queue: TurnQueue) -> None:
    """Every worker makes them at its start."""
    await queue.add(turn("a"))
    await queue.ensure_groups()
    assert (await claim_one(queue)).turn.id == "a"


async def test_a_group_that_cannot_be_made_is_reported(redis: Redis) -> None:
    """A key of another kind under the queue's name is said, not waited for."""
    await redis.set(schema.queue_key("p03"), b"not a stream")
    queue = TurnQueue(redis)
    for call in (queue.ensure_groups(), queue.depth()):
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await call


async def test_consumers_that_are_long_gone_are_forgotten(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start of a worker makes a new name; without this they would add up for ever. Ones with turns stay."""
    monkeypatch.setattr("memproxy.storage.queue.FORGET_CONSUMER_S", -1.0)
    queue = TurnQueue(redis, take_over_s=0, partitions=["p00"])
    key = schema.queue_key("p00")
    await queue.ensure_groups()
    await redis.xgroup_createconsumer(key, schema.GROUP, "gone")
    await redis.xadd(key, {"turn": encode_turn(turn("a"))})
    await redis.xreadgroup(schema.GROUP, "busy", {key: ">"})
    patient = TurnQueue(redis, take_over_s=60, partitions=["p00"])
    await patient.claim("one", 10, SOON_S)
    assert {consumer["name"] for consumer in await redis.xinfo_consumers(key, schema.GROUP)} == {b"busy", b"one"}


async def test_a_store_that_is_away_is_said_so(tmp_path: Path) -> None:
    """Workers tell a store that will be back from a turn that can't be learned from."""
    away = open_redis(f"unix://{tmp_path}/nothing.sock", connect_timeout_s=0.5, max_connections=2)
    queue = TurnQueue(away)
    for call in (queue.ensure_groups(), queue.add(turn("a")), queue.claim("one", 1, 1), queue.depth()):
        with pytest.raises(StoreUnavailableError):
            await call
    await away.aclose()


async def test_a_store_that_hangs_is_given_up(redis: Redis) -> None:
    """A worker never waits for ever, not even for a store that accepts commands and is silent."""
    queue = TurnQueue(redis, deadline_s=0.05)
    other = Redis(connection_pool=redis.connection_pool)
    await other.client_pause(300, all=True)
    with pytest.raises(StoreUnavailableError):
        await queue.depth()
    await other.ping()


@pytest.mark.parametrize("steps", range(12))
async def test_a_call_can_be_cancelled_at_any_moment(queue: TurnQueue, steps: int) -> None:
    """A worker that is told to end ends; the client under it drops some cancellations."""
    task = asyncio.get_running_loop().create_task(queue.claim("one", 10, 0.2))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=2.0)
    assert done
    assert task.cancelled()
