"""The document's part on the provider's prompt cache."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.parts import Part, Plot, Series, markdown_table
from memproxy.records import JsonObject

OFF, ON = "memory off", "memproxy"
UNBOUNDED = 1_000_000

TEXT = """\
Providers give back what stands at the beginning of a prompt as it did in the request before: at a tenth to a half of
the price, and much sooner. In agents' work that is nine tenths of all tokens, so a proxy that changes a prompt's
beginning costs more than it can save. Agents' trajectories and long dialogues are replayed through the endpoint;
every user has memories of earlier sittings, so that blocks are injected. Each prompt that the model server was sent
is compared, byte for byte, with the one before it in the session. *Cached* is what a provider's cache gives back of
that: prompts of at least 1,024 tokens, in steps of 128, as OpenAI publishes it.

*Memory off* is the same conversation without memproxy, all of its history sent in a window that holds it. The two usual
designs get the same memories and windows: a *block in the system prompt* is renewed with each question, a *sliding
window* drops the oldest messages as soon as it is full.

{table}

*Tokens* and *paid in full* are those of a request; in brackets those with memory off. *Same* is the share of the prompt
that stood there before, *cached* what the cache gives back of it.

The goal for trajectories is to stay within {goal:.0f} points of memory off: {verdict}. Blocks are put before the newest
words only and replayed with them from then on, so a prompt only grows at its end.

A share says nothing about length: what memory adds makes prompts longer, and is itself found in the cache from the next
request on. *Paid in full* is what is left over, in tokens a request. A cut changes the beginning once and then not for
many requests; what that costs stands in the rows with windows, against memory off in a window that holds everything,
which such a model does not have. Dialogues are short: without memories most of them never reach 1,024 tokens, so there
is nothing that a cache could give back.
"""


def part(results: JsonObject) -> Part:
    """The table, and the designs beside each other."""
    rows = results["rows"]
    columns = ["conversations", "case", "design", "tokens", "paid in full", "same", "cached", "memory off", "points"]
    text = TEXT.format(
        table=markdown_table(columns, [_cells(row) for row in rows]),
        goal=100 * results["goal"],
        verdict=_verdict(rows, results["goal"]),
    )
    return Part("The provider's prompt cache", text, [_designs(rows), _windows(rows)])


def _cells(row: Mapping[str, Any]) -> list[str]:
    """One line of the table, with memory off beside it."""
    points = 100 * (row["cached"] - row[OFF]["cached"])
    each = row["tokens"] / max(1, row["requests"])
    plain = row[OFF]["tokens"] / max(1, row[OFF]["requests"])
    return [
        row["kind"],
        row["case"],
        row["design"],
        f"{each:,.0f} ({plain:,.0f})",
        f"{each * (1 - row['cached']):,.0f} ({plain * (1 - row[OFF]['cached']):,.0f})",
        f"{row['same']:.1%}",
        f"{row['cached']:.1%}",
        f"{row[OFF]['cached']:.1%}",
        f"{points:+.1f}",
    ]


def _verdict(rows: Sequence[Mapping[str, Any]], goal: float) -> str:
    whole = [row for row in rows if row["kind"] == "trajectories" and row["design"] == ON]
    whole = [row for row in whole if row["window"] == UNBOUNDED]
    if not whole:
        return "not measured"
    worst = min(whole, key=lambda row: row["cached"] - row[OFF]["cached"])
    points = 100 * (worst["cached"] - worst[OFF]["cached"])
    met = "met" if points >= -100 * goal else "missed"
    return f"{met}, the worst case ({worst['case']}) is at {points:+.1f}"


def _designs(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Without a cut: memory off, memproxy, and a block in the system prompt."""
    shown = [row for row in rows if row["case"] == "history resent" and row["kind"] == "trajectories"]
    labels = [OFF, *(row["design"] for row in shown)]
    values = [shown[0][OFF]["cached"] if shown else 0.0, *(row["cached"] for row in shown)]
    bars = Series("share of prompt tokens", [], [100 * value for value in values])
    return Plot(
        "prompt-cache-designs",
        "Prompt tokens from the provider's cache, trajectories",
        "",
        "%",
        [bars],
        is_bars=True,
        categories=labels,
    )


def _windows(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """With cuts: memproxy and a sliding window, by window."""
    bounded = [row for row in rows if row["window"] != UNBOUNDED and not row["case"].endswith("messages")]
    series = []
    for design in dict.fromkeys(row["design"] for row in bounded):
        points = sorted((row["window"], 100 * row["cached"]) for row in bounded if row["design"] == design)
        series.append(Series(design, [x for x, _ in points], [y for _, y in points]))
    return Plot(
        "prompt-cache-windows",
        "The same where the history is cut",
        "window, tokens",
        "from the cache, %",
        series,
    )
