"""Calls of memory tools, carried out on the real store with the real local embedding."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from typing_extensions import override

from memproxy.embedding import LocalEmbedder, Vector
from memproxy.memory.long_term import LongTermMemory
from memproxy.proxy.memory_tool_forms import ARGUMENTS, PREFIX
from memproxy.proxy.memory_tools import MAX_RESULT_CHARS, NOBODY, UNAVAILABLE, MemoryTools
from memproxy.records import JsonObject, MemoryRecord, MemoryType, Scope, SessionKey, ToolCall
from memproxy.storage.connection import open_redis
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.session_data import SessionDataStore

ALICE = Scope("tenant", "alice")
BOB = Scope("tenant", "bob")
AT_WORK = Scope("tenant", "alice", "work")
NOBODYS = Scope("tenant", None)
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


@dataclass
class SetClock:
    """A clock that goes on by a second each time it is asked."""

    at: datetime = field(default=NOON)

    def now(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at

    def monotonic_s(self) -> float:
        return self.at.timestamp()


@pytest.fixture(scope="module")
def embedder() -> LocalEmbedder:
    return LocalEmbedder()


@pytest.fixture
async def memory(redis: Redis, embedder: LocalEmbedder) -> LongTermMemory:
    store = LongTermStore(redis, model=embedder.name, dims=embedder.dims)
    await store.ensure_index()
    return LongTermMemory(store, embedder)


@pytest.fixture
def tools(redis: Redis, memory: LongTermMemory) -> MemoryTools:
    return MemoryTools(memory, SessionDataStore(redis, unrecorded_ttl_s=60), clock=SetClock())


async def call(
    tools: MemoryTools, name: str, arguments: Mapping[str, Any] | str, *, scope: Scope = ALICE, session: str = "chat-1"
) -> JsonObject:
    """The answer to one call, read."""
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    asked = ToolCall("call-1", PREFIX + name, written)
    answer = await tools.answer(asked, scope=scope, session=SessionKey(scope, session))
    assert (answer.call, answer.source, answer.age_s) == (asked, "memory", None)
    result: JsonObject = json.loads(str(answer.content))
    return result


async def create(tools: MemoryTools, *texts: str, scope: Scope = ALICE, **more: Any) -> list[str]:
    """Create memories, and give back their ids."""
    memories = [{"text": text, "memory_type": "semantic", **more} for text in texts]
    result = await call(tools, "create_memories", {"memories": memories}, scope=scope)
    return [each["id"] for each in result["memories"]]


async def found(tools: MemoryTools, query: str, *, scope: Scope = ALICE, **more: Any) -> list[str]:
    """The texts that a search gives."""
    result = await call(tools, "search_memory", {"query": query, **more}, scope=scope)
    return [each["text"] for each in result["memories"]]


def spoken(text: str, *, at: datetime = NOON) -> MemoryRecord:
    return MemoryRecord(text, ALICE, text, MemoryType.MESSAGE, at, session="chat-0", speaker="user", context="before")


async def test_what_was_created_is_found_changed_and_forgotten(tools: MemoryTools) -> None:
    """The life of a memory in a model's hands; each step needs only what the one before gave."""
    memory = {
        "text": "Alice flies to Peru in May 2025",
        "memory_type": "episodic",
        "topics": ["travel"],
        "entities": ["Peru"],
        "event_date": "2025-05-01",
    }
    created = await call(tools, "create_memories", {"memories": [memory]})
    (new,) = created["memories"]
    assert new["is_new"] is True
    shown = {**memory, "id": new["id"], "created_at": "2025-03-01T12:00Z"}
    assert await call(tools, "search_memory", {"query": "holiday in Peru"}) == {"memories": [shown]}
    change = {"memory_id": new["id"], "text": "Alice flies to Chile in June 2025", "event_date": "2025-06-01T08:30:00Z"}
    edited = {**shown, "text": change["text"], "event_date": "2025-06-01T08:30Z"}
    assert await call(tools, "edit_memory", change) == {"memory": edited}
    assert await found(tools, "where to in June?") == [change["text"]]
    ids = {"memory_ids": [new["id"], "unknown"]}
    assert await call(tools, "delete_memories", ids) == {"deleted": 1, "unknown": 1}
    assert await call(tools, "search_memory", {"query": "Peru"}) == {"memories": []}


async def test_created_memories_are_kept_as_given(tools: MemoryTools, memory: LongTermMemory) -> None:
    """The model chose the words; who created it, and when, is what the proxy knows."""
    (new,) = await create(tools, "  Alice\nlikes  tea ", topics=["Drinks"])
    (record,) = await memory.get(ALICE, [new])
    assert record == MemoryRecord(
        id=new,
        scope=ALICE,
        text="Alice\nlikes  tea",
        type=MemoryType.SEMANTIC,
        created_at=record.created_at,
        session="chat-1",
        topics=("Drinks",),
    )


async def test_the_same_said_twice_is_one_memory(tools: MemoryTools, memory: LongTermMemory) -> None:
    """Models store the same fact in every conversation; a request that is sent again stores nothing twice."""
    first, again = await create(tools, "Alice likes tea", "alice  likes TEA")
    assert first == again
    result = await call(tools, "create_memories", {"memories": [{"text": "Alice likes tea"}, {"text": "and milk"}]})
    assert [each["is_new"] for each in result["memories"]] == [False, True]
    assert (await memory.newest(ALICE, limit=1))[0] == 2


async def test_creating_does_not_overwrite_what_was_edited(tools: MemoryTools) -> None:
    """Alice moves to Porto and back: the memory that was edited says something else by now and stays."""
    (home,) = await create(tools, "Alice lives in Lisbon")
    await call(tools, "edit_memory", {"memory_id": home, "text": "Alice works in Porto"})
    (new,) = await create(tools, "Alice lives in Lisbon")
    assert new != home
    assert set(await found(tools, "Alice")) == {"Alice lives in Lisbon", "Alice works in Porto"}


async def test_an_edit_leaves_what_it_does_not_name(tools: MemoryTools) -> None:
    """And null is as good as leaving out: models fill in what they don't need."""
    (tea,) = await create(tools, "Alice likes tea", topics=["drinks"], entities=["Alice"], event_date="2025-01-01")
    arguments: JsonObject = {"memory_id": tea, "text": None, "topics": None, "entities": [], "event_date": ""}
    edited = (await call(tools, "edit_memory", arguments))["memory"]
    assert edited == {
        "id": tea,
        "text": "Alice likes tea",
        "memory_type": "semantic",
        "topics": ["drinks"],
        "created_at": "2025-03-01T12:00Z",
    }
    edited = (await call(tools, "edit_memory", {"memory_id": tea, "topics": "taste"}))["memory"]
    assert edited["topics"] == ["taste"]


async def test_an_edited_text_is_not_found_by_what_led_to_the_old_one(
    tools: MemoryTools, memory: LongTermMemory
) -> None:
    """The context of a memory is what it was understood from."""
    await memory.remember([spoken("Alice likes tea")])
    await call(tools, "edit_memory", {"memory_id": "Alice likes tea", "topics": ["drinks"]})
    assert (await memory.get(ALICE, ["Alice likes tea"]))[0].context == "before"
    await call(tools, "edit_memory", {"memory_id": "Alice likes tea", "text": "Alice likes milk"})
    assert (await memory.get(ALICE, ["Alice likes tea"]))[0].context == ""


async def test_a_search_is_narrowed_by_what_the_model_asks(tools: MemoryTools, memory: LongTermMemory) -> None:
    await memory.remember([spoken("user: tea please", at=NOON - timedelta(days=30))])
    await create(tools, "Alice likes green tea", topics=["taste"], entities=["Alice"])
    await create(tools, "Bruno brews black tea", topics=["work"], entities=["Bruno"])
    narrowed: list[tuple[JsonObject, set[str]]] = [
        ({}, {"user: tea please", "Alice likes green tea", "Bruno brews black tea"}),
        ({"memory_type": "message"}, {"user: tea please"}),
        ({"topics": ["Taste", "none"]}, {"Alice likes green tea"}),
        ({"entities": "bruno"}, {"Bruno brews black tea"}),
        ({"created_after": "2025-02-28"}, {"Alice likes green tea", "Bruno brews black tea"}),
        ({"created_before": "2025-02-28"}, {"user: tea please"}),
        ({"created_after": "2025-02-28", "topics": "taste"}, {"Alice likes green tea"}),
    ]
    for more, texts in narrowed:
        assert set(await found(tools, "tea", **more)) == texts
        assert set(await found(tools, "", **more)) == texts


async def test_a_search_without_words_lists_the_newest(tools: MemoryTools) -> None:
    """ "What do you know about me?" is about no word in particular."""
    for text in ("first", "second", "third"):
        await create(tools, text)
    assert await found(tools, " ", limit=2) == ["third", "second"]


async def test_a_search_gives_candidates_that_share_no_word_with_it(tools: MemoryTools) -> None:
    """The model asks in general terms, and judges by itself."""
    await create(tools, "Alice eats no mushrooms")
    assert await found(tools, "preferences of the user") == ["Alice eats no mushrooms"]


@pytest.mark.parametrize(("limit", "number"), [(None, 10), (0, 1), (-5, 1), (3, 3), (99, 20), (10**30, 20)])
async def test_a_search_gives_no_more_than_the_most(tools: MemoryTools, limit: int | None, number: int) -> None:
    await create(tools, *(f"tea number {at}" for at in range(20)))
    await create(tools, *(f"milk number {at}" for at in range(5)))
    assert len(await found(tools, "tea", limit=limit)) == number


async def test_a_result_is_no_longer_than_a_model_can_take(tools: MemoryTools) -> None:
    """It stays in the conversation, and is paid for with every further request."""
    await create(tools, *(f"tea {at} ".ljust(4_000, "x") for at in range(5)))
    result = await call(tools, "search_memory", {"query": "tea"})
    assert (len(result["memories"]), result["left_out"]) == (MAX_RESULT_CHARS // 4_000, 2)


async def test_notes_are_merged_and_shown(tools: MemoryTools) -> None:
    """One tool writes and reads them."""
    assert await call(tools, "update_session_data", {"data": {"order": "LX-4417", "step": 1}}) == {
        "data": {"order": "LX-4417", "step": 1}
    }
    assert await call(tools, "update_session_data", {"data": {"order": None, "step": 2}}) == {"data": {"step": 2}}
    assert await call(tools, "update_session_data", {"data": {}}) == {"data": {"step": 2}}
    assert await call(tools, "update_session_data", {"data": {}}, session="chat-2") == {"data": {}}
    assert await call(tools, "update_session_data", {"data": {}}, scope=BOB) == {"data": {}}


async def test_notes_have_a_size(tools: MemoryTools) -> None:
    assert "data" in await call(tools, "update_session_data", {"data": {"a": "x" * 16_000}})
    result = await call(tools, "update_session_data", {"data": {"b": "x" * 400}})
    assert "16384 bytes" in result["error"]
    assert await call(tools, "update_session_data", {"data": {"a": None}}) == {"data": {}}


async def test_the_time_is_told_where_the_user_is(tools: MemoryTools) -> None:
    assert await call(tools, "get_current_datetime", "") == {
        "datetime": "2025-03-01T12:00:01+00:00",
        "weekday": "Saturday",
        "timezone": "UTC",
    }
    there = await call(tools, "get_current_datetime", {"timezone": "Pacific/Auckland"})
    assert (there["datetime"], there["weekday"]) == ("2025-03-02T01:00:02+13:00", "Sunday")
    for unknown in ("Moon/Tycho", "../etc/passwd", "/etc/passwd", "Europe", "x" * 5_000, "a\x00b", "zone.tab"):
        assert "IANA" in (await call(tools, "get_current_datetime", {"timezone": unknown}))["error"]


async def test_without_a_user_only_the_conversation_has_tools(tools: MemoryTools, redis: Redis) -> None:
    """Strangers must not share a memory; what belongs to one session may be kept."""
    calls: list[tuple[str, JsonObject]] = [
        ("search_memory", {"query": "tea"}),
        ("create_memories", {"memories": [{"text": "Alice likes tea"}]}),
        ("edit_memory", {"memory_id": "a", "text": "b"}),
        ("delete_memories", {"memory_ids": ["a"]}),
    ]
    for name, arguments in calls:
        assert await call(tools, name, arguments, scope=NOBODYS) == {"error": NOBODY}
    assert await redis.keys("mp:*") == []
    assert await call(tools, "update_session_data", {"data": {"a": 1}}, scope=NOBODYS) == {"data": {"a": 1}}
    assert "datetime" in await call(tools, "get_current_datetime", {}, scope=NOBODYS)


async def test_nobody_elses_memory_is_seen_edited_or_deleted(tools: MemoryTools, memory: LongTermMemory) -> None:
    """Not even by a model that knows its id, and not under another namespace of the same user."""
    (tea,) = await create(tools, "Alice likes tea")
    for scope in (BOB, AT_WORK, Scope("other", "alice")):
        assert await found(tools, "tea", scope=scope) == []
        assert await found(tools, "", scope=scope) == []
        assert "no memory" in (await call(tools, "edit_memory", {"memory_id": tea, "text": "x"}, scope=scope))["error"]
        assert (await call(tools, "delete_memories", {"memory_ids": [tea]}, scope=scope))["deleted"] == 0
        assert await create(tools, "Alice likes tea", scope=scope) == [tea]
        assert (await memory.get(scope, [tea]))[0].scope == scope
    assert (await memory.get(ALICE, [tea]))[0].text == "Alice likes tea"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("read_minds", {}, "no such tool"),
        ("search_memory", "{", "can't be used"),
        ("search_memory", {"query": "tea", "created_after": "yesterday"}, "created_after must be"),
        ("search_memory", {"query": "tea", "topics": ["x" * 101]}, "topics may hold"),
        ("create_memories", {"memories": []}, "memories holds 0"),
        ("create_memories", {"memories": [{"text": "x"}] * 21}, "memories holds 21"),
        ("create_memories", {"memories": [{"text": "x" * 4_001}]}, "4001 characters"),
        ("create_memories", {"memories": [{"text": "good"}, {"text": " "}]}, "text is empty"),
        ("create_memories", {"memories": [{"text": "x", "event_date": "soon"}]}, "event_date must be"),
        ("edit_memory", {"memory_id": "a"}, "nothing to change"),
        ("edit_memory", {"memory_id": "a", "text": "b"}, "no memory with this id"),
        ("edit_memory", {"memory_id": "a", "text": " "}, "text is empty"),
        ("delete_memories", {"memory_ids": []}, "memory_ids holds 0"),
        ("delete_memories", {"memory_ids": [str(at) for at in range(51)]}, "memory_ids holds 51"),
        ("update_session_data", {"data": "[]"}, "JSON object"),
    ],
)
async def test_what_is_wrong_with_a_call_is_told(
    tools: MemoryTools, redis: Redis, name: str, arguments: JsonObject | str, says: str
) -> None:
    """And nothing of such a call is carried out."""
    result = await call(tools, name, arguments)
    assert result.keys() == {"error"}
    assert says in result["error"]
    assert await redis.keys("mp:*") == []


async def test_a_store_that_is_away_is_told(embedder: LocalEmbedder, caplog: pytest.LogCaptureFixture) -> None:
    """The model goes on without memory instead of the request failing."""
    away = open_redis("unix:///nowhere.sock", connect_timeout_s=1, max_connections=1)
    memory = LongTermMemory(LongTermStore(away, model=embedder.name, dims=embedder.dims), embedder)
    tools = MemoryTools(memory, SessionDataStore(away, unrecorded_ttl_s=60), clock=SetClock())
    calls: list[tuple[str, JsonObject]] = [
        ("search_memory", {"query": "secret"}),
        ("create_memories", {"memories": [{"text": "secret"}]}),
        ("edit_memory", {"memory_id": "secret", "text": "secret"}),
        ("delete_memories", {"memory_ids": ["secret"]}),
        ("update_session_data", {"data": {"secret": "secret"}}),
    ]
    for name, arguments in calls:
        assert await call(tools, name, arguments) == {"error": UNAVAILABLE}
    assert len(caplog.records) == 5
    assert "secret" not in caplog.text


class HangingEmbedder(LocalEmbedder):
    """A service that does not answer."""

    @override
    async def embed_query(self, text: str) -> Vector:
        await asyncio.Event().wait()
        raise AssertionError


class FailingEmbedder(LocalEmbedder):
    """A service that answers nonsense."""

    @override
    async def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        raise ZeroDivisionError


async def test_what_takes_too_long_is_given_up(redis: Redis) -> None:
    """The user waits for the answer."""
    embedder = HangingEmbedder()
    memory = LongTermMemory(LongTermStore(redis, model=embedder.name, dims=embedder.dims), embedder)
    data = SessionDataStore(redis, unrecorded_ttl_s=60)
    tools = MemoryTools(memory, data, clock=SetClock(), deadline_s=0.01)
    assert await call(tools, "search_memory", {"query": "tea"}) == {"error": UNAVAILABLE}


async def test_an_error_that_nobody_thought_of_does_not_end_the_request(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its traceback, and the model is told."""
    embedder = FailingEmbedder()
    memory = LongTermMemory(LongTermStore(redis, model=embedder.name, dims=embedder.dims), embedder)
    tools = MemoryTools(memory, SessionDataStore(redis, unrecorded_ttl_s=60), clock=SetClock())
    assert await call(tools, "create_memories", {"memories": [{"text": "tea"}]}) == {"error": UNAVAILABLE}
    assert "ZeroDivisionError" in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
LABELS = st.lists(st.text(max_size=8), max_size=3) | JSON
DATES = st.datetimes().map(datetime.isoformat) | st.dates().map(str) | st.text(max_size=12)
IDS = st.sampled_from(["bobs", "works", "alices"]) | st.text(max_size=8)
MEMORIES = st.fixed_dictionaries({"text": st.text(max_size=30)}, optional={"topics": LABELS, "event_date": DATES})
ARGUMENT = st.fixed_dictionaries(
    {},
    optional={
        "query": st.sampled_from(["secret", "*", ""]) | st.text(max_size=30),
        "limit": st.integers() | JSON,
        "memory_type": st.sampled_from(["semantic", "message"]) | JSON,
        "topics": LABELS,
        "entities": LABELS,
        "created_after": DATES,
        "created_before": DATES,
        "memories": st.lists(MEMORIES, max_size=3) | JSON,
        "memory_id": IDS,
        "text": st.text(max_size=30),
        "event_date": DATES,
        "memory_ids": st.lists(IDS, max_size=4) | IDS,
        "data": st.dictionaries(st.text(max_size=8), JSON, max_size=3) | JSON,
        "timezone": st.text(max_size=12) | st.sampled_from(["Europe", "UTC", "a/../b", "."]),
        "user_id": st.just("bob"),
        "namespace": st.just("work"),
    },
)
WRITTEN = ARGUMENT.map(json.dumps) | JSON.map(json.dumps) | st.text(max_size=40)
OTHERS = (
    MemoryRecord("bobs", BOB, "Bob's secret", MemoryType.SEMANTIC, NOON),
    MemoryRecord("works", AT_WORK, "Alice's secret at work", MemoryType.SEMANTIC, NOON),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(name=st.sampled_from([*ARGUMENTS, PREFIX + "unknown", "read_file"]), written=WRITTEN)
async def test_no_call_raises_or_reaches_anothers_memory(
    tools: MemoryTools, memory: LongTermMemory, name: str, written: str
) -> None:
    """Whatever a model writes, or is made to write by what it has read."""
    await memory.remember(OTHERS)
    await memory.remember([MemoryRecord("alices", ALICE, "Alice's own secret", MemoryType.SEMANTIC, NOON)])
    asked = ToolCall("call-1", name, written)
    answer = await tools.answer(asked, scope=ALICE, session=SessionKey(ALICE, "chat-1"))
    assert isinstance(json.loads(str(answer.content)), dict)
    assert "Bob's secret" not in answer.content
    assert "at work" not in answer.content
    for other in OTHERS:
        assert await memory.newest(other.scope, limit=5) == (1, [other])
    await memory.forget_user(ALICE)
