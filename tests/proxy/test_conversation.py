"""Conversations as digests: recognised when they are sent again, told apart where they part."""

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from memproxy.proxy.align import Entry
from memproxy.proxy.conversation import (
    Conversation,
    Histories,
    entry_of,
    extend,
    flags_of,
    read_conversation,
    stored_entries,
)
from memproxy.records import JsonObject
from memproxy.storage.working import ANSWER, MAX_PREFIXES, PARTIAL, RESULT, USER, IndexEntry
from memproxy.wire import chat_completions as chat
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from memproxy.wire.dialect import Request


def said(words: str) -> JsonObject:
    """`u:hi`, `a:hello` or `s:instructions` as a message."""
    role, _, text = words.partition(":")
    return {"role": {"u": "user", "a": "assistant", "s": "system", "t": "tool"}[role], "content": text}


def conversation(*words: str) -> Conversation:
    body: dict[str, Any] = {"messages": [said(each) for each in words]}
    request = CHAT_COMPLETIONS.read(json.dumps(body).encode())
    assert request is not None
    return read_conversation(request)


def test_leading_instructions_are_no_part_of_a_conversation() -> None:
    """An agent that puts the time of day into its system prompt is still in the same conversation."""
    assert conversation("s:it is noon", "u:hi", "a:hello") == conversation("s:it is one", "u:hi", "a:hello")
    assert conversation("s:be brief").entries == ()
    assert len(conversation("u:hi", "s:be brief").entries) == 2


def test_each_answer_ends_a_beginning_that_is_recognised() -> None:
    """The next request is found by the newest answer in it, or by one before if that was changed."""
    first = conversation("u:hi", "a:hello")
    second = conversation("u:hi", "a:hello", "u:more", "a:well", "u:on")
    assert [prefix.length for prefix in second.prefixes] == [4, 2]
    assert second.prefixes[1] == first.prefixes[0]
    assert first.prefixes[0].chain == first.chain.hex()
    assert conversation("u:hi").prefixes == ()


def test_only_the_newest_beginnings_are_asked_for() -> None:
    """A conversation of a thousand turns costs one look-up of few keys."""
    long = conversation(*(words for turn in range(20) for words in (f"u:{turn}", f"a:{turn}")))
    assert [prefix.length for prefix in long.prefixes] == [40, 38, 36, 34]
    assert len(long.prefixes) == MAX_PREFIXES


def test_the_chain_tells_conversations_apart() -> None:
    """Two people who both begin with "hi" never share a session, whatever stands where."""
    others = [
        conversation("u:hi", "a:hello", "u:more"),
        conversation("u:hi", "a:other", "u:more"),
        conversation("u:more", "a:hello", "u:hi"),
        conversation("u:hi", "a:hello"),
        conversation("u:hi", "u:a:hello", "u:more"),
    ]
    assert len({other.chain for other in others}) == len(others)


def test_the_chain_grows_with_the_answer_as_the_next_request_will_show_it() -> None:
    """What is stored after a turn is what the next request asks for."""
    asked = conversation("u:hi")
    grown = extend(asked.chain, chat.digest(said("a:hello")))
    assert conversation("u:hi", "a: hello ", "u:more").prefixes[0].chain == grown.hex()


def test_the_newest_words_of_the_user_are_found() -> None:
    """Memories are recalled for what was said last, also while tools are at work."""
    assert conversation("u:hi", "a:hello", "u:more", "a:well", "t:found").newest_user == 2
    assert conversation("a:hello").newest_user is None


def test_an_index_entry_says_what_alignment_needs() -> None:
    """A stored message and the same message sent again are the same entry."""
    for words, partial in (("u:hi", False), ("a:hello", False), ("a:hel", True), ("t:found", False)):
        message = said(words)
        stored = IndexEntry(chat.digest(message), 7, flags_of(CHAT_COMPLETIONS, message, is_partial=partial))
        (entry,) = stored_entries([stored])
        asked = entry_of(CHAT_COMPLETIONS, message)
        assert entry == Entry(asked.digest, asked.is_answer, is_partial=partial, tokens=7, is_user=asked.is_user)
    assert flags_of(CHAT_COMPLETIONS, said("a:x"), is_partial=True) == ANSWER | PARTIAL
    assert flags_of(CHAT_COMPLETIONS, said("u:x"), is_partial=False) == USER
    assert flags_of(CHAT_COMPLETIONS, said("t:x"), is_partial=False) == RESULT


words_of_a_talk = st.lists(
    st.tuples(st.sampled_from("uat"), st.sampled_from(["hi", "yes", "no", "what?"])).map(":".join), max_size=30
)


def asked(*words: str, spaces: str = "") -> Request:
    body: dict[str, Any] = {"messages": [said("s:be brief"), *map(said, words)]}
    request = CHAT_COMPLETIONS.read(json.dumps(body, separators=("," + spaces, ":")).encode())
    assert request is not None
    return request


@given(st.lists(st.tuples(words_of_a_talk, st.integers(0, 30)), max_size=6))
def test_a_history_that_was_read_before_is_read_alike(talks: list[tuple[list[str], int]]) -> None:
    """Whatever was digested earlier, a request is understood as if it were the first one."""
    histories = Histories(kept_messages=60)
    before: list[str] = []
    for words, kept in talks:
        talk = before[:kept] + words
        request = asked(*talk)
        read = histories.read(request)
        assert replace(read, raws=()) == read_conversation(request)
        assert read.raws in {(), tuple(CHAT_COMPLETIONS.raw_messages(request))}
        before = talk


def test_a_long_history_is_digested_once() -> None:
    """A turn of a conversation of hundreds of messages costs what its two new messages cost."""
    histories, talk = Histories(), [f"{'ua'[at % 2]}:{at}" for at in range(101)]
    first = histories.read(asked(*talk))
    again = histories.read(asked(*talk, "a:well", "u:and now?"))
    assert all(one is other for one, other in zip(first.entries, again.entries, strict=False))
    assert len(again.entries) == 103
    changed = histories.read(asked("u:else", *talk[1:], "a:well", "u:and now?"))
    assert changed.entries[0] != first.entries[0]
    assert changed.chain != again.chain


def test_digested_histories_take_bounded_room() -> None:
    """A process that serves for a month does not grow with every conversation."""
    histories = Histories(kept_messages=50)
    for number in range(20):
        histories.read(asked(*(f"{'ua'[at % 2]}:{number}.{at}" for at in range(9))))
    assert sum(len(known.entries) for known in histories._known.values()) <= 50
    histories.read(asked(*(f"{'ua'[at % 2]}:{at}" for at in range(99))))
    assert not histories._known
