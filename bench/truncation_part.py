"""The document's part on truncation."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.parts import Goal, Part, Plot, Series, markdown_table
from memproxy.records import JsonObject

TEXT = """\
A conversation that outgrows the model's window has to be cut, and an agent that has lost an order number calls the
wrong tool or asks again. Agents' trajectories (airline, retail, telecom) are replayed through the endpoint with
models of small windows. For each answer that calls tools, the values of its arguments that stand in the conversation
before are looked for in the prompt that the model server was sent; the prompt's tokens are compared with those of the
whole history, instructions included. The *sliding window* keeps as many of the newest messages as fit, which is what
most frameworks do.

memproxy cuts seldom and far, and puts one note in the place of what it cut: the arguments that earlier calls were made
with, identifiers that were mentioned, and the pieces that fit how the conversation goes on. No model is asked. The note
changes only when a cut moves, so the prompt keeps its beginning in between.

{table}

*kept*: share of the values that were needed. *calls with all*: answers of which nothing was missing. *cached*: share of
prompt tokens that the provider's cache gives back. The goal is at least {goal_kept:.0%} of the values at no more than
{goal_tokens:.0%} of the tokens: {verdict}.

Values are counted by their text, as a whole word of at least three characters. That they stand in the prompt does not
say that a model finds them; that would take a model. The instructions can't be cut: where they alone exceed the window,
as with telecom's 5,200 tokens in the smallest ones, only the conversation shrinks.
"""


def part(results: JsonObject) -> Part:
    """The table, and the trade between tokens and values."""
    rows, goal = results["rows"], results["goal"]
    columns = ["window", "design", "kept", "calls with all", "tokens", "without instructions", "cached"]
    names = ("kept", "whole_calls", "tokens", "conversation_tokens", "cached")
    cells = [[f"{row['window']:,}", row["design"], *(f"{row[name]:.1%}" for name in names)] for row in rows]
    text = TEXT.format(
        table=markdown_table(columns, cells),
        goal_kept=goal["kept"],
        goal_tokens=goal["tokens"],
        verdict=_verdict(rows, goal),
    )
    return Part("What is left after a cut", text, [_plot(rows, goal)])


def _verdict(rows: Sequence[Mapping[str, Any]], goal: Mapping[str, float]) -> str:
    own = [row for row in rows if row["design"] == "memproxy"]
    met = [row for row in own if row["kept"] >= goal["kept"] and row["tokens"] <= goal["tokens"]]
    if met:
        best = max(met, key=lambda row: row["kept"])
        return (
            f"met, with {best['kept']:.1%} at {best['tokens']:.1%} in a window of {best['window']:,}"
            f" ({best['conversation_tokens']:.1%} of the conversation's own tokens)"
        )
    cheap = [row for row in own if row["tokens"] <= goal["tokens"]]
    if not cheap:
        return "not measured, since no window was that small"
    best = max(cheap, key=lambda row: row["kept"])
    return f"missed, with {best['kept']:.1%} at {best['tokens']:.1%} in a window of {best['window']:,}"


def _plot(rows: Sequence[Mapping[str, Any]], goal: Mapping[str, float]) -> Plot:
    designs = list(dict.fromkeys(row["design"] for row in rows))
    series = []
    for design in designs:
        points = sorted((100 * row["tokens"], 100 * row["kept"]) for row in rows if row["design"] == design)
        series.append(Series(design, [x for x, _ in points], [y for _, y in points]))
    return Plot(
        "truncation",
        "Values that calls need, by how much of the history is sent",
        "prompt tokens, % of the whole history's",
        "argument values kept, %",
        series,
        goals=[Goal(100 * goal["kept"], f"goal, at no more than {goal['tokens']:.0%} of the tokens")],
        is_from_zero=False,
    )
