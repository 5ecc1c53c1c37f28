"""The tables of docs/observability.md, made from what memproxy declares.

    python -m tests.docs.observability

writes them; a test says when that is due.
"""

import re
from collections.abc import Callable, Mapping

from memproxy.telemetry.logs import ACCESS_FIELDS, FIELDS
from memproxy.telemetry.metrics import Metrics
from memproxy.telemetry.traces import ATTRIBUTES
from tests.rules.source import ROOT

PAGE = ROOT / "docs" / "observability.md"

_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def metrics() -> list[str]:
    """A row for each metric."""
    rows = ["| metric | type | labels | | |", "|---|---|---|---|---|"]
    for each in Metrics().declared:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        same = "maximum" if each.combined == "max" else ""
        rows.append(f"| `{each.name}` | {each.kind} | {labels} | {each.help} | {same} |")
    return rows


def named(what: str, meanings: Mapping[str, str]) -> list[str]:
    """A row for each name."""
    return [f"| {what} | |", "|---|---|", *(f"| `{name}` | {meaning} |" for name, meaning in meanings.items())]


TABLES: Mapping[str, Callable[[], list[str]]] = {
    "metrics": metrics,
    "attributes": lambda: named("attribute", ATTRIBUTES),
    "fields": lambda: named("field", FIELDS),
    "access": lambda: named("field", ACCESS_FIELDS),
}


def page(text: str) -> str:
    """The page with its tables as they should be."""
    return _TABLE.sub(lambda found: found[1] + "\n".join(TABLES[found[2]]()) + "\n" + found[3], text)


def main() -> None:
    """Write it."""
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
