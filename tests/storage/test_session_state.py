"""The values that a session is read into."""

from datetime import UTC, datetime

from memproxy.storage.session_state import Witness
from tests.fakes.sessions import document_of, said


def test_a_document_counts_the_messages_that_it_has() -> None:
    """What is shown of a long session is what its window is filled with."""
    assert document_of([said("a", tokens=3), said("b", tokens=4)]).tokens == 7
    assert document_of([]).tokens == 0


def test_when_somebody_looked_is_told_to_the_millisecond() -> None:
    """As the store's scripts compare it."""
    assert Witness("c", datetime(2025, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)).at_ms == 1_748_779_200_123
