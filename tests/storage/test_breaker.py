"""The breaker: closed through hiccups, open through outages, closed again by the first success."""

from memproxy.storage.breaker import Breaker


class Time:
    """Seconds as a test sets them."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_single_failures_change_nothing() -> None:
    """A hiccup costs one request its memory, not all of them."""
    breaker = Breaker(threshold=3, pause_s=5, monotonic_s=Time())
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        assert breaker.allows()
        breaker.succeeded()
        assert not breaker.is_open


def test_an_outage_opens_it_and_lets_one_try_through_now_and_then() -> None:
    """While the store is away, requests don't wait for it; that it is back is noticed within the pause."""
    time = Time()
    breaker = Breaker(threshold=3, pause_s=5, monotonic_s=time)
    for _ in range(3):
        assert breaker.allows()
        breaker.failed()
    assert breaker.is_open
    assert not breaker.allows()
    time.now_s += 4.9
    assert not breaker.allows()
    time.now_s += 0.1
    assert [breaker.allows() for _ in range(5)] == [True, False, False, False, False]
    breaker.failed()
    time.now_s += 5
    assert [breaker.allows() for _ in range(2)] == [True, False]


def test_failures_of_requests_that_were_under_way_do_not_put_off_the_next_try() -> None:
    """A hundred requests that fail at once open it for one pause, not for a hundred."""
    time = Time()
    breaker = Breaker(threshold=3, pause_s=5, monotonic_s=time)
    for _ in range(100):
        breaker.failed()
        time.now_s += 0.01
    time.now_s = 100.0 + 0.03 + 5
    assert breaker.allows()


def test_a_success_closes_it_at_once() -> None:
    """When the store is back, memory is back."""
    breaker = Breaker(threshold=1, pause_s=5, monotonic_s=Time())
    breaker.failed()
    assert not breaker.allows()
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.allows()
    assert breaker.allows()
