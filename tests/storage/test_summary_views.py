"""Summary views and their summaries in a real store."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from memproxy.errors import StoreError
from memproxy.storage import schema
from memproxy.storage.summary_views import DueView, GroupSummary, Put, SummaryView, SummaryViewStore

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BY_USER = SummaryView("v1", NOW, group_by=("user_id",), filters={"memory_type": "semantic"}, prompt="Be brief.")


@pytest.fixture
def store(redis: Redis) -> SummaryViewStore:
    return SummaryViewStore(redis, max_views=3, max_summaries=2)


def summary(user: str, text: str = "Likes tea.", *, read_at: datetime = NOW) -> GroupSummary:
    return GroupSummary({"user_id": user}, text, 1, read_at, read_at + timedelta(seconds=1), covers="abc")


async def test_a_view_is_kept_as_it_was_given(store: SummaryViewStore) -> None:
    """What a caller configured comes back, and nothing else does."""
    assert await store.add("t", BY_USER, due=NOW)
    assert await store.view("t", "v1") == BY_USER
    assert await store.view("t", "v2") is None
    assert await store.view("other", "v1") is None
    assert await store.views("other") == []


async def test_views_come_in_the_order_of_their_making(store: SummaryViewStore) -> None:
    """A list that changes its order with each look is no list."""
    for number in (2, 0, 1):
        await store.add("t", SummaryView(f"v{9 - number}", NOW + number * HOUR), due=NOW)
    assert [view.id for view in await store.views("t")] == ["v9", "v8", "v7"]


async def test_a_tenant_has_a_bounded_number_of_views(store: SummaryViewStore) -> None:
    """One tenant's loop does not fill the store of all."""
    made = [await store.add("t", SummaryView(f"v{number}", NOW), due=NOW) for number in range(5)]
    assert made == [True, True, True, False, False]
    assert await store.add("other", BY_USER, due=NOW)
    assert await store.delete("t", "v0")
    assert await store.add("t", SummaryView("v9", NOW), due=NOW)


async def test_a_view_takes_its_summaries_along(store: SummaryViewStore, redis: Redis) -> None:
    """What was summarised does not outlive the wish to have it, not even when it comes late."""
    await store.add("t", replace(BY_USER, is_continuous=True), due=NOW)
    assert await store.put("t", BY_USER, summary("alice")) is Put.STORED
    assert await store.delete("t", "v1")
    assert await store.put("t", BY_USER, summary("bob")) is Put.GONE
    assert await store.summaries("t", "v1") == []
    assert await redis.keys("*") == []
    assert not await store.delete("t", "v1")


async def test_a_summary_replaces_the_one_of_its_group(store: SummaryViewStore) -> None:
    """There is one summary a group, and it is the newest."""
    await store.add("t", BY_USER, due=NOW)
    await store.put("t", BY_USER, summary("bob"))
    await store.put("t", BY_USER, summary("alice"))
    newer = summary("alice", "Likes coffee.", read_at=NOW + HOUR)
    assert await store.put("t", BY_USER, newer) is Put.STORED
    assert await store.summaries("t", "v1") == [newer, summary("bob")]
    assert await store.summary("t", BY_USER, {"user_id": "alice"}) == newer
    assert await store.summary("t", BY_USER, {"user_id": "carol"}) is None


async def test_a_run_that_was_overtaken_changes_nothing(store: SummaryViewStore) -> None:
    """Two runs at once: the one that saw the newer memories counts, whichever ends first."""
    await store.add("t", BY_USER, due=NOW)
    newer = summary("alice", read_at=NOW + HOUR)
    await store.put("t", BY_USER, newer)
    assert await store.put("t", BY_USER, summary("alice", "old")) is Put.OLDER
    assert await store.drop("t", BY_USER, {"user_id": "alice"}, read_at=NOW) is Put.OLDER
    assert await store.summaries("t", "v1") == [newer]
    assert await store.drop("t", BY_USER, {"user_id": "alice"}, read_at=NOW + 2 * HOUR) is Put.STORED
    assert await store.summaries("t", "v1") == []


async def test_a_view_has_a_bounded_number_of_summaries(store: SummaryViewStore) -> None:
    """A view by session grows with every conversation; what is there can still be renewed."""
    await store.add("t", BY_USER, due=NOW)
    put = [await store.put("t", BY_USER, summary(user)) for user in ("a", "b", "c")]
    assert put == [Put.STORED, Put.STORED, Put.FULL]
    assert await store.put("t", BY_USER, summary("a", "new", read_at=NOW + HOUR)) is Put.STORED


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"user_id": "a", "namespace": "b|c"}, {"user_id": "a|b", "namespace": "c"}),
        ({"user_id": "", "namespace": "a"}, {"user_id": "a", "namespace": ""}),
    ],
)
async def test_groups_are_never_taken_for_each_other(
    store: SummaryViewStore, one: dict[str, str], other: dict[str, str]
) -> None:
    """Names come from clients and may hold whatever would separate them."""
    view = replace(BY_USER, group_by=("user_id", "namespace"))
    await store.add("t", view, due=NOW)
    for group in (one, other):
        await store.put("t", view, GroupSummary(group, "text", 1, NOW, NOW))
    assert sorted(map(str, (one, other))) == sorted(str(each.group) for each in await store.summaries("t", "v1"))


async def test_a_view_that_is_due_is_taken_once(store: SummaryViewStore) -> None:
    """Ten workers refresh a view once an hour, not ten times."""
    fresh = replace(BY_USER, is_continuous=True)
    await store.add("t", fresh, due=NOW)
    await store.add("other", replace(fresh, id="v2"), due=NOW + HOUR)
    await store.add("t", replace(BY_USER, id="v3"), due=NOW)
    assert await store.claim_due(now=NOW - HOUR, again=HOUR, limit=5) == []
    assert await store.claim_due(now=NOW, again=HOUR, limit=5) == [DueView("t", "v1")]
    assert await store.claim_due(now=NOW, again=HOUR, limit=5) == []
    later = await store.claim_due(now=NOW + HOUR, again=HOUR, limit=5)
    assert sorted(later, key=lambda due: due.view_id) == [DueView("t", "v1"), DueView("other", "v2")]
    await store.forget_due(DueView("t", "v1"))
    assert await store.claim_due(now=NOW + 3 * HOUR, again=HOUR, limit=5) == [DueView("other", "v2")]


@pytest.mark.parametrize("key", [schema.views_key("t"), schema.summaries_key("t", "v1")])
async def test_what_is_not_understood_is_said(store: SummaryViewStore, redis: Redis, key: str) -> None:
    """A store that a newer memproxy wrote gives an error, not nonsense."""
    await store.add("t", BY_USER, due=NOW)
    await store.put("t", BY_USER, summary("alice"))
    field: Any = (await redis.hkeys(key))[0]
    await redis.hset(key, field, "1 {}")
    with pytest.raises(StoreError, match="newer memproxy"):
        await (store.views("t") if key == schema.views_key("t") else store.summaries("t", "v1"))
