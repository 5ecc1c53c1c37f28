"""Log lines for people and for machines."""

import json
import logging
import sys
from collections.abc import Iterator

import httpx
import pytest

from memproxy.demo.script import Reply
from memproxy.telemetry.logs import ACCESS_FIELDS, FIELDS, JsonLine, Line, configure_logging
from memproxy.telemetry.requests import RUNNING, Seen
from tests.fakes.log_lines import caught_lines
from tests.fakes.serving import Serve


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("memproxy.proxy.record", logging.WARNING, "record.py", 1, message, args, None)
    vars(made).update(extra)
    return made


@pytest.fixture
def seen() -> Iterator[Seen]:
    """The request in whose name lines are written."""
    running = Seen(headers={"x-request-id": "abc"}, id="mpr-1", trace_id="0af7")
    token = RUNNING.set(running)
    yield running
    RUNNING.reset(token)


def test_a_json_line_says_what_when_and_about_which_request(seen: Seen) -> None:
    """Whoever collects logs finds all lines of a request by its id."""
    line = json.loads(JsonLine().format(record("put off: %s", "away")))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "memproxy.proxy.record",
        "message": "put off: away",
        "request_id": "mpr-1",
        "client_request_id": "abc",
        "trace_id": "0af7",
    }


def test_a_json_line_is_one_line(seen: Seen) -> None:
    """A traceback, or a name with a line break in it, would be taken for further lines."""
    failing = record("first\nsecond")
    try:
        raise ValueError("what\nwent wrong")
    except ValueError:
        failing.exc_info = sys.exc_info()
    text = JsonLine().format(failing)
    assert "\n" not in text
    line = json.loads(text)
    assert line["error"] == "ValueError"
    assert "went wrong" in line["stack"]
    assert line.keys() <= FIELDS.keys()


def test_a_line_for_people_names_the_request(seen: Seen) -> None:
    """As the agent saw it in x-memproxy-request-id."""
    assert (
        Line()
        .format(record("put off"))
        .endswith("WARNING memproxy.proxy.record: put off request_id=mpr-1 client_request_id=abc trace_id=0af7")
    )


def test_a_name_that_a_client_sent_stays_one_value() -> None:
    """The model's name is whatever the client wrote."""
    shown = Line().format(record("POST", model="m x=1\ny"))
    assert shown.endswith(r' model="m x=1\ny"')


def test_client_libraries_stay_quiet() -> None:
    """httpx and openai log every request's URL at info; that is no news to an operator."""
    configure_logging("info")
    assert logging.getLogger("httpx").level == logging.WARNING


async def test_the_access_log_tells_of_each_request_and_nothing_that_was_said(serve: Serve) -> None:
    """Enough to find what was slow or failed; no content, no credential, no query string, no name of anybody."""
    body = {"model": "gpt-test", "messages": [{"role": "user", "content": "My cat is called Whiskers."}]}
    with caught_lines() as lines:
        async with serve(lambda _: Reply(text="Noted."), access_log=True) as served:
            async with httpx.AsyncClient(verify=False, headers={"authorization": "Bearer sk-secret"}) as http:
                answer = await http.post(f"{served.origin}/u/alice/v1/chat/completions?key=hidden", json=body)
                await http.get(f"{served.origin}/v1/files/file-abc?key=hidden")
                await http.get(f"{served.origin}/v1/working-memory/a-session?key=hidden")
                await http.post(f"{served.origin}/nothing/here")
                await http.get(f"{served.origin}/healthz")
            await served.settled()
    lines = [line for line in lines if line["logger"] == "memproxy.access"]
    told = [(line["method"], line["route"], line["status"]) for line in lines]
    assert told[0] == ("POST", "/v1/chat/completions", 200)
    assert told[1][:2] == ("GET", "/v1/files")
    assert told[2][1].startswith("/v1/working-memory/{")
    assert told[3] == ("POST", "other", 404)
    assert len(told) == 4, "health checks are no requests of anybody"
    first = lines[0]
    assert first["request_id"] == answer.headers["x-memproxy-request-id"]
    assert first["ms"] >= first["added_ms"] > 0
    assert (first["model"], first["memories"]) == ("gpt-test", 0)
    assert first.keys() <= FIELDS.keys() | ACCESS_FIELDS.keys()
    everything = json.dumps(lines)
    for said in ("Whiskers", "Noted", "sk-secret", "hidden", "alice", "file-abc", "a-session"):
        assert said not in everything
