"""Which memories a view covers, how they fall into groups, and when a summary is out of date."""

from dataclasses import replace as changed
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from memproxy.memory.view_groups import (
    FIELDS,
    Group,
    added,
    counts,
    cover,
    grouped,
    in_order,
    is_current,
    selection,
)
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.memory_filter import Filter, TagField, any_of, created_between, types
from memproxy.storage.summary_views import GroupSummary, SummaryView

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VIEW = SummaryView("v1", NOW, group_by=("user_id", "namespace"))


def memory(name: str, *, minutes: int = 0, user: str | None = "alice", namespace: str | None = "work") -> MemoryRecord:
    at = NOW + timedelta(minutes=minutes)
    return MemoryRecord(name, Scope("t", user, namespace), f"text of {name}", MemoryType.SEMANTIC, at, session="s1")


records = st.builds(
    memory,
    st.sampled_from("abcdefgh"),
    minutes=st.integers(0, 3),
    user=st.sampled_from(["alice", "bob", None]),
    namespace=st.sampled_from(["work", "home", None]),
)


@given(st.lists(records, max_size=30), st.permutations(sorted(FIELDS)), st.integers(0, 4), st.integers(1, 5))
def test_groups_hold_what_has_the_same_values(
    found: list[MemoryRecord], fields: list[str], taken: int, limit: int
) -> None:
    """Each memory stands in one group at most, with those like it, the newest ones if there are too many."""
    view = changed(VIEW, group_by=tuple(fields[:taken]))
    groups = grouped(view, found, limit=limit)
    whole = grouped(view, found, limit=1_000)
    for address, group in groups.items():
        assert tuple(group.values[name] for name in view.group_by) == address
        assert list(group.records) == in_order(whole[address].records)[-limit:]
    in_groups = [record for group in whole.values() for record in group.records]
    everything = in_order(found)
    has_all = [
        record
        for record in everything
        if not ("user_id" in view.group_by and record.scope.user is None)
        and not ("namespace" in view.group_by and record.scope.namespace is None)
    ]
    assert in_order(in_groups) == has_all
    assert len(in_groups) == len(has_all)


def test_without_fields_all_is_one_group() -> None:
    """A view of everything has one summary."""
    (group,) = grouped(changed(VIEW, group_by=()), [memory("a"), memory("b", user=None)], limit=10).values()
    assert group.values == {}
    assert len(group.records) == 2


def test_a_view_covers_what_its_filters_window_and_group_say() -> None:
    """What is asked of the store is no more than what the summary may show."""
    rules = [types(MemoryType.SEMANTIC)]
    assert selection(VIEW, rules, now=NOW, values={}) == Filter(tuple(rules))
    view = changed(VIEW, time_window_days=30)
    assert selection(view, rules, now=NOW, values={"user_id": "alice", "namespace": "work"}) == Filter(
        (
            *rules,
            created_between(NOW - timedelta(days=30), None),
            any_of(TagField.USER, ["alice"]),
            any_of(TagField.NAMESPACE, ["work"]),
        )
    )


@pytest.mark.parametrize(
    ("kind", "is_explicit", "view", "expected"),
    [
        (MemoryType.SEMANTIC, False, VIEW, True),
        (MemoryType.EPISODIC, False, VIEW, True),
        (MemoryType.MESSAGE, False, VIEW, False),
        (MemoryType.MESSAGE, True, VIEW, True),
        (MemoryType.MESSAGE, False, changed(VIEW, group_by=("memory_type",)), True),
        (MemoryType.MESSAGE, False, changed(VIEW, filters={"memory_type": "message"}), True),
    ],
)
def test_captured_messages_count_when_types_are_asked_for(
    kind: MemoryType, is_explicit: bool, view: SummaryView, expected: bool
) -> None:
    """A summary of facts is not one of every "thanks"; what code created counts whatever type it gave."""
    assert counts(view, replace(memory("a"), type=kind, is_explicit=is_explicit)) is expected


def summary_of(found: list[MemoryRecord]) -> GroupSummary:
    return GroupSummary({}, "text", len(found), NOW, NOW, covers=cover(found))


@given(st.lists(records, min_size=1, max_size=12), st.integers(0, 12))
def test_a_summary_knows_what_was_added(found: list[MemoryRecord], at: int) -> None:
    """What was read once is not read again, as long as it is the same."""
    ordered = in_order(found)
    at = min(at, len(ordered))
    group, summary = Group({}, ordered), summary_of(ordered[:at])
    assert is_current(summary, group) == (at == len(ordered))
    assert added(summary, group) == (ordered[at:] if at else None)


@pytest.mark.parametrize(
    "after",
    [
        [memory("b", minutes=1), memory("c", minutes=2)],
        [replace(memory("a"), text="another"), memory("b", minutes=1), memory("c", minutes=2)],
        [replace(memory("a"), event_date=NOW), memory("b", minutes=1), memory("c", minutes=2)],
        [memory("a"), memory("between"), memory("b", minutes=1), memory("c", minutes=2)],
    ],
    ids=["deleted", "edited", "dated", "added before"],
)
def test_what_changed_is_read_anew(after: list[MemoryRecord]) -> None:
    """A summary that says what was deleted or corrected is worse than none."""
    summary = summary_of([memory("a"), memory("b", minutes=1)])
    assert not is_current(summary, Group({}, after))
    assert added(summary, Group({}, after)) is None


def test_equal_ids_of_two_users_are_two_memories() -> None:
    """An id is one memory within a scope only."""
    assert len(in_order([memory("a"), memory("a", user="bob"), memory("a", namespace="home")])) == 3
