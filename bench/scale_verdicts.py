"""What the curves say: linear where it must be, flat where it should be. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.scale_history import by_kind

Curves = Mapping[str, Mapping[str, Any]]
FLAT = 1.5
"""The last point of a flat curve costs at most so many times the first; less can't be told on a busy machine."""

BASE = 4
"""The shortest history that continues a conversation: instructions, question, answer, question."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim about a curve."""

    claim: str
    value: float
    unit: str = ""
    goal: float | None = None
    """At most; None where nothing was set as a goal."""

    @property
    def is_met(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal


def verdicts(curves: Curves) -> list[Verdict]:
    """All that can be said of the curves that there are."""
    found: list[Verdict] = []
    if "history" in curves:
        found += _of_history(curves["history"])
    if "memories" in curves:
        found += _of_memories(curves["memories"])
    if "users" in curves:
        found += _flat(curves["users"], "opens", "users")
    if "streams" in curves:
        found += _flat(curves["streams"], "memproxy", "streams at a time")
    return found


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of the line that fits best, by least squares; 0 for a single point."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    square = sum((x - mean_x) ** 2 for x in xs)
    if not square:
        return 0.0
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / square


def power(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent of growth, from logarithms: 0 is flat, 1 linear. Points at 0 are left out."""
    pairs = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True) if x > 0 and y > 0]
    return slope([x for x, _ in pairs], [y for _, y in pairs]) if pairs else 0.0


def _of_history(curve: Mapping[str, Any]) -> list[Verdict]:
    found = []
    for kind, how in (("resent", "everything resent"), ("newest", "newest message sent")):
        points = by_kind(curve, kind)
        if {BASE, 100} <= points.keys():
            ratio = points[100]["cpu_ms"] / points[BASE]["cpu_ms"]
            found.append(Verdict(f"CPU at 100 messages ÷ at {BASE}, {how}", ratio, goal=2.0))
    resent, large, floor = (by_kind(curve, kind) for kind in ("resent", "large", "floor"))
    longest = max(resent)
    if longest > BASE:
        more = longest - BASE
        each = 1000 * (resent[longest]["cpu_ms"] - large[longest]["cpu_ms"]) / more
        found.append(Verdict("CPU of one more message, beyond its bytes", each, "µs"))
        for points, who in ((large, "memproxy"), (floor, "floor relay")):
            added = points[longest]["cpu_ms"] - points[BASE]["cpu_ms"]
            size = (points[longest]["bytes"] - points[BASE]["bytes"]) / 1024
            found.append(Verdict(f"CPU of one more KB in few messages, {who}", 1000 * added / size, "µs"))
    return found


def _of_memories(curve: Mapping[str, Any]) -> list[Verdict]:
    points = curve["series"]["opens"]["points"]
    xs = [point["x"] for point in points]
    found = [
        Verdict("growth of the process's CPU with memories (0 flat, 1 linear)", power(xs, _of(points, "cpu_ms"))),
        Verdict("growth of the store's CPU with memories", power(xs, _of(points, "store_cpu_ms")), goal=1.0),
    ]
    some = next((point for point in points if point["x"] > 0), points[0])
    ratio = points[-1]["p50_ms"] / some["p50_ms"]
    found.append(Verdict(f"p50 at {xs[-1]:,} memories ÷ at {some['x']:,}", ratio))
    return found


def _flat(curve: Mapping[str, Any], kind: str, what: str) -> list[Verdict]:
    points = curve["series"][kind]["points"]
    first, last = points[0], points[-1]
    name = f"at {last['x']:,} {what} ÷ at {first['x']:,}"
    total = (last["cpu_ms"] + last["store_cpu_ms"]) / (first["cpu_ms"] + first["store_cpu_ms"])
    return [Verdict(f"CPU with the store {name}", total, goal=FLAT)]


def _of(points: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [point[name] for point in points]
