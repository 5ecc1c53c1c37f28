"""Memories as documents, and back."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from memproxy.errors import StoreError
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.memory_documents import (
    FIELDS,
    JUDGED,
    IndexedMemory,
    UnreadMemory,
    document,
    memory_hash,
    packed_vector,
    read_document,
    read_vector,
    validity,
)
from memproxy.storage.memory_index import Made

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
MADE = Made("test", 2)
RECORD = MemoryRecord("m", Scope("t", "alice", "work"), "tea", MemoryType.SEMANTIC, NOON, session="s")


def fields(record: MemoryRecord, *near: float) -> dict[str, bytes]:
    """A document as the store holds it."""
    vector = np.array(near or (1, 0), np.float32)
    created_at, accessed, count, *rest = document(IndexedMemory(record, ["tea"], ["cup"], vector), MADE)
    named = {"created_at": created_at, "last_accessed": accessed or created_at, "access_count": count}
    named |= {str(name): value for name, value in zip(rest[::2], rest[1::2], strict=True)}
    return {name: value.encode() if isinstance(value, str) else value for name, value in named.items()}


def read(stored: dict[str, bytes]) -> MemoryRecord:
    return read_document([stored.get(name) for name in FIELDS], MADE).record


MOMENTS = st.integers(-(10**15), 4 * 10**15).map(lambda micros: NOON + timedelta(microseconds=micros))
"""From 1993 to 2151: in the 23rd century seconds in a double lose the microseconds."""


@given(
    text=st.text(),
    labels=st.lists(st.text(), max_size=3).map(tuple),
    metadata=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()),
    at=MOMENTS,
    accesses=st.integers(1, 9),
)
def test_a_record_comes_back_as_it_was(
    text: str, labels: tuple[str, ...], metadata: dict[str, object], at: datetime, accesses: int
) -> None:
    """All of it, to the microsecond."""
    record = replace(
        RECORD,
        text=text,
        created_at=at,
        topics=labels,
        entities=labels,
        event_date=at,
        updated_at=at,
        persisted_at=at,
        pinned=True,
        extracted_from=labels,
        metadata=metadata,
        strategy="custom",
        strategy_config={"a": [1]},
        is_explicit=True,
        valid_until=at,
        superseded_by="n",
        supersedes=labels,
        last_accessed=at + timedelta(days=1),
        access_count=accesses,
    )
    assert read(fields(record)) == record


def test_a_memory_that_nobody_looked_at_has_no_last_access() -> None:
    """Though the index has one, to compare it by."""
    stored = fields(RECORD)
    assert stored["last_accessed"] == stored["created_at"]
    assert read(stored).last_accessed is None
    assert read({**stored, "access_count": b"1"}).last_accessed == NOON
    del stored["last_accessed"], stored["access_count"]
    assert read(stored) == RECORD


def test_accesses_do_not_change_the_record_itself() -> None:
    """So an edit is not held up by somebody who only looks."""
    seen = replace(RECORD, last_accessed=NOON, access_count=9)
    assert fields(seen)["record"] == fields(RECORD)["record"]


def test_a_text_without_known_words_has_no_vector() -> None:
    """The cosine to nothing is no number."""
    blank = fields(RECORD, 0, 0)
    assert MADE.vector_field not in blank
    assert blank["made"] == MADE.mark.encode()
    assert fields(RECORD)["made"].decode().split(",") == [MADE.mark, MADE.vector_mark]


def test_what_holds_no_longer_has_no_scope() -> None:
    """The proxy asks by scope."""
    past = replace(RECORD, valid_until=NOON)
    assert "scope" not in fields(past)
    assert fields(past)["superseded"] == b"1"
    assert "superseded" not in fields(RECORD)
    names = validity(past)[::2]
    assert dict(zip(names, validity(past)[1::2], strict=True))["scope"] == ""
    assert dict(zip(names, validity(RECORD)[1::2], strict=True))["superseded"] == ""


def test_memories_that_say_the_same_have_one_hash() -> None:
    """Within one scope, session and type; labels don't matter."""
    assert memory_hash(RECORD) == memory_hash(replace(RECORD, id="n", topics=("x",), created_at=NOON + timedelta(1)))
    others = [
        replace(RECORD, text="milk"),
        replace(RECORD, session=None),
        replace(RECORD, type=MemoryType.EPISODIC),
        replace(RECORD, scope=Scope("t", "bob", "work")),
        replace(RECORD, scope=Scope("t", "alice")),
    ]
    assert len({memory_hash(record) for record in (RECORD, *others)}) == 6
    assert len(memory_hash(RECORD)) == 32


@pytest.mark.parametrize("broken", [{"record": b"{}"}, {"record": b""}, {"created_at": b"x"}, {"created_at": b"1e99"}])
def test_what_cannot_be_read_is_said_to_be(broken: dict[str, bytes]) -> None:
    with pytest.raises(StoreError, match="newer memproxy"):
        read({**fields(RECORD), **broken})


def test_vectors_of_another_length_are_refused_or_left_out() -> None:
    """The engine would silently leave the memory out of the index."""
    with pytest.raises(StoreError, match="does not fit"):
        packed_vector(np.ones(3, np.float32), MADE)
    assert read_vector(b"1234", MADE) is None
    assert read_vector(None, MADE) is None
    vector = read_vector(packed_vector(np.ones(2, np.float32), MADE), MADE)
    assert vector is not None
    assert vector.tolist() == [1.0, 1.0]


@given(
    text=st.text(max_size=20),
    kind=st.sampled_from(MemoryType),
    session=st.none() | st.text(max_size=20),
    user=st.none() | st.text(max_size=10),
)
def test_what_is_judged_before_it_is_read_says_the_same(
    text: str, kind: MemoryType, session: str | None, user: str | None
) -> None:
    """A search drops most of what it finds without decoding it; that must not make it judge otherwise."""
    record = replace(RECORD, text=text, type=kind, session=session, scope=Scope("t", user))
    stored = fields(record)
    unread = UnreadMemory([stored.get(name) for name in JUDGED], MADE)
    whole = read_document([stored.get(name) for name in FIELDS], MADE)
    assert (unread.type, unread.terms, unread.read()) == (kind, whole.terms, whole.record)
    assert (unread.sitting is None) == (session is None)


def test_memories_of_one_sitting_have_one_and_others_another() -> None:
    """What was said in a sitting is moved up together, and never with what a session of like name holds."""

    def sitting(session: str, tenant: str = "t") -> str | None:
        stored = fields(replace(RECORD, session=session, scope=Scope(tenant, "alice")))
        return UnreadMemory([stored.get(name) for name in JUDGED], MADE).sitting

    assert sitting("a") == sitting("a")
    assert len({sitting("a"), sitting("A"), sitting("a "), sitting("_"), sitting(""), sitting("a", "other")}) == 6


def test_a_document_of_a_kind_that_is_not_known_is_judged_as_strictly_as_any() -> None:
    """A newer memproxy may know more kinds; its memories must not take away those of an older one."""
    stored = {**fields(RECORD), "type": b"dream"}
    assert UnreadMemory([stored.get(name) for name in JUDGED], MADE).type is MemoryType.MESSAGE
