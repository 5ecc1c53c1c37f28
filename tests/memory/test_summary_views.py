"""Summaries of views: made when something changed, never of what is gone, and never at the cost of others."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis
from typing_extensions import override

from memproxy.clock import SystemClock
from memproxy.errors import ModelCallError, NotConfiguredError, RequestError
from memproxy.memory import summary_views
from memproxy.memory.search import Found, Match, Query
from memproxy.memory.summary_views import Refreshed, SummaryViews
from memproxy.records import JsonObject, MemoryRecord, MemoryType, Scope
from memproxy.storage import schema
from memproxy.storage.memory_filter import Rule, TagField, TagRule, TimeRule, any_of
from memproxy.storage.summary_views import GroupSummary, SummaryView, SummaryViewStore

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BY_USER = SummaryView("v1", NOW, group_by=("user_id",), is_continuous=True)
FRESH = 3_600.0


class HandSetClock(SystemClock):
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time = NOW

    @override
    def now(self) -> datetime:
        return self.time


@dataclass
class Shelf:
    """Memories in a list, found by the rules that views make."""

    records: list[MemoryRecord] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)

    async def find(self, tenant: str, query: Query) -> Found:
        self.queries.append(query)
        passing = [one for one in self.records if one.scope.tenant == tenant and _passes(one, query.where.rules)]
        newest = sorted(passing, key=lambda one: one.created_at, reverse=True)
        page = newest[query.offset : query.offset + query.limit]
        after = query.offset + len(page)
        rest = after if after < len(newest) else None
        return Found([Match(one, None, 0.0) for one in page], len(newest), rest, None)


def _passes(record: MemoryRecord, rules: Sequence[Rule]) -> bool:
    values = {TagField.USER: record.scope.user, TagField.TYPE: record.type.value, TagField.SESSION: record.session}
    for rule in rules:
        match rule:
            case TagRule(field=name, values=wanted):
                if values[name] not in wanted:
                    return False
            case TimeRule(first=first):
                if first is not None and record.created_at < first:
                    return False
    return True


class Scribe:
    """A model that writes down what it was shown, unless it is told to fail at a word."""

    def __init__(self) -> None:
        self.shown: list[JsonObject] = []
        self.names: list[tuple[str, str | None]] = []
        self.fails_at: dict[str, ModelCallError] = {}
        self.gate: asyncio.Event | None = None
        self.calls = 0

    def named(self, tenant: str, model: str | None) -> "Scribe":
        self.names.append((tenant, model))
        return self

    async def ask(
        self, *, system: str, user: str, schema_name: str, schema: JsonObject, read: Callable[[str], Any]
    ) -> Any:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        for word, error in self.fails_at.items():
            if word in user:
                raise error
        shown = json.loads(user)
        self.shown.append(shown)
        summary = " ".join([shown.get("earlier", ""), *(each["text"] for each in shown["memories"])]).strip()
        return read(json.dumps({"summary": summary}))


@dataclass
class Desk:
    """Views over a shelf."""

    views: SummaryViews
    store: SummaryViewStore
    shelf: Shelf
    model: Scribe
    clock: HandSetClock

    async def add(self, view: SummaryView = BY_USER) -> SummaryView:
        await self.store.add("t", view, due=self.clock.now())
        return view

    async def summaries(self, view: SummaryView = BY_USER) -> dict[str, str]:
        found = await self.store.summaries("t", view.id)
        return {" ".join(summary.group.values()): summary.text for summary in found}

    def learn(self, text: str, *, user: str | None = "alice", minutes: int = 0, tenant: str = "t") -> MemoryRecord:
        at = NOW + timedelta(minutes=minutes - 600)
        record = MemoryRecord(f"{user}:{text}", Scope(tenant, user), text, MemoryType.SEMANTIC, at)
        self.shelf.records.append(record)
        return record


@pytest.fixture
def desk(redis: Redis) -> Desk:
    store, shelf, model, clock = SummaryViewStore(redis, max_summaries=5), Shelf(), Scribe(), HandSetClock()
    views = SummaryViews(store, shelf, model_for=model.named, read_filters=_by_type, clock=clock)
    return Desk(views, store, shelf, model, clock)


def _by_type(filters: JsonObject) -> list[Rule]:
    return [any_of(TagField.TYPE, [filters["memory_type"]])] if "memory_type" in filters else []


async def test_each_group_has_its_summary(desk: Desk) -> None:
    """A view by user tells of each user what is known of that user, and of nobody else."""
    await desk.add()
    desk.learn("Likes tea.")
    desk.learn("Likes jam.", minutes=1)
    desk.learn("Likes coffee.", user="bob")
    desk.learn("Belongs to nobody.", user=None)
    desk.learn("Of another tenant.", tenant="other")
    assert await desk.views.refresh("t", BY_USER, force=False) == Refreshed(made=2)
    assert await desk.summaries() == {"alice": "Likes tea. Likes jam.", "bob": "Likes coffee."}
    assert sorted(shown["about"]["user_id"] for shown in desk.model.shown) == ["alice", "bob"]


async def test_one_group_alone(desk: Desk) -> None:
    """What is run on demand is stored, and is the same as what a full run gives."""
    await desk.add()
    desk.learn("Likes tea.")
    desk.learn("Likes coffee.", user="bob")
    summary = await desk.views.run_group("t", BY_USER, {"user_id": "alice"}, deadline_s=5)
    assert (summary.text, summary.memory_count, summary.computed_at) == ("Likes tea.", 1, NOW)
    assert await desk.store.summaries("t", "v1") == [summary]
    assert await desk.views.refresh("t", BY_USER, force=False) == Refreshed(made=1, kept=1)


async def test_what_did_not_change_costs_nothing(desk: Desk) -> None:
    """An hourly refresh of a thousand users asks the model about the three who came by."""
    await desk.add()
    desk.learn("Likes tea.")
    desk.learn("Likes coffee.", user="bob")
    await desk.views.refresh("t", BY_USER, force=False)
    desk.model.shown.clear()
    assert await desk.views.refresh("t", BY_USER, force=False) == Refreshed(kept=2)
    desk.learn("Likes jam.", minutes=5)
    assert await desk.views.refresh("t", BY_USER, force=False) == Refreshed(made=1, kept=1)
    (shown,) = desk.model.shown
    assert shown["earlier"] == "Likes tea."
    assert [memory["text"] for memory in shown["memories"]] == ["Likes jam."]
    assert await desk.views.refresh("t", BY_USER, force=True) == Refreshed(made=2)
    assert "earlier" not in desk.model.shown[-1]


async def test_what_is_gone_is_gone_from_the_summary(desk: Desk) -> None:
    """A memory that was deleted or corrected does not live on in a summary, nor does a user without memories."""
    await desk.add()
    desk.learn("Likes tea.")
    desk.learn("Has a secret.", minutes=1)
    desk.learn("Likes coffee.", user="bob")
    await desk.views.refresh("t", BY_USER, force=False)
    desk.shelf.records[0] = replace(desk.shelf.records[0], text="Likes mate.")
    del desk.shelf.records[1:]
    assert await desk.views.refresh("t", BY_USER, force=False) == Refreshed(made=1, dropped=1)
    assert await desk.summaries() == {"alice": "Likes mate."}


async def test_filters_window_wishes_and_model_count(desk: Desk) -> None:
    """A view is made as it was ordered."""
    view = SummaryView(
        "v1", NOW, group_by=(), filters={"memory_type": "semantic"}, time_window_days=1, prompt="Brief.", model="big"
    )
    await desk.add(view)
    desk.learn("New.")
    desk.learn("Old.", minutes=-3_000)
    desk.shelf.records.append(replace(desk.learn("An event."), type=MemoryType.EPISODIC, id="e"))
    desk.shelf.records.pop(-2)
    await desk.views.refresh("t", view, force=False)
    assert await desk.summaries(view) == {"": "New."}
    assert desk.model.names == [("t", "big")]


async def test_an_empty_group_needs_no_model(redis: Redis) -> None:
    """Without a model a caller learns which setting is missing, and only when it matters."""
    store, shelf, clock = SummaryViewStore(redis), Shelf(), HandSetClock()
    views = SummaryViews(store, shelf, model_for=None, read_filters=_by_type, clock=clock)
    desk = Desk(views, store, shelf, Scribe(), clock)
    await desk.add()
    summary = await views.run_group("t", BY_USER, {"user_id": "alice"}, deadline_s=5)
    assert (summary.text, summary.memory_count) == ("", 0)
    assert await store.summaries("t", "v1") == [summary]
    assert await views.refresh("t", BY_USER, force=False) == Refreshed(dropped=1)
    desk.learn("Likes tea.")
    with pytest.raises(NotConfiguredError, match="extraction_model"):
        await views.run_group("t", BY_USER, {"user_id": "alice"}, deadline_s=5)
    with pytest.raises(NotConfiguredError, match="extraction_model"):
        await views.refresh("t", BY_USER, force=False)
    assert await views.refresh_due(every_s=FRESH) == 0


async def test_one_groups_failure_is_its_own(desk: Desk) -> None:
    """A model that chokes on one user's memories still serves the others, and the caller is told."""
    await desk.add()
    for user in ("alice", "bob", "carol"):
        desk.learn(f"Of {user}.", user=user)
    desk.model.fails_at["bob"] = ModelCallError("no JSON", retryable=True)
    with pytest.raises(ModelCallError, match="no JSON"):
        await desk.views.refresh("t", BY_USER, force=False)
    assert await desk.summaries() == {"alice": "Of alice.", "carol": "Of carol."}
    desk.model.fails_at.clear()
    assert await desk.views.refresh("t", BY_USER, force=False) == Refreshed(made=1, kept=2)


async def test_a_model_that_refuses_is_not_asked_a_thousand_times(desk: Desk) -> None:
    """A wrong key is wrong for every group."""
    await desk.add()
    for number in range(5):
        desk.learn("Likes tea.", user=f"user-{number}")
    desk.model.fails_at["tea"] = ModelCallError("401", retryable=False)
    with pytest.raises(ModelCallError, match="401"):
        await desk.views.refresh("t", BY_USER, force=False)
    assert desk.model.calls <= summary_views.GROUPS_AT_ONCE


async def test_a_model_that_hangs_is_given_up(desk: Desk) -> None:
    """Who waits for a summary gets an answer in time."""
    await desk.add()
    desk.learn("Likes tea.")
    desk.model.gate = asyncio.Event()
    with pytest.raises(ModelCallError, match=r"0\.05 s"):
        await desk.views.run_group("t", BY_USER, {"user_id": "alice"}, deadline_s=0.05)
    assert await desk.summaries() == {}


async def test_a_view_that_is_deleted_meanwhile_leaves_nothing(desk: Desk) -> None:
    """Whoever deleted it does not want what the run still has under way."""
    await desk.add()
    desk.learn("Likes tea.")
    desk.model.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(_refused(desk))
        await asyncio.sleep(0)
        await desk.store.delete("t", "v1")
        desk.model.gate.set()
    assert "deleted" in run.result()
    assert await desk.summaries() == {}


async def _refused(desk: Desk) -> str:
    with pytest.raises(RequestError) as caught:
        await desk.views.refresh("t", BY_USER, force=False)
    return str(caught.value)


async def test_too_much_is_refused_before_it_costs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view by session over everything is told apart from one that can be made."""
    await desk.add()
    for number in range(6):
        desk.learn("Likes tea.", user=f"user-{number}")
    with pytest.raises(RequestError, match="6 groups"):
        await desk.views.refresh("t", BY_USER, force=False)
    monkeypatch.setattr(summary_views, "MAX_MEMORIES", 5)
    with pytest.raises(RequestError, match="6 memories"):
        await desk.views.refresh("t", BY_USER, force=False)
    assert desk.model.shown == []


async def test_pages_are_read_until_the_last(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with thousands of memories is summarised from all of them, or from the newest if there are too many."""
    monkeypatch.setattr(summary_views, "PAGE", 3)
    await desk.add()
    for number in range(10):
        desk.learn(f"#{number}", minutes=number)
    summary = await desk.views.run_group("t", BY_USER, {"user_id": "alice"}, deadline_s=5)
    assert summary.text.split() == [f"#{number}" for number in range(10)]
    assert [query.limit for query in desk.shelf.queries] == [3] * 4
    monkeypatch.setattr(summary_views, "MAX_GROUP_MEMORIES", 4)
    newest = await desk.views.run_group("t", BY_USER, {"user_id": "alice"}, deadline_s=5)
    assert newest.text.split() == ["#6", "#7", "#8", "#9"]
    assert await desk.views.refresh("t", BY_USER, force=False) == Refreshed(kept=1)


async def test_continuous_views_are_kept_fresh(desk: Desk) -> None:
    """Nobody has to run them, and a view that fails or is gone does not stop the others."""
    await desk.add()
    broken = await desk.add(SummaryView("v0", NOW, filters={"memory_type": "episodic"}, is_continuous=True))
    await desk.add(SummaryView("v2", NOW, group_by=("user_id",)))
    desk.learn("Likes tea.")
    desk.shelf.records.append(replace(desk.learn("Went away."), type=MemoryType.EPISODIC, id="e"))
    desk.model.fails_at['"about": {}'] = ModelCallError("no JSON", retryable=True)
    assert await desk.views.refresh_due(every_s=FRESH) == 2
    assert (await desk.summaries())["alice"].startswith("Likes tea.")
    assert await desk.summaries(broken) == {}
    assert await desk.views.refresh_due(every_s=FRESH) == 0
    await desk.store.delete("t", "v0")
    desk.clock.time += timedelta(seconds=FRESH)
    asked = len(desk.model.shown)
    assert await desk.views.refresh_due(every_s=FRESH) == 1
    assert len(desk.model.shown) == asked


async def test_a_view_that_is_gone_is_not_looked_at_again(desk: Desk, redis: Redis) -> None:
    """What a crash left in the schedule goes away by itself."""
    await desk.add()
    await redis.hdel(schema.views_key("t"), "v1")
    assert await desk.views.refresh_due(every_s=FRESH) == 1
    desk.clock.time += timedelta(days=1)
    assert await desk.views.refresh_due(every_s=FRESH) == 0


async def test_an_erased_user_is_erased_here_too(desk: Desk) -> None:
    """A summary is made of memories; it must not outlive them."""
    await desk.add()
    await desk.add(SummaryView("v2", NOW))
    for user in ("alice", "bob"):
        await desk.store.put("t", BY_USER, GroupSummary({"user_id": user}, "text", 1, NOW, NOW))
    assert await desk.views.forget_user("t", "alice") == 1
    assert await desk.views.forget_user("other", "bob") == 0
    assert await desk.summaries() == {"bob": "text"}
