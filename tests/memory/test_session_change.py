"""What one write changes: what the document says, held against what its writer has seen; and what is learned of it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace as changed

from memproxy.memory.read_marks import short_digest
from memproxy.memory.session_change import Wish, align_with, plan
from memproxy.memory.session_merge import to_count
from memproxy.memory.working import Window, shown_text
from memproxy.records import MemoryRecord, MemoryType, Outcome, StoredMessage, StrategyChoice, Turn
from memproxy.storage.queue import decode_turn
from memproxy.storage.session_state import Change, Document, KeptMemory, LeftMark, Marks, ReadMark, Witness
from tests.fakes.sessions import ANN, CHAT, NOON, document_of, new, said, sent, written

ME = Witness("me", NOON + timedelta(hours=1))
TALK = [replace(said(text), id=text, turn="mpr-1") for text in ("hi", "hello", "bye")]
NOTHING = Marks()


def read(document: Document, **given: Any) -> Marks:
    """The mark of somebody who was shown all of this document."""
    digests = {name: short_digest(value) for name, value in document.data.items()}
    mark = ReadMark(
        "base", document.version, ME.at_ms, shown=1, summary=short_digest(document.summary.encode()), data=digests
    )
    return Marks((LeftMark("open", "open", "me", changed(mark, **given)),))


def planned(document: Document, wish: Wish, marks: Marks = NOTHING) -> Change:
    aligned = align_with(document, marks, wish, writer=ME)
    return plan(aligned, tokens=[7] * len(to_count(aligned.matches)), turn_id="put-9")


def turn_of(change: Change) -> Turn:
    return decode_turn(change.queued)


def texts(messages: Sequence[StoredMessage]) -> list[str]:
    return [shown_text(message.message) for message in messages]


def same(document: Document) -> tuple[Any, ...]:
    return tuple(sent(message) for message in document.messages)


def memory(name: str, text: str = "likes tea", **given: Any) -> MemoryRecord:
    return MemoryRecord(name, ANN, text, MemoryType.SEMANTIC, NOON, **given)


# The session after it


def test_a_first_write_makes_the_session() -> None:
    """With times of its own: what clients say of them counts for nothing."""
    missing = Document(CHAT, "base", is_there=False)
    after = planned(
        missing, Wish(messages=(new("n"),), data={"a": b"1"}, summary="s", ttl_ms=9_000, keeps_ttl=False)
    ).after
    assert (after.is_there, after.version, after.length, texts(after.messages)) == (True, 1, 1, ["words of n"])
    assert (after.created_at, after.updated_at, after.ttl_ms) == (ME.at, ME.at, 9_000)
    assert (after.data, after.summary, after.tokens) == ({"a": b"1"}, "s", 7)


def test_each_state_has_a_time_of_its_own() -> None:
    """By it a document that comes back is known, be the clock slow or standing still."""
    ahead = document_of(TALK, updated_at=ME.at + timedelta(seconds=5))
    assert planned(ahead, Wish()).after.updated_at == ME.at + timedelta(seconds=5, microseconds=1)
    assert planned(document_of(TALK), Wish()).after.updated_at == ME.at


def test_what_the_document_does_not_say_stays() -> None:
    """Clients build documents anew, and leave out what they don't know."""
    strategies = (StrategyChoice("summary"),)
    document = document_of(TALK, data={"a": b"1"}, summary="s", ttl_ms=9_000, strategies=strategies, wanted_within=50)
    after = planned(document, Wish(messages=same(document)), read(document)).after
    expected = replace(document, version=4, updated_at=ME.at)
    assert replace(after, index=document.index) == expected


def test_a_time_to_live_and_a_strategy_are_set_and_taken_back() -> None:
    """Only by a document that says so."""
    document = document_of(TALK, ttl_ms=9_000, strategies=(StrategyChoice("summary"),))
    assert planned(document, Wish(ttl_ms=5_000, keeps_ttl=False)).after.ttl_ms == 5_000
    assert planned(document, Wish(ttl_ms=None, keeps_ttl=False)).after.ttl_ms is None
    other = StrategyChoice("preferences")
    assert planned(document, Wish(strategy=other)).after.strategies == (other,)


def test_what_moves_keeps_what_the_index_says_of_it() -> None:
    """Messages of other formats are told apart by it: thoughts, calls, results."""
    document = document_of(TALK)
    thought = document.index[1]._replace(flags=33)
    document = replace(document, index=(document.index[0], thought, document.index[2]))
    after = planned(document, Wish(messages=same(document)[1:]), read(document)).after
    assert after.index == (thought, document.index[2])


# Summary


@pytest.mark.parametrize(
    ("stored", "shown", "wished", "after"),
    [
        ("s", "s", "other", "other"),
        ("s", "s", "s", "s"),
        ("s", "s", "", ""),
        ("s", "s", None, "s"),
        ("newer", "s", "s", "newer"),
        ("newer", "s", "", "newer"),
        ("newer", "s", "mine", "mine"),
        ("newer", None, "s", "s"),
        ("newer", None, "", ""),
    ],
)
def test_a_summary_written_meanwhile_is_not_undone(
    stored: str, shown: str | None, wished: str | None, after: str
) -> None:
    """The background stage may write it while a client holds the old one; without a read, a document has its way."""
    document = document_of(TALK, summary=stored)
    marks = NOTHING if shown is None else read(document, summary=short_digest(shown.encode()))
    assert planned(document, Wish(summary=wished), marks).after.summary == after


def test_a_summary_covers_no_more_than_stands_where_it_stood() -> None:
    """Else messages would be left out of requests that nothing stands for."""
    document = document_of(TALK, summary="s", summarised=2, cut=2)
    whole = planned(document, Wish(messages=same(document)), read(document)).after
    assert (whole.summarised, whole.cut) == (2, 2)
    without_second = (same(document)[0], same(document)[2])
    shorter = planned(document, Wish(messages=without_second), read(document)).after
    assert (shorter.summarised, shorter.cut) == (1, 0)
    assert planned(document, Wish(messages=same(document), summary=""), read(document)).after.summarised == 0


# Data and memories


@pytest.mark.parametrize(
    ("stored", "shown", "wished", "changes"),
    [
        ({"a": b"1"}, {"a": b"1"}, {"a": b"2"}, {"a": b"2"}),
        ({"a": b"1"}, {"a": b"1"}, {"a": b"1", "b": b"2"}, {"b": b"2"}),
        ({"a": b"1"}, {"a": b"1"}, {}, {"a": None}),
        ({"a": b"1"}, {"a": b"1"}, None, {}),
        ({"a": b"1", "b": b"2"}, {"a": b"1"}, {"a": b"1"}, {}),
        ({"a": b"2"}, {"a": b"1"}, {"a": b"1"}, {}),
        ({"a": b"2"}, {"a": b"1"}, {"a": b"3"}, {"a": b"3"}),
        ({"a": b"2"}, {"a": b"1"}, {}, {}),
        ({}, {"a": b"1"}, {"a": b"1"}, {}),
        ({"a": b"1", "b": b"2"}, None, {"b": b"3"}, {"a": None, "b": b"3"}),
        ({"a": b"1"}, None, None, {}),
    ],
)
def test_data_is_merged_name_by_name(
    stored: dict[str, bytes], shown: dict[str, bytes] | None, wished: dict[str, bytes] | None, changes: dict[str, Any]
) -> None:
    """Two clients that set different names at once both have their way; what was read and not touched is not set."""
    document = document_of(TALK, data=stored)
    digests = {name: short_digest(value) for name, value in (shown or {}).items()}
    marks = NOTHING if shown is None else read(document, data=digests)
    change = planned(document, Wish(data=wished), marks)
    assert change.data == changes
    assert change.after.data == {name: value for name, value in {**stored, **changes}.items() if value is not None}


def test_memories_are_kept_beside_the_session_and_handed_in_once() -> None:
    """What comes back as it was is neither stored nor handed in again."""
    known = KeptMemory(memory("m1", persisted_at=NOON), 1)
    document = document_of(TALK, memories=(known,))
    later = changed(memory("m1"), created_at=ME.at, updated_at=ME.at)
    change = planned(document, Wish(messages=same(document), memories=(later, memory("m2"))), read(document))
    assert change.memories == {"m2": KeptMemory(memory("m2"), 4)}
    assert change.after.memories == (known, KeptMemory(memory("m2"), 4))
    assert turn_of(change).memories == (memory("m2"),)
    handed_in = planned(document, Wish(messages=same(document), memories=(memory("m3", persisted_at=NOON),)))
    assert handed_in.queued == b"", "it says that it is stored"


def test_a_memory_that_changed_is_handed_in_again() -> None:
    """It takes its predecessor's place, and is not stored yet; it is still from when it was first put there."""
    known = KeptMemory(memory("m1", persisted_at=NOON), 1)
    document = document_of(TALK, memories=(known,))
    other = changed(memory("m1", "likes coffee"), created_at=ME.at)
    change = planned(document, Wish(memories=(other,)), read(document))
    (kept,) = change.after.memories
    assert (kept.record.text, kept.record.created_at, kept.record.persisted_at, kept.version) == (
        "likes coffee",
        NOON,
        None,
        4,
    )
    assert turn_of(change).memories == (kept.record,)


def test_a_memory_that_its_writer_did_not_see_stays() -> None:
    """And one that it saw and left out goes."""
    document = document_of(TALK, memories=(KeptMemory(memory("old"), 1), KeptMemory(memory("new"), 3)))
    change = planned(document, Wish(), read(document, version=2))
    assert change.memories == {"old": None}
    stale = planned(document, Wish(memories=(memory("new", "stale"),)), read(document, version=2))
    assert "new" not in stale.memories
    assert planned(document, Wish()).memories == {"old": None, "new": None}


# What is learned


def test_what_is_new_is_learned_with_what_went_before() -> None:
    """Once, with the two messages before it, by the session's own strategies."""
    strategies = (StrategyChoice("preferences"),)
    document = document_of(TALK, strategies=strategies)
    wish = Wish(messages=(*same(document), new("a"), new("b", is_learned=True), new("c")))
    turn = turn_of(planned(document, wish, read(document)))
    assert (texts(turn.messages), texts(turn.context)) == (["words of a", "words of c"], ["hello", "bye"])
    assert (turn.id, turn.scope, turn.session, turn.thread) == ("put-9", ANN, CHAT.session, "")
    assert (turn.at, turn.outcome, turn.strategies) == (ME.at, Outcome.COMPLETED, strategies)


def test_a_write_of_nothing_new_is_not_learned_from() -> None:
    """Data, times, messages that are learned from already: no work for anybody."""
    document = document_of(TALK)
    for wish in (
        Wish(messages=same(document), data={"a": b"1"}),
        Wish(messages=(*same(document), new("n", is_learned=True))),
        Wish(messages=tuple(replace(one, is_learned=True) for one in same(document))),
    ):
        assert planned(document, wish, read(document)).queued == b""


def test_changed_words_are_learned() -> None:
    """What a user corrected is what counts."""
    document = document_of([written("x", "I live in Rome.")])
    turn = turn_of(
        planned(document, Wish(messages=(replace(same(document)[0], text="I live in Bern."),)), read(document))
    )
    assert texts(turn.messages) == ["I live in Bern."]


@pytest.mark.parametrize(
    ("window", "wanted", "is_asked"),
    [
        (Window(1_000, is_given=True), 1_000, False),
        (Window(40, is_given=True), 40, True),
        (Window(1_000, is_given=False), 0, False),
        (Window(40, is_given=False), 40, True),
        (None, 0, False),
    ],
)
def test_a_summary_is_asked_for_and_never_waited_for(window: Window | None, wanted: int, is_asked: bool) -> None:
    """Whoever writes names the window; above 70 % of it the background stage is told, by a turn without messages."""
    document = document_of(TALK)
    change = planned(document, Wish(messages=same(document), window=window), read(document))
    assert (change.after.wanted_within, bool(change.queued)) == (wanted, is_asked)
    if is_asked:
        assert turn_of(change).messages == ()


# What others will know


def test_messages_that_went_are_remembered_for_a_while() -> None:
    """So that nobody brings them back who has not seen that."""
    document = document_of(TALK)
    change = planned(document, Wish(messages=same(document)[:1]), read(document))
    assert change.marks is not None
    assert change.marks.gone == {"hello": 4, "bye": 4}
    marks = replace(read(document, version=2), gone={"x": 3, **{f"old{number}": 1 for number in range(3_000)}})
    later = planned(document, Wish(messages=(*same(document), new("x"), new("old1"))), marks)
    assert later.marks is not None
    assert texts(later.after.messages) == ["hi", "hello", "bye", "words of old1"]
    assert len(later.marks.gone) == 2_000
    assert later.marks.knows.wrote != (), "the writer does not know that x is gone"
    assert "old1" not in later.marks.gone
