"""Sessions on a real store, written by several clients at once, with turns in between: nothing is lost by accident, and
what is meant is done."""

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis
from typing_extensions import override

from memproxy.errors import RequestError, StoreUnavailableError
from memproxy.memory.session_change import Wish
from memproxy.memory.session_merge import Sent
from memproxy.memory.working import shown_text
from memproxy.memory_api.sessions import Sessions, new_turn_id
from memproxy.records import SessionKey
from memproxy.storage.connection import open_redis
from memproxy.storage.session_documents import SessionDocuments
from memproxy.storage.session_state import Change, Document, View
from memproxy.storage.working import SessionStore
from tests.fakes.sessions import (
    ANN,
    CHAT,
    NOON,
    HandClock,
    answered,
    calling,
    new,
    said,
    say,
    sent,
    sessions_on,
    store_on,
)

T = TypeVar("T")

Line = tuple[str, str, str]
"""A message as a client holds it: id, role, words."""


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def sessions(redis: Redis, clock: HandClock) -> Sessions:
    return sessions_on(redis, clock)


@pytest.fixture
def store(redis: Redis) -> SessionStore:
    return store_on(redis)


async def look(sessions: Sessions, connection: str = "c1", *, most: int = 0) -> Document:
    return await sessions.read(CHAT, View(messages=most), connection=connection)


async def put(sessions: Sessions, *messages: Sent, connection: str = "c1", **given: Any) -> list[str]:
    """Write these messages, and nothing more; the words of the session afterwards."""
    wish = Wish(messages=messages, **given)
    return texts(await sessions.put(CHAT, wish, connection=connection, turn_id=new_turn_id()))


def texts(document: Document) -> list[str]:
    return [shown_text(message.message) for message in document.messages]


def line(name: str) -> Sent:
    return new(name, name)


def back(document: Document) -> list[Sent]:
    return [sent(message) for message in document.messages]


# What is meant is done


async def test_put_after_put_replaces(sessions: Sessions) -> None:
    """An application that keeps the conversation itself puts it whole each time."""
    assert await put(sessions, line("a"), line("b")) == ["a", "b"]
    assert await put(sessions, line("a"), line("c")) == ["a", "c"]
    assert await put(sessions, line("d"), connection="another") == ["d"]
    assert await put(sessions, connection="another") == []


async def test_put_after_put_replaces_whoever_looked_before(sessions: Sessions) -> None:
    """Looks of its own and of others, at nothing and at something, don't make a put into an append."""
    await look(sessions)
    assert await put(sessions, line("a")) == ["a"]
    for connection in ("c1", "c1", "c2"):
        await look(sessions, connection)
    assert await put(sessions, line("b")) == ["b"]
    assert await put(sessions, line("c")) == ["c"]
    await look(sessions)
    assert await put(sessions, line("d")) == ["d"]


async def test_scripts_without_a_lasting_connection_replace_too(sessions: Sessions) -> None:
    """Each request of a shell script comes over a connection of its own."""
    await look(sessions, "1")
    assert await put(sessions, line("a"), connection="2") == ["a"]
    assert await put(sessions, line("b"), connection="3") == ["b"]
    await look(sessions, "4")
    assert await put(sessions, line("c"), connection="5") == ["c"]


async def test_what_a_reader_removes_is_removed(sessions: Sessions, store: SessionStore) -> None:
    """Also what the proxy captured, and what is newest: undoing a turn."""
    await say(store, "t1", [said("q1"), said("a1", "assistant")])
    await say(store, "t2", [said("q2"), said("a2", "assistant")])
    document = await look(sessions)
    assert await put(sessions, *back(document)[:2]) == ["q1", "a1"]
    document = await look(sessions)
    assert await put(sessions, *back(document)[1:], line("n"), state=document.updated_at) == ["a1", "n"]


async def test_reading_changing_and_writing_in_turns_is_exact(
    sessions: Sessions, store: SessionStore, clock: HandClock
) -> None:
    """The loop of most agents: their own earlier reads and writes stand in nobody's way."""
    for number in range(5):
        clock.move(1)
        await look(sessions)
        document = await look(sessions)
        await put(sessions, *back(document), line(f"n{number}"), state=document.updated_at)
        await say(store, f"t{number}", [said(f"q{number}", at=clock.at + timedelta(milliseconds=1))])
    document = await look(sessions)
    assert texts(document)[-3:] == ["q3", "n4", "q4"]
    assert (await put(sessions, *back(document)[:-1], state=document.updated_at))[-1] == "n4"


async def test_with_a_clock_that_stands_still_states_are_told_apart(sessions: Sessions) -> None:
    """What a document was made from is known by a time."""
    one = await look(sessions)
    await put(sessions, line("a"), state=one.updated_at)
    states = set()
    for name in "bcd":
        document = await look(sessions)
        states.add(document.updated_at)
        await put(sessions, *back(document), line(name), state=document.updated_at)
    assert len(states) == 3


async def test_nothing_of_a_message_is_lost_on_the_way_through_a_client(
    sessions: Sessions, store: SessionStore
) -> None:
    """It is shown as text and comes back as text; calls and results are still what they were."""
    turn = [said("which order?"), calling("get_order", '{"id":1}'), answered("LX-4417"), said("LX-4417", "assistant")]
    await say(store, "t1", turn)
    document = await look(sessions)
    await put(sessions, *back(document), line("n"))
    assert [message.message for message in (await look(sessions)).messages[:4]] == [one.message for one in turn]


# Nothing is lost by accident


async def test_two_who_append_at_once_are_both_heard(sessions: Sessions) -> None:
    """Over connections of their own or over one, with the state that they were shown or without."""
    await put(sessions, line("a"))
    for number, (one, other) in enumerate([("c1", "c2"), ("c1", "c1"), ("c3", "c3")]):
        for echoes in (True, False):
            mine, theirs = await look(sessions, one), await look(sessions, other)
            names = [f"{number}{echoes}{who}" for who in "xy"]
            states = (mine.updated_at, theirs.updated_at) if echoes else (None, None)
            await put(sessions, *back(mine), line(names[0]), connection=one, state=states[0])
            after = await put(sessions, *back(theirs), line(names[1]), connection=other, state=states[1])
            assert after[-2:] == names


async def test_two_who_make_the_session_at_once_wipe_nothing(sessions: Sessions) -> None:
    """Both found none; the second one's empty document comes when the first has written already."""
    for connection in ("c1", "c2"):
        await look(sessions, connection)
    await put(sessions)
    assert await put(sessions, line("a")) == ["a"]
    assert await put(sessions, connection="c2") == ["a"]
    assert await put(sessions, line("a"), line("b"), connection="c2") == ["a", "b"]


async def test_a_turn_that_nobody_was_shown_survives_any_write(sessions: Sessions, store: SessionStore) -> None:
    """Code that never looks does not know that the agent went on meanwhile."""
    await put(sessions, line("a"))
    await say(store, "t1", [said("q1"), said("a1", "assistant")])
    assert await put(sessions, line("a"), line("b")) == ["a", "q1", "a1", "b"]
    assert await put(sessions, line("c"), connection="another") == ["q1", "a1", "c"]


async def test_a_slow_writer_is_waited_for(sessions: Sessions, store: SessionStore, clock: HandClock) -> None:
    """A model may take minutes between reading and writing, if the document says what it was made from."""
    await say(store, "t1", [said("q1")])
    document = await look(sessions)
    await say(store, "t2", [said("q2")])
    await look(sessions, "another")
    clock.move(300)
    assert await put(sessions, *back(document), line("n"), state=document.updated_at) == ["q1", "q2", "n"]


async def test_who_sees_the_end_only_keeps_the_beginning(sessions: Sessions, store: SessionStore) -> None:
    """A client with a small window puts back what it was shown, and that is not all there is."""
    await say(store, "t1", [said(text) for text in "abcdef"])
    document = await look(sessions, most=2)
    assert texts(document) == ["e", "f"]
    assert await put(sessions, *back(document)[1:], line("n")) == ["a", "b", "c", "d", "f", "n"]


async def test_many_who_write_at_once_all_come_through(sessions: Sessions) -> None:
    """Each write that meets another begins anew."""

    async def append(number: int) -> None:
        document = await look(sessions, f"c{number}")
        await put(sessions, *back(document), line(f"n{number}"), connection=f"c{number}", state=document.updated_at)

    await asyncio.gather(*(append(number) for number in range(12)))
    assert sorted(texts(await look(sessions))) == sorted(f"n{number}" for number in range(12))


# Errors


async def test_a_new_message_needs_words(sessions: Sessions, store: SessionStore) -> None:
    """One that was stored without any may come back all the same."""
    await say(store, "t1", [said("q"), said("", "assistant")])
    document = await look(sessions)
    assert await put(sessions, *back(document)) == ["q", ""]
    for bad in (new("n", " \n"), replace(back(document)[0], text="")):
        with pytest.raises(RequestError, match=rf"cannot be empty \(message ID: {bad.id}\)"):
            await put(sessions, *back(document)[1:], bad)
    assert texts(await look(sessions)) == ["q", ""]


async def test_others_that_are_always_faster_are_told_of(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be tried again; nothing was written."""

    async def refused(*_: Change) -> bool:
        return False

    monkeypatch.setattr(SessionDocuments, "change", refused)
    with pytest.raises(StoreUnavailableError, match="kept changing"):
        await put(sessions, line("a"))


async def test_a_long_session_is_compared_apart(sessions: Sessions) -> None:
    """Elsewhere than where other requests are served; the outcome is the same."""
    many = [line(str(number)) for number in range(400)]
    assert await put(sessions, *many) == [str(number) for number in range(400)]
    assert (await put(sessions, *many, line("n")))[-2:] == ["399", "n"]


async def test_reading_and_writing_wait_for_what_is_being_recorded(sessions: Sessions, store: SessionStore) -> None:
    """Whoever has its answer through the proxy finds it in the session."""
    waited: list[SessionKey] = []

    async def settled(key: SessionKey) -> None:
        waited.append(key)
        await say(store, f"t{len(waited)}", [said(f"q{len(waited)}")])

    waiting = replace(sessions, settled=settled)
    assert texts(await look(waiting)) == ["q1"]
    assert await put(waiting, line("n")) == ["q1", "q2", "n"] or waited
    assert waited == [CHAT, CHAT]


def test_writes_are_told_from_turns_by_their_names() -> None:
    """A message says where it came from."""
    assert new_turn_id().startswith("put-")
    assert new_turn_id() != new_turn_id()


# All of it at once


@dataclass
class Client:
    """One who writes a session over REST."""

    name: str
    keeps_connection: bool
    """Otherwise each request comes over a connection of its own."""
    echoes: bool
    """Sends back all that it was shown, times too; otherwise it builds each document anew."""
    adopts: bool
    """Takes what the answer to its write shows for what there is; otherwise what it sent itself."""
    connections: Iterator[int] = field(default_factory=itertools.count)
    document: list[Line] = field(default_factory=list)
    """The session as it believes it to be."""
    state: datetime | None = None
    knows: set[str] = field(default_factory=set)
    """All ids that it was shown, or wrote."""
    has_looked: bool = False

    @property
    def connection(self) -> str:
        return self.name if self.keeps_connection else f"{self.name}-{next(self.connections)}"


class Writers(RuleBasedStateMachine):
    """Clients and the proxy at work on one session."""

    url = ""
    numbers = itertools.count()
    who = st.integers(0, 3)

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = self.runner.run(self.connected())
        self.clock = HandClock()
        self.sessions = sessions_on(self.redis, self.clock)
        self.store = store_on(self.redis)
        self.key = SessionKey(ANN, f"s{next(self.numbers)}")
        self.clients = [
            Client("library", keeps_connection=True, echoes=True, adopts=True),
            Client("builder", keeps_connection=True, echoes=False, adopts=True),
            Client("script", keeps_connection=False, echoes=True, adopts=True),
            Client("notebook", keeps_connection=True, echoes=True, adopts=False),
        ]
        self.count = itertools.count()
        self.stored: set[str] = set()
        """Ids of all messages that somebody was told are stored, and that none who had seen them took away."""

    async def connected(self) -> Redis:
        return open_redis(self.url, connect_timeout_s=5, max_connections=5)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        self.clock.move(0.01)
        return self.runner.run(work)

    @override
    def teardown(self) -> None:
        self.runner.run(self.redis.aclose())
        self.runner.close()

    def learn(self, client: Client, document: Document) -> None:
        client.document = [(one.id, one.message["role"], shown_text(one.message)) for one in document.messages]
        client.state = document.updated_at
        client.knows |= {one.id for one in document.messages}
        client.has_looked = True

    @rule(who=who, most=st.sampled_from([0, 0, 0, 1, 2]))
    def read(self, who: int, most: int) -> None:
        """A client looks; with a limit it is shown the end only."""
        client = self.clients[who]
        work = self.sessions.read(self.key, View(messages=most), connection=client.connection)
        self.learn(client, self.run(work))

    @rule(who=who)
    @precondition(lambda self: any(client.has_looked for client in self.clients))
    def append(self, who: int) -> None:
        """A client adds a message to what it has."""
        client = self.clients[who]
        if client.has_looked:
            self.write(client, [*client.document, self.line(client)])

    @rule(who=who, place=st.integers(0, 5), more=st.booleans())
    def remove(self, who: int, place: int, more: bool) -> None:
        """A client takes a message away, and may put another in its place."""
        client = self.clients[who]
        if client.has_looked and client.document:
            left = list(client.document)
            del left[place % len(left)]
            self.write(client, [*left, *([self.line(client)] if more else [])])

    @rule(who=who, count=st.integers(0, 2))
    def start_over(self, who: int, count: int) -> None:
        """A client puts something else in the place of all it saw; with no messages, it makes the session."""
        client = self.clients[who]
        if client.has_looked:
            self.write(client, [self.line(client) for _ in range(count)])

    def line(self, client: Client) -> Line:
        name = f"{client.name}-{next(self.count)}"
        return name, "user", f"words of {name}"

    def write(self, client: Client, document: list[Line]) -> None:
        messages = tuple(Sent(name, role, words, self.clock.at) for name, role, words in document)
        wish = Wish(messages=messages, state=client.state if client.echoes else None)
        work = self.sessions.put(self.key, wish, connection=client.connection, turn_id=new_turn_id())
        after = self.run(work)
        ids = {name for name, _, _ in document}
        self.stored -= client.knows - ids
        self.stored |= ids - client.knows
        client.knows |= ids
        if client.adopts:
            self.learn(client, after)
        else:
            client.document = document

    @rule()
    def speak(self) -> None:
        """Somebody talks through the proxy."""
        turn = f"mpr-{next(self.count)}"
        messages = [said(f"question {turn}", at=self.clock.at), said(f"answer {turn}", "assistant", at=self.clock.at)]
        self.run(say(self.store, turn, messages, key=self.key))
        self.stored |= {f"{turn}-0", f"{turn}-1"}

    @invariant()
    def nothing_is_lost(self) -> None:
        """All of it is there, each once, and the index says the same as the log."""
        document, _ = self.runner.run(self.sessions.documents.read_for_change(self.key))
        ids = [one.id for one in document.messages]
        assert len(set(ids)) == len(ids)
        assert self.stored <= set(ids)
        assert document.length == len(ids) == len(document.index)
        assert [entry.digest.hex() for entry in document.index] == [one.digest for one in document.messages]


@pytest.mark.timeout(300)
def test_no_message_is_lost_unless_one_who_saw_it_removed_it(redis_url: str) -> None:
    """However reads, writes and turns follow each other."""

    class Here(Writers):
        url = redis_url

    few = settings(max_examples=80, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Here, settings=few)


def test_the_clock_of_these_tests_can_be_moved() -> None:
    """The other tests here would be content with one that stands still."""
    clock = HandClock()
    clock.move(5)
    assert (clock.now() - NOON).total_seconds() == 5
