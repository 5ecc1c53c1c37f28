"""The bench measures what it says: whole answers, all targets, and figures that come from the right place."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.accounts import usage_of
from bench.client import Connection, LoadError, without_chunks
from bench.conversations import Conversations
from bench.measure import percentile
from bench.report import RATIOS, ratios
from bench.scenarios import SCENARIOS, TARGETS, USERS, Plan
from memproxy.demo.scripted_model import ScriptedModel

ROOT = Path(__file__).parent.parent.parent
USUAL_TARGETS = [target for target in TARGETS if target.is_usual]
USUAL_SCENARIOS = [scenario for scenario in SCENARIOS if scenario.is_usual]


@pytest.mark.timeout(180)
def test_a_quick_run_measures_every_scenario_and_target(tmp_path: Path) -> None:
    """Whoever runs `make bench` gets all of the table, and its figures as JSON for later comparison."""
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench", "--quick", "--set", "recall_deadline_s=10", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    scenarios = json.loads(file.read_text())["scenarios"]
    assert list(scenarios) == [scenario.name for scenario in USUAL_SCENARIOS]
    for scenario, figures in scenarios.items():
        assert list(figures) == [target.name for target in USUAL_TARGETS], scenario
        for target in USUAL_TARGETS:
            median = figures[target.name]["median"]
            assert median["requests"] > 0
            assert 0 < median["p50_ms"] <= median["p95_ms"] <= median["p99_ms"]
            assert median["cpu_ms"] > 0
            assert set(figures[target.name]["ratio"]) == {"upstream", "floor"} - {target.name}
            if target.remembers:
                assert median["recorded"] == 1
                assert median["recognised"] in {1, None}, "None: too slow a machine to get to second requests"
                assert median["store_cpu_ms"] > 0
    for target in USUAL_TARGETS:
        assert target.title in done.stdout


def test_the_client_reads_whole_answers_and_measures_the_first_byte() -> None:
    """A load generator that takes half an answer for a whole one measures nothing."""

    async def ask() -> None:
        async with ScriptedModel().serve() as server:
            connection = await Connection.connected(server.port)
            for is_stream in (False, True, True, False):
                body = json.dumps({"model": "bench-slow-stream", "stream": is_stream, "messages": []}).encode()
                head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
                answer = await connection.ask(head.encode() + body)
                assert answer.status == 200
                assert answer.body.endswith(b"data: [DONE]\n\n" if is_stream else b"}")
                assert answer.header(b"content-type").startswith(b"text/event" if is_stream else b"application/json")
                assert answer.first_byte_s < 0.3
                assert (answer.latency_s > 0.45) == is_stream
            connection.close()

    asyncio.run(ask())


def test_a_server_that_breaks_off_is_noticed() -> None:
    """An answer that never ends must not be waited for in vain, or be counted."""

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(break_off, "127.0.0.1", 0)
        async with server:
            connection = await Connection.connected(server.sockets[0].getsockname()[1])
            with pytest.raises(LoadError, match="broke off"):
                await connection.ask(b"GET / HTTP/1.1\r\n\r\n")

    asyncio.run(ask())


@pytest.mark.parametrize("framed", [b"5\r\nhello\r\n", b"5\r\nhel", b"x\r\n\r\n", b""])
def test_broken_chunks_are_noticed(framed: bytes) -> None:
    """A relay that damages the framing must not look fast."""
    with pytest.raises(LoadError):
        without_chunks(framed)


def test_chunks_are_joined() -> None:
    """Relays cut a stream where they like; only the bytes inside count."""
    assert without_chunks(b"5\r\nhello\r\nA\r\n, \r\n world\r\n0\r\n\r\n") == b"hello, \r\n world"


def test_no_two_conversations_begin_alike() -> None:
    """memproxy recognises a conversation by its beginning, and would take the second for the first."""
    made = Conversations(USUAL_SCENARIOS[0], TARGETS[0], answer="Yes.", users=["ann", "bob"], seed="s")
    first, second = made.new(), made.new()
    opening, other = first.next_request(), second.next_request()
    assert b"x-memproxy-user: ann\r\n" in opening
    assert b"x-memproxy-user: bob\r\n" in other
    assert _messages(opening)[1] != _messages(other)[1]
    assert _messages(first.next_request())[:3] == [*_messages(opening), {"role": "assistant", "content": "Yes."}]


def test_history_has_the_size_it_should() -> None:
    """The scenario is told by its size."""
    scenario = next(each for each in SCENARIOS if each.history_bytes)
    request = Conversations(scenario, TARGETS[0], answer="Yes.", users=["ann"], seed="s").new().next_request()
    assert scenario.history_bytes < len(request) < 1.1 * scenario.history_bytes
    assert [message["role"] for message in _messages(request)[-3:]] == ["user", "assistant", "user"]


def _messages(request: bytes) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(request.partition(b"\r\n\r\n")[2])["messages"]
    return found


def test_cpu_of_a_child_counts_as_its_parents() -> None:
    """A server that works in child processes must not look cheaper for it."""
    busy = "import subprocess,sys,time; subprocess.run([sys.executable,'-c','sum(range(10**7))']); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", busy]) as process:
        try:
            deadline = time.monotonic() + 30
            while (usage := usage_of(process.pid)).own_cpu_s < 0.1 and time.monotonic() < deadline:
                os.sched_yield()
        finally:
            process.kill()
    assert usage.own_cpu_s >= 0.1
    assert usage.own_peak_mb > 1
    assert usage.store_cpu_s == 0


def test_targets_take_turns_in_changing_order() -> None:
    """What the machine does in the meantime must hit all alike."""
    plan = Plan(USUAL_SCENARIOS, TARGETS[:3], rounds=2, users=USERS, settings={})
    names = [target.name for _, target in plan.order()]
    assert names == ["upstream", "floor", "passthrough", "passthrough", "floor", "upstream"]


def test_percentiles_and_ratios() -> None:
    """A ratio is taken within a round, where the machine was the same for both."""
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0], 0.99) == 1.0
    slow, fast = [_Figures(4.0), _Figures(30.0)], [_Figures(2.0), _Figures(10.0)]
    assert ratios(slow, fast) == dict.fromkeys(RATIOS, 2.5)  # type: ignore[arg-type]  # has what is read


class _Figures:
    """Stands for a measurement: every figure is the same."""

    def __init__(self, value: float) -> None:
        self._value = value

    def __getattr__(self, _: str) -> float:
        return self._value
