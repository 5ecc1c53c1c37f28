"""The document's part about what memproxy adds to a request: time, CPU and memory, beside other proxies."""

from collections.abc import Iterable, Mapping
from typing import Any

from bench.agents import TOOL_S
from bench.goals import limit_of, outcome_of
from bench.parts import Goal, Part, Plot, Series, markdown_table, plot_marker
from bench.report import columns_of, remarks
from bench.scenarios import SCENARIOS, TARGETS, Scenario
from memproxy.records import JsonObject

METHOD = """\
Each target relays to the same scripted model server on loopback, which answers at once: 1.2 KB, or a stream of 50
events. The clients send what OpenAI's Python client sends, keep their connections, and check every answer: byte by byte
where it must be the upstream's, word by word for LiteLLM, which writes its JSON anew. Targets take turns in short
slices, in {rounds} rounds, every other one backwards. CPU is counted until everything that a request left behind is
recorded and learned.

- *Floor relay*: the least that a relay costs in Python, on memproxy's own server and HTTP transport, with no error
  handling at all. *nginx*: the least in C, one worker, unbuffered.
- *Pass-through*: a path of the provider's API that has no memory.
- *Memory*: sessions are recognised by the history that is sent again, memories are recalled and put into the request,
  and the turn is recorded. The store holds {in_all:,} memories; users have 100 each, or 5,000. *Workers apart*: nobody
  learns from the turns, as if `memproxy worker` ran on another machine, so this is the serving process alone.
  *With learning*: as `memproxy serve` starts it, with its learning process and its store on the same processors.
- *LiteLLM proxy*: its plain relay with one worker, no database, no key to check, no access log, uncompressed answers.
"""

READING = """\
`added p50` is the median time of a request minus the bare upstream's in the same round; with more than one connection
it is queueing: all of client, upstream, proxy and store share the machine's cores. `CPU ms` is per request, of the
processes that serve; *learning* and *store* are the other processes of memproxy, and *sum* is all. `÷ floor` is the
median over the rounds of the ratio to the floor relay's CPU. `peak MB` is the resident memory of the serving and
learning processes together, `store MB` the store's.
"""

TOOLS = """\
An agent asks question after question, and for each of them the model looks the very same thing up first, with a tool
that takes {tool_ms:.0f} ms. *Bare upstream* is the agent without memproxy; in *the agent runs its tools* it goes
through memproxy with the tool cache off. In both it runs the tool for each question and asks again. In *memory* the
cache is on: memproxy answers the call, and the agent sees one request and one answer. What a conversation's first
question costs, when the agent runs the tool in any case, is not counted. The model is asked as often in all three, and
answers at once; a real one's time comes on top of each. Figures are of a turn, from the question to the answer in
words; *client* is the agent's own CPU, and *tools run* how often it ran the tool.
"""

LOADS: Mapping[str, str] = {"1kb-c16": "1 KB", "60kb-c16": "60 KB of history", "slow-c16": "stream, events 10 ms apart"}
CONNECTIONS: Mapping[str, int] = {"1kb-c1": 1, "1kb-c16": 16, "1kb-c64": 64}
PLOTTED = ("nginx", "floor", "passthrough", "apart", "memory", "litellm")
ADDED_GOAL_MS = 3.0


def part(results: JsonObject) -> Part:
    """Goals, one table for each load, and what both show."""
    scenarios: dict[str, JsonObject] = results["scenarios"]
    measured = [scenario for scenario in SCENARIOS if scenario.name in scenarios]
    plots = _plots(scenarios)
    text = [
        METHOD.format(rounds=results["rounds"], in_all=results["memories_in_all"]),
        *_goals(results["goals"]),
        *(f"{plot_marker(plot.name)}\n" for plot in plots),
        "### By load\n",
        READING,
    ]
    for scenario in measured:
        if not scenario.runs_tools:
            text += _table(scenario, scenarios[scenario.name])
    for scenario in measured:
        if scenario.runs_tools:
            text += ["### Tool calls answered from earlier results\n", TOOLS.format(tool_ms=1000 * TOOL_S)]
            text += _table(scenario, scenarios[scenario.name])
    return Part("Relay: what memproxy adds to a request", "\n".join(text), plots)


def _goals(goals: list[JsonObject]) -> list[str]:
    if not goals:
        return []
    titles = {scenario.name: scenario.title for scenario in SCENARIOS}
    rows = [
        [
            goal["about"],
            titles[goal["scenario"]],
            limit_of(goal),
            f"**{goal['value']:.2f}**",
            f"{min(goal['rounds']):.2f} to {max(goal['rounds']):.2f}",
            outcome_of(goal) if goal["is_reached"] else f"**{outcome_of(goal)}**",
        ]
        for goal in goals
    ]
    missed = sum(not goal["is_reached"] for goal in goals)
    verdict = "All goals are reached." if not missed else f"{missed} of {len(goals)} goals are missed."
    columns = ["figure", "load", "goal", "measured", "rounds", "reached"]
    return ["### Against the goals\n", markdown_table(columns, rows, texts=2), f"\n{verdict}\n"]


def _table(scenario: Scenario, figures: Mapping[str, Any]) -> list[str]:
    """One load, with what must be known beside its figures."""
    columns = columns_of(scenario)
    targets = [target for target in TARGETS if target.name in figures]
    rows = [[target.title, *(column.text(figures[target.name]) for column in columns)] for target in targets]
    shown = markdown_table(["target", *(column.title for column in columns)], rows)
    found = remarks(targets, figures)
    beside = [f"<sub>{'<br>'.join(found)}</sub>\n"] if found else []
    return [f"**{scenario.title}**\n", shown, "", *beside]


def _plots(scenarios: Mapping[str, JsonObject]) -> list[Plot]:
    """Those whose figures were all measured."""
    plots = []
    if all(name in scenarios for name in LOADS):
        plots.append(_cpu(scenarios))
    if all(name in scenarios for name in CONNECTIONS):
        plots.append(_added(scenarios))
    return plots


def _cpu(scenarios: Mapping[str, JsonObject]) -> Plot:
    names = [name for name in PLOTTED if name != "memory" and all(name in scenarios[load] for load in LOADS)]
    series = [Series(_title(name), (), [scenarios[load][name]["median"]["cpu_ms"] for load in LOADS]) for name in names]
    return Plot(
        "relay-cpu",
        "CPU of the serving process, 16 connections",
        "",
        "ms a request (log)",
        series,
        is_bars=True,
        is_log_y=True,
        categories=list(LOADS.values()),
    )


def _added(scenarios: Mapping[str, JsonObject]) -> Plot:
    names = [name for name in PLOTTED if all(name in scenarios[load] for load in CONNECTIONS)]
    return Plot(
        "relay-added-p50",
        "Added latency, 1 KB",
        "connections",
        "added p50, ms (log)",
        [
            _line(name, ((count, scenarios[load][name]["added_p50_ms"]) for load, count in CONNECTIONS.items()))
            for name in names
        ],
        is_log_x=True,
        is_log_y=True,
        goals=[Goal(ADDED_GOAL_MS, "goal with memory, at 1 connection")],
    )


def _line(name: str, points: Iterable[tuple[int, float]]) -> Series:
    """What noise made negative has no place on a logarithmic axis."""
    shown = [(x, y) for x, y in points if y > 0]
    return Series(_title(name), [x for x, _ in shown], [y for _, y in shown])


def _title(name: str) -> str:
    return next(target.title for target in TARGETS if target.name == name)
