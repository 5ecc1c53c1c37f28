"""The shared values: what a mode allows, and that nobody changes a value that others hold."""

import dataclasses

import pytest

from memproxy import records
from memproxy.records import MemoryMode, Scope, SessionKey


@pytest.mark.parametrize(("mode", "reads", "writes"), [("off", 0, 0), ("read", 1, 0), ("write", 0, 1), ("full", 1, 1)])
def test_a_mode_says_what_memory_may_do(mode: str, reads: int, writes: int) -> None:
    """`read` never learns, `write` never injects."""
    assert (MemoryMode(mode).reads, MemoryMode(mode).writes) == (bool(reads), bool(writes))


VALUES = [value for value in vars(records).values() if isinstance(value, type) and dataclasses.is_dataclass(value)]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.__name__)
def test_values_are_never_changed(value: type) -> None:
    """A scope that was checked stays the scope that is used."""
    assert value.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(value)


def test_the_parts_of_an_address_count_each() -> None:
    """No user is another one in a namespace, and no thread another session."""
    assert len({Scope("t", "u"), Scope("t", None, "u"), Scope("u", "t"), Scope("t", "u", "")}) == 4
    scope = Scope("t", "u")
    assert SessionKey(scope, "a", "b") != SessionKey(scope, "b", "a")
    assert SessionKey(scope, "a") == SessionKey(scope, "a", "")
