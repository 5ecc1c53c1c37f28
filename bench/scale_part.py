"""The document's part about how CPU and latency grow."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.parts import Part, Plot, Series, markdown_table, plot_marker
from memproxy.records import JsonObject

METHOD = """\
Each point is some requests put to one process, one after the other; points take turns in several rounds, and the
medians are told. CPU is that of the serving process until the turns are recorded, with the store told apart; turns are
learned elsewhere. Nothing is cut (the window is larger than any history here), and deadlines are so long that nothing
is left out on a busy machine.
"""

ABOUT: Mapping[str, str] = {
    "history": """\
Each request continues a conversation that was recorded before the clock was started. *All resent*: the client sends the
whole history, as nearly all do. *As 4 large messages*: the same bytes, so that what bytes cost can be told from what
their division into messages costs. *Newest only*: the client names its session and sends its newest message alone;
memproxy puts the history before it, so as many bytes go on to the model. *Floor relay*: what every Python relay pays
for the bytes of *all resent*.""",
    "memories": """\
Users with few and with many memories share one store; each request opens a conversation. The statements are made from
few words, so that nearly every memory has one of the question's: the search by words has the most to do that it can.
The store has one thread, so its CPU is also what other requests wait for.""",
    "users": "A store of its own for each number of users, {memories_each} memories each; requests of users by chance.",
    "streams": """\
The same number of streams begins in a second at every point; what differs is how long they last, and so how many are
open at a time. Latency is the time to the first event.""",
}

FEW_LINES = 2
"""More would not be told apart with both percentiles."""

CPU_TITLES: Mapping[str, str] = {
    "history": "CPU of a request by length of the history",
    "memories": "CPU of a request by memories of its user",
    "users": "CPU of a request by users in the store",
    "streams": "CPU of a stream by streams open at a time",
}


def part(results: JsonObject) -> Part:
    """A table and two plots for each curve, and what they say."""
    text, plots = [METHOD, _verdicts(results["verdicts"])], []
    for name, curve in results["curves"].items():
        about = ABOUT[name].format(memories_each=results.get("memories_each", 2))
        drawn = [_cpu(name, curve), _latency(name, curve)]
        text += [f"\n### {curve['title']}\n", about, *(f"\n{plot_marker(plot.name)}" for plot in drawn)]
        text += ["", _table(curve)]
        plots += drawn
    return Part("How cost grows", "\n".join(text), plots)


def _verdicts(verdicts: Sequence[JsonObject]) -> str:
    met = {None: "", True: "met", False: "**missed**"}
    rows = [
        [
            each["claim"],
            f"{each['value']:.2f} {each['unit']}".strip(),
            "" if each["goal"] is None else f"≤ {each['goal']:g}",
            met[each["is_met"]],
        ]
        for each in verdicts
    ]
    return markdown_table(["claim", "value", "goal", ""], rows)


def _table(curve: JsonObject) -> str:
    rows = [
        [
            series["title"],
            f"{point['x']:,}",
            f"{point['bytes'] / 1024:.1f}",
            f"{point['cpu_ms']:.2f}",
            f"{point['store_cpu_ms']:.2f}",
            f"{point['p50_ms']:.1f}",
            f"{point['p95_ms']:.1f}",
        ]
        for series in curve["series"].values()
        for point in series["points"]
    ]
    return markdown_table(["", curve["x_label"], "KB", "CPU ms", "store", "p50 ms", "p95 ms"], rows)


def _cpu(name: str, curve: JsonObject) -> Plot:
    lines = [_line(series["title"], series, "cpu_ms") for series in curve["series"].values()]
    stores = [series for series in curve["series"].values() if _has_store(series)]
    if len(stores) == 1:
        lines.append(_line("its store", stores[0], "store_cpu_ms"))
    return Plot(
        name=f"scale-{name}-cpu",
        title=CPU_TITLES[name],
        x_label=curve["x_label"],
        y_label="CPU ms",
        series=lines,
        is_log_x=True,
        is_log_y=name == "history",
    )


def _latency(name: str, curve: JsonObject) -> Plot:
    many = len(curve["series"]) > FEW_LINES
    lines = [
        _line(series["title"] if many else f"{series['title']}, {label}", series, field)
        for series in curve["series"].values()
        for label, field in (("p50", "p50_ms"), ("p95", "p95_ms"))
        if field == "p50_ms" or not many
    ]
    return Plot(
        name=f"scale-{name}-latency",
        title=CPU_TITLES[name].replace("CPU", "Latency"),
        x_label=curve["x_label"],
        y_label="p50 ms" if many else "ms",
        series=lines,
        is_log_x=True,
        is_log_y=name == "history",
    )


def _line(label: str, series: JsonObject, field: str) -> Series:
    """A point at 0 has no place on a logarithmic axis, and is told in the table."""
    points: list[dict[str, Any]] = [point for point in series["points"] if point["x"] > 0]
    return Series(label, [point["x"] for point in points], [point[field] for point in points])


def _has_store(series: JsonObject) -> bool:
    return any(point["store_cpu_ms"] > 0 for point in series["points"])
