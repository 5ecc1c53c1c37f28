"""Sessions in a real store: appended whole or not at all, found again by name and by chain, and gone together."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis

from memproxy.errors import StoreError, StoreUnavailableError
from memproxy.records import Pin, Scope, SessionKey, StoredMessage, StrategyChoice
from memproxy.storage import schema
from memproxy.storage.connection import open_redis
from memproxy.storage.working import (
    ANSWER,
    PARTIAL,
    RESULT,
    USER,
    Account,
    IndexEntry,
    LoadedSession,
    NewTurn,
    Receipt,
    SessionStore,
    index_entry,
    read_index,
)

NOON = datetime(2025, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
ANN = Scope("tenant", "ann", "shop")
KEY = SessionKey(ANN, "one")


def message(text: str, role: str = "user", **given: Any) -> StoredMessage:
    number = sum(text.encode()) % 256
    return StoredMessage(
        {"role": role, "content": text}, digest=f"{number:02x}" * 16, tokens=len(text), at=NOON, **given
    )


def turn(
    name: str,
    *,
    key: SessionKey = KEY,
    expected: int = 0,
    keep: int | None = None,
    pins: Mapping[int, Pin] | None = None,
    facts: Mapping[str, str] | None = None,
    chain: str | None = None,
    named: bool = True,
    messages: Sequence[StoredMessage] | None = None,
    **given: Any,
) -> NewTurn:
    """A question and its answer, both named for the turn."""
    told = (message(f"ask {name}"), message(f"say {name}", "assistant")) if messages is None else tuple(messages)
    return NewTurn(
        key=key,
        turn_id=name,
        expected_length=expected,
        keep=expected if keep is None else keep,
        messages=told,
        flags=tuple(ANSWER if each.message["role"] == "assistant" else USER for each in told),
        facts={"session": key.session, "thread": key.thread, **(facts or {})},
        pins=pins or {},
        queued=name.encode(),
        chain=f"chain {name}" if chain is None else chain,
        is_named=named,
        **given,
    )


@pytest.fixture
def store(redis: Redis) -> SessionStore:
    return SessionStore(redis, named_ttl_s=0, unnamed_ttl_s=600, receipt_ttl_s=60)


async def load(
    store: SessionStore, name: str | None = "one", *chains: str, scope: Scope = ANN, index: bool = True, tail: int = 100
) -> LoadedSession:
    found = await store.load(scope, name, chains=chains, want_index=index, tail=tail)
    assert found is not None
    return found


async def words(store: SessionStore, key: SessionKey = KEY) -> list[str]:
    """The log's texts, after a look that log and index say the same."""
    kept = await store.messages(key, 0, -1)
    raw = await store._commands.one("GET", schema.session_key("idx", key)) or b""
    assert isinstance(raw, bytes)
    entries = read_index(raw)
    assert [(entry.digest.hex(), entry.tokens) for entry in entries] == [(each.digest, each.tokens) for each in kept]
    return [each.message["content"] for each in kept]


async def queued(store: SessionStore, scope: Scope = ANN) -> list[bytes]:
    rows = await store._commands.one("XRANGE", schema.queue_key(schema.partition_of(scope)), "-", "+")
    return [turn for _, (_, turn) in rows]


async def test_what_was_recorded_is_read_as_it_was(store: SessionStore) -> None:
    """Unknown fields, numbers, times and blocks come back exactly."""
    odd = {
        "role": "user",
        "content": [{"type": "text", "text": "é\u2028"}],
        "x": {"n": 1.0, "big": 2**60, "none": None},
    }
    kept = StoredMessage(odd, digest="ab" * 16, tokens=7, at=NOON, turn="a", partial=True)
    pin = Pin("block\n\u2028", ("m1", "m2"))
    facts = {"tokens": "7", "turns": "1", "summary": "été", "instructions": "i", "cut": "0"}
    assert await store.record(turn("a", messages=[kept], pins={0: pin}, facts=facts))
    found = await load(store)
    assert found.tail == (replace(kept, id="a-0"),) == await store.messages(KEY, 0, 0)
    assert found.index == (IndexEntry(bytes.fromhex("ab" * 16), 7, USER | PARTIAL, version=1),)
    assert found.pins == {0: pin}
    assert (found.key, found.length, found.tokens, found.turns, found.last_turn) == (KEY, 1, 7, 1, "a")
    assert (found.summary, found.instructions, found.cut, found.sends_newest) == ("été", "i", 0, True)
    assert await queued(store) == [b"a"]


async def test_an_unknown_session_is_none(store: SessionStore) -> None:
    """A first request finds nothing, and that is no error."""
    assert await store.load(ANN, "one", chains=["c"], want_index=True, tail=1) is None
    assert await store.load(ANN, None, chains=["c"], want_index=True, tail=1) is None
    assert await store.load(ANN, None, chains=[], want_index=True, tail=1) is None


async def test_turns_are_appended(store: SessionStore) -> None:
    """The log holds the conversation in order."""
    assert await store.record(turn("a", pins={0: Pin("A")}))
    assert await store.record(turn("b", expected=2, pins={2: Pin("B")}))
    assert await words(store) == ["ask a", "say a", "ask b", "say b"]
    found = await load(store)
    assert found.pins == {0: Pin("A"), 2: Pin("B")}
    assert (found.length, found.last_turn) == (4, "b")
    assert await queued(store) == [b"a", b"b"]


async def test_a_turn_is_recorded_once(store: SessionStore) -> None:
    """An attempt whose reply got lost is made again, and doubles nothing."""
    for _ in range(3):
        assert await store.record(turn("a", pins={0: Pin("A")}))
    assert await words(store) == ["ask a", "say a"]
    assert await queued(store) == [b"a"]


async def test_a_log_that_grew_meanwhile_is_left_alone(store: SessionStore) -> None:
    """Two requests at once: the second one is told to look again, and nothing of it is written."""
    assert await store.record(turn("a"))
    assert not await store.record(turn("b", pins={0: Pin("B")}, facts={"tokens": "99"}))
    assert not await store.record(turn("c", expected=4))
    assert await words(store) == ["ask a", "say a"]
    found = await load(store, "one", "chain b")
    assert (found.pins, found.tokens, found.last_turn, found.exact_prefix) == ({}, 0, "a", None)
    assert await queued(store) == [b"a"]


async def test_concurrent_turns_lose_and_double_nothing(store: SessionStore) -> None:
    """However many agents write into one session at once."""

    async def write(name: str) -> None:
        while True:
            found = await store.load(ANN, "one", chains=[], want_index=True, tail=0)
            if await store.record(turn(name, expected=found.length if found else 0)):
                return

    await asyncio.gather(*(write(f"turn {number}") for number in range(20)))
    told = await words(store)
    assert sorted(told[::2]) == sorted(f"ask turn {number}" for number in range(20))
    assert [text.replace("ask", "say") for text in told[::2]] == told[1::2]
    assert len(await queued(store)) == 20


async def test_an_unfinished_end_is_replaced_with_its_pins(store: SessionStore) -> None:
    """What broke off gives way to what came of it, and the block of dropped words goes with them."""
    broken = [message("ask b"), message("part of", "assistant")]
    assert await store.record(turn("a", pins={0: Pin("A")}))
    assert await store.record(turn("b", expected=2, messages=broken, pins={2: Pin("B"), 3: Pin("part")}, chain=""))
    assert await store.record(turn("c", expected=4, keep=3, messages=[message("say c", "assistant")]))
    assert await words(store) == ["ask a", "say a", "ask b", "say c"]
    assert (await load(store)).pins == {0: Pin("A"), 2: Pin("B")}
    assert await store.record(turn("d", expected=4, keep=0, pins={0: Pin("D")}))
    assert await words(store) == ["ask d", "say d"]
    assert (await load(store)).pins == {0: Pin("D")}


async def test_a_block_is_pinned_once(store: SessionStore) -> None:
    """What the provider's cache has seen before these words stays before them."""
    assert await store.record(turn("a", pins={0: Pin("first")}))
    assert await store.record(turn("b", expected=2, pins={0: Pin("second")}))
    assert (await load(store)).pins == {0: Pin("first")}


async def test_a_branch_copies_what_it_shares(store: SessionStore) -> None:
    """After an edit both ways of the conversation are whole, and each is its own."""
    assert await store.record(turn("a", pins={0: Pin("A")}))
    assert await store.record(turn("b", expected=2, pins={2: Pin("B")}))
    branch = replace(KEY, thread="t")
    edited = turn("c", key=branch, keep=0, parent=KEY, copied=2, pins={2: Pin("C")})
    for _ in range(2):
        assert await store.record(edited)
    assert await words(store, branch) == ["ask a", "say a", "ask c", "say c"]
    assert await words(store) == ["ask a", "say a", "ask b", "say b"]
    found = await load(store)
    assert (found.key, found.pins) == (branch, {0: Pin("A"), 2: Pin("C")}), (
        "the newest thread is the session's current one"
    )
    assert (await load(store, "one", "chain b")).key == KEY, "the old one is found by what was said in it"
    assert (await load(store, "one", "chain c")).key == branch
    assert (await load(store, "one", "chain c", "chain b")).key == branch, "the longest beginning that fits counts"
    assert (await load(store, "one", "unheard", "chain b")).exact_prefix == 1


async def test_a_branch_may_begin_with_nothing(store: SessionStore) -> None:
    """Another conversation under the same name keeps the first one out."""
    assert await store.record(turn("a", pins={0: Pin("A")}))
    other = replace(KEY, thread="t")
    assert await store.record(turn("b", key=other, keep=0, parent=KEY, copied=0))
    assert await words(store, other) == ["ask b", "say b"]
    assert (await load(store)).pins == {}


async def test_each_turn_is_a_change_of_its_own_and_branches_go_on_counting(store: SessionStore, redis: Redis) -> None:
    """By it, what somebody was shown is told from what came later, in whatever thread."""
    assert await store.record(turn("a"))
    assert await store.record(turn("b", expected=2))
    branch = replace(KEY, thread="t")
    assert await store.record(turn("c", key=branch, keep=0, parent=KEY, copied=1))
    assert [entry.version for entry in (await load(store, "one", "chain b")).index] == [1, 1, 2, 2]
    assert [entry.version for entry in (await load(store)).index] == [1, 3, 3]
    threads: Any = await redis.smembers(schema.session_key("threads", KEY))
    assert threads == {schema.session_key("s", branch).removeprefix("mp:s:").encode()}


async def test_messages_are_called_after_their_turn_and_say_what_they_are(store: SessionStore) -> None:
    """Code that reads the session can name each of them, and a result is told from what a user says."""
    told = [message("q"), message("r", "tool"), message("a", "assistant", id="own")]
    assert await store.record(turn("t", messages=told))
    assert [each.id for each in await store.messages(KEY, 0, -1)] == ["t-0", "t-1", "own"]
    assert [entry.flags & RESULT for entry in (await load(store)).index] == [0, RESULT, 0]


def test_results_in_a_message_of_the_users_begin_no_turn() -> None:
    """Else a conversation would be cut before them, and the server refuses results without their calls."""
    results = message("all is well", "user")
    assert index_entry(results, flags=RESULT).flags == RESULT
    assert index_entry(results).flags == USER


async def test_a_pointer_that_stands_for_less_than_the_log_is_never_exact(store: SessionStore) -> None:
    """The client does not know of what code wrote, so its messages have to be compared each time."""
    assert await store.record(turn("a", chain_is_whole=False))
    found = await load(store, "one", "chain a", index=False)
    assert (found.exact_prefix, len(found.index)) == (None, 2)


async def test_a_branch_is_led_by_the_sessions_strategies(store: SessionStore, redis: Redis) -> None:
    """What code has chosen for a session holds for all its threads."""
    assert await store.record(turn("a"))
    await redis.hset(schema.session_key("s", KEY), "strategies", '[{"name":"summary","config":{"a":1}}]')
    assert (await load(store)).strategies == (StrategyChoice("summary", {"a": 1}),)
    assert await store.record(turn("b", key=replace(KEY, thread="t"), keep=0, parent=KEY, copied=1))
    assert (await load(store)).strategies == (StrategyChoice("summary", {"a": 1}),)


async def test_a_pointer_to_a_deleted_thread_does_not_hide_the_session(store: SessionStore, redis: Redis) -> None:
    """A client whose branch is gone goes on in the session of its name."""
    branch = replace(KEY, thread="t")
    assert await store.record(turn("a"))
    assert await store.record(turn("b", key=branch, keep=0, parent=KEY, copied=1))
    assert await store.record(turn("c", expected=2))
    await redis.delete(*(schema.session_key(kind, branch) for kind in ("s", "log", "idx")))
    assert (await load(store, "one", "chain b")).key == KEY


async def test_long_logs_are_appended_and_copied_whole(store: SessionStore) -> None:
    """No limit of the store's scripts cuts a long conversation."""
    many = [message(str(number)) for number in range(9_001)]
    assert await store.record(turn("a", messages=many))
    branch = replace(KEY, thread="t")
    assert await store.record(turn("b", key=branch, keep=0, parent=KEY, copied=9_000))
    assert await words(store, branch) == [*map(str, range(9_000)), "ask b", "say b"]


async def test_a_conversation_that_fits_exactly_reads_no_bodies(store: SessionStore) -> None:
    """The common request, the whole history sent again, costs little however long it is."""
    assert await store.record(turn("a"))
    assert await store.record(turn("b", expected=2))
    exact = await load(store, "one", "chain b", index=False)
    assert (exact.exact_prefix, exact.index, exact.tail, exact.length) == (0, (), (), 4)
    assert len((await load(store, "one", "chain b", index=True)).index) == 4
    shorter = await load(store, "one", "chain a", index=False, tail=3)
    assert (shorter.exact_prefix, len(shorter.index), len(shorter.tail)) == (None, 4, 3)
    assert [each.message["content"] for each in shorter.tail] == ["say a", "ask b", "say b"]
    assert (await load(store, tail=0)).tail == ()


async def test_a_cut_conversation_always_reads_its_index(store: SessionStore) -> None:
    """Where a conversation is cut, its tokens have to be counted on every request."""
    assert await store.record(turn("a", facts={"cut": "2", "cut_note": "note"}))
    found = await load(store, "one", "chain a", index=False)
    assert (found.exact_prefix, len(found.index), found.cut, found.cut_note) == (0, 2, 2, "note")


async def test_an_unnamed_session_is_found_by_its_chain_only(store: SessionStore) -> None:
    """Who names no session has one all the same; who guesses its name does not get it."""
    key = SessionKey(ANN, "conv-1")
    assert await store.record(turn("a", key=key, named=False))
    assert (await load(store, None, "chain a")).key == key
    assert await store.load(ANN, "other", chains=["chain a"], want_index=True, tail=0) is None


@pytest.mark.parametrize(
    "other", [replace(ANN, tenant="x"), replace(ANN, user="x"), replace(ANN, user=None), replace(ANN, namespace=None)]
)
async def test_no_scope_finds_anothers_session(store: SessionStore, other: Scope) -> None:
    """The same name and the same words in another scope are another conversation."""
    assert await store.record(turn("a"))
    assert await store.load(other, "one", chains=["chain a"], want_index=True, tail=10) is None
    assert await store.messages(SessionKey(other, "one"), 0, -1) == ()


async def test_a_turn_without_an_answer_leaves_no_pointer(store: SessionStore) -> None:
    """What has no answer yet can't be the beginning of a later request."""
    assert await store.record(turn("a", messages=[message("ask a")], chain=""))
    found = await load(store)
    assert (found.length, found.exact_prefix) == (1, None)
    assert await store._commands.one("KEYS", "mp:c:*") == []


async def test_a_turn_from_which_nothing_is_learned_is_not_queued(store: SessionStore) -> None:
    """Without a user there is no long-term memory, and no work for it."""
    assert await store.record(replace(turn("a"), queued=b""))
    assert await queued(store) == []


# Times to live


async def lives_ms(redis: Redis) -> dict[str, int]:
    keys: Any = await redis.keys("mp:*")
    return {key.decode().split(":")[1] + (":" + key.decode()[-4:]): await redis.pttl(key) for key in keys}


async def test_a_named_session_stays_unless_it_was_given_a_time(store: SessionStore, redis: Redis) -> None:
    """Durable by default; what finds it again does not."""
    await store.keep_instructions(KEY, raw=b"[]", is_named=True)
    assert await store.record(turn("a", pins={0: Pin("A")}))
    lives = {name.partition(":")[0]: life for name, life in (await lives_ms(redis)).items()}
    assert {name: life for name, life in lives.items() if life < 0} == dict.fromkeys(
        ("s", "log", "idx", "pin", "sys", "card", "q"), -1
    )
    assert 0 < lives["c"] <= 600_000


async def test_all_parts_of_a_session_end_together(redis: Redis) -> None:
    """A session is there or not: each turn puts off the end of every part of it, whichever thread goes on."""
    store = SessionStore(redis, named_ttl_s=500, unnamed_ttl_s=600, receipt_ttl_s=60)
    branch = replace(KEY, thread="t")
    await store.keep_instructions(KEY, raw=b"[]", is_named=True)
    assert await store.record(turn("a", pins={0: Pin("A")}))
    assert await store.record(turn("b", key=branch, keep=0, parent=KEY, copied=2))
    everything: Any = await redis.keys("mp:*")
    keys = [key for key in everything if key.split(b":")[1] not in {b"q", b"c"}]
    assert len(keys) == 4 + 1 + 4 + 2, "two threads, instructions, and the session's card and list of threads"
    for key in keys:
        await redis.pexpire(key, 1_000)
    assert await store.record(turn("c", key=branch, expected=4))
    assert [key for key in keys if await redis.pttl(key) <= 400_000] == []


async def test_unnamed_sessions_have_their_own_time(redis: Redis) -> None:
    """Conversations that nobody named don't fill the store for ever."""
    store = SessionStore(redis, named_ttl_s=0, unnamed_ttl_s=600, receipt_ttl_s=60)
    key = SessionKey(ANN, "conv-1")
    assert await store.record(turn("a", key=key, named=False))
    await store.keep_instructions(key, raw=b"[]", is_named=False)
    lives = {name.partition(":")[0]: life for name, life in (await lives_ms(redis)).items()}
    assert {name for name, life in lives.items() if life < 0} == {"q"}


async def test_a_pointer_to_a_session_that_is_gone_finds_nothing(store: SessionStore, redis: Redis) -> None:
    """After a session has expired, the conversation begins anew."""
    assert await store.record(turn("a"))
    await redis.delete(*(schema.session_key(kind, KEY) for kind in ("s", "log", "idx")))
    assert await store.load(ANN, "one", chains=["chain a"], want_index=True, tail=1) is None


# The rest


async def test_instructions_are_kept_for_their_thread(store: SessionStore) -> None:
    """A client that sends only its newest message still has its agent's instructions."""
    assert await store.instructions(KEY) == b""
    await store.keep_instructions(KEY, raw=b"[1]", is_named=True)
    await store.keep_instructions(KEY, raw=b"[2]", is_named=True)
    assert await store.instructions(KEY) == b"[2]"
    assert await store.instructions(replace(KEY, thread="t")) == b""


async def test_a_receipt_is_read_by_its_tenant_for_a_while(store: SessionStore, redis: Redis) -> None:
    """What was done to a request can be asked for, by whom it concerns."""
    await store.put_receipt(Receipt("tenant", "mpr-1", b"{}"))
    assert await store.receipt("tenant", "mpr-1") == b"{}"
    assert await store.receipt("other", "mpr-1") is None
    assert 0 < await redis.pttl(schema.receipt_key("tenant", "mpr-1")) <= 60_000


async def test_the_first_secret_stays(store: SessionStore) -> None:
    """Several proxies that start at once agree on who is who."""
    secrets = await asyncio.gather(*(store.secret(f"{number}".encode()) for number in range(10)))
    assert len(set(secrets)) == 1
    assert await store.secret(b"another") == secrets[0]


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("s", "length", b"many"),
        ("pin", "0", b"{"),
        ("pin", "x", b"{}"),
        ("s", "summary", b"\xff"),
        ("s", "session", None),
    ],
)
async def test_a_damaged_session_is_a_store_error(
    store: SessionStore, redis: Redis, kind: str, field: str, value: bytes | None
) -> None:
    """What can't be understood costs the request its memory, not the request."""
    assert await store.record(turn("a", pins={0: Pin("A")}))
    key = schema.session_key(kind, KEY)
    await (redis.hset(key, field, value) if value is not None else redis.hdel(key, field))
    with pytest.raises(StoreError):
        await load(store)


@pytest.mark.parametrize(("kind", "value"), [("log", "{"), ("idx", "odd")])
async def test_a_damaged_log_is_a_store_error(store: SessionStore, redis: Redis, kind: str, value: str) -> None:
    """So does a log or an index that somebody else wrote to."""
    assert await store.record(turn("a"))
    key = schema.session_key(kind, KEY)
    await (redis.lset(key, 0, value) if kind == "log" else redis.set(key, value))
    with pytest.raises(StoreError):
        await load(store)


async def test_every_method_says_when_the_store_is_away() -> None:
    """One error to think of, whatever was asked."""
    async with open_redis("unix:///nowhere", connect_timeout_s=1, max_connections=5) as redis:
        store = SessionStore(redis, named_ttl_s=0, unnamed_ttl_s=600, receipt_ttl_s=60)
        asked = {
            "reading a session": store.load(ANN, "one", chains=[], want_index=True, tail=0),
            "recording a turn": store.record(turn("a")),
            "reading messages": store.messages(KEY, 0, -1),
            "storing instructions": store.keep_instructions(KEY, raw=b"", is_named=True),
            "reading instructions": store.instructions(KEY),
            "storing a receipt": store.put_receipt(Receipt("tenant", "r", b"")),
            "reading a receipt": store.receipt("tenant", "r"),
            "reading the credentials' secret": store.secret(b"x"),
        }
        for doing, work in asked.items():
            with pytest.raises(StoreUnavailableError, match=doing):
                await work


async def test_the_account_is_the_named_sessions(store: SessionStore) -> None:
    """What a session cost is one sum, whichever of its threads a turn went to, and a turn is counted once."""
    assert await store.account(KEY) is None
    one, other = Account(1, 1_000, 900, 20), Account(1, 500, 0, 10)
    assert await store.record(turn("a", counts=one.counts()))
    assert await store.record(turn("a", counts=one.counts())), "the answer to the first attempt was lost"
    branch = replace(KEY, thread="t")
    assert await store.record(turn("b", key=branch, keep=0, parent=KEY, copied=1, counts=other.counts()))
    assert not await store.record(turn("c", expected=7, counts=one.counts())), "refused: nothing is counted"
    assert await store.account(KEY) == Account(2, 1_500, 900, 30)
    assert Account().counts() == {}
    assert await store.record(turn("d", key=SessionKey(ANN, "conv-1"), named=False))
    assert await store.account(SessionKey(ANN, "conv-1")) == Account()
