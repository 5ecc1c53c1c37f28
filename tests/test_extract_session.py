"""Making memories of a stored session by hand."""

import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from rich.console import Console

from memproxy.demo.scripted_model import ModelRequest, Reply, ScriptedModel
from memproxy.errors import ModelCallError, SettingsError
from memproxy.extract_session import (
    Extracted,
    Whose,
    batches_of,
    extract_batch,
    extract_session,
    show_extracted,
    turns_of,
)
from memproxy.import_conversations import Defaults, import_file
from memproxy.records import Scope, SessionKey, StoredMessage, StrategyChoice, Turn
from memproxy.settings import settings_without_environment
from memproxy.storage.queue import TurnQueue
from memproxy.storage.working import LoadedSession

SPOKEN = datetime(2023, 5, 8, tzinfo=UTC)
KEY = SessionKey(Scope("t", "ann"), "s")


def stored(role: str, words: str, *, turn: str = "", **more: Any) -> StoredMessage:
    return StoredMessage({"role": role, "content": words}, digest="00", tokens=1, at=SPOKEN, turn=turn, **more)


def session(**more: Any) -> LoadedSession:
    return LoadedSession(KEY, length=0, tokens=0, exact_prefix=None, **more)


def words(turns: Sequence[Turn]) -> list[list[str]]:
    return [[str(message.message["content"]) for message in turn.messages] for turn in turns]


def test_turns_are_what_they_were_when_they_were_recorded() -> None:
    """The same ids as the workers saw: what is learned already is known."""
    messages = [stored("user", "a", turn="t1"), stored("assistant", "b", turn="t1"), stored("user", "c", turn="t2")]
    turns = turns_of(session(strategies=(StrategyChoice("summary"),)), messages)
    assert [turn.id for turn in turns] == ["t1", "t2"]
    assert words(turns) == [["a", "b"], ["c"]]
    assert [message.message["content"] for message in turns[1].context] == ["a", "b"]
    assert [turn.strategies for turn in turns] == [(StrategyChoice("summary"),)] * 2


def test_messages_that_no_turn_brought_are_grouped_by_question() -> None:
    """Sessions that code has written are learned from, too."""
    said = [stored("user", "a"), stored("assistant", "b"), stored("user", "c"), stored("user", "d")]
    turns = turns_of(session(), said)
    assert words(turns) == [["a", "b"], ["c", "d"]]
    assert len({turn.id for turn in turns}) == 2
    assert turns == turns_of(session(), said)


def test_stumps_and_what_is_learned_already_are_left_out() -> None:
    """An answer that broke off was given again, and its author knows best what is done."""
    said = [stored("user", "a", turn="t1"), stored("assistant", "stu", turn="t1", partial=True)]
    assert words(turns_of(session(), [*said, stored("user", "b", turn="t2", learned=True)])) == [["a"]]
    assert turns_of(session(), []) == []


def test_a_model_reads_so_many_turns_at_a_time_and_not_too_much() -> None:
    """Small models lose their way in long prompts."""
    said = [stored("user", str(number), turn=f"t{number}") for number in range(7)]
    turns = turns_of(session(), said)
    assert [len(batch) for batch in batches_of(turns, most=3)] == [3, 3, 1]
    long = replace(turns[0], messages=(stored("user", "x" * 70_000),))
    assert [len(batch) for batch in batches_of([turns[1], long, turns[2]], most=20)] == [1, 1, 1]


@dataclass(frozen=True)
class Learned:
    new: int
    tokens: int


@dataclass
class Picky:
    """An extractor whose model refuses a turn, and whatever it is in."""

    refused: str
    asked: list[list[str]] = field(default_factory=list)

    async def index(self, turns: Sequence[Turn]) -> int:
        return len(turns)

    async def learn(self, turns: Sequence[Turn]) -> Learned:
        self.asked.append([turn.id for turn in turns])
        if any(turn.id == self.refused for turn in turns):
            raise ModelCallError("refused", retryable=False)
        return Learned(len(turns), 10)


async def test_a_turn_that_the_model_refuses_is_named_and_the_others_are_learned_from() -> None:
    """One turn does not stand in the way of a whole session."""
    turns = turns_of(session(), [stored("user", name, turn=name) for name in "abc"])
    extractor, found = Picky("b"), Extracted()
    await extract_batch(extractor, turns, found)  # type: ignore[arg-type]  # stands for it
    assert extractor.asked == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    assert (found.said, found.learned, found.tokens, found.failed) == (3, 2, 20, [("b", "refused")])


def facts(request: ModelRequest) -> Reply:
    """A model that finds a cat and a dog."""
    shown = json.loads(request.last_user_text)
    made = [
        {"text": f"The user's {kind} is called {name}.", "type": "semantic", "topics": [], "entities": [name],
         "event_date": None, "evidence": name}
        for kind, name in (("cat", "Whiskers"), ("dog", "Rex"))
        if any(name in said["words"] for said in shown.get("messages", ()))
    ]  # fmt: skip
    return Reply(json.dumps({"memories": made}))


CHAT = [
    {"role": "user", "content": "My cat is called Whiskers."},
    {"role": "assistant", "content": "Noted."},
    {"role": "user", "content": "And my dog is called Rex."},
    {"role": "assistant", "content": "Noted, too."},
]


@asynccontextmanager
async def with_session(redis_url: str, folder: Path) -> AsyncIterator[str]:
    """Somebody's session in the store, which nobody has learned from; gives the address of a model that could."""
    path = folder / "past.jsonl"
    path.write_text(json.dumps({"messages": CHAT, "user": "ann", "session": "s"}) + "\n")
    settings = settings_without_environment({"redis_url": redis_url})
    console = Console(file=io.StringIO())
    await import_file(settings, path, defaults=Defaults(), credential=None, console=console)
    async with ScriptedModel(facts).serve() as server:
        yield server.base_url


async def extracted(redis_url: str, base_url: str, whose: Whose, **settings: Any) -> tuple[Extracted, str]:
    given = {"redis_url": redis_url, "extraction_base_url": base_url, "extraction_model": "m" if base_url else ""}
    console = Console(file=io.StringIO(), width=200)
    chosen = settings_without_environment({**given, **settings})
    found = await extract_session(chosen, whose, credential=None, console=console)
    show_extracted(console, found)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    return found, text


async def test_a_whole_session_is_learned_from_and_a_second_time_costs_nothing(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    """Who is not sure whether it was done does it again."""
    async with with_session(redis_url, tmp_path) as base_url:
        found, text = await extracted(redis_url, base_url, Whose("s", "ann"))
        assert (found.turns, found.learned, found.failed) == (2, 2, [])
        assert found.said > 0
        assert found.tokens > 0
        assert "2 made by the model" in text
        again, _ = await extracted(redis_url, base_url, Whose("s", "ann"))
        assert (again.turns, again.said, again.learned, again.tokens) == (2, 0, 0, 0)
    assert (await TurnQueue(redis).depth()).waiting == 2, "the workers' own turns are left to them"


async def test_without_a_model_what_was_said_is_indexed_and_it_is_said(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    """Nobody waits for facts that nobody makes."""
    async with with_session(redis_url, tmp_path):
        found, text = await extracted(redis_url, "", Whose("s", "ann"))
    assert found.said > 0
    assert found.learned == 0
    assert "set extraction_model" in text


@pytest.mark.parametrize("whose", [Whose("s"), Whose("other", "ann"), Whose("s", "bob"), Whose("s", "ann", "work")])
async def test_a_session_that_is_not_there_is_said_so(
    redis: Redis, redis_url: str, tmp_path: Path, whose: Whose
) -> None:
    """Nothing of anybody else's is touched instead."""
    async with with_session(redis_url, tmp_path):
        with pytest.raises(SettingsError, match="There is no session"):
            await extracted(redis_url, "", whose)


async def test_where_keys_are_tenants_it_asks_for_the_key(redis: Redis, redis_url: str) -> None:
    """A name alone says nothing about whose session it is."""
    with pytest.raises(SettingsError, match="--api-key"):
        await extracted(redis_url, "", Whose("s", "ann"), tenancy="key")
