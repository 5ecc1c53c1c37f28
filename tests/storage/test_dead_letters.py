"""Dead letters: seen, tried again, dropped."""

import asyncio
from datetime import UTC, datetime, timedelta

from redis.asyncio import Redis

from memproxy.records import Outcome, Scope, StoredMessage, Turn
from memproxy.storage import schema
from memproxy.storage.dead_letters import PAGE, DeadLetter, DeadLetters
from memproxy.storage.queue import Stage, TurnQueue

SPOKEN = datetime(2023, 5, 8, tzinfo=UTC)


def turn(name: str, *, user: str | None = "ann") -> Turn:
    message = StoredMessage({"role": "user", "content": "a secret"}, digest="00", tokens=1, at=SPOKEN)
    return Turn(name, Scope("tenant", user, "work"), "chat-1", SPOKEN, Outcome.COMPLETED, (message,))


async def given_up(redis: Redis, *turns: Turn, stage: Stage = Stage.LEARN) -> None:
    queue = TurnQueue(redis, stage=stage)
    for each in turns:
        await queue.add(each)
    for claimed in await queue.claim("one", queue.partitions, count=16_000, block_s=0.05):
        await queue.dead_letter("one", claimed, f"no luck with {claimed.turn.id}")


async def all_of(letters: DeadLetters) -> list[DeadLetter]:
    return [letter async for letter in letters.each(Stage)]


async def test_an_operator_sees_which_turn_and_why(redis: Redis) -> None:
    """What to do about it follows from the reason; the words themselves are nobody's business."""
    await given_up(redis, turn("mpr-1"))
    [letter] = await DeadLetters(redis).newest(Stage, limit=10)
    assert (letter.turn, letter.session, letter.user, letter.namespace) == ("mpr-1", "chat-1", "ann", "work")
    assert (letter.stage, letter.reason, letter.attempts) == (Stage.LEARN, "no luck with mpr-1", 0)
    assert abs(datetime.now(UTC) - letter.at) < timedelta(minutes=1)
    assert "secret" not in repr(letter)


async def test_what_is_no_turn_can_be_seen_and_dropped_too(redis: Redis) -> None:
    """An entry of another version does not hide the others."""
    await redis.xadd(schema.dead_key("p03", Stage.INDEX), {"turn": b"nonsense", "reason": b"not a turn"})
    await given_up(redis, turn("mpr-1"))
    letters = DeadLetters(redis)
    found = await all_of(letters)
    assert sorted(letter.turn for letter in found) == ["", "mpr-1"]
    assert await letters.drop(letter for letter in found if not letter.turn) == 1
    assert [letter.turn for letter in await all_of(letters)] == ["mpr-1"]


async def test_the_newest_come_first_whatever_their_user(redis: Redis) -> None:
    """What broke just now stands on top."""
    for number in range(30):
        await given_up(redis, turn(f"mpr-{number}", user=f"user-{number}"))
    found = await DeadLetters(redis).newest([Stage.LEARN], limit=5)
    assert len(found) == 5
    assert [letter.at for letter in found] == sorted((letter.at for letter in found), reverse=True)
    assert found[0].turn == "mpr-29"
    assert await DeadLetters(redis).newest([Stage.INDEX], limit=5) == []


async def test_all_are_found_however_many(redis: Redis) -> None:
    """`--all` means all."""
    await given_up(redis, *(turn(f"mpr-{number}") for number in range(2 * PAGE + 5)))
    found = await all_of(DeadLetters(redis))
    assert [letter.turn for letter in found] == [f"mpr-{number}" for number in range(2 * PAGE + 5)]
    assert len({letter.name for letter in found}) == 2 * PAGE + 5


async def test_a_letter_that_is_tried_again_is_a_turn_like_any_other(redis: Redis) -> None:
    """Once the cause is mended nothing is lost."""
    await given_up(redis, turn("mpr-1"), turn("mpr-2"))
    letters = DeadLetters(redis)
    first, _ = await all_of(letters)
    assert await letters.retry([first]) == 1
    assert await letters.retry([first]) == 0
    queue = TurnQueue(redis, stage=Stage.LEARN)
    [claimed] = await queue.claim("one", queue.partitions, count=100, block_s=0.05)
    assert (claimed.turn, claimed.attempts) == (turn("mpr-1"), 0)
    assert [letter.turn for letter in await all_of(letters)] == ["mpr-2"]


async def test_two_operators_at_once_bring_it_back_once(redis: Redis) -> None:
    """Nobody pays twice for two people's zeal."""
    await given_up(redis, *(turn(f"mpr-{number}") for number in range(20)))
    letters = DeadLetters(redis)
    found = await all_of(letters)
    assert sum(await asyncio.gather(*(letters.retry(found) for _ in range(5)))) == 20
    assert (await TurnQueue(redis, stage=Stage.LEARN).depth()).waiting == 20
