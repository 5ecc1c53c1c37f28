"""What is told of one request."""

import asyncio

import pytest

from memproxy.telemetry.metrics import Metrics
from memproxy.telemetry.requests import RUNNING, RequestWatch, Seen, access_fields
from tests.fakes.log_lines import caught_lines


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("req-1234", "req-1234"),
        ("8a7/b+c==", "8a7/b+c=="),
        ("", ""),
        ("two words", ""),
        ('x" level="error', ""),
        ("a\nb", ""),
        ("x" * 129, ""),
    ],
)
def test_a_clients_own_id_is_told_if_it_is_a_token(given: str, kept: str) -> None:
    """Both sides can find the request; nobody can write lines of their own into the log."""
    assert Seen(headers={"x-request-id": given}).client_id == kept


def test_ids_differ() -> None:
    """A receipt belongs to one request."""
    assert len({Seen().id for _ in range(100)}) == 100


def test_a_request_is_counted_when_it_is_over() -> None:
    """By kind and class of status, and it was under way until then."""
    metrics = Metrics()
    watch, seen = RequestWatch(metrics), Seen(kind="memory", status=200)
    with watch.request(seen):
        assert b"memproxy_requests_running 1.0" in metrics.render()
    shown = metrics.render()
    assert b"memproxy_requests_running 0.0" in shown
    assert b'memproxy_requests_total{kind="memory",status="2xx"} 1.0' in shown
    assert b'memproxy_request_seconds_count{kind="memory"} 1.0' in shown


def test_a_mistake_of_ours_is_counted_as_one() -> None:
    """What the client gets as a 500 must not look as if the client had left: alerts go by that."""
    metrics, seen = Metrics(), Seen()
    with pytest.raises(RuntimeError), RequestWatch(metrics).request(seen):
        raise RuntimeError
    assert b'memproxy_requests_total{kind="refused",status="5xx"} 1.0' in metrics.render()


async def test_tasks_of_a_request_know_it_and_others_do_not() -> None:
    """What is recorded in the background is logged under the request's id."""
    watch, found = RequestWatch(Metrics()), dict[str, str]()

    async def look(name: str) -> None:
        running = RUNNING.get()
        found[name] = running.id if running is not None else ""

    async def request(seen: Seen) -> None:
        with watch.request(seen):
            async with asyncio.TaskGroup() as inner:
                inner.create_task(look("inside"))

    seen = Seen()
    async with asyncio.TaskGroup() as group:
        group.create_task(request(seen))
    await look("outside")
    assert found == {"inside": seen.id, "outside": ""}


def test_the_access_log_is_off_unless_asked_for() -> None:
    """A line a request is much on a busy machine."""
    with caught_lines("memproxy.access") as lines:
        for has_access_log in (False, True):
            watch, seen = RequestWatch(Metrics(), has_access_log=has_access_log), Seen(route="/v1/models", status=200)
            with watch.request(seen):
                pass
    assert [line["route"] for line in lines] == ["/v1/models"]


def test_what_is_not_known_is_left_out() -> None:
    """A line about a request without memory says nothing of memories."""
    assert access_fields(Seen("GET", route="/mcp", status=200), 0.01234) == {
        "method": "GET",
        "route": "/mcp",
        "status": 200,
        "ms": 12.3,
    }
