"""The document's part about many slow streams at a time."""

from bench.parts import Goal, Part, Plot, Series, markdown_table
from memproxy.records import JsonObject

METHOD = """\
{count:,} streams go through one serving process, all open at a time: opened evenly over {opening_s:g} s, each of
{events} events that come {interval_s:g} s apart. Every stream is compared byte by byte with the upstream's. Memory is
the largest resident set of the process while they are open; *all* adds the process that learns and the store. A gap is
the time between two arrivals at the client; the bare upstream tells what of it is the machine's and the load
generator's. The goal: under {goal_mb} MB, and no stream waits.
"""


def part(results: JsonObject) -> Part:
    """The table, the memory plotted, and whether the goals are met."""
    streams, targets = results["streams"], results["targets"]
    rows = [
        [
            row["title"],
            f"{row['idle_mb']:.0f}",
            f"{row['peak_mb']:.0f}",
            f"{row['all_peak_mb']:.0f}",
            f"{_kb_a_stream(row):.0f}",
            f"{row['largest_gap_s']:.2f}",
            f"{row['late_gaps']:,}",
            f"{1000 * row['first_event_p50_s']:.0f}",
            f"{1000 * row['first_event_p95_s']:.0f}",
            f"{row['cpu_ms']:.1f}",
        ]
        for row in targets.values()
    ]
    columns = ["", "idle MB", "peak MB", "all MB", "KB a stream", "largest gap s", "late", "1st event p50 ms"]
    text = [
        METHOD.format(goal_mb=results["goal_mb"], **streams),
        markdown_table([*columns, "p95 ms", "CPU ms"], rows),
        f"\n*Late*: gaps of more than {1.5 * streams['interval_s']:g} s. *CPU* is that of a whole stream.\n",
        *_verdicts(results),
    ]
    plot = Plot(
        name="streams",
        title=f"Resident memory with {streams['count']:,} open streams",
        x_label="",
        y_label="MB",
        series=[
            Series("before", (), [round(row["idle_mb"]) for row in targets.values()]),
            Series("with the streams", (), [round(row["peak_mb"]) for row in targets.values()]),
        ],
        is_bars=True,
        categories=[row["title"].replace(", ", ",\n") for row in targets.values()],
        goals=[Goal(results["goal_mb"], f"goal: {results['goal_mb']} MB")],
    )
    return Part("A thousand streams", "\n".join(text), [plot])


def _verdicts(results: JsonObject) -> list[str]:
    targets, goal = results["targets"], results["goal_mb"]
    own = targets.get("apart")
    if own is None:
        return []
    bare = targets["upstream"]
    memory = f"{own['peak_mb']:.0f} MB of {goal}: {'met' if own['peak_mb'] < goal else 'missed'}"
    waited = own["largest_gap_s"] - bare["largest_gap_s"]
    starved = "no stream waited" if not own["late_gaps"] else f"{own['late_gaps']:,} events came late"
    return [
        f"- **Memory** of the serving process: {memory}.",
        f"- **Waiting**: {starved}; the largest gap is {1000 * waited:+.0f} ms beside that of the bare upstream.",
    ]


def _kb_a_stream(row: JsonObject) -> float:
    return 1024 * (float(row["peak_mb"]) - float(row["idle_mb"])) / int(row["streams"])
