"""Pages of a list whose order among equals changes."""

import random

from hypothesis import given
from hypothesis import strategies as st

from memproxy.storage.paging import Row, Window


def read(rows: list[Row], window: Window | None) -> list[str]:
    """What a client does: a window, and wider ones until one shows enough."""
    while window is not None:
        keys = window.cut(rows[window.begin : window.end], total=len(rows))
        if keys is not None:
            return keys
        window = window.wider()
    return []


@given(
    values=st.lists(st.integers(0, 3), max_size=40),
    limit=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_pages_fit_together_however_equals_are_shuffled_between(values: list[int], limit: int, seed: int) -> None:
    """Each key once, in the order of values."""
    rng = random.Random(seed)
    rows = [(str(at), b"%d" % value) for at, value in enumerate(sorted(values))]
    paged: list[str] = []
    for first in range(0, len(rows) + limit, limit):
        rows.sort(key=lambda row: (row[1], rng.random()))
        paged += read(rows, Window(first, first + limit))
    value = dict(rows)
    assert paged == sorted(paged, key=lambda key: (value[key], key))
    assert sorted(paged) == sorted(value)


def test_a_window_is_little_wider_than_its_page() -> None:
    """Where moments differ, two rows more are read."""
    window = Window(10, 20)
    assert (window.begin, window.end, window.length) == (9, 21, 12)
    assert (window.wider().begin, window.wider().end) == (2, 28)
    assert Window(0, 5).begin == 0


def test_nothing_is_read_beyond_what_the_engine_gives() -> None:
    """It answers with an error instead of with nothing."""
    assert Window(90, 120).within(100) == Window(90, 99)
    assert Window(10**12, 10**12 + 5).within(100) is None
