"""What a server and its children used, by the operating system's own accounts. Linux only.

A process's CPU time is read from its CPU clock, which is the sum of user and system time of /proc/PID/stat in
nanoseconds instead of ticks of 10 ms. Children that have ended are in their parent's account.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STORES = ("valkey-server", "redis-server")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
RESET_PEAK = "5"
"""What /proc/PID/clear_refs takes to begin the measuring of the peak anew; see proc(5)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a server with all its processes; what its embedded store used is told apart."""

    own_cpu_s: float
    store_cpu_s: float
    own_peak_mb: float
    """The largest resident memory of its processes since `reset_peaks`, added up."""
    store_peak_mb: float
    beside_cpu_s: float = 0.0
    """What of `own_cpu_s` was used by processes that step back when others want the processor: those that learn."""


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    name: str
    niceness: int
    reaped_s: float
    """CPU time of its children that have ended."""


def usage_of(root: int) -> Usage:
    """What the process and its descendants have used so far."""
    own_s = beside_s = store_s = own_mb = store_mb = 0.0
    serving = _process(root)
    for process in _tree(root):
        cpu_s, peak_mb = process.reaped_s + _cpu_s(process.pid), _peak_mb(process.pid)
        if process.name in STORES:
            store_s, store_mb = store_s + cpu_s, store_mb + peak_mb
        else:
            own_s, own_mb = own_s + cpu_s, own_mb + peak_mb
            if serving is not None and process.niceness > serving.niceness:
                beside_s += cpu_s
    return Usage(own_s, store_s, own_mb, store_mb, beside_s)


def reset_peaks(root: int) -> None:
    """Measure the peaks of memory from now on, where the system lets us."""
    for process in _tree(root):
        try:
            Path(f"/proc/{process.pid}/clear_refs").write_text(RESET_PEAK)
        except OSError:
            continue


def _tree(root: int) -> Iterator[_Process]:
    children: dict[int, list[_Process]] = {}
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (process := _process(int(entry.name))):
            children.setdefault(process.parent, []).append(process)
            found[process.pid] = process
    waiting = [found[root]] if root in found else []
    while waiting:
        process = waiting.pop()
        waiting += children.get(process.pid, ())
        yield process


def _process(pid: int) -> _Process | None:
    """From /proc/PID/stat, whose second field is a name in parentheses that may hold blanks; None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    before, _, after = text.rpartition(")")
    fields = after.split()
    reaped = int(fields[13]) + int(fields[14])
    return _Process(pid, int(fields[1]), before.partition("(")[2], int(fields[16]), reaped * TICK_S)


def _cpu_s(pid: int) -> float:
    """The process's CPU clock, as clock_getcpuclockid(3) numbers it; 0 if it has ended."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _peak_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)
