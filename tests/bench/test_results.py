"""Figures are kept where they were asked to be, and nowhere else."""

import argparse
import json
from pathlib import Path

import pytest

from bench import results


def _chosen(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    results.add_arguments(parser, "relay")
    return parser.parse_args(arguments)


def test_a_casual_run_changes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tries the bench has nothing to undo afterwards."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.write(_chosen("--quick"), "relay", {"a": 1})
    assert not list(tmp_path.iterdir())
    assert results.read("relay", folder=tmp_path) is None


def test_kept_figures_say_when_and_on_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure without its day, machine and commit can't be judged later."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    beside = tmp_path / "deeper" / "x.json"
    results.write(_chosen("--keep", "--json", str(beside)), "relay", {"a": 1})
    kept = results.read("relay", folder=tmp_path)
    assert kept is not None
    assert kept == json.loads(beside.read_text())
    assert kept["a"] == 1
    assert len(kept["measured_at"]) == len("2026-11-22")
    assert kept["machine"]["processors"] >= 1
    assert set(kept) == {"measured_at", "machine", "commit", "a"}


def test_figures_have_as_many_digits_as_mean_something(tmp_path: Path) -> None:
    """Seventeen digits of a noisy figure are most of a file that is read in a review."""
    file = tmp_path / "x.json"
    results.write(_chosen("--json", str(file)), "relay", {"a": [1 / 3, {"b": (123_456.789, 7)}], "c": None})
    kept = json.loads(file.read_text())
    assert (kept["a"], kept["c"]) == ([0.33333, {"b": [123460.0, 7]}], None)
