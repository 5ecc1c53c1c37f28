"""Read folded stacks, as py-spy writes them: which part of memproxy each sample belongs to, and what is hot.

A sample belongs to the innermost frame of a package that is in the table. What a package has the standard library do,
such as writing to a socket, is its own doing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from typing_extensions import override

EVENT_LOOP = "event loop"
OTHER = "other"

PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("wire", ("memproxy/wire/", "memproxy/loose_json")),
    ("proxy", ("memproxy/proxy/", "memproxy/app", "memproxy/identity", "memproxy/tasks", "anyio/")),
    ("memory", ("memproxy/memory/",)),
    ("storage", ("memproxy/storage/",)),
    ("redis client", ("redis/", "redisvl/", "hiredis/")),
    ("embedding", ("memproxy/embedding", "wordllama/", "numpy/", "tokenizers/")),
    ("words, tokens", ("memproxy/words", "memproxy/tokens", "tiktoken/", "Stemmer")),
    ("HTTP server", ("uvicorn/", "httptools/")),
    ("HTTP client", ("aiohttp/", "httpx/", "httpx_aiohttp/", "yarl/", "multidict/", "propcache/", "aiosignal/")),
    ("metrics", ("memproxy/telemetry", "prometheus_client/", "opentelemetry/")),
    (EVENT_LOOP, ("uvloop/",)),
)
"""Each part with the beginnings of its files' paths, below the repository or site-packages."""

WAITING = frozenset(
    {
        ("_worker", "concurrent/futures/thread.py"),
        ("Condition.wait", "threading.py"),
        ("Event.wait", "threading.py"),
        ("select", "selectors.py"),
    }
)
"""Where a thread has nothing to do. Not every system tells py-spy that it sleeps."""

_FRAME = re.compile(r"^(?P<function>.*) \((?P<file>[^()]*?)(?::\d+)?\)$")
_BEFORE_PATH = re.compile(r"^.*?/(?:site-packages|lib/python3\.\d+)/(?:site-packages/)?")


@dataclass(frozen=True, slots=True)
class Frame:
    """A function on the stack."""

    function: str
    file: str
    """Below the repository, site-packages or the standard library."""

    @override
    def __str__(self) -> str:
        if self.file == "<string>":
            return "the __init__ of dataclasses"
        return f"{self.function} ({self.file})"


@dataclass(frozen=True, slots=True)
class Sample:
    """A stack, outermost frame first, and how often it was seen."""

    frames: tuple[Frame, ...]
    count: int


def read(folded: str, *, root: str) -> list[Sample]:
    """The stacks of threads that had something to do. `root`: the folder of the repository."""
    samples = []
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = tuple(_frame(text, root=root) for text in stack.split(";"))
        if (frames[-1].function, frames[-1].file) not in WAITING:
            samples.append(Sample(frames, int(count)))
    return samples


def _frame(text: str, *, root: str) -> Frame:
    found = _FRAME.match(text)
    if not found:
        return Frame(text, "")
    return Frame(found["function"], _BEFORE_PATH.sub("", found["file"]).removeprefix(root.rstrip("/") + "/"))


def part_of(frames: Sequence[Frame]) -> str:
    """The part of the innermost frame that has one."""
    for frame in reversed(frames):
        for part, beginnings in PARTS:
            if frame.file.startswith(beginnings):
                return part
    return OTHER


def shares_of_parts(samples: Sequence[Sample]) -> dict[str, float]:
    """How much of the samples each part has, 0..1, in the order of the table; parts without any are there, too."""
    counts: Counter[str] = Counter()
    for sample in samples:
        counts[part_of(sample.frames)] += sample.count
    total = sum(counts.values()) or 1
    return {part: counts[part] / total for part in (*(name for name, _ in PARTS), OTHER)}


def hottest(samples: Sequence[Sample], *, limit: int) -> dict[str, float]:
    """The functions that most samples were taken in, with their share, 0..1."""
    return _top(((sample.frames[-1:], sample.count) for sample in samples), limit=limit)


def heaviest(samples: Sequence[Sample], *, limit: int) -> dict[str, float]:
    """memproxy's functions that most samples were taken in or below; not those that stand around the event loop."""
    return _top(
        (({frame for frame in _below_loop(sample.frames) if _is_own(frame)}, sample.count) for sample in samples),
        limit=limit,
    )


def _below_loop(frames: Sequence[Frame]) -> Sequence[Frame]:
    last = max((at for at, frame in enumerate(frames) if frame.file.startswith("uvloop/")), default=-1)
    return frames[last + 1 :]


def _is_own(frame: Frame) -> bool:
    return frame.file.startswith("memproxy/")


def _top(counted: Iterable[tuple[Iterable[Frame], int]], *, limit: int) -> dict[str, float]:
    counts: Counter[str] = Counter()
    total = 0
    for frames, count in counted:
        total += count
        for name in {str(frame) for frame in frames}:
            counts[name] += count
    return {name: count / total for name, count in counts.most_common(limit)}
