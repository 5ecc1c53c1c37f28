"""Time as it is handed in."""

from datetime import timedelta

from memproxy.clock import SystemClock


def test_the_system_clock_is_aware_and_never_goes_back() -> None:
    """Times that are stored carry their zone; spans are never negative."""
    clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    assert clock.monotonic_s() <= clock.monotonic_s()
