"""What a policy gives up."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.memory.forgetting import ForgetPolicy, given_up
from memproxy.records import MemoryRecord, MemoryType, Scope

NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)


def record(memory_id: str, *, age: float, idle: float | None = None, **given: object) -> MemoryRecord:
    """A memory so many days old, and looked at so many days ago."""
    return MemoryRecord(
        memory_id,
        Scope("t", "u"),
        "tea",
        given.pop("type", MemoryType.SEMANTIC),  # type: ignore[arg-type]  # as given
        NOW - timedelta(days=age),
        last_accessed=None if idle is None else NOW - timedelta(days=idle),
        **given,  # type: ignore[arg-type]  # as given
    )


def ids(records: list[MemoryRecord], policy: ForgetPolicy, pinned: tuple[str, ...] = ()) -> list[str]:
    return [each.id for each in given_up(records, policy, pinned_ids=pinned, now=NOW)]


KNOWN = [
    record("new", age=1),
    record("old", age=40),
    record("old but used", age=40, idle=2),
    record("ancient but used", age=400, idle=2),
    record("ancient", age=400, idle=300),
]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (ForgetPolicy(), []),
        (ForgetPolicy(max_age_days=30), ["old", "old but used", "ancient but used", "ancient"]),
        (ForgetPolicy(max_age_days=40), ["ancient but used", "ancient"]),
        (ForgetPolicy(max_inactive_days=30), ["old", "ancient"]),
        (ForgetPolicy(max_age_days=30, max_inactive_days=30), ["old", "ancient but used", "ancient"]),
        (ForgetPolicy(max_age_days=30, max_inactive_days=30, hard_age_multiplier=20), ["old", "ancient"]),
        (ForgetPolicy(budget=2), ["old", "ancient but used", "ancient"]),
        (ForgetPolicy(budget=0), [each.id for each in KNOWN]),
        (ForgetPolicy(budget=5), []),
        (ForgetPolicy(max_inactive_days=30, budget=2), ["old", "ancient but used", "ancient"]),
        (ForgetPolicy(budget=0, types=(MemoryType.EPISODIC,)), []),
        (ForgetPolicy(budget=0, types=()), []),
        (ForgetPolicy(budget=0, types=(MemoryType.SEMANTIC,)), [each.id for each in KNOWN]),
    ],
)
def test_a_policy_gives_up_what_its_rule_says(policy: ForgetPolicy, expected: list[str]) -> None:
    """Both limits together spare what is used, until it is too old for that, too."""
    assert ids(KNOWN, policy) == expected


def test_what_is_pinned_stays_and_takes_no_place_of_the_budget() -> None:
    """By its own mark or by the caller's list."""
    known = [record("mark", age=900, pinned=True), record("list", age=900), record("new", age=1), record("old", age=9)]
    assert ids(known, ForgetPolicy(max_age_days=5, budget=1), ("list",)) == ["old"]
    assert ids(known, ForgetPolicy(budget=1), ("list",)) == ["old"]


def test_what_holds_no_longer_goes_first() -> None:
    known = [record("past", age=1, valid_until=NOW), record("present", age=9)]
    assert ids(known, ForgetPolicy(budget=1)) == ["past"]


AGES = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=30)


@given(ages=AGES, budget=st.integers(0, 10), cut=st.integers(0, 30))
def test_looking_at_a_part_gives_up_nothing_that_would_be_kept(
    ages: list[tuple[float, float]], budget: int, cut: int
) -> None:
    """A limit on what is looked at makes forgetting slower, not wrong."""
    known = [record(str(at), age=age, idle=min(idle, age)) for at, (age, idle) in enumerate(ages)]
    policy = ForgetPolicy(budget=budget)
    everything = ids(known, policy)
    assert set(ids(known[:cut], policy)) <= set(everything)
    assert len(everything) == max(len(known) - budget, 0)
