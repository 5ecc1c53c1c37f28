"""Attempts to learn, in traces."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from memproxy.errors import StoreError
from memproxy.records import Turn
from memproxy.storage.queue import Stage, decode_turn, encode_turn
from memproxy.telemetry.otel import traces_of
from memproxy.worker.jobs import Job
from memproxy.worker.lanes import Rules
from memproxy.worker.traced_jobs import traced
from tests.fakes.collector import Collector, collecting
from tests.fakes.learning import stored, turn_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def seven(_: Sequence[Turn]) -> int:
    return 7


async def failing(_: Sequence[Turn]) -> int:
    raise StoreError("the store is full")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        yield found


async def test_an_attempt_points_to_the_requests_behind_it(collector: Collector) -> None:
    """Each request once, however many turns of it there are; turns without a trace have none to point to."""
    traces = traces_of({})
    turns = [replace(turn_of(stored("user", "Hello.")), trace=trace) for trace in (PARENT, PARENT, "", "nonsense")]
    assert await traced(Job(Stage.LEARN, seven, Rules()), traces).run(turns) == 7
    traces.close(5)
    span = collector.one("learn learn")
    assert span.links == (PARENT.split("-")[1],)
    assert span.attributes == {"messaging.batch.message_count": 4, "memproxy.tokens": 7}


async def test_an_attempt_that_fails_is_marked(collector: Collector) -> None:
    """And fails as it would have."""
    traces = traces_of({})
    with pytest.raises(StoreError):
        await traced(Job(Stage.LEARN, failing, Rules()), traces).run([turn_of(stored("user", "Hello."))])
    traces.close(5)
    assert collector.one("learn learn").attributes["error.type"] == "StoreError"


def test_without_traces_the_job_is_the_same() -> None:
    """What is off is not there."""
    job = Job(Stage.LEARN, seven, Rules())
    assert traced(job, None) is job


def test_a_turn_keeps_its_place_in_a_trace() -> None:
    """It waits in a queue between two processes; one that was queued before traces came is read, too."""
    turn = replace(turn_of(stored("user", "Hello.")), trace=PARENT)
    assert decode_turn(encode_turn(turn)) == turn
    older = encode_turn(turn).replace(f',"trace":"{PARENT}"'.encode(), b"")
    assert decode_turn(older).trace == ""
