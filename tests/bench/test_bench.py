"""`relay` measures what it says: whole answers, all targets, and figures that come from the right place."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console
from rich.progress import Progress, TaskID

from bench import relay
from bench.accounts import usage_of
from bench.client import Connection, LoadError, without_chunks
from bench.conversations import Conversations
from bench.load import streamed_words, whole_words
from bench.measure import Bench, percentile
from bench.relay_part import part
from bench.report import RATIOS, ratios
from bench.scenarios import SCENARIOS, TARGETS, USERS, Host, Plan, Scenario, Target
from memproxy.demo.scripted_model import ScriptedModel

ROOT = Path(__file__).parent.parent.parent
USUAL_TARGETS = [target for target in TARGETS if target.is_usual and target.host not in {Host.NGINX, Host.LITELLM}]
USUAL_SCENARIOS = [scenario for scenario in SCENARIOS if scenario.is_usual]


@pytest.mark.timeout(180)
def test_a_quick_run_measures_every_scenario_and_target(tmp_path: Path) -> None:
    """Whoever runs the bench gets all of the table, and its figures as JSON for later comparison."""
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bench", "relay", "--quick", "--set", "recall_deadline_s=10", "--json", str(file)]
    for target in USUAL_TARGETS:
        command += ["--target", target.name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads(file.read_text())
    assert list(kept["scenarios"]) == [scenario.name for scenario in USUAL_SCENARIOS]
    for scenario in USUAL_SCENARIOS:
        figures = kept["scenarios"][scenario.name]
        names = scenario.targets or [target.name for target in USUAL_TARGETS]
        assert set(figures) == set(names), scenario.name
        for target in TARGETS:
            if target.name in figures:
                _check(scenario, target, figures[target.name])
    assert {goal["target"] for goal in kept["goals"]} == {"passthrough", "apart", "memory"}
    for target in USUAL_TARGETS:
        assert target.title in done.stdout
    text = part(kept).text
    assert all(scenario.title in text for scenario in USUAL_SCENARIOS)


def _check(scenario: Scenario, target: Target, figures: Mapping[str, Any]) -> None:
    median = figures["median"]
    assert median["requests"] > 0
    assert 0 < median["p50_ms"] <= median["p95_ms"] <= median["p99_ms"]
    assert median["cpu_ms"] > 0
    assert figures["ratio"].keys() <= {"upstream", "floor"} - {target.name}
    if target.remembers:
        assert median["recorded"] == 1
        assert median["recognised"] in {1, None}, "None: too slow a machine to get to second requests"
        assert median["store_cpu_ms"] > 0
        assert (median["learning_cpu_ms"] > 0) == (target.host is Host.MEMPROXY)
    if scenario.runs_tools:
        assert (median["tools_run"] < 1) == (target.name == "apart"), (
            "memproxy answers the repeated calls, and nobody else"
        )


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
    assert usage.beside_cpu_s == 0


def test_cpu_of_what_steps_back_is_told_apart() -> None:
    """Learning is paid for when nobody waits, so it must not look like the price of a request."""
    busy = (
        "import subprocess,sys,time; subprocess.Popen(['nice',sys.executable,'-c','while True: pass']); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", busy], start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 30
            while (usage := usage_of(process.pid)).beside_cpu_s < 0.1 and time.monotonic() < deadline:
                os.sched_yield()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert usage.own_cpu_s >= usage.beside_cpu_s >= 0.1


def test_targets_take_turns_in_changing_order() -> None:
    """What the machine does in the meantime must hit all alike."""
    plan = Plan(USUAL_SCENARIOS, TARGETS[:3], rounds=2, users=USERS, settings={})
    names = [target.name for _, target in plan.order(USUAL_SCENARIOS[0])]
    assert names == ["upstream", "floor", "nginx", "nginx", "floor", "upstream"]


def test_a_scenario_may_be_about_some_targets_only() -> None:
    """An agent's tools say nothing about nginx; what is asked for is started, and nothing else."""
    scenario = next(each for each in SCENARIOS if each.runs_tools)
    plan = Plan([scenario], TARGETS[:1], rounds=1, users=USERS, settings={})
    assert {target.name for target in plan.all_targets()} == set(scenario.targets) > {"upstream"}


@pytest.mark.parametrize(("broken", "is_borne"), [("nginx", True), ("apart", False)])
async def test_a_peer_that_fails_costs_its_row_and_not_the_run(
    broken: str, is_borne: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes of measuring are not lost to somebody else's proxy; memproxy's own failure is never hidden."""

    async def measured(bench: Bench, scenario: Scenario, target: Target, *, number: int) -> str:
        if target.name == broken and number == 1:
            raise LoadError("nginx: the server broke off in the middle of an answer")
        return f"{target.name} {number}"

    monkeypatch.setattr(relay, "measure", measured)
    targets = [target for target in TARGETS if target.name in {"floor", broken}]
    plan = Plan(USUAL_SCENARIOS[:1], targets, rounds=3, users=USERS, settings={})
    console = Console(file=io.StringIO())
    shown = relay.Shown(console, Progress(console=console), TaskID(0))
    shown.progress.add_task("")
    measuring = relay.measured_rounds(Bench({}, {}, {}, {}), USUAL_SCENARIOS[0], plan, shown)
    if not is_borne:
        with pytest.raises(LoadError):
            await measuring
        return
    assert list(await measuring) == ["floor"]
    assert "one target less: nginx" in cast("io.StringIO", console.file).getvalue()


def test_words_of_answers_are_compared_where_bytes_can_not_be() -> None:
    """A proxy that writes JSON anew is right when it says the same, and wrong when a word or the end is missing."""
    events = [{"choices": [{"delta": {"content": word}}]} for word in ("It", " is")] + [{"choices": []}]
    stream = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)
    assert streamed_words(stream + b"data: [DONE]\n\n") == "It is"
    assert streamed_words(stream) is None
    assert streamed_words(b"data: {\n\ndata: [DONE]\n\n") is None
    assert whole_words(b'{"choices":[{"message":{"content":"It is"}}]}') == "It is"
    assert whole_words(b'{"error":{}}') is None
    assert whole_words(b"\x1f\x8b") is None


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
