"""Looking up before a request goes out: with a deadline each, never an error, and what is missing is said."""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from memproxy.errors import StoreError, StoreUnavailableError, StoreUnfitError
from memproxy.memory.long_term import LongTermMemory
from memproxy.proxy.conversation import Conversation, Prefix
from memproxy.proxy.recall import QUERY_CHARS, Found, Recall, query_of
from memproxy.records import MemoryRecord, MemoryType, Scope, ScoredMemory, SessionKey, StoredMessage
from memproxy.storage.breaker import Breaker
from memproxy.storage.connection import open_redis
from memproxy.storage.memory_filter import Filter, TagField, none_of
from memproxy.storage.working import ANSWER, USER, NewTurn, SessionStore

NOON = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
ANN = Scope("tenant", "ann")
MEMORY = ScoredMemory(MemoryRecord("1", ANN, "tea", MemoryType.SEMANTIC, NOON), score=1, text_score=1, vector_score=1)


class Memories:
    """A long-term memory that does what a test wants of it; the real one has its own tests."""

    def __init__(self, result: Exception | Sequence[ScoredMemory] | None = (MEMORY,)) -> None:
        self.result = result
        self.asked: list[tuple[Scope, str, int, Filter, Collection[str]]] = []

    async def search(
        self, scope: Scope, query: str, *, limit: int, where: Filter, excluded_ids: Collection[str]
    ) -> Sequence[ScoredMemory]:
        self.asked.append((scope, query, limit, where, excluded_ids))
        if self.result is None:
            await asyncio.Event().wait()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result or ()


def new_breaker(threshold: int = 3, pause_s: float = 1_000) -> Breaker:
    return Breaker(threshold=threshold, pause_s=pause_s, monotonic_s=time.monotonic)


def new_store(redis: Redis) -> SessionStore:
    return SessionStore(redis, named_ttl_s=0, unnamed_ttl_s=60, receipt_ttl_s=60)


def new_recall(
    redis: Redis,
    memories: Memories | None = None,
    *,
    breaker: Breaker | None = None,
    session_s: float = 20,
    search_s: float = 20,
) -> Recall:
    return Recall(
        new_store(redis),
        cast("LongTermMemory", memories or Memories()),
        breaker or new_breaker(),
        session_deadline_s=session_s,
        search_deadline_s=search_s,
    )


async def search(recall: Recall) -> Found[Sequence[ScoredMemory]]:
    return await recall.memories(ANN, "tea?", limit=7, excluded_sessions=[], excluded_ids=[])


def conversation(*chains: str) -> Conversation:
    return Conversation((), tuple(Prefix(2, chain) for chain in chains), b"", chains)


async def record(redis: Redis) -> SessionKey:
    """A session "one" of a question and an answer, with the chain "c1"."""
    key = SessionKey(ANN, "one")
    messages = tuple(
        StoredMessage({"role": role, "content": "x"}, digest="00" * 16, tokens=5, at=NOON)
        for role in ("user", "assistant")
    )
    turn = NewTurn(
        key=key,
        turn_id="t1",
        expected_length=0,
        keep=0,
        messages=messages,
        flags=(USER, ANSWER),
        facts={"session": "one"},
        pins={},
        queued=b"",
        chain="c1",
        is_named=True,
    )
    assert await new_store(redis).record(turn)
    await new_store(redis).keep_instructions(key, raw=b"[]", is_named=True)
    return key


async def test_a_session_is_found_by_its_name_or_its_chain(redis: Redis) -> None:
    """A client that says which conversation this is, and one that only sends it again, both find it."""
    key = await record(redis)
    recall = new_recall(redis)
    for found in (
        await recall.session(ANN, "one", conversation(), want_index=True),
        await recall.session(ANN, "one", conversation("unknown", "c1"), want_index=True),
    ):
        assert not found.degraded
        assert found.value is not None
        assert (found.value.key, found.value.length, len(found.value.index)) == (key, 2, 2)
    assert await recall.session(ANN, None, conversation("c1"), want_index=True) == Found(None), (
        "a named one stays named"
    )
    assert await recall.session(ANN, "two", conversation(), want_index=True) == Found(None)
    assert len((await recall.messages(key, 0, 1)).value) == 2
    assert (await recall.instructions(key)).value == b"[]"


async def test_a_first_message_asks_the_store_nothing() -> None:
    """A new conversation without a name can't be stored yet; not even an unreachable store delays it."""
    async with open_redis("unix:///nowhere", connect_timeout_s=1, max_connections=1) as redis:
        assert await new_recall(redis).session(ANN, None, conversation(), want_index=True) == Found(None)


async def test_memories_are_looked_up_outside_of_the_sessions_at_hand(redis: Redis) -> None:
    """What the request shows already is not recalled."""
    memories = Memories()
    found = await new_recall(redis, memories).memories(
        ANN, "tea?", limit=7, excluded_sessions=["one", "two"], excluded_ids={"m1"}
    )
    assert found == Found((MEMORY,))
    assert memories.asked == [(ANN, "tea?", 7, Filter((none_of(TagField.SESSION, ["one", "two"]),)), {"m1"})]


async def test_an_unreachable_store_degrades_every_look_up(caplog: pytest.LogCaptureFixture) -> None:
    """The request goes on without memory, and the operator reads why, once and not for every request."""
    key, breaker = SessionKey(ANN, "one"), new_breaker(pause_s=0)
    async with open_redis("unix:///nowhere", connect_timeout_s=1, max_connections=1) as redis:
        recall = new_recall(redis, breaker=breaker)
        with caplog.at_level(logging.WARNING):
            assert await recall.session(ANN, "one", conversation(), want_index=True) == Found(None, degraded=True)
            assert await recall.messages(key, 0, 1) == Found((), degraded=True)
            assert await recall.instructions(key) == Found(b"", degraded=True)
            assert breaker.is_open
            for _ in range(5):
                assert (await recall.session(ANN, "one", conversation(), want_index=True)).degraded
    assert len(caplog.records) == 3
    assert "going on without memory: The store could not be used for reading" in caplog.text


async def test_an_open_breaker_asks_nothing(redis: Redis) -> None:
    """While the store is away, no request waits for it."""
    memories, breaker = Memories(), new_breaker(threshold=1)
    breaker.failed()
    found = await search(new_recall(redis, memories, breaker=breaker))
    assert found == Found((), degraded=True)
    assert memories.asked == []


async def test_a_success_closes_the_breaker(redis: Redis) -> None:
    """Failures far apart are not an outage."""
    breaker = new_breaker(threshold=2)
    recall = new_recall(redis, breaker=breaker)
    for _ in range(3):
        breaker.failed()
        await recall.messages(SessionKey(ANN, "one"), 0, 1)
    assert not breaker.is_open


@pytest.mark.parametrize(
    ("fault", "counts"), [(StoreUnavailableError("away"), True), (StoreError("odd"), False), (None, False)]
)
async def test_what_goes_wrong_in_a_search_leaves_only_the_memories_out(
    redis: Redis, fault: Exception | None, counts: bool
) -> None:
    """A slow search, which has little time, or a damaged entry does not speak against the store; an outage does."""
    breaker = new_breaker(threshold=1)
    recall = new_recall(redis, Memories(fault), breaker=breaker, search_s=0.01)
    assert await search(recall) == Found((), degraded=True)
    assert breaker.is_open is counts


async def test_a_store_that_cannot_search_is_no_outage(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """A cluster without a query engine was told of at start; no request is marked for it, and nobody is woken."""
    breaker = new_breaker(threshold=1)
    recall = new_recall(redis, Memories(StoreUnfitError("no query engine")), breaker=breaker)
    assert await search(recall) == Found((), degraded=False)
    assert not breaker.is_open
    assert not caplog.records


async def test_a_search_waits_for_its_turn_only_so_long(redis: Redis) -> None:
    """A burst of requests is answered without some memories rather than late; the store is not blamed for it."""
    breaker = new_breaker(threshold=1)
    recall = new_recall(redis, Memories(None), breaker=breaker, session_s=0.05, search_s=0.04)
    found = await asyncio.gather(*(search(recall) for _ in range(50)))
    assert found == [Found((), degraded=True)] * 50
    assert not breaker.is_open
    recall = new_recall(redis, Memories())
    assert await asyncio.gather(*(search(recall) for _ in range(50))) == [Found((MEMORY,))] * 50


async def test_a_store_that_is_too_slow_for_a_session_counts_as_away() -> None:
    """A store that hangs is met once or twice, not by every request for half a second."""
    hanging: list[asyncio.StreamWriter] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hanging.append(writer)

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    breaker = new_breaker(threshold=1)
    async with open_redis(f"redis://127.0.0.1:{port}", connect_timeout_s=5, max_connections=1) as redis:
        recall = new_recall(redis, breaker=breaker, session_s=0.05)
        assert await recall.session(ANN, "one", conversation(), want_index=True) == Found(None, degraded=True)
        assert breaker.is_open
    for writer in hanging:
        writer.close()
    server.close()


def test_a_short_message_is_looked_up_with_the_one_before() -> None:
    """ "When will it arrive?" means nothing by itself."""
    assert query_of([]) == ""
    assert query_of(["When will it arrive?"]) == "When will it arrive?"
    assert query_of(["I ordered a laptop.", "When will it arrive?"]) == "I ordered a laptop.\nWhen will it arrive?"
    assert query_of(["I ordered a laptop.", "When will the laptop arrive here?"]) == "When will the laptop arrive here?"


def test_a_long_message_is_looked_up_by_its_beginning() -> None:
    """A pasted document costs no more time than a question."""
    assert query_of(["x" * 5_000]) == "x" * QUERY_CHARS
    assert query_of(["word " * 5_000, "ok"]) == ("word " * 5_000)[: QUERY_CHARS // 3] + "\nok"


def test_nothing_found_is_not_degraded() -> None:
    """An empty memory is an answer."""
    value: Any = ()
    assert Found(value) != Found(value, degraded=True)
