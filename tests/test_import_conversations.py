"""Past conversations: read, planned, imported, and continued through the proxy."""

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from rich.console import Console

from memproxy.errors import SettingsError
from memproxy.identity import SINGLE_TENANT
from memproxy.import_conversations import Defaults, Tally, import_file, plan, read_line, show_tally
from memproxy.records import JsonObject, Scope
from memproxy.settings import settings_without_environment
from memproxy.storage.queue import TurnQueue, decode_turn
from memproxy.storage.working import IndexEntry, LoadedSession, NewTurn
from memproxy.wire import chat_completions as chat
from tests.fakes.serving import Serve

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
ANN = Defaults(user="ann")


def user(words: str, **more: Any) -> JsonObject:
    return {"role": "user", "content": words, **more}


def assistant(words: str, **more: Any) -> JsonObject:
    return {"role": "assistant", "content": words, **more}


CHAT = [user("My cat is called Whiskers."), assistant("Noted."), user("And my dog Rex."), assistant("Noted, too.")]


def line(messages: Sequence[JsonObject] = CHAT, **more: Any) -> bytes:
    return json.dumps({"messages": messages, **more}).encode()


def read(raw: bytes, defaults: Defaults = ANN) -> Any:
    return read_line(raw, tenant="t", defaults=defaults, now=NOW)


def planned(raw: bytes, session: LoadedSession | None = None, defaults: Defaults = ANN) -> list[NewTurn]:
    past = read(raw, defaults)
    return plan(past, session, [1] * len(past.said))


def holding(raw: bytes, count: int) -> LoadedSession:
    """A session that has the first messages of a line's conversation."""
    past = read(raw)
    index = tuple(IndexEntry(chat.digest(message), 1, 0) for message in past.said[:count])
    return LoadedSession(past.key, length=count, tokens=count, exact_prefix=None, index=index)


def test_each_question_and_its_answers_are_a_turn() -> None:
    """What is queued is what would have been queued at the time, with what was said just before."""
    first, second = planned(line(session="s"))
    assert [message.message["content"] for message in first.messages] == ["My cat is called Whiskers.", "Noted."]
    assert (first.expected_length, second.expected_length) == (0, 2)
    turn = decode_turn(second.queued)
    assert (turn.id, turn.scope, turn.session) == (second.turn_id, Scope("t", "ann"), "s")
    assert [message.message["content"] for message in turn.context] == ["My cat is called Whiskers.", "Noted."]
    assert (first.chain, bool(second.chain)) == ("", True)


def test_tool_calls_and_their_results_stay_with_their_question() -> None:
    """A call is never parted from its result."""
    call = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]}
    result = {"role": "tool", "tool_call_id": "c", "content": "42"}
    turns = planned(line([user("a"), call, result, assistant("It is 42."), user("b"), user("c"), assistant("d")]))
    assert [len(turn.messages) for turn in turns] == [4, 3]


def test_times_come_from_the_messages_then_the_conversation_then_now() -> None:
    """ "Yesterday" is resolved against the day on which it was said."""
    messages = [user("a", created_at="2023-05-08T10:00:00+02:00"), assistant("b"), user("c", timestamp=1_700_000_000)]
    past = read(line(messages, created_at="2020-01-01"))
    assert past.times == (
        datetime(2023, 5, 8, 8, tzinfo=UTC),
        datetime(2023, 5, 8, 8, tzinfo=UTC),
        datetime.fromtimestamp(1_700_000_000, UTC),
    )
    assert read(line([user("a")], created_at="2020-01-01")).times == (datetime(2020, 1, 1, tzinfo=UTC),)
    assert read(line([user("a")])).times == (NOW,)
    assert "created_at" not in past.said[0]


def test_whose_it_is_stands_in_the_line_or_on_the_command_line() -> None:
    """Files of one user need no names, files of many have them."""
    assert read(line(user="bob", session="s", namespace="work")).key.scope == Scope("t", "bob", "work")
    assert read(line(metadata={"user_id": "eve"})).key.scope == Scope("t", "eve")
    defaults = Defaults("ann", "home", "old-")
    past = read(line(), defaults)
    assert past.key.scope == Scope("t", "ann", "home")
    assert past.key.session.startswith("old-")
    assert (past.is_named, read(line(session="s")).is_named) == (False, True)


def test_a_conversation_without_a_name_is_known_by_its_content() -> None:
    """Importing a file again doubles nothing, and conversations that begin alike stay apart."""
    assert read(line()).key == read(line()).key
    assert read(line()).key != read(line([*CHAT[:3], assistant("Something else.")])).key
    assert read(line(created_at="2023-01-01")).key != read(line(created_at="2023-01-02")).key


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"not json", "no JSON object"),
        (b'{"messages": []}', "no JSON object"),
        (b'{"messages": [{"content": "x"}]}', "no JSON object"),
        (b"[1]", "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (line([{"role": "system", "content": "Be kind."}]), "nothing but instructions"),
        (line(user="a\x00b"), "control characters"),
        (line([user("a", created_at="soon")]), "'soon' is no time"),
        (line(created_at=1e30), "is no time"),
    ],
)
def test_a_line_that_can_t_be_used_says_why(raw: bytes, reason: str) -> None:
    """Who made the file can mend it."""
    with pytest.raises(ValueError, match=reason):
        read(raw)


def test_nobodys_conversation_is_refused() -> None:
    """Without a user nothing would be learned from it."""
    with pytest.raises(ValueError, match="--user"):
        read(line(), Defaults())


def test_only_what_is_new_is_written() -> None:
    """A run that was broken off goes on, and a session that has grown gets the rest."""
    raw = line(session="s")
    assert [len(turn.messages) for turn in planned(raw, holding(raw, 2))] == [2]
    assert [len(turn.messages) for turn in planned(raw, holding(raw, 3))] == [1]
    assert planned(raw, holding(raw, 4)) == []
    longer = holding(line([*CHAT, user("more")], session="s"), 5)
    assert planned(raw, longer) == []
    assert planned(raw, holding(raw, 2))[0].turn_id == planned(raw)[1].turn_id


def test_another_conversation_is_not_mixed_into_a_session() -> None:
    """Two files with the same names would make one life of two."""
    raw = line(session="s")
    other = holding(line([user("Something else."), assistant("Yes.")], session="s"), 2)
    with pytest.raises(ValueError, match="another conversation"):
        planned(raw, other)


roles = st.sampled_from(["user", "assistant", "tool"])


@given(st.lists(roles, min_size=1, max_size=20), st.integers(0, 20))
def test_wherever_it_was_broken_off_nothing_is_lost_or_doubled(sequence: list[str], stored: int) -> None:
    """What is written and what was there is the whole conversation, in order."""
    messages = [{"role": role, "content": f"words {at}"} for at, role in enumerate(sequence)]
    raw = line(messages, session="s")
    stored = min(stored, len(messages))
    written = [message.message for turn in planned(raw, holding(raw, stored)) for message in turn.messages]
    assert written == messages[stored:]
    assert sum(len(decode_turn(turn.queued).messages) for turn in planned(raw)) == len(messages)


async def imported(path: Path, redis_url: str, *, defaults: Defaults = ANN, **settings: Any) -> tuple[Tally, str]:
    console = Console(file=io.StringIO(), width=200)
    chosen = settings_without_environment({"redis_url": redis_url, **settings})
    tally = await import_file(chosen, path, defaults=defaults, credential=None, console=console)
    show_tally(console, path, tally)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    return tally, text


async def test_a_file_is_imported_once_and_bad_lines_are_named(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    """The good lines are not held up by the bad ones, and running it again changes nothing."""
    path = tmp_path / "past.jsonl"
    path.write_bytes(b"\n".join([line(session="one"), b"nonsense", b"", line(user="bob")]))
    tally, text = await imported(path, redis_url)
    assert (tally.imported, tally.known, tally.turns) == (2, 0, 4)
    assert [number for number, _ in tally.bad] == [2]
    assert f"{path}, line 2: no JSON object" in text
    assert (await TurnQueue(redis).depth()).waiting == 4
    again, text = await imported(path, redis_url)
    assert (again.imported, again.known, again.turns) == (0, 2, 0)
    assert "2 were there already" in text
    assert (await TurnQueue(redis).depth()).waiting == 4


async def test_what_was_imported_is_remembered_and_can_be_continued(
    serve: Serve, redis_url: str, tmp_path: Path
) -> None:
    """Moving to memproxy does not begin with amnesia, and an agent goes on where it was."""
    path = tmp_path / "past.jsonl"
    instructions = {"role": "system", "content": "You are kind."}
    path.write_bytes(line([instructions, *CHAT], session="old", user="alice") + b"\n")
    await imported(path, redis_url)
    async with serve() as served:
        await served.settled()
        async with served.openai("/u/alice/s/old/v1") as client:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Who are they?"}])
        sent = [message["content"] for message in served.model.requests[-1].messages]
        assert sent[0] == "You are kind."
        assert sent[1:5] == [message["content"] for message in CHAT]
        async with served.openai("/u/alice/s/new/v1") as client:
            await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "What is my cat called?"}]
            )
        assert b"Whiskers" in served.model.requests[-1].raw_body


async def test_where_keys_are_tenants_it_asks_for_the_key(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    """Conversations must not end up with a tenant that nobody can be."""
    path = tmp_path / "past.jsonl"
    path.write_bytes(line())
    with pytest.raises(SettingsError, match="--api-key"):
        await imported(path, redis_url, tenancy="key")
    assert (await TurnQueue(redis).depth()).waiting == 0
    assert SINGLE_TENANT
