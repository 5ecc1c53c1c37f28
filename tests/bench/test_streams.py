"""Many streams at a time: the upstream keeps time, gaps are seen at the client, and broken streams are noticed."""

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bench import streams
from bench.client import Answer, Connection, LoadError
from bench.paced_model import Answering, PacedModels, paced_model
from bench.processes import Server
from bench.scale_requests import SYSTEM, Dialogue, request
from bench.scale_servers import upstream
from bench.streams import QUICK, StreamConnection, Target
from bench.streams_part import part

ROOT = Path(__file__).parent.parent.parent
ROW = {
    "title": "memproxy",
    "streams": 1024,
    "largest_gap_s": 1.2,
    "late_gaps": 0,
    "first_event_p50_s": 0.005,
    "first_event_p95_s": 0.02,
    "idle_mb": 200.0,
    "peak_mb": 264.0,
    "all_peak_mb": 400.0,
    "cpu_ms": 5.5,
}


@asynccontextmanager
async def paced() -> AsyncIterator[int]:
    """The paced model on a port."""
    models = PacedModels()
    server = await asyncio.get_running_loop().create_server(lambda: Answering(models), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def asked(model: str, *, is_stream: bool = True) -> bytes:
    return request([SYSTEM, Dialogue("test").question()], model=model, is_stream=is_stream)


async def test_the_upstream_keeps_time() -> None:
    """Gaps are told against the pace; if the upstream had none, nothing could be said of anybody who waits."""
    async with paced() as port:
        connection = await StreamConnection.connected(port)
        answer = await connection.ask(asked(paced_model(6, interval_s=0.05)))
        connection.close()
    assert answer.body.count(b"data: {") == 6
    assert answer.body.endswith(b"data: [DONE]\n\n")
    gaps = [later - earlier for earlier, later in itertools.pairwise(connection.arrivals)]
    assert sum(gap > 0.04 for gap in gaps) >= 4
    assert answer.latency_s >= 0.25


async def test_a_connection_is_used_again_and_every_answer_of_a_model_is_the_same() -> None:
    """Answers are compared byte by byte, and a relay keeps its connections."""
    model = paced_model(3, interval_s=0)
    async with paced() as port:
        connection = await Connection.connected(port)
        first, second = [await connection.ask(asked(model)) for _ in range(2)]
        whole = await connection.ask(asked(model, is_stream=False))
        connection.close()
    assert first.body == second.body
    assert whole.header(b"x-bench-bytes") == str(len(asked(model, is_stream=False).split(b"\r\n\r\n")[1])).encode()
    assert json.loads(whole.body)["choices"][0]["message"]["role"] == "assistant"


async def test_a_request_may_arrive_in_pieces() -> None:
    """Long histories come in many reads."""
    body = asked(paced_model(3, interval_s=0), is_stream=False)
    async with paced() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for at in range(0, len(body), 100):
            writer.write(body[at : at + 100])
            await writer.drain()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize("answer", [b"data: {}\n\n", b"data: x\n\ndata: [DONE]\n\n"])
def test_a_stream_that_is_not_whole_is_noticed(answer: bytes) -> None:
    """A relay that drops events must not look as if no stream had to wait."""
    run = streams._Run(QUICK, streams.TARGETS[0], expected=b"data: y\n\ndata: [DONE]\n\n")
    with pytest.raises(LoadError):
        run._check(Answer(200, b"", answer, is_chunked=False, latency_s=0, first_byte_s=0))


async def test_what_waits_is_told(tmp_path: Path) -> None:
    """A gap of any one stream counts, however many others there are."""
    small = replace(QUICK, count=5, events=4, interval_s=0.05, opening_s=0.05)

    @asynccontextmanager
    async def here(_: Path, server: Server) -> AsyncIterator[Server]:
        yield server

    async with upstream(tmp_path) as server:
        run = streams._Run(small, Target("x", "x", here), expected=b"")
        measured = await run.measure(server)
    assert measured.streams == 5
    assert measured.largest_gap_s > 0.04
    assert measured.p99_gap_s <= measured.largest_gap_s
    assert measured.peak_mb >= measured.idle_mb > 1


def test_the_part_judges_by_the_process_that_serves() -> None:
    """The goal is about one worker."""
    setup = {"count": 1024, "events": 20, "interval_s": 1.0, "opening_s": 10.0}
    targets = {"upstream": ROW | {"title": "bare upstream", "largest_gap_s": 1.1}, "apart": ROW}
    told = part({"streams": setup, "goal_mb": 300, "targets": targets})
    assert "264 MB of 300: met" in told.text
    assert "no stream waited; the largest gap is +100 ms" in told.text
    assert "| memproxy | 200 | 264 | 400 | 64 | 1.20 | 0 | 5 | 20 | 5.5 |" in told.text
    targets["apart"] = ROW | {"peak_mb": 333.0, "late_gaps": 7}
    told = part({"streams": setup, "goal_mb": 300, "targets": targets})
    assert "333 MB of 300: missed" in told.text
    assert "7 events came late" in told.text
    (plot,) = told.plots
    assert [goal.y for goal in plot.goals] == [300]


@pytest.mark.timeout(180)
def test_a_quick_run_measures_every_target(tmp_path: Path) -> None:
    """`python -m bench streams` shows that it works before anybody waits for minutes."""
    file = tmp_path / "streams.json"
    command = [sys.executable, "-m", "bench", "streams", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert list(figures["targets"]) == [target.name for target in streams.TARGETS]
    for row in figures["targets"].values():
        assert row["streams"] == QUICK.count
        assert row["largest_gap_s"] >= 0.9 * QUICK.interval_s
        assert row["all_peak_mb"] >= row["peak_mb"] * 0.99
    assert part(figures).plots
