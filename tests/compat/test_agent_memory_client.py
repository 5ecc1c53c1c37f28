"""agent-memory-client 0.14.0, unmodified, against memproxy: long-term memory, and what its users rely on.

Its other methods are in `test_agent_memory_client_sessions` and `test_agent_memory_client_tools`.
"""

import inspect
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agent_memory_client import MemoryAPIClient, create_memory_client
from agent_memory_client import filters as f
from agent_memory_client.exceptions import MemoryNotFoundError, MemoryServerError, MemoryValidationError
from agent_memory_client.models import ClientMemoryRecord, ForgetPolicy, RecencyConfig

from tests.fakes.memory_client import memory_client, record
from tests.fakes.serving import Serve


def test_every_public_method_is_exercised() -> None:
    """A method that nobody tried is one that may not work."""
    folder = Path(__file__).parent
    source = "".join(path.read_text("utf-8") for path in folder.glob("test_agent_memory_client*.py"))
    public = [name for name, _ in inspect.getmembers(MemoryAPIClient, callable) if not name.startswith("_")]
    assert len(public) > 50
    assert [name for name in public if f".{name}(" not in source] == []


# ---- the connection ----


async def test_the_client_is_made_when_the_server_lives(serve: Serve) -> None:
    """`create_memory_client` asks for the server's health first."""
    async with serve() as served:
        client = await create_memory_client(served.origin)
        health = await client.health_check()
        await client.close()
    assert abs(health.now / 1000 - datetime.now(UTC).timestamp()) < 60


async def test_an_address_may_name_the_user(serve: Serve) -> None:
    """One setting makes an agent's memory somebody's, as it does for the proxy."""
    async with serve() as served:
        address = f"{served.origin}/u/alice/n/work"
        async with await create_memory_client(address) as alice, memory_client(served) as anybody:
            made = record("Alice's locker is number 17")
            await alice.create_long_term_memory([made])
            await anybody.create_long_term_memory([record("Bob's locker is number 18", user_id="bob")])
            found = await alice.search_long_term_memory("Whose locker is which number?")
            assert [memory.text for memory in found.memories] == [made.text]
            stored = await anybody.get_long_term_memory(made.id)
            assert (stored.user_id, stored.namespace) == ("alice", "work")


# ---- what the reference's acceptance demands ----


PREFERENCES = (
    record("Prefers dark mode in every editor", topics=["preferences", "ui"], entities=["dark_mode"]),
    record("Worked late nights all through the release week", kind="episodic", topics=["work_habits"]),
    record("Chose PostgreSQL as the database of the project", topics=["technology"], entities=["PostgreSQL"]),
    record("Has a sister called Marta who lives in Turin", topics=["family"], entities=["Marta"]),
)


async def test_what_was_created_is_found_by_meaning_and_by_filter(serve: Serve) -> None:
    """At once, ranked well enough, with a distance, and without any model."""
    async with serve() as served, memory_client(served, default_namespace="accept") as client:
        made = [memory.model_copy(deep=True) for memory in PREFERENCES]
        assert (await client.create_long_term_memory(made)).status == "ok"
        for query, expected, filters in (
            ("Which theme should the editor have?", 0, {"topics": f.Topics(any=["preferences", "other"])}),
            ("working late at night", 1, {"memory_type": f.MemoryType(eq="episodic")}),
            ("which database do we use", 2, {"entities": f.Entities(any=["postgresql"])}),
            ("which database do we use", 2, {}),
        ):
            found = await client.search_long_term_memory(query, **filters)
            best = found.memories[0]
            assert best.id == made[expected].id, query
            assert 0 < best.dist < 1
            assert best.namespace == "accept"
            assert best.persisted_at is not None


async def test_explicit_records_stay_as_they_are(serve: Serve) -> None:
    """Three texts that are nearly the same are three memories with their own ids, and one call deletes them."""
    async with serve() as served, memory_client(served) as client:
        made = [record(f"Test memory {number} for deletion", namespace="n") for number in (1, 2, 3)]
        assert (await client.create_long_term_memory(made)).status == "ok"
        assert (await client.create_long_term_memory([])).status == "ok"
        found = await client.search_long_term_memory("test memory for deletion", namespace={"eq": "n"})
        assert {memory.id for memory in found.memories} == {memory.id for memory in made}
        assert found.total == 3
        ids = [memory.id for memory in made]
        assert (await client.delete_long_term_memories(ids[:2])).status == "ok, deleted 2 memories"
        assert (await client.delete_long_term_memories(ids)).status == "ok, deleted 1 memories"
        assert (await client.delete_long_term_memories([])).status == "ok, deleted 0 memories"
        assert (await client.search_long_term_memory("test memory", namespace={"eq": "n"})).memories == []


async def test_pages_do_not_overlap(serve: Serve) -> None:
    """`search_all_long_term_memories` goes on until a page is not full, and misses nothing."""
    async with serve() as served, memory_client(served) as client:
        made = [record(f"Fact number {number} about the harbour") for number in range(23)]
        answers = await client.bulk_create_long_term_memories([made[:15], made[15:]], batch_size=6)
        assert [answer.status for answer in answers] == ["ok"] * 5
        first = await client.search_long_term_memory("facts about the harbour", limit=10)
        second = await client.search_long_term_memory("facts about the harbour", limit=10, offset=10)
        assert not {memory.id for memory in first.memories} & {memory.id for memory in second.memories}
        assert (first.total, first.next_offset, second.next_offset) == (23, 10, 20)
        every = [memory.id async for memory in client.search_all_long_term_memories("harbour", batch_size=7)]
        assert len(every) == 23
        assert set(every) == {memory.id for memory in made}


# ---- filters ----


FILTERS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"last_accessed": f.LastAccessed(lte=datetime(2024, 1, 1, tzinfo=UTC))}, "a"),
    ({}, "abcd"),
    ({"user_id": f.UserId(eq="alice")}, "ab"),
    ({"user_id": f.UserId(in_=["alice", "bob"])}, "abc"),
    ({"user_id": f.UserId(not_eq="alice")}, "cd"),
    ({"user_id": f.UserId(not_in=["alice", "bob"])}, "d"),
    ({"user_id": {"eq": "bob"}}, "c"),
    ({"user_id": f.UserId()}, "abcd"),
    ({"namespace": f.Namespace(eq="work")}, "ac"),
    ({"session_id": f.SessionId(eq="s1")}, "a"),
    ({"session_id": f.SessionId(not_in=["s1"])}, "bcd"),
    ({"topics": f.Topics(any=["tea", "milk"])}, "abc"),
    ({"topics": f.Topics(all=["tea", "milk"])}, "b"),
    ({"topics": f.Topics(any=["tea"], none=["milk"])}, "a"),
    ({"topics": f.Topics(none=["tea"])}, "cd"),
    ({"entities": f.Entities(any=["Paris, Texas"])}, "d"),
    ({"memory_type": f.MemoryType(eq="episodic")}, "d"),
    ({"memory_type": f.MemoryType(not_in=["episodic", "message"])}, "abc"),
    ({"created_at": f.CreatedAt(gte=datetime(2024, 1, 2, tzinfo=UTC), lte=datetime(2024, 1, 3, tzinfo=UTC))}, "bc"),
    ({"created_at": f.CreatedAt(eq=datetime(2024, 1, 4, tzinfo=UTC))}, "d"),
    ({"user_id": f.UserId(eq="alice"), "namespace": f.Namespace(eq="work"), "topics": f.Topics(any=["tea"])}, "a"),
    ({"user_id": f.UserId(eq="zoe")}, ""),
)  # fmt: skip
"""Filters, and the ids of those that pass them. The first one comes first, since to be found is to be accessed."""


async def test_the_clients_filters_mean_what_they_say(serve: Serve) -> None:
    """On the reference half of them are an error, or find too much."""
    made = [
        record("a hot drink: tea", id="a", user_id="alice", namespace="work", session_id="s1", topics=["tea"]),
        record("a hot drink: tea with milk", id="b", user_id="alice", namespace="home", topics=["Tea", "milk"]),
        record("a hot drink: milk", id="c", user_id="bob", namespace="work", session_id="s2", topics=["milk"]),
        record("a hot drink: coffee", id="d", kind="episodic", entities=["Paris, Texas"], topics=[]),
    ]
    for day, memory in enumerate(made, start=1):
        memory.created_at = datetime(2024, 1, day, tzinfo=UTC)
    async with serve() as served, memory_client(served) as client:
        await client.create_long_term_memory(made)
        for filters, expected in FILTERS:
            found = await client.search_long_term_memory("a hot drink", limit=50, **filters)
            assert "".join(sorted(memory.id for memory in found.memories)) == expected, filters
            assert found.total == len(expected), filters


# ---- one memory ----


async def test_a_memory_is_got_edited_and_gone(serve: Serve) -> None:
    """What comes back is what was sent, then what was changed, then nothing."""
    event = datetime(2024, 5, 1, 12, tzinfo=UTC)
    async with serve() as served, memory_client(served) as client:
        made = record(
            "Moved to Lisbon", kind="episodic", user_id="alice", session_id="s", topics=["moving"], entities=["Lisbon"],
            event_date=event,
        )  # fmt: skip
        await client.create_long_term_memory([made])
        got = await client.get_long_term_memory(made.id)
        for name in ("id", "text", "memory_type", "user_id", "session_id", "topics", "entities", "event_date"):
            assert getattr(got, name) == getattr(made, name), name
        assert got.memory_hash
        assert got.created_at == made.created_at

        edited = await client.edit_long_term_memory(made.id, {"text": "Moved to Porto", "entities": ["Porto"]})
        assert (edited.text, edited.entities, edited.topics) == ("Moved to Porto", ["Porto"], ["moving"])
        assert edited.memory_hash != got.memory_hash
        assert edited.updated_at > got.updated_at
        assert (await client.get_long_term_memory(made.id)) == edited
        found = await client.search_long_term_memory("Where does she live? Porto?", user_id=f.UserId(eq="alice"))
        assert found.memories[0].text == "Moved to Porto"

        moved = await client.edit_long_term_memory(made.id, {"user_id": "bob", "namespace": "home", "topics": []})
        assert (moved.user_id, moved.namespace, moved.topics) == ("bob", "home", [])
        assert (await client.search_long_term_memory("Porto", user_id=f.UserId(eq="alice"))).memories == []
        assert (await client.get_long_term_memory(made.id)).user_id == "bob"

        with pytest.raises(MemoryServerError, match="No fields provided for update"):
            await client.edit_long_term_memory(made.id, {})
        await client.delete_long_term_memories([made.id])
        with pytest.raises(MemoryNotFoundError):
            await client.get_long_term_memory(made.id)
        with pytest.raises(MemoryNotFoundError):
            await client.edit_long_term_memory(made.id, {"text": "x"})


async def test_any_id_can_be_asked_for(serve: Serve) -> None:
    """The client puts ids into paths as they are."""
    async with serve() as served, memory_client(served) as client:
        for memory_id in ("a/b//c", "ü ñ", "50%", "a%20b", "a+b&c=d", "search", "x:y*|{z}", "..."):
            await client.create_long_term_memory([record(f"x marks the spot {memory_id}", id=memory_id)])
            assert (await client.get_long_term_memory(memory_id)).id == memory_id
            assert (await client.edit_long_term_memory(memory_id, {"text": "y marks it"})).text == "y marks it"
            assert (await client.delete_long_term_memories([memory_id])).status == "ok, deleted 1 memories"


async def test_creating_an_id_again_replaces_it(serve: Serve) -> None:
    """An import can be run twice; the memory keeps its first time."""
    async with serve() as served, memory_client(served) as client:
        first = record("Likes tea", id="1", user_id="alice")
        first.created_at = datetime(2024, 1, 1, tzinfo=UTC)
        await client.create_long_term_memory([first])
        await client.create_long_term_memory([record("Likes coffee", id="1", user_id="alice")])
        stored = await client.get_long_term_memory("1")
        assert (stored.text, stored.created_at) == ("Likes coffee", first.created_at)
        assert (await client.search_long_term_memory("tea or coffee")).total == 1


async def test_the_same_words_are_stored_once_unless_told_otherwise(serve: Serve) -> None:
    """`deduplicate` is on by default."""
    async with serve() as served, memory_client(served) as client:
        for deduplicate, expected in ((True, 1), (True, 1), (False, 2)):
            await client.create_long_term_memory([record("Likes tea", user_id="alice")], deduplicate=deduplicate)
            assert (await client.search_long_term_memory("tea")).total == expected


# ---- searching ----


async def test_a_distance_limits_what_is_found(serve: Serve) -> None:
    """And every distance is a true one."""
    async with serve() as served, memory_client(served) as client:
        await client.create_long_term_memory([record("Likes green tea"), record("The harbour closes at nine")])
        everything = await client.search_long_term_memory("green tea")
        near, far = sorted(memory.dist for memory in everything.memories)
        assert 0 <= near < 0.5 < far <= 2
        found = await client.search_long_term_memory("green tea", distance_threshold=(near + far) / 2)
        assert [memory.text for memory in found.memories] == ["Likes green tea"]
        assert found.memories[0].dist == pytest.approx(near, abs=1e-5)


async def test_recency_can_outweigh_meaning(serve: Serve) -> None:
    """What `RecencyConfig` says is done."""
    now = datetime.now(UTC)
    old, new = record("The meeting is on Monday", id="old"), record("The meeting is on Friday now", id="new")
    old.created_at, new.created_at = now - timedelta(days=400), now
    async with serve() as served, memory_client(served) as client:
        await client.create_long_term_memory([old, new])
        by_meaning = RecencyConfig(recency_boost=False)
        by_age = RecencyConfig(
            recency_boost=True, semantic_weight=0.0, recency_weight=1.0, freshness_weight=0.0, novelty_weight=1.0,
            half_life_last_access_days=7, half_life_created_days=30, server_side_recency=True,
        )  # fmt: skip
        query = "The meeting is on Monday"
        assert (await client.search_long_term_memory(query, recency=by_meaning)).memories[0].id == "old"
        assert (await client.search_long_term_memory(query, recency=by_age)).memories[0].id == "new"


async def test_reading_counts_as_access(serve: Serve) -> None:
    """`forget` goes by it, so it must be real."""
    async with serve() as served, memory_client(served) as client:
        made = record("Likes tea")
        made.created_at = datetime(2024, 1, 1, tzinfo=UTC)
        await client.create_long_term_memory([made])
        before = await client.get_long_term_memory(made.id)
        await client.search_long_term_memory("tea")
        await served.instance.services.tasks.drain(30)
        raw = (await client._client.get(f"/v1/long-term-memory/{made.id}")).json()
    assert before.last_accessed == made.created_at
    assert datetime.fromisoformat(raw["last_accessed"]) > made.created_at + timedelta(days=300)
    assert raw["access_count"] == 1


async def test_a_query_that_is_optimised_without_a_model_is_searched_as_it_is(serve: Serve) -> None:
    """No model is configured; that is no reason to fail."""
    async with serve() as served, memory_client(served) as client:
        await client.create_long_term_memory([record("Likes tea")])
        assert (await client.search_long_term_memory("tea", optimize_query=True)).total == 1


# ---- forgetting ----


async def test_forgetting_acts_when_it_is_told_to(serve: Serve) -> None:
    """This client sends nothing for `dry_run=False`; on the reference it could never forget."""
    now = datetime.now(UTC)
    async with serve() as served, memory_client(served) as client:
        made = [record(f"A note about day {age}", id=str(age), user_id="alice") for age in (1, 40, 50, 60)]
        for memory in made:
            memory.created_at = now - timedelta(days=int(memory.id))
        await client.create_long_term_memory([*made, record("Bob's old note", id="bob", user_id="bob")])
        policy = ForgetPolicy(max_age_days=30)
        would = await client.forget_long_term_memories(policy, user_id="alice", dry_run=True, pinned_ids=["60"])
        assert (would.dry_run, would.deleted, sorted(would.deleted_ids)) == (True, 2, ["40", "50"])
        assert (await client.search_long_term_memory("note")).total == 5
        did = await client.forget_long_term_memories(policy, user_id="alice", pinned_ids=["60"])
        assert (did.dry_run, did.deleted, sorted(did.deleted_ids)) == (False, 2, ["40", "50"])
        left = await client.search_long_term_memory("note")
        assert {memory.id for memory in left.memories} == {"1", "60", "bob"}


# ---- what the client checks itself ----


def test_the_clients_own_checks_agree() -> None:
    """What it lets pass, memproxy takes."""
    client = MemoryAPIClient.__new__(MemoryAPIClient)  # the checks need no connection
    client.validate_memory_record(ClientMemoryRecord(text="x"))
    with pytest.raises(MemoryValidationError):
        client.validate_memory_record(ClientMemoryRecord(text=" "))
    client.validate_search_filters(user_id={"eq": "a"}, limit=100, offset=0, distance_threshold=0.5)
    with pytest.raises(MemoryValidationError):
        client.validate_search_filters(filters={})


async def test_what_is_refused_is_explained(serve: Serve) -> None:
    """The client's error carries the server's words."""
    async with serve() as served, memory_client(served) as client:
        with pytest.raises(MemoryServerError) as caught:
            await client.search_long_term_memory("x", limit=101)
        assert caught.value.status_code == 422
        with pytest.raises(MemoryServerError) as caught:
            await client.search_long_term_memory("x", memory_type=f.MemoryType(eq="facts"))
        assert caught.value.status_code == 422
        assert "facts" in str(caught.value)
