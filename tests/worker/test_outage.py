"""An outage is said once."""

from collections import Counter

import pytest

from memproxy.errors import StoreUnavailableError
from memproxy.worker.outage import DELAYS_S, Outage, observe_nothing


def test_an_outage_is_said_and_counted_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    """A store that is away for an hour does not fill the log."""
    caplog.set_level("INFO")
    seen = Counter[str]()
    outage = Outage("learn", "store", lambda name, value: seen.update({name: 1}))
    outage.passed()
    for _ in range(50):
        outage.failed(StoreUnavailableError("no connection"))
    outage.passed()
    outage.passed()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "the store: no connection" in caplog.text
    assert seen == {"learn.store_away": 1}


def test_waits_grow_and_are_bounded() -> None:
    """A store that starts up is not kept from it, and is used as soon as it is there."""
    outage = Outage("learn", "store", observe_nothing)
    waits = [outage.failed(StoreUnavailableError("away")) for _ in range(30)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == DELAYS_S
    outage.passed()
    assert outage.failed(StoreUnavailableError("away")) == waits[0]
