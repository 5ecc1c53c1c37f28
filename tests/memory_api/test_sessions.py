"""Several clients write one session at once, and turns come in between: what was said to be stored is not lost."""

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from memproxy.clock import Clock
from memproxy.memory.session_change import Wish
from memproxy.memory.session_merge import Sent
from memproxy.memory.working import shown_text
from memproxy.memory_api.sessions import Sessions, new_turn_id
from memproxy.records import JsonObject, Scope, SessionKey, StoredMessage
from memproxy.storage.connection import open_redis
from memproxy.storage.session_documents import Document, SessionDocuments, View
from memproxy.storage.session_index import SessionIndex
from memproxy.storage.working import NewTurn, SessionStore
from memproxy.tokens import Windows
from memproxy.wire import chat_completions as chat

T = TypeVar("T")

NOON = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)
ANN = Scope("tenant", "ann", "shop")


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        return self.at

    def monotonic_s(self) -> float:
        return self.at.timestamp()


def sessions_on(redis: Redis, clock: Clock) -> Sessions:
    index = SessionIndex(redis)
    documents = SessionDocuments(redis, index, named_ttl_s=0, unnamed_ttl_s=600)
    return Sessions(documents, index, Windows({}, default=1_000), clock)


def captured(text: str, role: str, at: datetime, **more: Any) -> StoredMessage:
    message: JsonObject = {"role": role, "content": text, **more}
    return StoredMessage(message, digest=chat.digest(message).hex(), tokens=len(text), at=at)


async def say(store: SessionStore, key: SessionKey, turn: str, messages: list[StoredMessage]) -> None:
    """A turn goes through the proxy: appended to whatever the session is by now."""
    found = await store.load(key.scope, key.session, chains=[], want_index=True, tail=0)
    facts = {
        "session": key.session,
        "thread": "",
        "updated_at": messages[-1].at.isoformat(),
        "tokens": str((found.tokens if found else 0) + sum(message.tokens for message in messages)),
    }
    if found is None:
        facts["created_at"] = messages[0].at.isoformat()
    assert await store.record(
        NewTurn(
            key=key,
            turn_id=turn,
            expected_length=found.length if found else 0,
            keep=found.length if found else 0,
            messages=tuple(messages),
            flags=(0,) * len(messages),
            facts=facts,
            pins={},
            queued=b"",
            chain="",
            is_named=True,
            rewrites=found.rewrites if found else 0,
        )
    )


@dataclass
class Client:
    """One who writes a session over REST."""

    name: str
    keeps_connection: bool
    """Otherwise each request comes over a connection of its own."""
    echoes: bool
    """Sends back all that it was shown; otherwise builds each document anew."""
    adopts: bool
    """Takes what the answer to its write shows for what there is; otherwise what it sent itself."""
    connections: Iterator[int] = field(default_factory=itertools.count)
    document: list[tuple[str, str, str]] | None = None
    """Ids, roles and words, as it believes them to be. None: it has not looked yet."""
    state: datetime | None = None
    knows: set[str] = field(default_factory=set)
    """All ids that it was shown, or wrote."""
    is_informed: bool = False

    @property
    def connection(self) -> str:
        return self.name if self.keeps_connection else f"{self.name}-{next(self.connections)}"


class Writers(RuleBasedStateMachine):
    """Clients and the proxy at work on one session."""

    url = ""
    numbers = itertools.count()
    clients = (
        Client("library", keeps_connection=True, echoes=True, adopts=True),
        Client("rebuilder", keeps_connection=True, echoes=False, adopts=True),
        Client("script", keeps_connection=False, echoes=True, adopts=True),
        Client("notebook", keeps_connection=True, echoes=True, adopts=False),
    )

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = self.runner.run(self.connect())
        self.clock = Hands()
        self.sessions = sessions_on(self.redis, self.clock)
        self.store = SessionStore(self.redis, named_ttl_s=0, unnamed_ttl_s=600, receipt_ttl_s=60)
        self.key = SessionKey(ANN, f"s{next(self.numbers)}")
        self.people = [Client(one.name, one.keeps_connection, one.echoes, one.adopts) for one in self.clients]
        self.count = itertools.count()
        self.stored: set[str] = set()
        """Ids that the session must have."""
        self.shown: set[str] = set()

    async def connect(self) -> Redis:
        return open_redis(self.url, connect_timeout_s=5, max_connections=5)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        self.clock.at += timedelta(milliseconds=10)
        return self.runner.run(work)

    def teardown(self) -> None:
        self.runner.run(self.redis.aclose())
        self.runner.close()

    who = st.integers(0, 3)

    @rule(who=who, most=st.sampled_from([0, 0, 0, 1, 2]))
    def read(self, who: int, most: int) -> None:
        """A client looks; with a limit it sees the end only."""
        client = self.people[who]
        document = self.run(self.sessions.read(self.key, View(messages=most), connection=client.connection))
        self.learn(client, document)
        if not most:
            self.shown |= client.knows & self.stored

    def learn(self, client: Client, document: Document) -> None:
        client.document = [(one.id, one.message["role"], shown_text(one.message)) for one in document.messages]
        client.state = document.updated_at
        client.knows |= {one.id for one in document.messages}
        client.is_informed = True

    @rule(who=who)
    @precondition(lambda self: any(one.is_informed for one in self.people))
    def append(self, who: int) -> None:
        """A client adds a message to what it has."""
        client = self.people[who]
        if client.is_informed:
            self.write(client, [*(client.document or []), self.new(client)])

    @rule(who=who, place=st.integers(0, 5), more=st.booleans())
    def remove(self, who: int, place: int, more: bool) -> None:
        """A client takes a message away, and may put another in its place."""
        client = self.people[who]
        if client.is_informed and client.document:
            left = list(client.document)
            del left[place % len(left)]
            self.write(client, [*left, *([self.new(client)] if more else [])])

    @rule(who=who, count=st.integers(0, 2))
    def start_over(self, who: int, count: int) -> None:
        """A client that has looked puts something else in the place of all it saw: with no messages, to create it."""
        client = self.people[who]
        if client.is_informed:
            self.write(client, [self.new(client) for _ in range(count)])

    def new(self, client: Client) -> tuple[str, str, str]:
        name = f"{client.name}-{next(self.count)}"
        return name, "user", f"words of {name}"

    def write(self, client: Client, document: list[tuple[str, str, str]]) -> None:
        sent = tuple(Sent(name, role, words, self.clock.at) for name, role, words in document)
        state = client.state if client.echoes else None
        work = self.sessions.put(
            self.key, Wish(messages=sent, state=state), connection=client.connection, turn_id=new_turn_id()
        )
        after = self.run(work)
        ids = {name for name, _, _ in document}
        self.stored -= client.knows - ids
        self.stored |= {name for name in ids if name not in client.knows}
        client.knows |= ids
        if client.adopts:
            self.learn(client, after)
        else:
            client.document = document

    @rule()
    def speak(self) -> None:
        """Somebody talks through the proxy."""
        number = next(self.count)
        turn = f"mpr-{number}"
        messages = [
            captured(f"question {number}", "user", self.clock.at),
            captured(f"answer {number}", "assistant", self.clock.at),
        ]
        self.run(say(self.store, self.key, turn, messages))
        self.stored |= {f"{turn}-0", f"{turn}-1"}

    @invariant()
    def nothing_is_lost(self) -> None:
        """What somebody was told is stored is there, unless one who had seen it took it away."""
        document, _ = self.runner.run(self.sessions.documents.read_for_change(self.key))
        ids = [one.id for one in document.messages]
        assert len(set(ids)) == len(ids)
        assert self.stored <= set(ids)
        assert document.length == len(ids) == len(document.index)
        assert all(
            entry.digest.hex() == one.digest for entry, one in zip(document.index, document.messages, strict=True)
        )


@pytest.mark.timeout(300)
def test_no_message_is_lost_unless_one_who_saw_it_removed_it(redis_url: str) -> None:
    """However reads, writes and turns come after each other."""

    class Here(Writers):
        url = redis_url

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=int(__import__("os").environ.get("EX", "60")),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
