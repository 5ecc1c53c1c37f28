"""Sessions in a real store as documents: shown in part, changed whole or not at all, gone with all that is theirs."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from memproxy.errors import StoreError, StoreUnavailableError
from memproxy.records import MemoryRecord, MemoryType, Pin, Scope, SessionKey, StrategyChoice
from memproxy.storage import schema
from memproxy.storage.connection import open_redis
from memproxy.storage.session_data import SessionDataStore
from memproxy.storage.session_documents import SessionDocuments
from memproxy.storage.session_index import SessionIndex
from memproxy.storage.session_state import Document, KeptMemory, MarksChange, ReadMark, View, Witness
from memproxy.storage.tool_results import CacheScope, Keep, Lessons, ToolResultStore
from memproxy.storage.working import SessionStore
from tests.fakes.sessions import (
    ANN,
    CHAT,
    NOON,
    answered,
    calling,
    documents_on,
    rewritten,
    said,
    say,
    store_on,
    written,
)

ALL = View()
ME = Witness("me:1", NOON)


@pytest.fixture
def documents(redis: Redis) -> SessionDocuments:
    return documents_on(redis)


@pytest.fixture
def store(redis: Redis) -> SessionStore:
    return store_on(redis)


async def read(documents: SessionDocuments, key: SessionKey = CHAT, view: View = ALL) -> Document:
    return await documents.read(key, view, reader=None)


def texts(document: Document) -> list[str]:
    return [str(message.message["content"]) for message in document.messages]


def memory(name: str, text: str = "likes tea") -> MemoryRecord:
    return MemoryRecord(name, ANN, text, MemoryType.SEMANTIC, NOON)


# Reading


async def test_what_was_said_through_the_proxy_is_read_whole(documents: SessionDocuments, store: SessionStore) -> None:
    """Code sees the sessions of agents, with an id for each message that stays."""
    turn = [said("which order?"), calling("get_order"), answered("LX-4417"), said("it is on its way", "assistant")]
    await say(store, "a", turn)
    await say(store, "b", [said("thanks", at=NOON + timedelta(seconds=5))])
    found = await read(documents)
    assert [message.message for message in found.messages[:4]] == [message.message for message in turn]
    assert [message.id for message in found.messages] == ["a-0", "a-1", "a-2", "a-3", "b-0"]
    assert [entry.version for entry in found.index] == [1, 1, 1, 1, 2]
    assert (found.version, found.length, found.first, found.tokens) == (2, 5, 0, 50)
    assert (found.created_at, found.updated_at) == (NOON, NOON + timedelta(seconds=5))
    assert (found.key, found.is_there, found.is_named, found.ttl_ms, found.strategies) == (CHAT, True, True, None, ())


async def test_a_session_that_is_not_there_is_an_empty_document(documents: SessionDocuments) -> None:
    """No error: it may be made by what is written next."""
    found = await read(documents)
    assert (found.is_there, found.version, found.messages, found.key) == (False, 0, (), CHAT)


@pytest.mark.parametrize(
    "other", [replace(ANN, tenant="x"), replace(ANN, user="x"), replace(ANN, user=None), replace(ANN, namespace=None)]
)
async def test_no_scope_reads_or_deletes_anothers_session(
    documents: SessionDocuments, store: SessionStore, other: Scope
) -> None:
    """The same name in another scope is another session; there is no looking elsewhere."""
    await say(store, "a", [said("mine")])
    assert not (await read(documents, SessionKey(other, CHAT.session))).is_there
    assert not await documents.delete(SessionKey(other, CHAT.session))
    assert (await read(documents)).is_there


async def test_the_current_thread_is_the_session(documents: SessionDocuments, store: SessionStore) -> None:
    """After an edit the conversation goes on in a branch: that is what code sees and changes."""
    await say(store, "a", [said("one"), said("answer", "assistant")])
    branch = replace(CHAT, thread="t")
    await say(store, "b", [said("other")], key=branch)
    found = await read(documents)
    assert (found.key, texts(found)) == (branch, ["one", "other"])
    assert [entry.version for entry in found.index] == [1, 2], "versions go on across threads"
    document, _ = await documents.read_for_change(CHAT)
    assert await documents.change(rewritten(document, [*document.messages, written("x", "note")], keep=2))
    assert texts(await read(documents)) == ["one", "other", "note"]
    assert [one.message["content"] for one in await store.messages(CHAT, 0, -1)] == ["one", "answer"]


KINDS = {
    "u": lambda: said("u"),
    "a": lambda: said("a", "assistant"),
    "c": lambda: calling("f"),
    "r": lambda: answered("r"),
}


def expected_first(kinds: Sequence[str], sizes: Sequence[int], *, most: int, budget: int) -> int:
    """Where the shown part begins, said once more and slowly."""
    length = len(kinds)
    fits = [
        first
        for first in range(length)
        if (not most or length - first <= most) and (not budget or sum(sizes[first:]) <= budget)
    ]
    first = min(fits, default=length - 1)
    while first < length and kinds[first] == "r" and first > 0:
        first += 1
    if first == length:
        first = length - 1
        while first and kinds[first] == "r":
            first -= 1
    return first


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    kinds=st.lists(st.sampled_from("uacr"), min_size=1, max_size=12).map(lambda kinds: ["u", *kinds]),
    sizes=st.lists(st.integers(0, 30), min_size=13, max_size=13),
    most=st.integers(0, 14),
    budget=st.just(0) | st.integers(0, 120),
)
async def test_the_end_is_shown_and_no_result_without_its_call(
    redis: Redis, kinds: list[str], sizes: list[int], most: int, budget: int
) -> None:
    """A model that is sent it does not refuse it, and the limits hold wherever that is possible."""
    await redis.flushall()
    sizes = sizes[: len(kinds)]
    messages = [replace(KINDS[kind](), tokens=size) for kind, size in zip(kinds, sizes, strict=True)]
    await say(store_on(redis), "a", messages)
    found = await documents_on(redis).read(CHAT, View(most, budget), reader=None)
    first = expected_first(kinds, sizes, most=most, budget=budget)
    assert (found.first, len(found.messages), found.length) == (first, len(kinds) - first, len(kinds))
    assert [message.tokens for message in found.messages] == sizes[first:] == [entry.tokens for entry in found.index]


async def test_the_end_of_a_long_session_is_shown_to_the_token(
    documents: SessionDocuments, store: SessionStore
) -> None:
    """Far more messages than are looked at at once."""
    await say(store, "a", [said(str(number), tokens=1 + number % 7) for number in range(1_000)])
    for budget in (1, 250, 1_000, 3_999, 10_000):
        found = await read(documents, view=View(tokens=budget))
        total = sum(1 + number % 7 for number in range(found.first, 1_000))
        assert total <= max(budget, 1 + 999 % 7)
        assert found.first == 0 or total + 1 + (found.first - 1) % 7 > budget
        assert texts(found)[0] == str(found.first)


async def test_reading_touches_neither_times_nor_time_to_live(redis: Redis) -> None:
    """Who looks at a session does not keep it alive."""
    documents, store = documents_on(redis), store_on(redis, named_ttl_s=1_000)
    await say(store, "a", [said("one")])
    keys: list[bytes] = await redis.keys("mp:*")  # type: ignore[assignment]  # the client gives bytes
    for key in keys:
        await redis.pexpire(key, 500_000)
    before = await read(documents)
    await documents.read(CHAT, ALL, reader=ME)
    assert replace(await read(documents), shown=0) == before
    for key in keys:
        assert 0 < await redis.pttl(key) <= 500_000


# What readers have seen


async def test_a_read_is_remembered_for_its_answer(
    documents: SessionDocuments, store: SessionStore, redis: Redis
) -> None:
    """So that what comes back is held against what was shown, for ten minutes at the most."""
    await say(store, "a", [said("one"), said("two", "assistant")])
    data = SessionDataStore(redis, unrecorded_ttl_s=60)
    await data.merge(CHAT, {"step": 1}, max_bytes=1_000)
    await documents.read(CHAT, View(messages=1), reader=ME)
    await documents.read(CHAT, View(messages=1), reader=ME)
    _, marks = await documents.read_for_change(CHAT)
    (left,) = marks.left
    assert (left.kind, left.connection, left.mark.count) == ("open", "me:1", 2)
    assert (left.mark.version, left.mark.hidden, left.mark.begins, left.mark.shown) == (1, 1, "a-1", 1)
    assert (left.mark.state, left.mark.at, set(left.mark.data)) == (NOON.isoformat(), ME.at_ms, {"step"})
    assert 0 < await redis.pttl(schema.session_key("read", CHAT)) <= 600_000
    assert (await read(documents)).shown == 0, "not all of it was shown"
    await documents.read(CHAT, ALL, reader=ME)
    assert (await read(documents)).shown == 1


async def test_a_look_at_nothing_is_remembered_too(documents: SessionDocuments) -> None:
    """Whoever found no session and makes one may not be the only one."""
    await documents.read(CHAT, ALL, reader=ME)
    document, marks = await documents.read_for_change(CHAT)
    assert not document.is_there
    assert [(left.mark.version, left.mark.shown, left.mark.state) for left in marks.left] == [(0, 0, "")]


async def test_reads_are_remembered_up_to_a_number(documents: SessionDocuments, store: SessionStore) -> None:
    """A dashboard that looks every second does not fill the store; the oldest looks go."""
    await say(store, "a", [said("one")])
    for number in range(80):
        await documents.read(CHAT, ALL, reader=Witness(f"c:{number}", NOON + timedelta(seconds=number)))
    _, marks = await documents.read_for_change(CHAT)
    assert sorted(int(left.connection[2:]) for left in marks.left) == list(range(16, 80))


async def test_a_write_uses_a_read_up_and_leaves_what_its_writer_knows(
    documents: SessionDocuments, store: SessionStore
) -> None:
    """Who writes again without reading is known by its connection; who read besides it still may write."""
    await say(store, "a", [said("one")])
    other = Witness("other:2", NOON)
    for reader in (ME, ME, other):
        await documents.read(CHAT, ALL, reader=reader)
    document, marks = await documents.read_for_change(CHAT)
    mine, others = sorted(marks.left, key=lambda left: left.connection)
    knows = ReadMark(document.base, 2, ME.at_ms, shown=2)
    change = rewritten(
        document,
        [*document.messages, written("x", "note")],
        keep=1,
        marks=MarksChange(ME, knows, used=mine.name, gone={"old": 2}),
    )
    assert await documents.change(change)
    document, marks = await documents.read_for_change(CHAT)
    left = {one.kind + one.connection: one.mark for one in marks.left}
    assert (left["openme:1"].count, left["openother:2"].count, left["ownme:1"]) == (1, 1, knows)
    assert (left["shown"].version, left["shown"].state) == (2, change.after.updated_at.isoformat())  # type: ignore[union-attr]
    assert marks.gone == {"old": 2}
    change = rewritten(
        document,
        document.messages,
        keep=2,
        marks=MarksChange(ME, knows, used=others.name, aside=others.connection),
    )
    assert await documents.change(change)
    _, marks = await documents.read_for_change(CHAT)
    kinds = {(one.kind, one.connection) for one in marks.left}
    assert kinds == {("open", "me:1"), ("own", "me:1"), ("own", "other:2"), ("shown", "")}
    await documents.read(CHAT, ALL, reader=ME)
    _, marks = await documents.read_for_change(CHAT)
    assert ("own", "me:1") not in {(one.kind, one.connection) for one in marks.left}, "it has looked again"


# Changing


async def test_a_session_is_made_by_the_first_change(
    documents: SessionDocuments, store: SessionStore, redis: Redis
) -> None:
    """And the proxy goes on with it as with any other."""
    document, _ = await documents.read_for_change(CHAT)
    messages = [written("one", "hi"), written("two", "hello", "assistant")]
    after = {"summary": "they greet", "strategies": (StrategyChoice("summary", {"max": 1}),), "wanted_within": 500}
    assert await documents.change(rewritten(document, messages, keep=0, after=after, queued=b"turn"))
    found = await read(documents)
    assert (found.messages, found.version, found.length, found.summary) == (tuple(messages), 1, 2, "they greet")
    assert (found.created_at, found.wanted_within) == (NOON, 500)
    loaded = await store.load(ANN, CHAT.session, chains=[], want_index=True, tail=10)
    assert loaded is not None
    assert (loaded.length, loaded.tokens, loaded.summary, loaded.tail) == (2, 20, "they greet", tuple(messages))
    assert [(entry.digest.hex(), entry.flags) for entry in loaded.index] == [
        (messages[0].digest, 4 | 16),
        (messages[1].digest, 1 | 16),
    ]
    assert loaded.strategies == (StrategyChoice("summary", {"max": 1}),)
    rows: Any = await redis.xrange(schema.queue_key(schema.partition_of(ANN)))
    assert [fields[b"turn"] for _, fields in rows] == [b"turn"]
    await say(store, "a", [said("more")])
    assert texts(await read(documents)) == ["hi", "hello", "more"]


async def test_a_change_rewrites_only_what_changed(documents: SessionDocuments, store: SessionStore) -> None:
    """What stands before it keeps its blocks, what stands behind has moved and loses them."""
    await say(store, "a", [said(text) for text in "abcd"], pins={0: Pin("A"), 2: Pin("C"), 3: Pin("D")})
    document, _ = await documents.read_for_change(CHAT)
    left = [document.messages[0], document.messages[1], document.messages[3]]
    assert await documents.change(rewritten(document, left, keep=2))
    loaded = await store.load(ANN, CHAT.session, chains=[], want_index=True, tail=10)
    assert loaded is not None
    assert ([one.message["content"] for one in loaded.tail], loaded.length) == (["a", "b", "d"], 3)
    assert (loaded.pins, loaded.rewrites, loaded.tokens) == ({0: Pin("A")}, 1, 30)
    document, _ = await documents.read_for_change(CHAT)
    assert await documents.change(rewritten(document, [*left, written("x", "e")], keep=3))
    loaded = await store.load(ANN, CHAT.session, chains=[], want_index=True, tail=10)
    assert loaded is not None
    assert (loaded.pins, loaded.rewrites, loaded.length) == ({0: Pin("A")}, 1, 4)
    document, _ = await documents.read_for_change(CHAT)
    assert await documents.change(rewritten(document, [], keep=0))
    loaded = await store.load(ANN, CHAT.session, chains=[], want_index=True, tail=10)
    assert loaded is not None
    assert (loaded.pins, loaded.rewrites, loaded.length, loaded.tail) == ({}, 2, 0, ())


async def test_what_the_background_stage_writes_meanwhile_stays(
    documents: SessionDocuments, store: SessionStore, redis: Redis
) -> None:
    """A summary takes a model's time; a change that does not touch it does not undo it."""
    await say(store, "a", [said("one")], facts={"session": "chat-1", "thread": "", "created_at": NOON.isoformat()})
    document, _ = await documents.read_for_change(CHAT)
    await redis.hset(
        schema.session_key("s", CHAT), mapping={"summary": "new", "summarised": "1", "cut": "1", "cut_note": "n"}
    )
    assert await documents.change(rewritten(document, [*document.messages, written("x", "e")], keep=1))
    found = await read(documents)
    assert (found.summary, found.summarised, found.cut) == ("new", 1, 1)


async def test_a_change_of_what_is_no_longer_so_is_refused(documents: SessionDocuments, store: SessionStore) -> None:
    """A turn, another change, a deletion, another session of the name: then it is read again."""
    await say(store, "a", [said("one")])
    document, _ = await documents.read_for_change(CHAT)
    change = rewritten(document, [*document.messages, written("x", "note")], keep=1, queued=b"turn")
    await say(store, "b", [said("two")])
    assert not await documents.change(change)
    document, _ = await documents.read_for_change(CHAT)
    change = rewritten(document, [*document.messages, written("x", "note")], keep=2)
    assert await documents.change(change)
    assert not await documents.change(change)
    assert texts(await read(documents)) == ["one", "two", "note"]
    document, _ = await documents.read_for_change(CHAT)
    change = rewritten(document, document.messages, keep=3)
    assert await documents.delete(CHAT)
    assert not await documents.change(change)
    for number in range(3):
        await say(store, f"c{number}", [said("anew", at=NOON + timedelta(seconds=9))])
    assert not await documents.change(change), "as many changes as before, in another session"
    assert texts(await read(documents)) == ["anew"] * 3


async def test_a_recording_meets_no_log_that_code_has_rewritten(
    documents: SessionDocuments, store: SessionStore
) -> None:
    """The proxy aligned with what stood there; of the same length, it is another conversation."""
    await say(store, "a", [said("one"), said("two", "assistant")], chain="chain a")
    document, _ = await documents.read_for_change(CHAT)
    assert await documents.change(rewritten(document, [document.messages[0], written("x", "2")], keep=1))
    with pytest.raises(AssertionError):
        await say(store, "b", [said("three")], rewrites=0)
    with pytest.raises(AssertionError):
        await say(store, "b", [said("three")], key=CHAT, rewrites=0, parent=CHAT, copied=1, expected_length=0, keep=0)
    loaded = await store.load(ANN, CHAT.session, chains=["chain a"], want_index=False, tail=10)
    assert loaded is not None
    assert (loaded.exact_prefix, loaded.rewrites, len(loaded.index)) == (None, 1, 2)
    await say(store, "b", [said("three")])
    assert texts(await read(documents)) == ["one", "2", "three"]


async def test_changes_at_once_are_written_one_after_the_other(documents: SessionDocuments) -> None:
    """However many write: each is made of what the one before left."""

    async def add(number: int) -> None:
        while True:
            document, _ = await documents.read_for_change(CHAT)
            messages = [*document.messages, written(str(number), str(number))]
            if await documents.change(rewritten(document, messages, keep=document.length)):
                return

    await asyncio.gather(*(add(number) for number in range(20)))
    found = await read(documents)
    assert sorted(texts(found), key=int) == [str(number) for number in range(20)]
    assert [entry.version for entry in found.index] == list(range(1, 21))


async def test_long_sessions_are_changed_whole(documents: SessionDocuments) -> None:
    """No limit of the store's scripts cuts a document."""
    document, _ = await documents.read_for_change(CHAT)
    messages = [written(str(number), str(number)) for number in range(9_001)]
    data = {f"n{number}": b"1" for number in range(9_000)}
    assert await documents.change(rewritten(document, messages, keep=0, data=data))
    found = await read(documents)
    assert (texts(found), found.data) == ([str(number) for number in range(9_001)], data)


async def test_data_and_memories_change_one_by_one(documents: SessionDocuments, redis: Redis) -> None:
    """What an agent notes at the same time is neither lost nor overwritten."""
    document, _ = await documents.read_for_change(CHAT)
    kept = {"m1": KeptMemory(memory("m1"), 1), "m2": KeptMemory(memory("m2"), 1)}
    assert await documents.change(rewritten(document, [], keep=0, data={"a": b"1", "b": b"[]"}, memories=kept))
    await SessionDataStore(redis, unrecorded_ttl_s=60).merge(CHAT, {"noted": True}, max_bytes=1_000)
    document, _ = await documents.read_for_change(CHAT)
    assert document.data == {"a": b"1", "b": b"[]", "noted": b"true"}
    assert document.memories == tuple(kept.values())
    newer = KeptMemory(memory("m2", "likes coffee"), 2)
    change = rewritten(document, [], keep=0, data={"a": None, "b": b"2"}, memories={"m1": None, "m2": newer})
    assert await documents.change(change)
    found = await read(documents)
    assert (found.data, found.memories) == ({"b": b"2", "noted": b"true"}, (newer,))


async def test_memories_are_told_to_be_stored(documents: SessionDocuments) -> None:
    """Whoever put them there sees it, and does not hand them in again; one that changed is not stored yet."""
    document, _ = await documents.read_for_change(CHAT)
    kept = {name: KeptMemory(memory(name), 1) for name in ("m1", "m2", "é :1")}
    assert await documents.change(rewritten(document, [], keep=0, memories=kept))
    assert await documents.mark_persisted(CHAT, ["m1", "é :1", "gone"], NOON) == 2
    document, _ = await documents.read_for_change(CHAT)
    assert {one.record.id: one.record.persisted_at for one in document.memories} == {
        "m1": NOON,
        "m2": None,
        "é :1": NOON,
    }
    changed = {"m1": KeptMemory(memory("m1", "likes coffee"), 2), "é :1": None}
    assert await documents.change(rewritten(document, [], keep=0, memories=changed))
    found = await read(documents)
    assert {one.record.id: one.record.persisted_at for one in found.memories} == {"m1": None, "m2": None}


async def test_a_deleted_session_is_not_brought_back_by_the_index_stage(
    documents: SessionDocuments, redis: Redis
) -> None:
    """What is learned late has nowhere to be noted any more."""
    document, _ = await documents.read_for_change(CHAT)
    assert await documents.change(rewritten(document, [], keep=0, memories={"m1": KeptMemory(memory("m1"), 1)}))
    assert await documents.delete(CHAT)
    assert await documents.mark_persisted(CHAT, ["m1"], NOON) == 0
    assert await redis.keys("mp:*") == []


# Times to live


async def lives_ms(redis: Redis) -> dict[str, int]:
    """The time to live of every key of sessions, by kind; the shortest where there are several."""
    lives: dict[str, int] = {}
    keys: list[bytes] = await redis.keys("mp:*")  # type: ignore[assignment]  # the client gives bytes
    for key in keys:
        kind = key.decode().split(":")[1]
        if kind not in {"q", "read"}:
            life = await redis.pttl(key)
            lives[kind] = min(life if life >= 0 else 10**12, lives.get(kind, 10**12))
    return lives


async def test_a_session_has_a_time_to_live_of_its_own(redis: Redis) -> None:
    """All its parts and threads have it, each turn and each change begin it anew, and it can be taken back."""
    documents, store = documents_on(redis), store_on(redis)
    await store.keep_instructions(CHAT, raw=b"[]", is_named=True)
    await say(store, "a", [said("one"), said("two", "assistant")], pins={0: Pin("A")})
    await say(store, "b", [said("other")], key=replace(CHAT, thread="t"))
    await SessionDataStore(redis, unrecorded_ttl_s=60).merge(CHAT, {"a": 1}, max_bytes=100)
    document, _ = await documents.read_for_change(CHAT)
    kept = {"m1": KeptMemory(memory("m1"), 3)}
    change = rewritten(document, document.messages, keep=2, memories=kept, after={"ttl_ms": 60_000})
    assert await documents.change(change)
    lives = await lives_ms(redis)
    assert lives.keys() == {"s", "log", "idx", "pin", "sys", "data", "mem", "card", "threads"}
    assert all(0 < life <= 60_000 for life in lives.values()), lives
    keys: list[bytes] = await redis.keys("mp:*")  # type: ignore[assignment]  # the client gives bytes
    for key in keys:
        await redis.pexpire(key, 5_000)
    await say(store, "c", [said("three")])
    await store.keep_instructions(CHAT, raw=b"[1]", is_named=True)
    assert all(5_000 < life <= 60_000 for life in (await lives_ms(redis)).values())
    document, _ = await documents.read_for_change(CHAT)
    assert document.ttl_ms == 60_000
    assert await documents.change(rewritten(document, document.messages, keep=3, after={"ttl_ms": None}))
    assert set((await lives_ms(redis)).values()) == {10**12}
    assert (await read(documents)).ttl_ms is None


async def test_without_one_it_lives_as_it_is_configured(redis: Redis) -> None:
    """A session that nobody named ends as it would have, whatever code does with it."""
    documents, store = documents_on(redis), store_on(redis)
    unnamed = SessionKey(ANN, "conv-1")
    await say(store, "a", [said("one")], key=unnamed, is_named=False)
    document, _ = await documents.read_for_change(unnamed)
    assert not document.is_named
    assert await documents.change(rewritten(document, document.messages, keep=1))
    assert all(500_000 < life <= 600_000 for life in (await lives_ms(redis)).values())
    await redis.flushall()
    documents = documents_on(redis, named_ttl_s=1_000)
    document, _ = await documents.read_for_change(CHAT)
    assert await documents.change(rewritten(document, [written("x", "y")], keep=0))
    assert all(900_000 < life <= 1_000_000 for life in (await lives_ms(redis)).values())


# Deleting


async def test_a_deleted_session_leaves_nothing(redis: Redis) -> None:
    """Threads, blocks, notes, tool results, memories, looks: all of it is gone, and the listing knows."""
    documents, store, index = documents_on(redis), store_on(redis), SessionIndex(redis)
    await index.ensure_index()
    tools = ToolResultStore(redis, max_results=10, max_bytes=1_000)
    other = replace(CHAT, session="chat-2")
    await say(store, "z", [said("stays")], key=other)
    stays = set(await redis.keys("mp:*"))
    threads = [replace(CHAT, thread=name) for name in ("t1", "t2")]
    await say(store, "a", [said("one")], pins={0: Pin("A")})
    for thread in threads:
        await say(store, thread.thread, [said("x")], key=thread)
    for thread in (CHAT, *threads):
        await store.keep_instructions(thread, raw=b"[]", is_named=True)
        kept = Keep("a" * 32, "f", "result", NOON, 1_000, CacheScope.SESSION)
        await tools.apply(thread, Lessons((kept,), NOON))
    await SessionDataStore(redis, unrecorded_ttl_s=60).merge(CHAT, {"a": 1}, max_bytes=100)
    document, _ = await documents.read_for_change(CHAT)
    assert await documents.change(
        rewritten(document, document.messages, keep=2, memories={"m1": KeptMemory(memory("m1"), 3)})
    )
    await documents.read(CHAT, ALL, reader=ME)
    left: list[bytes] = await redis.keys("mp:*")  # type: ignore[assignment]  # the client gives bytes
    kinds = {key.decode().split(":")[1] for key in left}
    assert kinds >= {"s", "log", "idx", "pin", "sys", "tool", "data", "mem", "read", "card", "threads"}
    assert await documents.delete(CHAT)
    assert set(await redis.keys("mp:*")) == stays
    assert (await index.page("tenant", user=None, namespace=None, limit=10)).names == ("chat-2",)
    assert not await documents.delete(CHAT)


async def test_a_user_is_erased_in_all_namespaces(redis: Redis) -> None:
    """And nobody else is."""
    documents, store, index = documents_on(redis), store_on(redis), SessionIndex(redis)
    await index.ensure_index()
    others = [Scope("tenant", "bob", "shop"), Scope("other", "ann", "shop"), Scope("tenant", None, "shop")]
    scopes = [ANN, replace(ANN, namespace=None), replace(ANN, namespace="x"), *others]
    for at, scope in enumerate(scopes):
        for name in ("one", "two"):
            await say(store, f"{at}{name}", [said("hi")], key=SessionKey(scope, name))
    assert await documents.erase_user(replace(ANN, namespace=None)) == 6
    assert await documents.erase_user(ANN) == 0
    assert await documents.erase_user(Scope("tenant", None)) == 0, "nobody in particular"
    for scope in scopes:
        assert (await read(documents, SessionKey(scope, "one"))).is_there == (scope in others)


# When something is wrong


@pytest.mark.parametrize(("kind", "value"), [("log", "{"), ("idx", "odd"), ("mem", "{"), ("read", "{"), ("s", "many")])
async def test_a_damaged_session_is_a_store_error(redis: Redis, kind: str, value: str) -> None:
    """Code is told, and nothing is written on top."""
    documents, store = documents_on(redis), store_on(redis)
    await say(store, "a", [said("one")])
    key = schema.session_key(kind, CHAT)
    match kind:
        case "log":
            await redis.lset(key, 0, value)
        case "idx":
            await redis.set(key, value)
        case _:
            await redis.hset(key, {"mem": "m:x", "read": "open c 1 0 x", "s": "length"}[kind], value)
    with pytest.raises(StoreError):
        await documents.read_for_change(CHAT)


async def test_every_method_says_when_the_store_is_away() -> None:
    """One error to think of, whatever was asked."""
    async with open_redis("unix:///nowhere", connect_timeout_s=1, max_connections=5) as redis:
        documents = documents_on(redis)
        change = rewritten(Document(CHAT, "b", is_there=False), [], keep=0)
        asked: dict[str, Awaitable[object]] = {
            "reading a session": documents.read(CHAT, ALL, reader=ME),
            "changing a session": documents.change(change),
            "deleting a session": documents.delete(CHAT),
            "noting that memories are stored": documents.mark_persisted(CHAT, ["m"], NOON),
            "making the index of sessions": documents.erase_user(ANN),
        }
        for doing, work in asked.items():
            with pytest.raises(StoreUnavailableError, match=doing):
                await work
