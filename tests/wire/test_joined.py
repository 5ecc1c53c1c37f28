"""What rounds have in common once they are one answer."""

import json
from typing import Any

import pytest
from hypothesis import given

from memproxy.records import JsonObject
from memproxy.wire.joined import summed
from tests.fakes.dialects import usages


@given(usages, usages)
def test_usage_is_added_number_by_number(first: JsonObject | None, second: JsonObject | None) -> None:
    """In whatever order rounds ran, they cost the same."""
    total = summed(first, second)
    assert total == summed(second, first)
    counts = [each["prompt_tokens"] for each in (first, second) if each is not None]
    assert (total or {}).get("prompt_tokens", 0) == sum(counts)


@pytest.mark.parametrize(
    ("first", "second", "total"),
    [
        (None, None, None),
        ({}, None, None),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"cost": 0.5}, {"cost": 1}, {"cost": 1.5}),
        ({"is_byok": False}, {"is_byok": False}, {"is_byok": False}),
        ({"tier": "a"}, {"tier": "b"}, {"tier": "b"}),
        ({"details": {"x": 1}}, {"details": None}, {"details": {"x": 1}}),
        ({"details": None}, {"details": {"x": 1}}, {"details": {"x": 1}}),
        ({}, {"details": None}, {"details": None}),
        ({"details": {}}, {"details": {}}, {"details": {}}),
    ],
)
def test_what_is_no_number_is_not_added(first: JsonObject | None, second: JsonObject | None, total: Any) -> None:
    """Providers put more into usage than counts."""
    assert json.dumps(summed(first, second)) == json.dumps(total)
