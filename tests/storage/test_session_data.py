"""The data of sessions in a real store."""

import asyncio
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from memproxy.errors import StoreError, StoreUnavailableError
from memproxy.records import JsonObject, Scope, SessionKey
from memproxy.storage import schema
from memproxy.storage.connection import open_redis
from memproxy.storage.session_data import SessionDataStore

ALICE = SessionKey(Scope("tenant", "alice"), "chat-1")
DAY_S = 86_400
PLENTY = 100_000


@pytest.fixture
def store(redis: Redis) -> SessionDataStore:
    return SessionDataStore(redis, unrecorded_ttl_s=DAY_S)


async def merged(store: SessionDataStore, patch: JsonObject, *, session: SessionKey = ALICE) -> JsonObject | None:
    return await store.merge(session, patch, max_bytes=PLENTY)


async def ttl_ms(redis: Redis, session: SessionKey = ALICE) -> int:
    return int(await redis.pttl(schema.session_key("data", session)))


async def test_names_are_set_replaced_and_removed(store: SessionDataStore) -> None:
    """The agent notes one thing at a time, and what it noted before stays."""
    assert await store.data(ALICE) == {}
    assert await merged(store, {"order": "LX-4417", "step": {"number": 1, "of": [3]}}) is not None
    everything = {"order": "LX-4417", "step": {"number": 2}}
    assert await merged(store, {"step": {"number": 2}, "never there": None}) == everything
    assert await store.data(ALICE) == everything
    assert await merged(store, {"order": None}) == {"step": {"number": 2}}
    assert await merged(store, {}) == {"step": {"number": 2}}


async def test_data_is_one_sessions_and_all_its_threads(store: SessionDataStore) -> None:
    """Going back in a conversation makes a thread of it; the order that it is about stays the same."""
    await merged(store, {"a": 1})
    assert await store.data(SessionKey(ALICE.scope, ALICE.session, thread="t2")) == {"a": 1}
    for other in (
        SessionKey(ALICE.scope, "chat-2"),
        SessionKey(Scope("tenant", "bob"), ALICE.session),
        SessionKey(Scope("tenant", "alice", "work"), ALICE.session),
        SessionKey(Scope("other", "alice"), ALICE.session),
    ):
        assert await store.data(other) == {}


async def test_names_come_in_one_order(store: SessionDataStore) -> None:
    """The same data is the same bytes in a prompt, whatever order it was noted in."""
    await merged(store, {f"n{number}": "x" * 100 for number in range(200, 0, -1)})
    data = await store.data(ALICE)
    assert list(data) == sorted(data)
    assert len(data) == 200


async def test_notes_made_at_once_are_all_kept(store: SessionDataStore) -> None:
    """A model may call the tool several times in one answer."""
    await asyncio.gather(*(merged(store, {f"n{number}": number}) for number in range(50)))
    assert await store.data(ALICE) == {f"n{number}": number for number in range(50)}


async def test_too_much_is_refused_as_a_whole(store: SessionDataStore) -> None:
    """Half of a note would be worse than none."""
    assert await store.merge(ALICE, {"a": "x" * 50}, max_bytes=100) is not None
    for patch in ({"a": None, "b": "x" * 98}, {"b": "x" * 50, "c": 1}, {"b" * 200: 1}):
        assert await store.merge(ALICE, patch, max_bytes=100) is None
    assert await store.data(ALICE) == {"a": "x" * 50}
    assert await store.merge(ALICE, {"a": None, "b": "x" * 97}, max_bytes=100) == {"b": "x" * 97}


async def test_what_is_too_large_already_can_be_made_smaller(store: SessionDataStore) -> None:
    """After the limit was lowered, or another way of writing allowed more."""
    await merged(store, {"a": "x" * 500, "b": "x" * 500})
    assert await store.merge(ALICE, {"a": None}, max_bytes=100) == {"b": "x" * 500}


async def test_data_lives_as_long_as_its_session(store: SessionDataStore, redis: Redis) -> None:
    """Data of a session that is gone would never be asked for again, and that of one that stays must not vanish."""
    await merged(store, {"a": 1})
    assert (DAY_S - 60) * 1000 < await ttl_ms(redis) <= DAY_S * 1000
    await redis.hset(schema.session_key("s", ALICE), "length", "1")
    await store.data(ALICE)
    assert await ttl_ms(redis) == -1
    await redis.pexpire(schema.session_key("s", ALICE), 5_000)
    await merged(store, {"b": 2})
    assert 0 < await ttl_ms(redis) <= 5_000


async def test_without_a_time_to_live_data_stays(redis: Redis) -> None:
    """As sessions do that are kept for good."""
    await merged(SessionDataStore(redis, unrecorded_ttl_s=0), {"a": 1})
    assert await ttl_ms(redis) == -1


async def test_data_lies_on_the_shard_of_its_session() -> None:
    """One script touches both."""
    data, facts = (schema.session_key(kind, ALICE) for kind in ("data", "s"))
    assert data.partition("{")[2].partition("}")[0] == facts.partition("{")[2].partition("}")[0]


async def test_cleared_data_is_gone(store: SessionDataStore, redis: Redis) -> None:
    """Deleting a session deletes what was noted for it."""
    await merged(store, {"a": 1})
    assert await store.clear(ALICE) is True
    assert await store.clear(ALICE) is False
    assert await redis.keys("*") == []


async def test_data_of_another_form_is_a_store_error(store: SessionDataStore, redis: Redis) -> None:
    """Callers go on without memory on a `StoreError`."""
    await redis.hset(schema.session_key("data", ALICE), "a", "{broken")
    with pytest.raises(StoreError, match="not understood"):
        await store.data(ALICE)
    await redis.set(schema.session_key("data", ALICE), "text")
    for attempt in (store.data(ALICE), merged(store, {"a": 1})):
        with pytest.raises(StoreError):
            await attempt


async def test_a_store_that_is_away_is_a_store_error() -> None:
    """Not redis-py's own exception, which nobody above knows."""
    away = SessionDataStore(
        open_redis("unix:///nowhere.sock", connect_timeout_s=1, max_connections=1), unrecorded_ttl_s=1
    )
    for attempt in (away.data(ALICE), merged(away, {"a": 1}), away.clear(ALICE)):
        with pytest.raises(StoreUnavailableError):
            await attempt


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(patches=st.lists(st.dictionaries(st.sampled_from("abc") | st.text(max_size=8), VALUES, max_size=4), max_size=4))
async def test_any_json_comes_back_as_it_was(store: SessionDataStore, patches: list[JsonObject]) -> None:
    """Empty lists stay lists, large numbers keep their digits, and merging is what a dict's update is."""
    await store.clear(ALICE)
    expected: JsonObject = {}
    for patch in patches:
        expected = {name: value for name, value in {**expected, **patch}.items() if value is not None}
        assert await merged(store, patch) == expected
    assert await store.data(ALICE) == expected


async def test_what_utf8_and_json_can_not_hold_loses_nothing_else(store: SessionDataStore) -> None:
    """Python's JSON reader lets such values in."""
    assert await merged(store, {"a": "x\ud800", "b\ud800": [1]}) == {"a": "x?", "b?": [1]}
    assert await merged(store, {"a": math.nan, "b?": None}) == {"a": None}
