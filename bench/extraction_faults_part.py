"""The document's part about learning under faults."""

from collections.abc import Iterator, Mapping

from bench.parts import Part, markdown_table
from memproxy.records import JsonObject

METHOD = """\
A memproxy serves, three `memproxy worker` processes learn, and {turns:,} turns of recorded dialogues are said through
the proxy. Meanwhile workers are killed with SIGKILL at random and started again, the store is killed or stopped and
comes back on its append-only file, and the scripted extraction model answers 429, 500, 400, garbage, or nothing until
it times out. In the end every observation that the model ever made must be stored exactly once, the queue must be
empty, what was given up must have a reason and go through when it is tried again (`memproxy queue retry --all`), and
records of others, made of the very same words, must be untouched.

Latency is measured afterwards with the workers stopped and at work, in turns: what learning costs the requests beside
it on the same machine.
"""


def part(results: JsonObject) -> Part:
    """What was done to the processes, and what came of it."""
    holds = "Everything that must hold does." if results["holds"] else "**Something that must hold does not.**"
    rows = [[name, value] for name, value in rows_of(results)]
    text = f"{METHOD.format(turns=results['turns'])}\n{markdown_table(['', ''], rows)}\n\n{holds}\n"
    return Part("Extraction faults: nothing lost, nothing twice", text)


def rows_of(results: JsonObject) -> Iterator[tuple[str, str]]:
    """The figures of a run, each with its name."""
    dead: Mapping[str, int] = results["dead"]
    lost, doubled = results["missing"], results["doubled"]
    yield (
        "turns said",
        f"{results['turns']:,} in {results['said_s']:.0f} s, {results['degraded']} while the store was away",
    )
    yield "all learned after", f"{results['drained_s']:.0f} s"
    yield "workers killed", str(results["worker_kills"])
    yield "store killed or stopped", str(results["store_restarts"])
    yield "answers of the model", ", ".join(f"{count} {name}" for name, count in results["model_calls"].items())
    yield "given up, then tried again", f"{sum(dead.values())}" + (f" ({'; '.join(dead)})" if dead else "")
    yield "observations stored once", f"{results['stored']} of {results['observations']}"
    yield "missing", f"{len(lost)} {' '.join(lost[:5])}".strip()
    yield "doubled", f"{len(doubled)} {' '.join(doubled[:5])}".strip()
    yield "memories of what was said", str(results["said"])
    yield "others' records touched", f"{results['strangers_touched']} of {results['strangers']}"
    yield "users with memories who said nothing", str(results["scopes"])
    yield "left in the queue", str(results["left"])
    for name, value in results["latency_ms"].items():
        yield f"latency, {name}", f"{value:.2f}" + ("" if "ratio" in name else " ms")
    yield "holds", "yes" if results["holds"] else "NO"
