"""Cut pages out of a list that the query engine sorts by one value, so that they fit together. Pure.

What has the same value stands in the engine in the order in which it was stored or last touched: an access moves it.
So here it stands in the order of keys. That takes knowing all that has the value at which a page begins or ends, hence
more rows are read than the page has, few at first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

Row = tuple[str, bytes]
"""A key, and what it is sorted by."""


@dataclass(frozen=True, slots=True)
class Window:
    """The rows to read for those from `first` to before `last`."""

    first: int
    last: int
    margin: int = 1
    """Rows read more on either side."""

    @property
    def begin(self) -> int:
        return max(self.first - self.margin, 0)

    @property
    def end(self) -> int:
        return self.last + self.margin

    @property
    def length(self) -> int:
        return self.end - self.begin

    def wider(self) -> "Window":
        """The window to read when this one shows too little."""
        return replace(self, margin=self.margin * 8)

    def within(self, most: int) -> "Window | None":
        """The window as far as a list can be read; None where nothing of it can."""
        last = min(self.last, most - self.margin)
        return replace(self, last=last) if last > self.first else None

    def cut(self, rows: Sequence[Row], *, total: int) -> list[str] | None:
        """The keys of the page, of the rows that the window shows of `total`; None when it shows too little."""
        wanted = rows[self.first - self.begin : self.last - self.begin]
        if not wanted:
            return []
        is_begun = self.begin == 0 or rows[0][1] != wanted[0][1]
        is_ended = self.begin + len(rows) >= total or rows[-1][1] != wanted[-1][1]
        if not (is_begun and is_ended):
            return None
        place: dict[bytes, int] = {}
        for at, (_, value) in enumerate(rows):
            place.setdefault(value, at)
        ordered = sorted(rows, key=lambda row: (place[row[1]], row[0]))
        return [key for key, _ in ordered[self.first - self.begin : self.last - self.begin]]
