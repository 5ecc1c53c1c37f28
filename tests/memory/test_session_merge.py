"""What becomes of messages: unchanged ones keep their form, unseen ones stay, in their places; nothing is doubled."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.memory.read_marks import Seen
from memproxy.memory.session_merge import Merged, Sent, first_repeated, match, merge, to_count, without_removed
from memproxy.memory.working import shown_text
from memproxy.records import StoredMessage
from memproxy.storage.session_state import Document, LeftMark, ReadMark
from memproxy.wire import chat_completions as chat
from tests.fakes.sessions import NOON, answered, calling, document_of, new, said, sent, written

EVERYTHING = 1_000


def knows(version: int = EVERYTHING, **given: Any) -> Seen:
    """A writer that was shown this version."""
    return Seen((LeftMark("open c 1 0 x", "open", "c", ReadMark("base", version, 0, **given)),))


REPLACES = Seen(())
"""A writer that answers no read."""


def captured(*texts: str, roles: str = "", minutes: Sequence[int] = ()) -> list[StoredMessage]:
    """Messages of users, as the proxy has kept them, each with the first letter of its text as its id."""
    return [
        replace(said(text, at=NOON + timedelta(minutes=minutes[at] if minutes else at)), id=text, turn="mpr-1")
        for at, text in enumerate(texts)
    ]


def put(document: Document, messages: Sequence[Sent], seen: Seen = REPLACES, **given: Any) -> Merged:
    """The merge of a document that was written to a session."""
    matches = match(document, messages)
    tokens = [7] * len(to_count(matches))
    return merge(document, matches, seen, tokens=tokens, turn="put-9", **given)


def words(merged: Merged) -> list[str]:
    return [shown_text(kept.message.message) for kept in merged.messages]


# What comes back


def test_what_comes_back_as_it_was_shown_stays_as_it_is() -> None:
    """Calls, parts, names and fields that nobody knows survive a client that only knows role and text."""
    odd = said([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "x"}}], name="ann", x=1)
    kept = [replace(one, id=str(at)) for at, one in enumerate([odd, calling("f"), answered("r"), said("")])]
    document = document_of(kept)
    merged = put(document, [*(sent(one) for one in kept), new("n")])
    assert [one.message for one in merged.messages[:4]] == kept
    assert (merged.keep, merged.differs, merged.removed) == (4, False, ())
    added = merged.messages[4]
    assert (added.entry.version, added.position, added.is_sent) == (5, None, True)
    assert added.message.message == {"role": "user", "content": "words of n"}
    assert (added.message.id, added.message.turn, added.message.tokens) == ("n", "put-9", 7)
    assert added.message.digest == chat.digest(added.message.message).hex()


def test_what_was_changed_takes_the_documents_form() -> None:
    """Words or role: it is another message then, under the same id, and counts as new."""
    document = document_of(captured("a", "b", "c"))
    a, b, c = (sent(one) for one in document.messages)
    merged = put(document, [a, replace(b, text="B"), replace(c, role="assistant")])
    assert words(merged) == ["a", "B", "c"]
    assert (merged.keep, [one.position for one in merged.messages]) == (1, [0, None, None])
    assert [one.message.id for one in merged.messages] == ["a", "b", "c"]
    assert merged.messages[2].message.message["role"] == "assistant"


def test_that_it_is_learned_from_is_noted_and_nothing_else() -> None:
    """A client may say so later; the message stays what it was."""
    document = document_of([calling("f"), answered("r")])
    messages = [sent(one, is_learned=True) for one in document.messages]
    merged = put(document, messages)
    assert [one.message.learned for one in merged.messages] == [True, True]
    assert [one.message.message for one in merged.messages] == [one.message for one in document.messages]
    again = put(replace(document, messages=tuple(one.message for one in merged.messages)), messages)
    assert again.keep == 2


def test_the_order_is_the_documents() -> None:
    """Who puts messages in another order means it."""
    document = document_of(captured("a", "b", "c"))
    a, b, c = (sent(one) for one in document.messages)
    merged = put(document, [a, c, b], knows())
    assert (words(merged), merged.keep) == (["a", "c", "b"], 1)


def test_messages_of_one_id_are_told_apart_by_their_order() -> None:
    """Nothing keeps a client from giving an id twice."""
    document = document_of([written("x", "one"), written("x", "two")])
    messages = [sent(one) for one in document.messages]
    assert put(document, messages).keep == 2
    assert words(put(document, messages[:1], knows())) == ["one"]
    assert words(put(document, [*messages, new("x", "three")])) == ["one", "two", "three"]


# What was said through the proxy and is written down besides


def test_what_the_proxy_captured_is_known_by_its_words() -> None:
    """An application that writes its history over REST, and talks through the proxy, has no message twice."""
    document = document_of(captured("hi", "hello", "bye"))
    own = [new("1", "hi"), new("2", "hello"), new("3", "hello"), new("4", "bye")]
    merged = put(document, own)
    assert words(merged) == ["hi", "hello", "hello", "bye"]
    assert [one.message.id for one in merged.messages] == ["hi", "hello", "3", "bye"]


def test_words_are_compared_in_order_and_once() -> None:
    """Saying "yes" again is another message."""
    document = document_of(captured("a", "yes", "b"))
    a, yes, b = (sent(one) for one in document.messages)
    assert words(put(document, [a, yes, b, new("n", "yes")])) == ["a", "yes", "b", "yes"]
    found = match(document, [new("1", "b"), new("2", "a")])
    assert [one.position for one in found] == [2, None]


def test_what_code_wrote_is_known_by_its_words_only_to_a_document_without_ids() -> None:
    """It is put whole each time: nothing is learned again, and everything keeps its id and time."""
    document = document_of([written("x", "one"), written("y", "two")])
    nameless = [new(str(at), text, is_named=False) for at, text in enumerate(["one", "two", "three"])]
    merged = put(document, nameless)
    assert ([one.message.id for one in merged.messages], merged.keep) == (["x", "y", "2"], 2)
    named = put(document, [new("1", "one"), new("2", "two", is_named=False)], knows())
    assert [one.message.id for one in named.messages] == ["1", "2"]


# What is left out


def test_what_its_writer_had_seen_goes_and_the_rest_stays() -> None:
    """Two who append at once are both heard; what is removed on purpose is removed."""
    document = document_of(captured("a", "b", "c", "d"))
    a, *_ = (sent(one) for one in document.messages)
    merged = put(document, [a, new("n")], knows(2))
    assert words(merged) == ["a", "c", "d", "words of n"]
    assert (merged.differs, merged.removed, merged.keep) == (True, ("b",), 1)
    assert [one.is_sent for one in merged.messages] == [True, False, False, True]
    assert [one.entry.version for one in merged.messages] == [1, 3, 4, 5]
    assert words(put(document, [a, new("n")], knows())) == ["a", "words of n"]
    assert words(put(document, [a, new("n")])) == ["a", "b", "c", "d", "words of n"], "no code was ever shown them"
    assert words(put(replace(document, shown=4), [a, new("n")], Seen((), shown=4))) == ["a", "words of n"]


def test_what_stays_stands_where_it_stood() -> None:
    """Between the messages that it stood between; among new ones by its time."""
    document = document_of(captured("a", "b", "c", "d"), versions=[1, 9, 1, 9])
    a, _, c, _ = (sent(one) for one in document.messages)
    early, late = new("e", minute=2), new("l", minute=4)
    assert words(put(document, [a, c], knows(1))) == ["a", "b", "c", "d"]
    assert words(put(document, [c, a], knows(1))) == ["c", "d", "a", "b"]
    assert words(put(document, [a, c, early, late], knows(1))) == ["a", "b", "c", "words of e", "d", "words of l"]
    assert words(put(document, [early, late], knows(1))) == ["b", "words of e", "d", "words of l"]


def test_a_new_message_never_comes_between_a_call_and_its_result() -> None:
    """A provider would refuse the conversation."""
    turn = [replace(one, at=NOON + timedelta(minutes=at)) for at, one in enumerate([calling("f"), answered("r")])]
    document = document_of(turn, versions=[1, 1])
    merged = put(document, [new("n", minute=0)], knows(0))
    assert words(merged) == ["[calls f({})]", "r", "words of n"]


def test_a_change_by_others_is_not_undone_by_who_did_not_see_it() -> None:
    """What comes back is the old form, not a wish."""
    edited = document_of([written("x", "new form"), written("y", "y")], versions=[5, 1])
    stale = [replace(sent(one), text=text) for one, text in zip(edited.messages, ["old form", "y"], strict=True)]
    assert words(put(edited, stale, knows(3))) == ["new form", "y"]
    assert words(put(edited, stale, knows(5))) == ["old form", "y"]
    assert words(put(edited, stale)) == ["old form", "y"]


@pytest.mark.parametrize(("version", "left"), [(3, ["n"]), (4, ["gone", "n"])])
def test_what_others_removed_does_not_come_back_with_who_did_not_see_it(version: int, left: list[str]) -> None:
    """Trimming a session is not undone by whoever was about to append to it; who knows may put it there anew."""
    document = document_of([])
    matches = match(document, [new("gone"), new("n")])
    assert [one.sent.id for one in without_removed(matches, knows(version), {"gone": 4})] == left
    assert [one.sent.id for one in without_removed(matches, REPLACES, {"gone": 4})] == ["gone", "n"]


def test_where_a_document_begins_to_repeat_the_session() -> None:
    """By it, a look at the end alone is told from one at all of it."""
    document = document_of(captured("a", "b", "c"))
    a, b, c = (sent(one) for one in document.messages)
    assert first_repeated(match(document, [c, b])) == 1
    assert first_repeated(match(document, [a])) == 0
    assert first_repeated(match(document, [new("n")])) is None


LOGS = st.lists(st.tuples(st.sampled_from("uacr"), st.integers(1, 9), st.integers(0, 9)), max_size=8)


@given(log=LOGS, version=st.integers(0, 9), data=st.data())
def test_whatever_is_written_to_whatever(log: list[tuple[str, int, int]], version: int, data: st.DataObject) -> None:
    """Every message once; what was sent in its order; what was not seen stays; the beginning is untouched."""
    kinds: Mapping[str, StoredMessage] = {
        "u": said("u"),
        "a": said("a", "assistant"),
        "c": calling("f"),
        "r": answered("r"),
    }
    messages = [
        replace(kinds[kind], id=f"m{at}", turn="mpr", at=NOON + timedelta(minutes=minute))
        for at, (kind, _, minute) in enumerate(log)
    ]
    document = document_of(messages, versions=[each for _, each, _ in log])
    own = data.draw(st.permutations([*map(sent, messages), *(new(f"n{at}", minute=at) for at in range(3))]))
    body = own[: data.draw(st.integers(0, len(own)))]
    merged = put(document, body, knows(version))
    ids = [kept.message.id for kept in merged.messages]
    mine = [one.id for one in body]
    unseen = [one.id for one, (_, each, _) in zip(messages, log, strict=True) if each > version and one.id not in mine]
    assert sorted(ids) == sorted([*mine, *unseen])
    assert [each for each in ids if each in mine] == mine
    by_place = [kept for kept in merged.messages if not kept.is_sent]
    assert {kept.message.id for kept in by_place} == set(unseen)
    assert [kept.message for kept in merged.messages[: merged.keep]] == messages[: merged.keep]
    assert set(merged.removed) == {one.id for one in messages} - set(ids)
