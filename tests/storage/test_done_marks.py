"""Marks that say that some work on a user's memories is done."""

from redis.asyncio import Redis

from memproxy.records import Scope
from memproxy.storage.done_marks import DoneMarks

ANN = Scope("tenant", "ann")


async def test_a_mark_stands_for_its_user_and_ends(redis: Redis) -> None:
    """Work is not done twice, and nothing piles up."""
    marks = DoneMarks(redis)
    assert not await marks.is_done(ANN, "m")
    await marks.set_done(ANN, "m")
    assert await marks.is_done(ANN, "m")
    assert not await marks.is_done(ANN, "n")
    assert not await marks.is_done(Scope("tenant", "bob"), "m")
    [name] = await redis.keys("*")
    assert await redis.ttl(name) > 86_400
