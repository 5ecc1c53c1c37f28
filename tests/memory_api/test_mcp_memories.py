"""The tools on long-term memory, called as a host calls them."""

from datetime import UTC, datetime
from typing import Any

from memproxy.clock import SystemClock
from memproxy.memory_api import mcp_forms as forms
from memproxy.memory_api.mcp_memories import search_request, shown
from memproxy.memory_api.schemas import SearchRequest
from tests.fakes.mcp_clients import called, mcp_client, refused
from tests.fakes.memory_client import memory_client
from tests.fakes.serving import Serve


class Noon(SystemClock):
    """Stands still."""

    def now(self) -> datetime:  # type: ignore[explicit-override]  # a test's clock
        return datetime(2026, 3, 1, 12, tzinfo=UTC)


async def test_the_life_of_a_memory(serve: Serve) -> None:
    """Kept, found, read, corrected, deleted: what a model does with one, and what code then sees of it."""
    async with serve() as served, mcp_client(served, "/u/alice/mcp") as client, memory_client(served) as rest:
        given = {"text": "Alice flew to Porto.", "memory_type": "episodic", "topics": ["travel"], "entities": ["Porto"]}
        made = await called(client, "create_long_term_memories", memories=[{**given, "event_date": "2026-02-01"}])
        ((memory_id, is_new),) = [(one["id"], one["is_new"]) for one in made["memories"]]
        assert is_new is True
        (found,) = (await called(client, "search_long_term_memory", text="Porto"))["memories"]
        assert found["id"] == memory_id
        assert found["event_date"] == "2026-02-01T00:00:00Z"
        assert 0 <= found["dist"] <= 2
        known = await called(client, "get_long_term_memory", memory_id=memory_id)
        scored = {"dist", "score", "score_type", "last_accessed"}  # the search itself counts as an access
        assert _without(known, scored) == _without(found, scored)
        assert given.items() <= known.items()
        assert not {"memory_hash", "metadata", "pinned"} & known.keys()
        edited = await called(client, "edit_long_term_memory", memory_id=memory_id, text="Alice moved to Porto.")
        assert edited["text"] == "Alice moved to Porto."
        assert edited["topics"] == ["travel"]
        record = await rest.get_long_term_memory(memory_id)
        assert (record.text, record.user_id) == ("Alice moved to Porto.", "alice")
        deleted = await called(client, "delete_long_term_memories", memory_ids=[memory_id, "none"])
        assert deleted == {"status": "ok, deleted 1 memories", "deleted": 1}
        assert "not found" in await refused(client, "get_long_term_memory", memory_id=memory_id)
        assert (await called(client, "delete_long_term_memories", memory_ids=[]))["deleted"] == 0


def _without(memory: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in memory.items() if name not in names}


async def test_what_is_known_is_not_kept_twice(serve: Serve) -> None:
    """A model that forgets that it has noted something leaves no pile of copies, and learns the id of the first."""
    async with serve() as served, mcp_client(served) as client:
        memory = {"text": "Alice plays the cello.", "user_id": "alice"}
        first = await called(client, "create_long_term_memories", memories=[memory])
        second = await called(client, "create_long_term_memories", memories=[memory])
        assert second["memories"] == [{"id": first["memories"][0]["id"], "is_new": False}]
        left = await called(client, "compact_long_term_memories", user_id="alice")
        assert left == {"status": "ok, 1 memories remaining after compaction", "remaining": 1}


async def test_filters_restrict(serve: Serve) -> None:
    """All that are given must hold, in whichever form a model writes them."""
    async with serve() as served, mcp_client(served) as client:
        memories: list[dict[str, Any]] = [
            {"text": "Tea with Ann.", "topics": ["tea"], "entities": ["Ann"], "user_id": "a", "session_id": "s1"},
            {"text": "Tea with Bob.", "topics": ["tea"], "entities": ["Bob"], "user_id": "b"},
            {"text": "Jam.", "topics": ["jam"], "user_id": "a", "event_date": "2026-02-01", "memory_type": "episodic"},
        ]
        await called(client, "create_long_term_memories", memories=memories)

        async def found(**filters: Any) -> set[str]:
            answer = await called(client, "search_long_term_memory", **filters)
            assert answer["total"] == len(answer["memories"])
            return {one["text"] for one in answer["memories"]}

        assert await found(topics="tea", user_id="a") == {"Tea with Ann."}
        assert await found(topics=["tea", "jam"], user_id="a") == {"Tea with Ann.", "Jam."}
        assert await found(entities={"any": ["Bob"]}) == {"Tea with Bob."}
        assert await found(user_id={"ne": "a"}) == {"Tea with Bob."}
        assert await found(session_id="s1") == {"Tea with Ann."}
        assert await found(memory_type="episodic") == {"Jam."}
        assert await found(event_date={"gte": "2026-01-01", "lt": "2026-03-01"}) == {"Jam."}
        assert await found(namespace="elsewhere") == set()
        page = await called(client, "search_long_term_memory", limit=2)
        assert (page["total"], page["next_offset"], len(page["memories"])) == (3, 2, 2)


async def test_what_is_too_much_to_read_comes_in_pages(serve: Serve) -> None:
    """Documents that were kept as memories do not fill a model's context; it can ask for the rest."""
    async with serve() as served, mcp_client(served) as client:
        memories = [{"text": f"{number} " + "tea " * 7_500} for number in range(3)]
        await called(client, "create_long_term_memories", memories=memories)
        offset: int | None = 0
        numbers: set[str] = set()
        while offset is not None:
            page = await called(client, "search_long_term_memory", offset=offset)
            assert len(page["memories"]) == 1
            numbers |= {one["text"][0] for one in page["memories"]}
            offset = page["next_offset"]
        assert numbers == {"0", "1", "2"}
        assert (await called(client, "search_long_term_memory", offset=3))["memories"] == []


async def test_the_time_of_day(serve: Serve) -> None:
    """A model that knows the weekday writes the right date for "next Tuesday"."""
    async with serve(clock=Noon()) as served, mcp_client(served) as client:
        utc = {"datetime": "2026-03-01T12:00:00+00:00", "weekday": "Sunday", "timezone": "UTC"}
        assert await called(client, "get_current_datetime") == utc
        there = await called(client, "get_current_datetime", timezone="Asia/Tokyo")
        assert there["datetime"] == "2026-03-01T21:00:00+09:00"
        for unknown in ("Mars/North", "../etc/passwd", "\x00", "x" * 60):
            assert "time zone" in await refused(client, "get_current_datetime", timezone=unknown)


def test_a_conversation_to_go_on_with_restricts_no_search() -> None:
    """What was learned in other conversations is what a prompt is for."""
    asked = forms.Prompt(query="tea", session_id="s1", limit=3)
    assert search_request(asked, text=asked.query) == SearchRequest(text="tea", limit=3)
    assert search_request(forms.Search(session_id="s1"), text=None).session_id is not None


def test_a_model_reads_nothing_empty() -> None:
    """Each empty field of twenty memories would cost tokens and say nothing."""
    empty: dict[str, Any] = {"topics": (), "entities": [], "metadata": {}, "event_date": None, "pinned": False}
    assert shown({**empty, "memory_hash": "x", "id": "m", "dist": 0.0}) == {"id": "m", "dist": 0.0}
