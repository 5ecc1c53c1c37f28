"""What one exchange writes, decided before anything is written."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.proxy.align import align
from memproxy.proxy.compose import Cut
from memproxy.proxy.conversation import entry_of, extend, flags_of, instructions_digest, read_conversation
from memproxy.proxy.turns import (
    Exchange,
    align_again,
    appended,
    plan_turn,
    stored,
    target_key,
    unnamed_session,
)
from memproxy.records import JsonObject, Outcome, Scope, SessionKey, StoredMessage, StrategyChoice
from memproxy.storage.pressure import Pressure
from memproxy.storage.queue import decode_turn
from memproxy.storage.working import ANSWER, USER, IndexEntry, LoadedSession, NewTurn
from memproxy.wire import chat_completions as chat
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from memproxy.wire.dialect import Answer

NOON = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
ANN = Scope("tenant", "ann", "shop")
KEY = SessionKey(ANN, "one")

quick = settings(max_examples=100, deadline=None)


def message(words: str) -> JsonObject:
    """`u:hi`, `a:hello`, `t:found`, `s:instructions`."""
    role, _, text = words.partition(":")
    return {"role": {"u": "user", "a": "assistant", "t": "tool", "s": "system"}[role], "content": text}


def session(*log: str, key: SessionKey = KEY, **given: Any) -> LoadedSession:
    """A session with this log, each message of ten tokens."""
    messages = [message(words) for words in log]
    index = tuple(
        IndexEntry(chat.digest(each), 10, flags_of(CHAT_COMPLETIONS, each, is_partial=False)) for each in messages
    )
    return LoadedSession(key, length=len(log), tokens=10 * len(log), exact_prefix=None, index=index, **given)


def exchange(*sent: str, found: LoadedSession | None = None, **given: Any) -> Exchange:
    body = {"model": "m", "messages": [message(words) for words in sent]}
    request = CHAT_COMPLETIONS.read(json.dumps(body).encode())
    assert request is not None
    conversation = read_conversation(request)
    log = [entry_of_index(entry) for entry in found.index] if found else []
    alignment = align(log, conversation.entries, sends_newest=found.sends_newest if found else False)
    told: dict[str, Any] = {
        "request_id": "mpr-new",
        "key": target_key(found, alignment, fresh="mpr-new", is_named=True) if found else KEY,
        "is_named": True,
        "request": request,
        "conversation": conversation,
        "session": found,
        "alignment": alignment,
        "history": (),
        "placement": None,
        "cut": Cut(),
        "answer": Answer((), finished=False),
        "outcome": Outcome.COMPLETED,
        "learns": True,
        "at": NOON,
        "answered_at": NOON,
        "is_retry": False,
        "is_blind": False,
        "receipt": {},
    }
    return Exchange(**(told | given))


def entry_of_index(entry: IndexEntry) -> Any:
    made = entry_of(
        CHAT_COMPLETIONS, {"role": "assistant" if entry.flags & ANSWER else "user" if entry.flags & USER else "tool"}
    )
    return made._replace(digest=entry.digest)


def planned(asked: Exchange, answer: str = "a:new answer") -> NewTurn | None:
    kept = [stored(message(answer), exchange=asked, at=NOON, tokens=7)] if answer else []
    counts = [5] * len(appended(asked, asked.alignment))
    return plan_turn(asked, asked.session, asked.alignment, key=asked.key, answer=kept, counts=counts)


def plan(asked: Exchange, answer: str = "a:new answer") -> NewTurn:
    turn = planned(asked, answer)
    assert turn is not None
    return turn


def texts(messages: Sequence[StoredMessage]) -> list[str]:
    return [chat.message_text(each.message) for each in messages]


def test_a_first_turn_begins_a_log() -> None:
    """Everything that was said is new; instructions are no part of it."""
    turn = plan(exchange("s:be brief", "u:hi"))
    assert (turn.key, turn.expected_length, turn.keep, turn.parent, turn.copied) == (KEY, 0, 0, None, 0)
    assert texts(turn.messages) == ["hi", "new answer"]
    assert (turn.flags, turn.facts["tokens"], turn.facts["turns"]) == ((USER, ANSWER), "12", "1")
    assert turn.facts["created_at"] == turn.facts["updated_at"] == "2025-06-01T12:00:00+00:00"
    assert (turn.facts["user"], turn.facts["namespace"], turn.facts["session"]) == ("ann", "shop", "one")


def test_only_what_is_new_is_appended() -> None:
    """A history that is sent again is not stored again."""
    found = session("u:hi", "a:hello", turns=1)
    turn = plan(exchange("u:hi", "a:hello", "u:more", found=found))
    assert (turn.expected_length, turn.keep, texts(turn.messages)) == (2, 2, ["more", "new answer"])
    assert (turn.facts["tokens"], turn.facts["turns"], turn.facts["resends"]) == ("32", "2", "1")
    assert "created_at" not in turn.facts
    newest = plan(exchange("u:more", found=found))
    assert texts(newest.messages) == ["more", "new answer"]
    assert "resends" not in newest.facts


def test_an_edit_is_planned_as_a_branch() -> None:
    """The new thread begins with a copy of what both have in common."""
    found = session("u:hi", "a:hello", "u:more", "a:well", turns=2)
    turn = plan(exchange("u:hi", "a:hello", "u:less", found=found))
    assert turn.key == replace(KEY, thread="mpr-new")
    assert (turn.parent, turn.copied, turn.expected_length, turn.keep) == (KEY, 2, 0, 0)
    assert (texts(turn.messages), turn.facts["tokens"], turn.facts["thread"]) == (
        ["less", "new answer"],
        "32",
        "mpr-new",
    )
    assert "created_at" in turn.facts


def test_nothing_new_is_no_turn() -> None:
    """A request that failed again writes nothing."""
    found = session("u:hi")
    assert planned(exchange("u:hi", found=found), answer="") is None


@pytest.mark.parametrize("log", [("u:hi", "a:new answer"), ("u:hi", "a:new answer", "u:more", "a:well")])
def test_an_exchange_that_the_log_has_is_no_turn(log: tuple[str, ...]) -> None:
    """Recorded before, or brought along by a later request."""
    assert planned(exchange("u:hi", found=session(*log, sends_newest=False))) is None
    assert planned(exchange("u:ho", found=session(*log, last_turn="mpr-new"))) is None


def test_the_same_words_said_again_are_a_turn() -> None:
    """ "ok", answered as the last "ok" was, is said twice."""
    found = session("u:hi", "a:hello", "u:ok", "a:new answer")
    turn = plan(exchange("u:ok", found=found))
    assert (turn.keep, texts(turn.messages)) == (4, ["ok", "new answer"])
    first = plan(exchange("u:ok", found=session("u:ok", "a:new answer")))
    assert (first.keep, texts(first.messages)) == (2, ["ok", "new answer"])


def test_a_pointer_is_left_only_where_the_client_sends_the_whole_log() -> None:
    """The next request of such a client begins with exactly this; one of another client does not."""
    found = session("u:hi", "a:hello", "u:more", "a:well")
    asked = exchange("u:hi", "a:hello", "u:more", "a:well", "u:on", found=found)
    assert plan(asked).chain == extend(asked.conversation.chain, chat.digest(message("a:new answer"))).hex()
    assert plan(exchange("u:on", found=found)).chain == ""
    assert plan(exchange("a:well", "u:on", found=found)).chain == ""
    assert plan(exchange("u:sum", "u:more", "a:well", "u:on", found=found)).chain == ""
    assert plan(asked, answer="").chain == ""
    partial = stored(message("a:half"), exchange=asked, at=NOON, tokens=1, is_partial=True)
    turn = plan_turn(asked, found, asked.alignment, key=KEY, answer=[partial], counts=[5])
    assert turn is not None
    assert turn.chain == ""


def test_what_is_learned_comes_with_what_was_said_before() -> None:
    """Known messages ground the new ones, and are not learned from again."""
    found = session("u:I ski", "a:in Oslo", "u:snow", "a:wax")
    turn = decode_turn(plan(exchange("u:I ski", "a:in Oslo", "u:less", "a:wax", "u:on", found=found)).queued)
    assert (turn.id, turn.session, turn.scope) == ("mpr-new", "one", ANN)
    assert texts(turn.messages) == ["less", "on", "new answer"]
    assert texts(turn.context) == ["I ski", "in Oslo"]
    history = [stored(message(words), exchange=exchange("u:x"), at=NOON, tokens=1) for words in ("u:snow", "a:wax")]
    turn = decode_turn(plan(exchange("u:on", found=found, history=history)).queued)
    assert texts(turn.context) == ["snow", "wax"]
    assert plan(exchange("u:on", found=found, learns=False)).queued == b""


def test_what_says_nothing_grounds_nothing() -> None:
    """Results of tools, and "OK", would take the place of what a turn is about."""
    asked = exchange("u:I ski", "a:in Oslo", "u:look", "t:sunny", "a:OK", "u:on", found=session("u:I ski", "a:in Oslo"))
    history = [stored(message(words), exchange=asked, at=NOON, tokens=1) for words in ("u:I ski", "a:in Oslo", "a:OK")]
    turn = decode_turn(plan(exchange("u:on", found=session("u:I ski", "a:in Oslo"), history=history)).queued)
    assert texts(turn.context) == ["I ski", "in Oslo"]


def test_less_is_queued_when_the_store_has_little_memory_left() -> None:
    """What only grounds or surrounds a turn goes first, then learning from it; the session keeps everything."""
    asked = exchange("u:I ski", "a:in Oslo", "u:look", "t:a long result", found=session("u:I ski", "a:in Oslo"))

    def under(pressure: Pressure, asked: Exchange = asked) -> NewTurn:
        kept = stored(message("a:found"), exchange=asked, at=NOON, tokens=7)
        counts = [5] * len(appended(asked, asked.alignment))
        turn = plan_turn(
            asked, asked.session, asked.alignment, key=asked.key, answer=(kept,), counts=counts, pressure=pressure
        )
        assert turn is not None
        return turn

    whole, lean = (decode_turn(under(pressure).queued) for pressure in (Pressure.NONE, Pressure.TIGHT))
    assert (texts(whole.messages), texts(whole.context)) == (["look", "a long result", "found"], ["I ski", "in Oslo"])
    assert (texts(lean.messages), texts(lean.context)) == (["look", "found"], [])
    assert under(Pressure.SHORT).queued == b""
    assert {texts(under(pressure).messages)[1] for pressure in Pressure} == {"a long result"}


def test_a_turn_says_which_conversation_it_is_of_and_how_it_is_learned_from() -> None:
    """What the background does with it must fit the session, not only its name."""
    ways = (StrategyChoice("summary", {"max_summary_length": 100}),)
    found = session("u:hi", "a:hello", key=replace(KEY, thread="branch"), strategies=ways)
    turn = decode_turn(plan(exchange("u:hi", "a:hello", "u:on", found=found)).queued)
    assert (turn.thread, turn.strategies) == ("branch", ways)


def test_instructions_are_those_that_came_last() -> None:
    """A request without any leaves them as they are."""
    found = session("u:hi", "a:hello", instructions="old")
    assert plan(exchange("u:more", found=found)).facts["instructions"] == "old"
    asked = exchange("s:be brief", "u:more", found=found)
    assert plan(asked).facts["instructions"] == instructions_digest(asked.request) != "old"
    assert len(instructions_digest(exchange(*["s:x"] * 9, "u:hi").request)) == 64


def test_an_unnamed_session_has_a_name_of_its_own() -> None:
    """It can be asked for by what the response's header said."""
    assert unnamed_session("mpr-0a1b") == "conv-0a1b"
    found = session("u:hi", "a:hello", key=SessionKey(ANN, "conv-1"))
    asked = exchange("u:hi", "a:other", "u:more", found=found)
    assert asked.alignment.branches
    assert target_key(found, asked.alignment, fresh="mpr-2", is_named=False) == SessionKey(ANN, "conv-2")
    assert target_key(found, asked.alignment, fresh="mpr-2", is_named=True) == SessionKey(ANN, "conv-1", "mpr-2")


def test_an_exchange_finds_its_place_in_a_session_that_grew() -> None:
    """What another request said meanwhile comes before, for a client that sends its newest message."""
    asked = exchange("u:more", found=session("u:hi", "a:hello"))
    alignment, key = align_again(asked, session("u:hi", "a:hello", "u:else", "a:done"))
    assert (alignment.head, key) == (4, KEY)
    alone, key = align_again(asked, None)
    assert (alone.head, alone.keep, key) == (0, 0, KEY)


words = st.sampled_from(["u:ok", "u:hi", "a:ok", "a:hello", "t:ok"])


@quick
@given(st.lists(words, max_size=7), st.lists(words, min_size=1, max_size=6), st.booleans())
def test_any_plan_leaves_a_log_that_holds_what_was_sent(log: list[str], sent: list[str], resends: bool) -> None:
    """Kept, copied and new messages together are the conversation, with its tokens counted right."""
    found = session(*log, sends_newest=not resends) if log else None
    asked = exchange(*sent, found=found)
    turn = planned(asked)
    if turn is None:
        return
    kept = log[: turn.copied if turn.parent else turn.keep]
    after = [message(each)["content"] for each in kept] + texts(turn.messages)
    alignment = asked.alignment
    if None not in alignment.positions:
        assert after == [message(each)["content"] for each in [*log[: alignment.head], *sent]] + ["new answer"]
    assert int(turn.facts["tokens"]) == 10 * len(kept) + sum(each.tokens for each in turn.messages)
    assert len(turn.flags) == len(turn.messages)
    assert turn.expected_length == (0 if turn.parent or found is None else len(log))
