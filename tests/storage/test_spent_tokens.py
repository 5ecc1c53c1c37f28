"""What the background model cost each tenant on each day."""

from datetime import date

from redis.asyncio import Redis

from memproxy.storage.spent_tokens import TTL_S, SpentTokens

MONDAY, TUESDAY = date(2023, 5, 8), date(2023, 5, 9)


async def test_tokens_add_up_by_tenant_and_day(redis: Redis) -> None:
    """Each process counts into the same sum."""
    one, other = SpentTokens(redis), SpentTokens(redis)
    assert await one.spent("acme", MONDAY) == 0
    assert await one.add("acme", MONDAY, 100) == 100
    assert await other.add("acme", MONDAY, 20) == 120
    assert await one.spent("acme", MONDAY) == 120
    assert await one.spent("acme", TUESDAY) == await one.spent("other", MONDAY) == 0


async def test_a_days_count_ends(redis: Redis) -> None:
    """Nothing piles up."""
    await SpentTokens(redis).add("acme", MONDAY, 1)
    [name] = await redis.keys("*")
    assert 0 < await redis.ttl(name) <= TTL_S
    assert b"acme" not in name
