"""The queue against a real server: nothing is lost, nothing is done by two workers at once, nothing is forgotten."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from memproxy.errors import StoreError, StoreReadOnlyError, StoreUnavailableError
from memproxy.records import MemoryRecord, MemoryType, Outcome, Scope, StoredMessage, StrategyChoice, Turn
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


HOME = schema.partition_of(Scope("tenant", "ann"))
"""Where the turns of the usual user lie."""


@pytest.fixture
async def queue(redis: Redis) -> TurnQueue:
    queue = TurnQueue(redis)
    await queue.ensure_groups()
    return queue


async def claimed_by(queue: TurnQueue, consumer: str = "one", *, count: int = 1_000) -> list[Claimed]:
    return await queue.claim(consumer, queue.partitions, count=count, block_s=SOON_S)


async def claim_one(queue: TurnQueue, consumer: str = "one") -> Claimed:
    [claimed] = await claimed_by(queue, consumer)
    return claimed


async def taken_over(
    queue: TurnQueue, consumer: str = "heir", *, partition: str = HOME, known: int = -1
) -> list[Claimed]:
    """Everything of the partition, part by part."""
    taken = await queue.take_over(consumer, partition, known=known)
    found = taken.found
    while not taken.is_last:
        taken = await queue.take_over(consumer, partition, cursor=taken.cursor)
        found += taken.found
    return found


async def shape(queue: TurnQueue) -> tuple[int, int, int]:
    depth = await queue.depth()
    return depth.waiting, depth.pending, depth.dead


async def dead_letters(redis: Redis, partition: str, stage: Stage = Stage.INDEX) -> list[dict[bytes, bytes]]:
    letters: Any = await redis.xrange(schema.dead_key(partition, stage))
    return [fields for _, fields in letters]


def test_a_turn_survives_the_store() -> None:
    """What is learned is what was said, unknown fields and microseconds included."""
    record = MemoryRecord("id", Scope("tenant", "ann"), "Ann likes tea.", MemoryType.SEMANTIC, NOON)
    written = replace(
        turn("a"),
        outcome=Outcome.ABORTED,
        context=turn("b").messages,
        memories=(record,),
        strategies=(StrategyChoice("custom", {"prompt": "x"}),),
        thread="t",
    )
    assert decode_turn(encode_turn(written)) == written
    assert b'"2023-05-08T12:00:00.123456Z"' in encode_turn(written)


async def test_turns_of_all_partitions_are_claimed_in_one_call(queue: TurnQueue) -> None:
    """A worker serves every user without a connection for each."""
    users = [f"user-{number}" for number in range(40)]
    assert len({schema.partition_of(Scope("tenant", user)) for user in users}) > 10
    for user in users:
        await queue.add(turn(f"turn of {user}", user=user))
    found = await claimed_by(queue)
    assert {claimed.turn.scope.user for claimed in found} == set(users)
    assert {claimed.attempts for claimed in found} == {0}


async def test_only_the_own_partitions_are_read(queue: TurnQueue) -> None:
    """What another worker has the lease of is left to it."""
    await queue.add(turn("a"))
    others = [partition for partition in queue.partitions if partition != HOME]
    assert await queue.claim("one", others, count=10, block_s=SOON_S) == []
    assert len(await queue.claim("one", [HOME], count=10, block_s=SOON_S)) == 1


async def test_turns_of_a_user_come_in_order(queue: TurnQueue) -> None:
    """What a user said last corrects what they said before, not the other way round."""
    for number in range(5):
        await queue.add(turn(str(number)))
    found = await claimed_by(queue)
    assert [claimed.turn.id for claimed in found] == ["0", "1", "2", "3", "4"]
    assert [claimed.order for claimed in found] == sorted(claimed.order for claimed in found)


async def test_a_claim_waits_for_a_turn(queue: TurnQueue) -> None:
    """Learning begins when the turn ends, not at the next look."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(queue.claim("one", queue.partitions, count=10, block_s=2.0))
        await queue.add(turn("a"))
    assert [claimed.turn.id for claimed in waiting.result()] == ["a"]


async def test_a_claim_never_outwaits_the_clients_socket_timeout(redis_url: str, redis: Redis) -> None:
    """An empty queue is not taken for a store that does not answer."""
    impatient = Redis.from_url(redis_url, protocol=2, socket_timeout=0.2)
    async with impatient:
        assert await TurnQueue(impatient).claim("one", ["p00"], count=10, block_s=30.0) == []


async def test_a_claimed_turn_is_nobody_elses(queue: TurnQueue) -> None:
    """Two workers do not pay for the same model call."""
    await queue.add(turn("a"))
    await claim_one(queue, "one")
    assert await claimed_by(queue, "two") == []


async def test_a_finished_turn_leaves_nothing_behind(queue: TurnQueue, redis: Redis) -> None:
    """Words that were learned from are not kept in the queue."""
    await queue.add(turn("a"))
    claimed = await claim_one(queue)
    assert await shape(queue) == (0, 1, 0)
    assert await queue.finish("one", [claimed]) == {claimed.address}
    assert await queue.finish("one", [claimed]) == set()
    assert await queue.depth() == Depth(waiting=0, pending=0, dead=0)
    assert await redis.xlen(schema.queue_key(claimed.partition)) == 0


async def test_nothing_leaves_the_stream_before_it_is_finished(queue: TurnQueue, redis: Redis) -> None:
    """A long outage of the model costs room, never a turn."""
    for number in range(200):
        await queue.add(turn(str(number)))
    found = await claimed_by(queue, count=16 * 200)
    await queue.finish("one", found[100:])
    assert await redis.xlen(schema.queue_key(HOME)) == 100
    assert [claimed.turn.id for claimed in await taken_over(queue)] == [str(number) for number in range(100)]


async def test_turns_of_a_dead_worker_are_taken_over_in_order_and_uncounted(queue: TurnQueue) -> None:
    """A crash loses nothing, and a turn that only waited is not blamed for it."""
    for number in range(250):
        await queue.add(turn(str(number)))
    await claimed_by(queue, "dead", count=16 * 250)
    found = await taken_over(queue)
    assert [claimed.turn.id for claimed in found] == [str(number) for number in range(250)]
    assert {claimed.attempts for claimed in found} == {0}
    assert await queue.begin("dead", found[:1]) == set()
    assert await queue.begin("heir", found[:1]) == {found[0].address}


async def test_looking_for_forgotten_turns_does_nothing_where_there_are_none(queue: TurnQueue) -> None:
    """The look is made again and again; it must cost nothing, and miss nothing."""
    for name in ("a", "b"):
        await queue.add(turn(name))
    await claimed_by(queue, "one")
    assert await taken_over(queue, "one", known=2) == []
    assert [claimed.turn.id for claimed in await taken_over(queue, "one", known=1)] == ["a", "b"]
    assert await taken_over(queue, "two", known=2) == []
    assert [claimed.turn.id for claimed in await taken_over(queue, "two", known=0)] == ["a", "b"]


async def test_an_attempt_is_counted_in_the_store(queue: TurnQueue) -> None:
    """A turn that ended two workers is known to have done so by the third."""
    await queue.add(turn("a"))
    await queue.begin("one", [await claim_one(queue)])
    [second] = await taken_over(queue, "two")
    assert second.attempts == 1
    await queue.begin("two", [second])
    await queue.begin("two", [second])
    await queue.uncount("two", [second])
    [third] = await taken_over(queue, "three")
    assert third.attempts == 2


async def test_what_was_lost_can_neither_be_begun_nor_finished_nor_buried(queue: TurnQueue, redis: Redis) -> None:
    """A worker that was away does not meddle with what another has by now."""
    await queue.add(turn("a"))
    await queue.add(turn("b", user="bob"))
    found = {claimed.turn.id: claimed for claimed in await claimed_by(queue, "one")}
    mine, theirs = found["b"], found["a"]
    await taken_over(queue, "two")
    assert await queue.begin("one", [mine, theirs]) == {mine.address}
    assert await queue.holds("one", [mine, theirs]) == {mine.address}
    assert await queue.dead_letter("one", theirs, "no") is None
    assert await queue.finish("one", [mine, theirs], then=Stage.LEARN) == {mine.address}
    assert await shape(queue) == (0, 1, 0)
    assert await redis.xlen(schema.queue_key(theirs.partition, Stage.LEARN)) == 0
    await redis.xdel(schema.queue_key(theirs.partition), theirs.id)
    assert await queue.finish("two", [theirs]) == set()


async def test_a_turn_is_handed_to_the_next_stage_in_one_step(queue: TurnQueue, redis: Redis) -> None:
    """A crash between two stages neither loses nor doubles a turn."""
    learning = TurnQueue(redis, stage=Stage.LEARN)
    await learning.ensure_groups()
    await queue.add(turn("a"))
    claimed = await claim_one(queue)
    await queue.finish("one", [claimed], then=Stage.LEARN)
    await queue.finish("one", [claimed], then=Stage.LEARN)
    assert await shape(queue) == (0, 0, 0)
    assert (await claim_one(learning)).turn == turn("a")


async def test_another_turn_or_none_may_go_on_in_its_place(queue: TurnQueue, redis: Redis) -> None:
    """Later stages need less; words that are not needed any more are not carried along."""
    learning = TurnQueue(redis, stage=Stage.LEARN)
    await queue.add(turn("a"))
    await queue.add(turn("b"))
    first, second = await claimed_by(queue)
    bare = replace(turn("b"), messages=())
    await queue.finish("one", [first, second], then=Stage.LEARN, forwarded={first.address: None, second.address: bare})
    assert (await claim_one(learning)).turn == bare


async def test_a_store_without_room_for_the_next_stage_keeps_the_turn_in_this_one(
    queue: TurnQueue, redis: Redis
) -> None:
    """A refused write in the middle of a step loses no turn, and what needs no room still works."""
    for name in ("a", "b"):
        await queue.add(turn(name))
    found = await claimed_by(queue)
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreReadOnlyError):
            await queue.finish("one", found, then=Stage.LEARN)
        with pytest.raises(StoreReadOnlyError):
            await queue.dead_letter("one", found[0], "no")
        assert await shape(queue) == (0, 2, 0)
        assert await queue.begin("one", found) == {claimed.address for claimed in found}
        assert await queue.finish("one", found[:1]) == {found[0].address}
    finally:
        await redis.config_set("maxmemory", "0")
    assert await queue.finish("one", found[1:], then=Stage.LEARN) == {found[1].address}


async def test_a_given_up_turn_is_kept_with_the_reason(queue: TurnQueue, redis: Redis) -> None:
    """An operator sees what went wrong, and nothing is lost."""
    await queue.add(turn("a"))
    claimed = await claim_one(queue)
    assert await queue.dead_letter("one", replace(claimed, attempts=6), "the model refused") == 0
    assert await shape(queue) == (0, 0, 1)
    [letter] = await dead_letters(redis, claimed.partition)
    assert (letter[b"reason"], letter[b"attempts"]) == (b"the model refused", b"6")
    assert decode_turn(letter[b"turn"]) == turn("a")


async def test_dead_letters_are_bounded_and_it_is_said_when_one_goes(queue: TurnQueue, redis: Redis) -> None:
    """A model that is never there does not fill the store, and nothing vanishes in silence."""
    async with redis.pipeline() as pipe:
        for _ in range(MAX_DEAD + 10):
            pipe.xadd(schema.dead_key(HOME), {"turn": b"old"})  # type: ignore[unused-awaitable]  # only queued
        await pipe.execute()
    await queue.add(turn("a"))
    assert await queue.dead_letter("one", await claim_one(queue), "newest") == 11
    letters = await dead_letters(redis, HOME)
    assert len(letters) == MAX_DEAD
    assert letters[-1][b"reason"] == b"newest"


@pytest.mark.parametrize("fields", [{"turn": b'{"id": 3}'}, {"turn": b"\xff\xfe"}, {"turn": b""}, {"other": b"field"}])
async def test_what_is_no_turn_goes_to_the_dead_letters_at_once(
    queue: TurnQueue, redis: Redis, fields: dict[str, bytes]
) -> None:
    """An entry of another version does not stand in the way of all that come after it."""
    await redis.xadd(schema.queue_key(HOME), fields)  # type: ignore[arg-type]  # dict is invariant
    await queue.add(turn("good"))
    assert [claimed.turn for claimed in await claimed_by(queue)] == [turn("good")]
    [letter] = await dead_letters(redis, HOME)
    assert letter[b"reason"].startswith(b"not a turn")
    assert await shape(queue) == (0, 1, 1)


async def test_what_is_no_turn_is_also_recognised_when_taken_over(queue: TurnQueue, redis: Redis) -> None:
    """The worker that claimed it may have died of it."""
    key = schema.queue_key("p00")
    await redis.xadd(key, {"turn": b"nonsense"})
    await redis.xreadgroup(schema.GROUP, "dead", {key: ">"})
    assert await taken_over(queue, partition="p00") == []
    assert await shape(queue) == (0, 0, 1)


async def test_groups_that_the_store_lost_are_made_again(queue: TurnQueue, redis: Redis) -> None:
    """A flushed or replaced store needs no restart of the workers, and turns added meanwhile are found."""
    await queue.add(turn("a"))
    claimed = await claim_one(queue)
    await redis.flushall()
    assert await queue.begin("one", [claimed]) == set()
    await redis.flushall()
    assert await shape(queue) == (0, 0, 0)
    await redis.flushall()
    await queue.add(turn("b"))
    assert (await claim_one(queue)).turn.id == "b"
    await redis.flushall()
    assert await taken_over(queue) == []
    await redis.flushall()
    assert await queue.finish("one", [claimed]) == set()


async def test_a_store_emptied_during_a_claim_is_no_failure(queue: TurnQueue, redis: Redis) -> None:
    """The worker that is just waiting goes on as well."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(queue.claim("one", queue.partitions, count=10, block_s=1.0))
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


async def test_consumers_that_are_long_gone_are_forgotten(
    queue: TurnQueue, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start of a worker makes a new name; without this they would add up for ever."""
    monkeypatch.setattr("memproxy.storage.queue.FORGET_CONSUMER_S", -1.0)
    key = schema.queue_key(HOME)
    await redis.xgroup_createconsumer(key, schema.GROUP, "gone")
    await queue.add(turn("a"))
    await claim_one(queue, "busy")
    await taken_over(queue, "one")
    assert {consumer["name"] for consumer in await redis.xinfo_consumers(key, schema.GROUP)} == {b"one"}


async def test_the_age_of_the_oldest_turn_is_told(queue: TurnQueue, redis: Redis) -> None:
    """A queue that stands still is seen before anybody misses a memory."""
    assert (await queue.depth()).oldest_s == 0
    seconds, _ = await redis.time()
    await redis.xadd(schema.queue_key(HOME), {"turn": encode_turn(turn("a"))}, id=f"{(seconds - 100) * 1000}-0")
    assert 99 <= (await queue.depth()).oldest_s <= 105


async def test_a_store_that_is_away_is_said_so(tmp_path: Path) -> None:
    """Workers tell a store that will be back from a turn that can't be learned from."""
    away = open_redis(f"unix://{tmp_path}/nothing.sock", connect_timeout_s=0.5, max_connections=2)
    queue = TurnQueue(away)
    claiming = queue.claim("one", ["p00"], count=1, block_s=1)
    for call in (queue.ensure_groups(), queue.add(turn("a")), claiming, queue.depth()):
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
    task = asyncio.get_running_loop().create_task(queue.claim("one", queue.partitions, count=10, block_s=0.2))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=2.0)
    assert done
    assert task.cancelled()
