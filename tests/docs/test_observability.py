"""docs/observability.md tells every metric, attribute and field, as it is."""

import re
from typing import Any

import pytest

from memproxy.settings import Settings
from memproxy.telemetry.metrics import Metrics
from tests.docs.observability import PAGE, TABLES, page

promql: Any = pytest.importorskip("promql_parser", reason="promql-parser has no wheel for this platform")

TEXT = PAGE.read_text("utf-8")


def test_the_tables_are_those_that_are_made() -> None:
    """Whoever adds a metric runs `make docs`, and readers find it."""
    assert page(TEXT) == TEXT
    assert set(re.findall(r"<!-- table: (\w+) -->", TEXT)) == TABLES.keys()


def test_the_check_can_fail() -> None:
    """A row that is missing is noticed."""
    row = next(line for line in TEXT.splitlines(keepends=True) if line.startswith("| `memproxy_cuts"))
    assert page(TEXT.replace(row, "")) == TEXT


@pytest.mark.parametrize("query", re.findall(r"\| `(.*?)` \|$", TEXT.partition("| question |")[2], re.MULTILINE)[:5])
def test_queries_are_about_metrics_that_exist(query: str) -> None:
    """They are copied."""
    promql.parse(query)
    known = {each.name for each in Metrics().declared}
    for name in re.findall(r"memproxy_\w+", query):
        assert name.removesuffix("_bucket") in known


@pytest.mark.parametrize(
    "name", ["tracing", "log_format", "log_level", "access_log", "worker_metrics_port", "receipt_ttl_s"]
)
def test_settings_that_it_names_exist(name: str) -> None:
    """Nothing is as annoying as a switch that is not there."""
    assert name in Settings.model_fields
    assert f"`{name}" in TEXT
