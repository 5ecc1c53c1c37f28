"""Say once that something is away, and once that it is back; wait longer each time."""

import logging
from collections.abc import Callable

from memproxy.errors import MemproxyError

log = logging.getLogger(__name__)

DELAYS_S = (0.1, 5.0)
"""Wait for what is away: at first, and at most; it doubles."""

Observe = Callable[[str, float], None]
"""Takes a name and a number to count by: the stage's `.done` and `.dead` (turns), `.retried` and `.split` (batches),
`.dead_dropped`, `.store_away`, `.model_away`, `.tokens`, `.memories` (new ones), and `.seconds` (of attempts that
succeeded): `learn.done`.
"""


def observe_nothing(_name: str, _value: float) -> None:
    """Count nothing."""


class Outage:
    """One worker's view of whether `what` is away."""

    def __init__(self, stage: str, what: str, observe: Observe) -> None:
        self._stage = stage
        self._what = what
        self._observe = observe
        self._failures = 0

    def failed(self, error: MemproxyError) -> float:
        """How long to wait now, in seconds."""
        first_s, longest_s = DELAYS_S
        if self._failures == 0:
            log.warning("the worker for %s waits for the %s: %s", self._stage, self._what, error)
            self._observe(f"{self._stage}.{self._what}_away", 1)
        self._failures += 1
        return min(first_s * 2.0 ** min(self._failures - 1, 10), longest_s)

    def passed(self) -> None:
        """It answered."""
        if self._failures:
            log.info("the worker for %s goes on: the %s is back", self._stage, self._what)
        self._failures = 0
