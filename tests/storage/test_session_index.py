"""The listing of sessions in a real store: whose they are, in which order, and that what ended is gone."""

from collections.abc import Awaitable
from itertools import product

import pytest
from redis.asyncio import Redis

from memproxy.errors import StoreUnavailableError
from memproxy.records import Scope, SessionKey
from memproxy.storage import schema
from memproxy.storage.connection import open_redis
from memproxy.storage.session_index import INDEX, MOST_RESULTS, Listed, SessionIndex, card_of
from tests.fakes.serving import until


@pytest.fixture
async def index(redis: Redis) -> SessionIndex:
    made = SessionIndex(redis)
    await made.ensure_index()
    return made


async def put_card(redis: Redis, key: SessionKey, *, at: float) -> str:
    """What the scripts leave of a session in the listing; its key."""
    name = schema.session_key("card", key)
    for field, value in {**card_of(key), "at": str(at)}.items():
        await redis.hset(name, field, value)
    return name


async def page(
    index: SessionIndex,
    tenant: str = "t",
    *,
    user: str | None = None,
    namespace: str | None = None,
    limit: int = 20,
    offset: int = 0,
) -> Listed:
    return await index.page(tenant, user=user, namespace=namespace, limit=limit, offset=offset)


async def test_nothing_is_listed_where_there_is_nothing(index: SessionIndex) -> None:
    """A new installation has an empty list, not an error."""
    assert await page(index) == Listed(0, ())
    assert await index.of_user(Scope("t", "ann"), limit=10) == []


async def test_sessions_are_listed_newest_first_and_page_by_page(index: SessionIndex, redis: Redis) -> None:
    """Who looks for a session mostly means a recent one; the number of all is not that of the page."""
    for number in range(25):
        await put_card(redis, SessionKey(Scope("t", "ann"), f"s{number}"), at=1_000 + number)
    newest = [f"s{number}" for number in range(24, -1, -1)]
    assert await page(index) == Listed(25, tuple(newest[:20]))
    assert await page(index, limit=10, offset=20) == Listed(25, tuple(newest[20:]))
    assert await page(index, offset=100) == Listed(25, ())
    assert await page(index, offset=MOST_RESULTS + 5) == Listed(25, ())
    await put_card(redis, SessionKey(Scope("t", "ann"), "s3"), at=9_000)
    assert (await page(index, limit=1)).names == ("s3",)


TRICKY = ["a", "A", "a b", "a*", "{a}", "é", "a\x00b", "-", "_", "x" * 256]


async def test_user_and_namespace_narrow_exactly(index: SessionIndex, redis: Redis) -> None:
    """No name is read as a pattern, as a part of a query, or as another name."""
    for at, (user, namespace) in enumerate(product([*TRICKY, None], ["a", "é", None])):
        await put_card(redis, SessionKey(Scope("t", user, namespace), f"of {user} in {namespace}"), at=at)
    for user in TRICKY:
        found = await page(index, user=user)
        assert set(found.names) == {f"of {user} in {namespace}" for namespace in ("a", "é", None)}
        assert (await page(index, user=user, namespace="é")).names == (f"of {user} in é",)
    assert (await page(index, namespace="a", limit=100)).total == len(TRICKY) + 1
    assert (await page(index, user="nobody")).total == 0


async def test_tenants_see_nothing_of_each_other(index: SessionIndex, redis: Redis) -> None:
    """Equal names of users are nothing that tenants share."""
    await put_card(redis, SessionKey(Scope("one", "ann"), "s"), at=1)
    for tenant in ("two", "on", "onee", ""):
        assert (await page(index, tenant)).total == 0
        assert (await page(index, tenant, user="ann")).total == 0
    assert await index.of_user(Scope("two", "ann"), limit=10) == []


async def test_a_users_sessions_are_found_in_all_namespaces(index: SessionIndex, redis: Redis) -> None:
    """Whoever wants to be forgotten does not know how an agent named its namespaces."""
    keys = [SessionKey(Scope("t", "ann", namespace), "s") for namespace in (None, "", "shop")]
    for key in [*keys, SessionKey(Scope("t", "bob"), "s")]:
        await put_card(redis, key, at=1)
    found = await index.of_user(Scope("t", "ann"), limit=10)
    assert set(found) == set(keys)


async def test_what_was_deleted_or_has_ended_is_gone(index: SessionIndex, redis: Redis) -> None:
    """The number of sessions counts none that can't be read any more."""
    gone, ending, stays = [
        await put_card(redis, SessionKey(Scope("t", "ann"), name), at=1) for name in ("gone", "ending", "stays")
    ]
    await redis.unlink(gone)
    await redis.pexpire(ending, 1)

    async def only_one_is_left() -> bool:
        return await page(index) == Listed(1, ("stays",))

    await until(only_one_is_left)
    assert await redis.exists(stays)


async def test_sessions_from_before_the_index_are_found(redis: Redis) -> None:
    """A store that lost its index, or has an older one, is read anew."""
    await put_card(redis, SessionKey(Scope("t", "ann"), "old"), at=1)
    index = SessionIndex(redis)
    await index.ensure_index()
    await index.ensure_index()
    assert (await page(index)).names == ("old",)
    await redis.execute_command("FT.DROPINDEX", INDEX)  # type: ignore[no-untyped-call]  # redis-py's gap
    with pytest.raises(StoreUnavailableError, match="made anew"):
        await page(index)

    async def is_back() -> bool:
        return (await page(index)).names == ("old",)

    await until(is_back)


async def test_every_method_says_when_the_store_is_away() -> None:
    """One error to think of, whatever was asked."""
    async with open_redis("unix:///nowhere", connect_timeout_s=1, max_connections=5) as redis:
        index = SessionIndex(redis)
        asked: dict[str, Awaitable[object]] = {
            "making the index of sessions": index.ensure_index(),
            "listing sessions": page(index),
        }
        for doing, work in asked.items():
            with pytest.raises(StoreUnavailableError, match=doing):
                await work
