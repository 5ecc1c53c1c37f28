"""Curves are made of requests of the right size, and what is said of them follows from their figures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import scale
from bench.client import Answer, LoadError
from bench.scale_history import KINDS, LENGTHS, Kind, conversation
from bench.scale_part import part
from bench.scale_points import Asked, Point, in_turns, series
from bench.scale_requests import Dialogue
from bench.scale_verdicts import power, slope, verdicts

ROOT = Path(__file__).parent.parent.parent
RESENT, LARGE, NEWEST, _ = KINDS


def messages_of(request: bytes) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(request.partition(b"\r\n\r\n")[2])["messages"]
    return found


def made(kind: Kind, length: int, seed: str = "s") -> tuple[bytes | None, bytes, int]:
    told = conversation(kind, length, Dialogue(seed), user="ann", session="talk")
    return told.opening, told.request, told.sends_on


@pytest.mark.parametrize("length", [length for length in LENGTHS if length > 1])
def test_a_history_has_the_length_that_it_is_told_by(length: int) -> None:
    """The x axis is what was on the wire."""
    opening, request, _ = made(RESENT, length)
    assert opening is not None
    before, messages = messages_of(opening), messages_of(request)
    assert len(messages) == length
    assert messages[:-2] == before
    roles = [message["role"] for message in messages]
    assert roles == ["system", *["user", "assistant"] * length][:length]


@pytest.mark.parametrize("length", [30, 1_000])
def test_few_large_messages_have_as_many_bytes(length: int) -> None:
    """What is left between the two lines is what the number of messages costs."""
    many, few = made(RESENT, length)[1], made(LARGE, length)[1]
    assert len(messages_of(few)) == 4
    assert len(few) == pytest.approx(len(many), rel=0.1)


def test_a_named_client_sends_its_newest_message_alone() -> None:
    """And what memproxy sends on for it must hold all that was said before."""
    opening, request, sends_on = made(NEWEST, 100)
    assert opening is not None
    assert b"x-memproxy-session: talk" in opening
    assert b"x-memproxy-session: talk" in request
    assert [message["role"] for message in messages_of(request)] == ["user"]
    assert sends_on > 5_000
    assert b"x-memproxy-session" not in made(RESENT, 100)[1]


def test_no_two_conversations_begin_alike() -> None:
    """memproxy recognises a conversation by its beginning, and would take the second for the first."""
    dialogue = Dialogue("s")
    openings = [conversation(RESENT, 4, dialogue, user="ann", session="").opening for _ in range(5)]
    assert len(set(openings)) == 5


def test_an_answer_without_history_or_memory_is_noticed() -> None:
    """A proxy that forwards less than it should would look fast."""
    head = b"HTTP/1.1 200 OK\r\nx-bench-bytes: 500\r\nx-memproxy-session: s\r\n"
    answer = Answer(200, head, b"{}", is_chunked=False, latency_s=0.1, first_byte_s=0.1)
    Asked(b"", remembers=True, sends_on=500).check(answer)
    with pytest.raises(LoadError, match="500 of 501 bytes"):
        Asked(b"", sends_on=501).check(answer)
    bare = Answer(200, b"HTTP/1.1 200 OK\r\n", b"{}", is_chunked=False, latency_s=0.1, first_byte_s=0.1)
    with pytest.raises(LoadError, match="without memory"):
        Asked(b"", remembers=True).check(bare)


def test_points_take_turns_and_medians_are_told() -> None:
    """What the machine does in the meantime must hit all alike."""
    assert list(in_turns("ab", 2)) == [(0, "a"), (0, "b"), (1, "b"), (1, "a")]
    points = [point(1.0), point(9.0), point(2.0)]
    (row,) = series("x", {4: points}, size_of=lambda x: int(100 * x))["points"]
    assert (row["x"], row["bytes"], row["cpu_ms"], row["cpu_ms_range"]) == (4, 400, 2.0, [1.0, 9.0])


def test_growth_is_told_by_its_exponent() -> None:
    """Flat is 0, linear 1, quadratic 2; a point at 0 has no logarithm."""
    xs = [0, 10, 100, 1_000]
    assert power(xs, [5, 5, 5, 5]) == pytest.approx(0)
    assert power(xs, [1, 20, 200, 2_000]) == pytest.approx(1)
    assert power(xs, [1, 1e2, 1e4, 1e6]) == pytest.approx(2)
    assert slope([1, 3], [10, 30]) == 10
    assert slope([1], [5]) == 0


def test_verdicts_follow_from_the_curves() -> None:
    """A goal that is missed must be told as missed."""
    found = {each.claim: each for each in verdicts(curves())}
    ratio = found["CPU at 100 messages ÷ at 4, everything resent"]
    assert ratio.value == pytest.approx(2.5)
    assert ratio.is_met is False
    assert found["CPU at 100 messages ÷ at 4, newest message sent"].is_met
    assert found["CPU of one more message, beyond its bytes"].value == pytest.approx(1000 * (5.0 - 3.0) / 96)
    assert found["CPU of one more KB in few messages, floor relay"].value == pytest.approx(1000 * 0.5 / 10)
    assert found["growth of the store's CPU with memories"].value == pytest.approx(1)
    assert found["CPU with the store at 100 users ÷ at 1"].value == pytest.approx(1.0)


def test_the_part_tells_every_point_and_verdict() -> None:
    """The document must not lose a curve."""
    judged = [
        {"claim": each.claim, "value": each.value, "unit": each.unit, "goal": each.goal, "is_met": each.is_met}
        for each in verdicts(curves())
    ]
    told = part({"curves": curves(), "verdicts": judged})
    assert "| CPU at 100 messages ÷ at 4, everything resent | 2.50 | ≤ 2 | **missed** |" in told.text
    assert "| resent | 100 | 11.0 | 5.00 | 0.50 | 5.0 | 6.0 |" in told.text
    names = [plot.name for plot in told.plots]
    assert len(names) == len(set(names)) == 2 * len(curves())
    assert all(x > 0 for plot in told.plots for line in plot.series for x in line.xs), "logarithmic axes"


@pytest.mark.timeout(240)
def test_a_quick_run_measures_every_curve(tmp_path: Path) -> None:
    """`python -m bench scale` shows that it works before anybody waits for minutes."""
    file = tmp_path / "scale.json"
    command = [sys.executable, "-m", "bench", "scale", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=230, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert list(figures["curves"]) == list(scale.CURVES)
    points = [
        point for curve in figures["curves"].values() for line in curve["series"].values() for point in line["points"]
    ]
    assert all(0 < point["p50_ms"] <= point["p95_ms"] and point["cpu_ms"] > 0 for point in points)
    known = {point["x"]: point for point in figures["curves"]["memories"]["series"]["opens"]["points"]}
    assert known[0]["memories"] == 0 < known[1_000]["memories"], "found where there is something to find"
    assert part(figures).plots


def point(cpu_ms: float) -> Point:
    return Point(cpu_ms=cpu_ms, store_cpu_ms=0.5, p50_ms=cpu_ms, p95_ms=cpu_ms + 1, memories=1, degraded=0)


def line(title: str, *points: tuple[float, float, float, int]) -> dict[str, Any]:
    """x, CPU of the process, CPU of the store, KB."""
    rows = [
        {
            "x": x,
            "bytes": kb * 1024,
            "cpu_ms": cpu,
            "store_cpu_ms": store,
            "p50_ms": cpu,
            "p95_ms": cpu + 1,
            "memories": 1.0,
            "degraded": 0.0,
            "cpu_ms_range": [cpu, cpu],
        }
        for x, cpu, store, kb in points
    ]
    return {"title": title, "points": rows}


def curves() -> dict[str, Any]:
    history = {
        "resent": line("resent", (4, 2.0, 0.5, 1), (100, 5.0, 0.5, 11)),
        "large": line("large", (4, 2.0, 0.5, 1), (100, 3.0, 0.5, 11)),
        "newest": line("newest", (4, 2.0, 0.5, 1), (100, 3.0, 0.5, 11)),
        "floor": line("floor", (4, 0.5, 0.0, 1), (100, 1.0, 0.0, 11)),
    }
    opens = line("opens", (0, 2.0, 0.1, 1), (10, 2.0, 0.1, 1), (1_000, 2.0, 10.0, 1))
    same = line("opens", (1, 2.0, 0.5, 1), (100, 2.0, 0.5, 1))
    return {
        "history": {"title": "History", "x_label": "messages", "series": history},
        "memories": {"title": "Memories", "x_label": "memories", "series": {"opens": opens}},
        "users": {"title": "Users", "x_label": "users", "series": {"opens": same}},
        "streams": {"title": "Streams", "x_label": "streams", "series": {"memproxy": same, "floor": same}},
    }
