"""The document's part about where the CPU time of a request goes."""

from bench.parts import Part, Plot, Series, markdown_table
from memproxy.records import JsonObject

METHOD = """\
py-spy samples the serving process from outside, {rate} times a second, while it serves requests with memory; turns are
recorded, and learned elsewhere. What a request costs is measured just before, without sampling; the samples tell how
that divides. A sample belongs to the innermost frame of a part: what a part has the standard library do, such as
writing to a socket, is its own doing. The event loop's part is what has no Python frame of its own: polling, parsing
HTTP and resuming tasks. The store is a process beside and stands in the last row.
"""


SHORT = {"1kb-c16": "1 KB", "60kb-c16": "60 KB of history", "slow-c16": "stream, events 10 ms apart"}
"""Of the loads, for the legend."""


def part(results: JsonObject) -> Part:
    """The parts' shares in ms of CPU a request, and the functions on top."""
    loads: dict[str, JsonObject] = results["loads"]
    names = [name for name in next(iter(loads.values()))["parts"] if any(_share(load, name) for load in loads.values())]
    rows = [[name, *(f"{_ms(load, name):.2f} ({_share(load, name)} %)" for load in loads.values())] for name in names]
    rows.append(["**serving process**", *(f"**{load['cpu_ms']:.2f}**" for load in loads.values())])
    rows.append(["store", *(f"{load['store_cpu_ms']:.2f}" for load in loads.values())])
    text = [
        METHOD.format(rate=results["rate"]),
        "CPU in ms a request, and its share of the serving process:\n",
        markdown_table(["part", *(load["title"] for load in loads.values())], rows),
    ]
    for load in loads.values():
        text += _functions(load)
    return Part("Where the time goes", "\n".join(text), [_plot(names, loads)])


def _functions(load: JsonObject) -> list[str]:
    """The two lists of one load, side by side."""
    hottest, heaviest = load["hottest"].items(), load["heaviest"].items()
    rows = [
        [f"{own:.1%}", f"`{function}`", f"{below:.1%}", f"`{caller}`"]
        for (function, own), (caller, below) in zip(hottest, heaviest, strict=False)
    ]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (["--:", "---", "--:", "---"], *rows))
    return [
        f"\n<details><summary>{load['title']}: the functions on top ({load['samples']:,} samples)</summary>\n",
        "| by itself | function | with what it calls | function of memproxy |",
        table,
        "\n</details>",
    ]


def _plot(names: list[str], loads: dict[str, JsonObject]) -> Plot:
    return Plot(
        name="profile",
        title="CPU of the serving process by part",
        x_label="",
        y_label="% of a request's CPU",
        series=[
            Series(SHORT.get(key, str(load["title"])), (), [_share(load, name) for name in names])
            for key, load in loads.items()
        ],
        is_bars=True,
        categories=[name.replace(" ", "\n") for name in names],
    )


def _share(load: JsonObject, name: str) -> int:
    return round(100 * float(load["parts"].get(name, 0)))


def _ms(load: JsonObject, name: str) -> float:
    return float(load["parts"].get(name, 0)) * float(load["cpu_ms"])
