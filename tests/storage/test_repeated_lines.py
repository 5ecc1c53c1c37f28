"""Which of a user's sessions with the same line one is."""

from redis.asyncio import Redis

from memproxy.records import Scope
from memproxy.storage.repeated_lines import REMEMBERED_SESSIONS, TTL_S, RepeatedLines

ANN, BOB = Scope("tenant", "ann"), Scope("tenant", "bob")


async def test_sessions_are_counted_once_each(redis: Redis) -> None:
    """A client that sends its history again, or a turn that is learned twice, makes no template."""
    lines = RepeatedLines(redis)
    assert await lines.sessions_with(ANN, "s1", ["a", "b"]) == [1, 1]
    assert await lines.sessions_with(ANN, "s1", ["a"]) == [1]
    assert await lines.sessions_with(ANN, "s2", ["a", "c"]) == [2, 1]
    assert await lines.sessions_with(ANN, "s1", ["a", "b"]) == [1, 1]
    assert await lines.sessions_with(ANN, "s3", ["a"]) == [3]
    assert await lines.sessions_with(ANN, "s4", ["a"]) == [REMEMBERED_SESSIONS]
    assert await lines.sessions_with(ANN, "s5", []) == []


async def test_a_session_stays_what_it_was_however_late_it_is_asked(redis: Redis) -> None:
    """A model learns from a session minutes after others came: what the first one said is no template by then."""
    lines = RepeatedLines(redis)
    for number in range(1, 6):
        await lines.sessions_with(ANN, f"s{number}", ["a"])
    assert [(await lines.sessions_with(ANN, f"s{number}", ["a"]))[0] for number in range(1, 6)] == [1, 2, 3, 3, 3]


async def test_users_do_not_share_lines(redis: Redis) -> None:
    """What one says is no template for another."""
    lines = RepeatedLines(redis)
    await lines.sessions_with(ANN, "s1", ["a"])
    await lines.sessions_with(Scope("tenant", "ann", "work"), "s2", ["a"])
    assert await lines.sessions_with(BOB, "s3", ["a"]) == [1]
    assert await lines.sessions_with(Scope("other", "ann"), "s3", ["a"]) == [1]
    assert await lines.sessions_with(ANN, "s3", ["a"]) == [3]


async def test_the_lines_of_a_user_are_bounded_and_end(redis: Redis) -> None:
    """Somebody who pastes books does not fill the store; what came last stays."""
    lines = RepeatedLines(redis, kept=40)
    for number in range(10):
        await lines.sessions_with(ANN, "s1", [f"{number}-{at}" for at in range(10)])
    [name] = await redis.keys("*")
    assert await redis.hlen(name) <= 40
    assert 0 < await redis.ttl(name) <= TTL_S
