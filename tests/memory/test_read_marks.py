"""What a writer has seen: by what it sends back, by its connection, by who else may be writing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from memproxy.memory.read_marks import Seen, marks_after, seen_by, short_digest
from memproxy.storage.session_state import Document, LeftMark, MarksChange, ReadMark, Witness
from tests.fakes.sessions import NOON, document_of, said, written

ME = Witness("me", NOON)
DOCUMENT = document_of([said(text) for text in "abcdef"])
"""Six messages; each came with a change of its own."""


def left(
    kind: str = "open", who: str = "me", version: int = 1, *, ago_s: float = 1, shown: int = 1, **given: Any
) -> LeftMark:
    at = int((NOON.timestamp() - ago_s) * 1000)
    mark = ReadMark(given.pop("thread", "base"), version, at, shown=shown, **given)
    return LeftMark(f"{kind} {who} {version} {ago_s}", kind, who if kind != "shown" else "", mark)


def seen(*marks: LeftMark, state: datetime | None = None, first: int | None = 0, document: Document = DOCUMENT) -> Seen:
    return seen_by(document, marks, writer=ME, state=state, first=first)


def unseen(found: Seen, *, captured: Sequence[int] = range(6), document: Document = DOCUMENT) -> list[int]:
    """The positions of what was not seen."""
    written_by_code = [at not in captured for at in range(document.length)]
    return [at for at, hidden in enumerate(found.unseen(document.index, written_by_code)) if hidden]


def after(found: Seen, *, differs: bool = False, **given: Any) -> MarksChange:
    told: Mapping[str, Any] = {"length": 6, "written": [], "data": {}, "summary": "", "gone": {}, **given}
    return marks_after(found, DOCUMENT, writer=ME, differs=differs, **told)


# Which read is answered


def test_a_read_and_its_answer() -> None:
    """What came after the look was not seen, by whom it ever came."""
    found = seen(left(version=4))
    assert unseen(found) == [4, 5]
    assert found.used is not None


def test_a_document_that_names_its_state_is_the_answer_to_the_read_of_that_state() -> None:
    """Whoever read something older or newer meanwhile, and however long ago it was."""
    marks = [left(version=1), left(version=3, ago_s=500, state=NOON.isoformat()), left("own", version=6)]
    found = seen(*marks[:2], state=NOON)
    assert (unseen(found), found.used) == ([3, 4, 5], marks[1])
    assert unseen(seen(*marks, state=NOON)) == [3, 4, 5]
    assert unseen(seen(*marks, state=NOON + timedelta(microseconds=1))) == [1, 2, 3, 4, 5], "it names no read"


def test_the_answer_to_a_write_is_known_by_its_state_alone() -> None:
    """Who takes it over has seen all of it; who does not has not."""
    answer = left("shown", version=5, state=NOON.isoformat())
    assert unseen(seen(answer, state=NOON)) == [5]
    assert seen(answer).reads == ()


@pytest.mark.parametrize(("ago_s", "missing"), [(29, [2, 3, 4, 5]), (31, [])])
def test_any_write_may_answer_any_read_of_the_last_half_minute(ago_s: float, missing: list[int]) -> None:
    """Clients share connections, and change them; later, nobody is waited for."""
    found = seen(left(who="other", version=2, ago_s=ago_s), document=replace(DOCUMENT, shown=6))
    assert unseen(found) == missing


def test_only_what_all_of_them_showed_counts_as_seen() -> None:
    """One of them is answered, nobody knows which."""
    marks = [left(version=5), left(who="other", version=2)]
    assert unseen(seen(*marks)) == [2, 3, 4, 5]


def test_a_writer_that_goes_on_without_looking_knows_what_it_did() -> None:
    """A notebook keeps its own list and puts it again and again; what others added is not in it."""
    mine = left("own", version=2, wrote=(5,), ago_s=500)
    assert unseen(seen(mine)) == [2, 3, 5]
    assert seen(left("own", "other", version=2)).reads == (), "it says nothing of other connections"


def test_a_document_without_anything_known_answers_a_look_at_nothing() -> None:
    """Two who found no session both make one; the second one's empty document takes nothing away."""
    nothing = left(who="other", version=0, shown=0)
    assert unseen(seen(nothing, left("own", version=6, shown=3), first=None)) == list(range(6))
    assert unseen(seen(left(version=6), nothing, first=None)) == list(range(6))


def test_a_document_without_anything_known_takes_the_place_of_what_its_writer_last_knew() -> None:
    """Put after put replaces, although others look on."""
    assert unseen(seen(left("own", version=6), left(who="other", version=2), first=None)) == []
    assert unseen(seen(left(version=2), left(version=5), left(who="other", version=1), first=None)) == [5]
    assert unseen(seen(left(who="other", version=2), first=None)) == [2, 3, 4, 5], "it may be the other one"


def test_without_a_read_a_document_replaces_what_code_could_know() -> None:
    """What agents said and nobody was ever shown is kept: no writer can have meant to remove it."""
    document = replace(DOCUMENT, shown=2)
    found = seen(document=document)
    assert found.reads == ()
    assert unseen(found, captured=[0, 1, 2, 3]) == [2, 3]


def test_who_was_shown_another_thread_has_seen_nothing_of_this_one() -> None:
    """An edit through the proxy made another conversation the session's."""
    assert unseen(seen(left(version=6, thread="another"))) == list(range(6))


# Looks at the end of a session only


def test_what_was_not_shown_was_not_seen() -> None:
    """A client whose window is small puts back what it got, and loses nothing of the rest."""
    document = document_of([replace(said(text), id=text) for text in "abcdef"])
    short = left(version=5, hidden=3, begins="d")
    assert unseen(seen(short, first=3, document=document), document=document) == [0, 1, 2, 5]


def test_a_look_at_the_end_is_not_answered_by_who_repeats_the_beginning() -> None:
    """Beside somebody who only ever looks at the end, one who trims the session can."""
    document = document_of([replace(said(text), id=text) for text in "abcdef"])
    short, whole = left(who="other", version=6, hidden=3, begins="d"), left(version=6)
    assert unseen(seen(short, whole, first=1, document=document), document=document) == []
    assert unseen(seen(short, whole, first=3, document=document), document=document) == [0, 1, 2]
    assert unseen(seen(short, first=1, document=document), document=document) == [0, 1, 2], "there is no other"


def test_where_a_look_began_is_found_again_after_others_removed_messages() -> None:
    """Positions move, messages do not change their names."""
    document = document_of([replace(said(text), id=text) for text in "bcde"], versions=[2, 3, 4, 5])
    assert unseen(seen(left(version=5, hidden=2, begins="c"), first=1, document=document), document=document) == [0]
    gone = left(version=5, hidden=2, begins="x")
    assert unseen(seen(gone, first=2, document=document), document=document) == [0, 1], "at least as many"


# What becomes of the marks


def test_a_write_uses_its_own_connections_newest_read_up() -> None:
    """The older one may be another writer's, and then says less than that knows, never more."""
    old, new, others = left(version=1), left(version=2), left(who="other", version=3)
    change = after(seen(old, new, others))
    assert (change.used, change.aside) == (new.name, "")


def test_a_read_of_another_connection_is_set_aside_for_that() -> None:
    """It may have been this writer's, whose connection changed, or may still be that one's."""
    others = left(who="other", version=3)
    change = after(seen(others))
    assert (change.used, change.aside) == (others.name, "other")
    assert after(seen(others, left("own", version=1))).used == left("own", version=1).name
    assert after(seen(left("own", version=6), left(who="other", version=0, shown=0), first=None)).used == ""
    assert after(seen()).used == ""


def test_a_writer_whose_document_is_the_session_knows_all_of_it() -> None:
    """It goes on from there."""
    knows = after(seen(left(version=3)), data={"a": b"1"}, summary="s").knows
    assert (knows.version, knows.wrote, knows.hidden, knows.shown) == (7, (), 0, 6)
    assert (knows.data, knows.summary) == ({"a": short_digest(b"1")}, short_digest(b"s"))


def test_a_writer_whose_document_is_less_knows_what_it_knew_and_what_it_wrote() -> None:
    """Even if the answer showed it more: it may not look at answers."""
    own = left("own", version=2, wrote=(4,))
    assert after(seen(own, left(who="other", version=3)), differs=True).knows.wrote == (4, 7)
    assert after(seen(own), differs=True).knows.version == 2
    nobody = after(seen(document=replace(DOCUMENT, shown=1)), differs=True, written=[2, 3]).knows
    assert (nobody.version, nobody.wrote) == (1, (2, 3, 7))
    many = after(seen(left("own", version=0, wrote=tuple(range(1, 200)))), differs=True).knows
    assert len(many.wrote) == 100
    assert many.wrote[-1] == 199


# Data and summary


def test_a_value_that_comes_back_as_it_was_read_was_not_changed_by_the_writer() -> None:
    """And one that is missing was removed by it, if it was there for it to see."""
    one, two = short_digest(b"1"), short_digest(b"2")
    found = seen(left(data={"a": one, "b": one}), left(who="other", data={"a": two, "b": one}))
    assert (found.read_value("a", one), found.read_value("a", two), found.read_value("c", one)) == (True, True, False)
    assert (found.knows_value("a", one), found.knows_value("b", one), found.knows_value("c", one)) == (
        False,
        True,
        False,
    )
    assert (seen().read_value("a", one), seen().knows_value("a", one)) == (False, True)


def test_a_summary_is_told_apart_in_the_same_way() -> None:
    """One that the background stage wrote meanwhile is not undone by the one that was read."""
    found = seen(left(summary="x"), left(who="other", summary="y"))
    assert (found.read_text("x"), found.knows_text("x"), found.read_text("z")) == (True, False, False)
    assert (seen().read_text("x"), seen().knows_text("x")) == (False, True)


def test_digests_are_those_of_the_scripts() -> None:
    """What was shown is digested in the store, what comes back here."""
    assert short_digest(b"") == "da39a3ee5e6b"
    assert written("a", "b").turn == "put-1"
