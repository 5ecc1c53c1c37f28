"""Stop asking a store that does not answer, so that requests don't wait for it one by one."""

from collections.abc import Callable


class Breaker:
    """Opens after `threshold` failures in a row; then lets one try through every `pause_s` until one succeeds."""

    def __init__(self, *, threshold: int, pause_s: float, monotonic_s: Callable[[], float]) -> None:
        self._threshold = threshold
        self._pause_s = pause_s
        self._monotonic_s = monotonic_s
        self._failures = 0
        self._next_try_s = 0.0

    @property
    def is_open(self) -> bool:
        """Failing: most tries are refused."""
        return self._failures >= self._threshold

    def allows(self) -> bool:
        """Whether to try now. While open, the one that is let through puts off the next."""
        if not self.is_open:
            return True
        now = self._monotonic_s()
        if now < self._next_try_s:
            return False
        self._next_try_s = now + self._pause_s
        return True

    def succeeded(self) -> None:
        """The store answered."""
        self._failures = 0

    def failed(self) -> None:
        """The store did not answer."""
        self._failures += 1
        if self._failures == self._threshold:
            self._next_try_s = self._monotonic_s() + self._pause_s
