"""Where a measurement's figures are kept: one JSON file a command, from which the document is rendered."""

import argparse
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.processes import ROOT
from memproxy.records import JsonObject

RESULTS = Path(__file__).parent / "results"

NOT_HERE = 3
"""Exit code of a measurement whose data lies beside the project and is not there: left out, not failed."""


def machine() -> JsonObject:
    """On what was measured."""
    system = f"{platform.system()} {platform.machine()}"
    return {
        "processors": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "system": system,
    }


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """What every command understands: `--quick`, `--json FILE` and `--keep`."""
    parser.add_argument("--quick", action="store_true", help="under 30 s: shows that all works, not how well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    kept = f"write all figures to bench/results/{name}.json, for the document"
    parser.add_argument("--keep", action="store_true", help=kept)


def write(chosen: argparse.Namespace, name: str, figures: Mapping[str, Any]) -> None:
    """Write figures where `add_arguments` was told to, with the day, the machine and the commit."""
    files = [*([chosen.json] if chosen.json else []), *([RESULTS / f"{name}.json"] if chosen.keep else [])]
    if not files:
        return
    measured_at = datetime.now(UTC).date().isoformat()
    whole = {"measured_at": measured_at, "machine": machine(), "commit": _commit(), **figures}
    encoded = msgspec.json.format(msgspec.json.encode(_rounded(whole)), indent=1) + b"\n"
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded)


def read(name: str, *, folder: Path = RESULTS) -> JsonObject | None:
    """The figures that were kept last; None if there are none."""
    file = folder / f"{name}.json"
    if not file.exists():
        return None
    figures: JsonObject = msgspec.json.decode(file.read_bytes())
    return figures


def _rounded(value: Any) -> Any:
    """The same with as many digits as mean something: five."""
    match value:
        case float():
            return float(f"{value:.5g}")
        case dict():
            return {key: _rounded(each) for key, each in value.items()}
        case list() | tuple():
            return [_rounded(each) for each in value]
        case _:
            return value


def _processor() -> str:
    """As Linux names it; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    """The short hash of what was measured, `+` behind it when files were changed since; empty outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()
