"""Profiles divide a request's cost among parts that cover all of it, and name functions as a reader finds them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import profile
from bench.profile_part import part
from bench.profile_stacks import EVENT_LOOP, OTHER, heaviest, hottest, read, shares_of_parts

ROOT = Path(__file__).parent.parent.parent
SITE = "/somewhere/lib/python3.11/site-packages"
LOOP = (
    f"main (/repo/memproxy/cli.py:1);run ({SITE}/uvloop/__init__.py:92);Runner.run (/x/lib/python3.11/asyncio/r.py:1)"
)
PIPELINE = f"{LOOP};run_asgi ({SITE}/uvicorn/p.py:4);Pipeline.run (/repo/memproxy/proxy/pipeline.py:9)"
WRITING = f"send ({SITE}/redis/c.py:7);StreamWriter.write (/x/lib/python3.11/asyncio/streams.py:3)"
FOLDED = "\n".join(
    [
        f"{PIPELINE};Store.ask (/repo/memproxy/storage/s.py:1);{WRITING} 5",
        f"{PIPELINE};plan (/repo/memproxy/proxy/plan.py:2);__create_fn__.<locals>.__init__ (<string>:3) 2",
        f"{LOOP} 3",
        "_bootstrap (/x/lib/python3.11/threading.py:1);_worker (/x/lib/python3.11/concurrent/futures/thread.py:81) 90",
        "_bootstrap (/x/lib/python3.11/threading.py:1) 1",
    ]
)


def test_what_a_part_has_the_standard_library_do_is_its_own_doing() -> None:
    """Socket writes told as the event loop's would hide who writes so much; waiting threads cost nothing."""
    shares = shares_of_parts(read(FOLDED, root="/repo"))
    assert {name: round(11 * share) for name, share in shares.items() if share} == {
        "redis client": 5,
        "proxy": 2,
        EVENT_LOOP: 3,
        OTHER: 1,
    }
    assert sum(shares.values()) == pytest.approx(1)


def test_functions_are_told_without_what_stands_around_the_loop() -> None:
    """`main` is below every sample, and tells nobody what to make faster."""
    samples = read(FOLDED, root="/repo/")
    assert heaviest(samples, limit=2) == {
        "Pipeline.run (memproxy/proxy/pipeline.py)": pytest.approx(7 / 11),
        "Store.ask (memproxy/storage/s.py)": pytest.approx(5 / 11),
    }
    assert list(hottest(samples, limit=3)) == [
        "StreamWriter.write (asyncio/streams.py)",
        "Runner.run (asyncio/r.py)",
        "the __init__ of dataclasses",
    ]


def test_a_function_that_calls_itself_counts_once() -> None:
    """Else recursion would take more than all the time there is."""
    stack = f"{LOOP};walk (/repo/memproxy/wire/w.py:1);walk (/repo/memproxy/wire/w.py:2) 4"
    assert heaviest(read(stack, root="/repo"), limit=5) == {"walk (memproxy/wire/w.py)": 1.0}


def test_the_part_tells_every_load(tmp_path: Path) -> None:
    """The document must not lose a load, or a part that costs something only in one of them."""
    loads = {
        "a": {"title": "A", "cpu_ms": 2.0, "store_cpu_ms": 0.5, "samples": 10, "parts": {"wire": 0.25, "proxy": 0.75}},
        "b": {"title": "B", "cpu_ms": 4.0, "store_cpu_ms": 0.7, "samples": 10, "parts": {"wire": 0.0, "proxy": 1.0}},
    }
    top = {"hottest": {"f (m.py)": 0.5}, "heaviest": {"g (n.py)": 0.6}}
    told = part({"rate": 200, "loads": {name: {**load, **top} for name, load in loads.items()}})
    assert "| wire | 0.50 (25 %) | 0.00 (0 %) |" in told.text
    assert "| store | 0.50 | 0.70 |" in told.text
    assert "| 50.0% | `f (m.py)` | 60.0% | `g (n.py)` |" in told.text
    (plot,) = told.plots
    assert [(series.label, list(series.ys)) for series in plot.series] == [("A", [25, 75]), ("B", [0, 100])]
    assert plot.is_bars
    assert list(plot.categories) == ["wire", "proxy"]


def test_without_pyspy_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The other measurements go on where this one is not possible."""
    monkeypatch.setattr(profile, "_pyspy", lambda: None)
    assert profile.main([]) == 0
    assert "py-spy" in capsys.readouterr().out


@pytest.mark.timeout(120)
def test_a_quick_run_samples_every_load(tmp_path: Path) -> None:
    """`python -m bench profile` shows that it works before anybody waits for minutes."""
    file, stacks = tmp_path / "profile.json", tmp_path / "stacks"
    command = [sys.executable, "-m", "bench", "profile", "--quick", "--json", str(file), "--folded", str(stacks)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if "skipped" in done.stdout:
        pytest.skip(done.stdout)
    loads = json.loads(file.read_text())["loads"]
    assert list(loads) == list(profile.LOADS)
    for name, load in loads.items():
        assert load["samples"] > 0
        assert load["cpu_ms"] > 0
        assert sum(load["parts"].values()) == pytest.approx(1, abs=1e-4)
        assert load["parts"]["proxy"] > 0, name
        assert (stacks / f"{name}.folded").read_text()
    assert part(json.loads(file.read_text())).plots
