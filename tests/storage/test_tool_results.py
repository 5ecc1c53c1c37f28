"""Kept tool results against a real server: within their bounds, until their end, and never for anybody else."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from memproxy.errors import StoreError, StoreUnavailableError
from memproxy.records import Scope, SessionKey
from memproxy.storage import schema
from memproxy.storage.connection import open_redis
from memproxy.storage.tool_results import (
    CacheScope,
    Clear,
    Drop,
    Keep,
    Lessons,
    Operation,
    StoredResult,
    ToolResultStore,
    Wanted,
)

NOON = datetime(2024, 5, 15, 12, 0, 0, 250_000, tzinfo=UTC)
EVERY_SCOPE = frozenset(CacheScope)
CHAT = SessionKey(Scope("acme", "ann", "shop"), "chat")


def key(number: int) -> str:
    return f"{number:032x}"


def keep(number: int, content: Any = "fine", **more: Any) -> Keep:
    given: dict[str, Any] = {"at": NOON, "ttl_s": 60.0, **more}
    return Keep(key(number), "get_user", content, **given)


def lesson(*operations: Operation, at: datetime = NOON) -> Lessons:
    return Lessons(operations, at, EVERY_SCOPE)


@pytest.fixture
def store(redis: Redis) -> ToolResultStore:
    return ToolResultStore(redis, max_results=100, max_bytes=100_000)


async def contents(store: ToolResultStore, session: SessionKey = CHAT, *, last: int = 9) -> list[Any]:
    """What is kept for one session under keys 1 to `last`, in order of the keys."""
    found = await store.get_all(session, [Wanted(key(number), "") for number in range(1, last + 1)], now=NOON)
    return [result.content for result in found if result is not None]


# ---- keeping and forgetting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "fine",
        "  \n\x00 ünï\u2028 🔋 ",
        "x" * 60_000,
        [{"type": "text", "text": "a", "unknown": [1, 1.5, None, True]}, {"type": "image_url"}],
    ],
)
async def test_a_result_comes_back_as_it_was(store: ToolResultStore, content: Any) -> None:
    """The model reads what the agent delivered, to the last blank."""
    await store.apply(CHAT, lesson(keep(1, content, ttl_s=0.5)))
    assert await store.get(CHAT, key(1), now=NOON) == StoredResult("get_user", content, NOON, 0.5)


async def test_what_was_never_kept_is_not_there(store: ToolResultStore) -> None:
    """Not even what the store keeps for itself."""
    assert await store.get(CHAT, key(1), now=NOON) is None
    await store.apply(CHAT, lesson(keep(1)))
    assert await store.get(CHAT, key(2), now=NOON) is None
    assert await store.get_all(CHAT, [], now=NOON) == ()


async def test_operations_are_carried_out_in_order(store: ToolResultStore) -> None:
    """A result from before a write goes, one from behind it stays."""
    await store.apply(CHAT, lesson(keep(1, "a"), keep(2, "b"), Clear(), keep(3, "c"), keep(1, "new"), Drop(key(3))))
    assert await contents(store) == ["new"]
    await store.apply(CHAT, lesson(keep(2, "x"), keep(2, "y"), Drop(key(7))))
    assert await contents(store) == ["new", "y"]


async def test_clearing_drops_the_named_groups_and_what_is_in_none(store: ToolResultStore) -> None:
    """Names of groups may hold anything."""
    groups = [frozenset[str](), frozenset({"a"}), frozenset({"b, *"}), frozenset({"a", "b, *"}), frozenset({"c"})]
    everything = [keep(at, str(at), groups=names) for at, names in enumerate(groups, start=1)]
    await store.apply(CHAT, lesson(*everything, Clear(frozenset({"b, *"}))))
    assert await contents(store) == ["2", "5"]
    await store.apply(CHAT, lesson(*everything, Clear(frozenset())))
    assert await contents(store) == ["2", "3", "4", "5"]
    await store.apply(CHAT, lesson(Clear()))
    assert await contents(store) == []


def test_forgetting_goes_without_keeping() -> None:
    """Where nothing may be stored, a write still puts out of date what was, and so does a newer result."""
    forgetting = lesson(Clear(), keep(2, scope=CacheScope.USER), Drop(key(3))).forgetting
    assert forgetting == lesson(Clear(), Drop(key(2), CacheScope.USER), Drop(key(3)))


async def test_nothing_to_do_is_no_round_trip(redis: Redis, store: ToolResultStore) -> None:
    """Most requests bring no result of a tool."""
    await redis.config_resetstat()
    await store.apply(CHAT, lesson())
    assert await store.get_all(CHAT, (), now=NOON) == ()
    assert not {"cmdstat_evalsha", "cmdstat_eval", "cmdstat_hget"} & (await redis.info("commandstats")).keys()


async def test_forgetting_is_by_owner(store: ToolResultStore) -> None:
    """A session that is deleted takes its own results along; a user, what the sessions shared."""
    await store.apply(CHAT, lesson(*(keep(1, scope.value, scope=scope) for scope in CacheScope)))
    await store.forget(CHAT)
    assert await found_by(store, CHAT) == {"user", "tenant"}
    await store.forget_shared(CHAT.scope)
    assert await found_by(store, CHAT) == {"tenant"}
    await store.forget_shared(Scope("acme", None, "shop"))
    assert await found_by(store, CHAT) == set()


async def found_by(store: ToolResultStore, session: SessionKey, number: int = 1) -> set[Any]:
    """All contents that this session is given for one call, in whatever scope it asks."""
    wanted = [Wanted(key(number), "", scope) for scope in CacheScope]
    return {result.content for result in await store.get_all(session, wanted, now=NOON) if result is not None}


# ---- time and bounds -------------------------------------------------------------------------------------------------


async def test_a_result_ends_when_it_is_too_old(store: ToolResultStore) -> None:
    """To the instant, by the caller's clock."""
    await store.apply(CHAT, lesson(keep(1, ttl_s=10)))
    for later_s, there in ((-5, True), (0, True), (9.99, True), (10, False), (1_000_000, False)):
        found = await store.get(CHAT, key(1), now=NOON + timedelta(seconds=later_s))
        assert (found is not None) is there


async def test_results_that_ended_make_room(redis: Redis, store: ToolResultStore) -> None:
    """They go with the next change, and one that had ended before it came is not kept at all."""
    await store.apply(CHAT, lesson(keep(1, ttl_s=1), keep(2, ttl_s=60)))
    await store.apply(CHAT, lesson(keep(3), keep(4, ttl_s=5), at=NOON + timedelta(seconds=5)))
    assert set(await redis.hkeys(schema.tool_key(CHAT))) == {b"index", key(2).encode(), key(3).encode()}


async def test_the_key_ends_with_its_longest_lived_result(redis: Redis, store: ToolResultStore) -> None:
    """Sessions that nobody continues leave nothing behind."""
    await store.apply(CHAT, lesson(*(keep(1, ttl_s=60, scope=scope) for scope in CacheScope)))
    await store.apply(CHAT, lesson(*(keep(2, ttl_s=5, scope=scope) for scope in CacheScope)))
    names: list[bytes] = await redis.keys("*")  # type: ignore[assignment]  # the client gives bytes
    assert {name.split(b":")[1] for name in names} == {b"tool"}
    assert len(names) == 3
    for name in names:
        assert 50_000 < await redis.pttl(name) <= 60_000
    await store.apply(CHAT, lesson(Clear()))
    assert await redis.keys("*") == []


async def test_names_and_values_are_not_in_the_keys(redis: Redis, store: ToolResultStore) -> None:
    """Keys turn up in the store's logs."""
    await store.apply(CHAT, lesson(*(keep(1, scope=scope) for scope in CacheScope)))
    assert not [name for name in await redis.keys("*") for part in (b"acme", b"ann", b"chat", b"shop") if part in name]


async def test_the_oldest_results_go_first(redis: Redis) -> None:
    """A result that came again is young again."""
    store = ToolResultStore(redis, max_results=3, max_bytes=100_000)
    await store.apply(CHAT, lesson(*(keep(number, str(number)) for number in (1, 2, 3))))
    await store.apply(CHAT, lesson(keep(1, "1"), keep(4, "4")))
    assert await contents(store) == ["1", "3", "4"]
    await store.apply(CHAT, lesson(*(keep(number, str(number)) for number in range(1, 10))))
    assert await contents(store) == ["7", "8", "9"]


async def test_bytes_are_bounded_too(redis: Redis) -> None:
    """And one result that is larger than all room is not kept, nor drives out the others."""
    store = ToolResultStore(redis, max_results=100, max_bytes=1_000)
    await store.apply(CHAT, lesson(*(keep(number, str(number) * 200) for number in range(1, 10))))
    assert await contents(store) == ["7" * 200, "8" * 200, "9" * 200]
    await store.apply(CHAT, lesson(keep(9, "9" * 2_000)))
    assert await contents(store) == ["7" * 200, "8" * 200]


OPERATIONS = st.one_of(
    st.builds(
        lambda number, size, groups, ttl_s: keep(number, "x" * size, groups=groups, ttl_s=ttl_s),
        st.integers(1, 9),
        st.integers(1, 400),
        st.frozensets(st.sampled_from(["a", "b"])),
        st.sampled_from([0.0, 10.0, 60.0]),
    ),
    st.builds(lambda number: Drop(key(number)), st.integers(1, 9)),
    st.builds(Clear, st.none() | st.frozensets(st.sampled_from(["a", "b"]))),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(OPERATIONS, max_size=6), max_size=5))
async def test_the_store_keeps_what_a_simple_list_would(redis: Redis, batches: list[list[Operation]]) -> None:
    """Whatever comes in whatever order: never more than the bounds, never anything that should be gone."""
    await redis.flushall()
    store = ToolResultStore(redis, max_results=4, max_bytes=1_200)
    expected: list[Keep] = []
    for operations in batches:
        await store.apply(CHAT, lesson(*operations))
        expected = after(expected, operations)
        there = await store.get_all(CHAT, [Wanted(one.key, "") for one in expected], now=NOON)
        assert [result and result.content for result in there] == [one.content for one in expected]
        fields: Any = await redis.hgetall(schema.tool_key(CHAT))
        assert len(fields) == len(expected) + bool(expected)
        assert sum(len(name) + len(value) for name, value in fields.items() if name != b"index") <= 1_200


def after(kept: Sequence[Keep], operations: Sequence[Operation]) -> list[Keep]:
    """What a list of results becomes, oldest first."""
    results = list(kept)
    for operation in operations:
        if isinstance(operation, Clear):
            results = [one for one in results if not operation.drops(one.groups)]
            continue
        results = [one for one in results if one.key != operation.key]
        if isinstance(operation, Keep) and operation.ttl_s > 0:
            results.append(operation)
    frame = 32 + len('{"name":"get_user","content":"","at":"2024-05-15T12:00:00.250000Z","ttl_s":60.0}')
    while len(results) > 4 or sum(frame + len(one.content) for one in results) > 1_200:
        results.pop(0)
    return results


# ---- whose results ---------------------------------------------------------------------------------------------------

SCOPES = [Scope(*parts) for parts in itertools.product(["acme", "b"], ["ann", "bob", None], ["shop", None])]
SESSIONS = [SessionKey(scope, *parts) for scope in SCOPES for parts in [("chat", ""), ("chat", "2"), ("other", "")]]


def may_see(asking: SessionKey, keeping: SessionKey, scope: CacheScope) -> bool:
    """Whether one session may be answered with what another one kept in a scope."""
    if asking == keeping:
        return True
    same_tenant = (asking.scope.tenant, asking.scope.namespace) == (keeping.scope.tenant, keeping.scope.namespace)
    if scope is CacheScope.TENANT:
        return same_tenant
    return scope is CacheScope.USER and asking.scope == keeping.scope and asking.scope.user is not None


@pytest.mark.parametrize("scope", list(CacheScope))
@pytest.mark.parametrize("keeping", SESSIONS, ids=str)
async def test_nobody_is_answered_with_another_ones_result(
    store: ToolResultStore, keeping: SessionKey, scope: CacheScope
) -> None:
    """Across tenants, users, namespaces, sessions and threads, in whatever scope one asks."""
    await store.apply(keeping, lesson(keep(1, scope=scope)))
    for asking in SESSIONS:
        found = await store.get(asking, key(1), now=NOON, scope=scope)
        assert (found is not None) is may_see(asking, keeping, scope)
        if asking != keeping:
            others = [other for other in CacheScope if not may_see(asking, keeping, other)]
            assert await store.get_all(asking, [Wanted(key(1), "", one) for one in others], now=NOON) == (None,) * len(
                others
            )


async def test_scopes_are_apart(store: ToolResultStore) -> None:
    """A result for one session is not one for all, although the call is the same."""
    await store.apply(CHAT, lesson(*(keep(1, scope.value, scope=scope) for scope in CacheScope)))
    for scope in CacheScope:
        found = await store.get(CHAT, key(1), now=NOON, scope=scope)
        assert found is not None
        assert found.content == scope.value


async def test_a_write_clears_what_its_session_its_user_and_its_tenant_share(store: ToolResultStore) -> None:
    """Somebody else's answer would be wrong as well; other tenants' data are not touched by it."""
    friend = SessionKey(replace(CHAT.scope, user="bob"), "chat")
    stranger = SessionKey(replace(CHAT.scope, tenant="b"), "chat")
    for session in (CHAT, friend, stranger):
        await store.apply(session, lesson(*(keep(1, scope.value, scope=scope) for scope in CacheScope)))
    await store.apply(CHAT, lesson(Clear()))
    assert await found_by(store, CHAT) == set()
    assert await found_by(store, friend) == {"session", "user"}
    assert await found_by(store, stranger) == {"session", "user", "tenant"}


async def test_scopes_that_no_rule_uses_are_not_touched(redis: Redis, store: ToolResultStore) -> None:
    """Without rules about scopes, a write is one script on one key."""
    await store.apply(CHAT, lesson(*(keep(1, scope.value, scope=scope) for scope in CacheScope)))
    await store.apply(CHAT, Lessons((Clear(),), NOON))
    assert await found_by(store, CHAT) == {"user", "tenant"}


async def test_a_script_touches_one_shard_only(store: ToolResultStore) -> None:
    """On a cluster, keys with different hash tags live on different servers."""
    tags = {scope: schema.tool_key(CHAT, scope).split("{")[1].split("}")[0] for scope in CacheScope}
    assert tags[CacheScope.SESSION] == tags[CacheScope.USER] == schema.partition_of(CHAT.scope)
    assert tags[CacheScope.TENANT] == schema.partition_of(Scope("acme", None))
    assert tags[CacheScope.TENANT] != tags[CacheScope.USER]


# ---- trouble ---------------------------------------------------------------------------------------------------------


async def test_what_can_t_be_read_is_said(redis: Redis, store: ToolResultStore) -> None:
    """The request goes on without the cache."""
    await redis.hset(schema.tool_key(CHAT), key(1), b"\xff")
    with pytest.raises(StoreError, match="not understood"):
        await store.get(CHAT, key(1), now=NOON)


@pytest.mark.parametrize("scope", list(CacheScope))
async def test_a_refusal_quotes_no_content(redis: Redis, store: ToolResultStore, scope: CacheScope) -> None:
    """Results hold people's data; errors end up in logs."""
    await redis.set(schema.tool_key(CHAT, scope), "no hash")
    for operations in ([keep(1, "private", scope=scope)], [keep(1, "private", scope=one) for one in CacheScope]):
        with pytest.raises(StoreError) as caught:
            await store.apply(CHAT, lesson(*operations))
        assert "private" not in f"{caught.value} {caught.value.__cause__}"
    with pytest.raises(StoreError):
        await store.get(CHAT, key(1), now=NOON, scope=scope)


async def test_a_store_that_is_away_is_said_to_be() -> None:
    """The caller goes on without answers."""
    redis = open_redis("redis://127.0.0.1:1", connect_timeout_s=1, max_connections=4)
    store = ToolResultStore(redis, max_results=1, max_bytes=1)
    with pytest.raises(StoreUnavailableError):
        await store.apply(CHAT, lesson(keep(1)))
    with pytest.raises(StoreUnavailableError):
        await store.get(CHAT, key(1), now=NOON)
    for forget in (store.forget(CHAT), store.forget_shared(CHAT.scope)):
        with pytest.raises(StoreUnavailableError):
            await forget
    await redis.aclose()
