"""What a model is told about the tools' arguments, and what it may write."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from memproxy.memory_api import mcp_forms as forms
from memproxy.memory_api.mcp_forms import WHOSE, input_schema
from memproxy.memory_api.mcp_tools import TOOLS


def _within(schema: Any) -> Any:
    yield schema
    children = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for child in children:
        yield from _within(child)


@pytest.mark.parametrize("name", TOOLS)
def test_schemas_are_what_every_host_takes(name: str) -> None:
    """No references, no null, no titles: some hosts refuse the former, and a model pays for the latter."""
    schema = input_schema(TOOLS[name].form)
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    for part in _within(schema):
        if isinstance(part, dict):
            assert not {"$ref", "$defs", "maxLength"} & part.keys()
            assert part.get("type") != "null"
            assert not isinstance(part.get("title"), str)


@pytest.mark.parametrize("name", TOOLS)
def test_what_the_connection_says_is_not_offered(name: str) -> None:
    """A model can't name another user where there is no argument for it."""
    schema = input_schema(TOOLS[name].form, without=WHOSE)
    for part in _within(schema):
        if isinstance(part, dict):
            assert not WHOSE & part.get("properties", {}).keys()


@pytest.mark.parametrize("name", TOOLS)
def test_arguments_are_described(name: str) -> None:
    """All but those whose names say everything."""
    plain = {"text", "content", "messages", "memories", "data", "memory_type", "session_id", "event_date"}
    properties = input_schema(TOOLS[name].form)["properties"]
    assert {key for key, value in properties.items() if "description" not in value} <= plain


def test_defaults_are_told() -> None:
    """A model knows what happens when it leaves an argument out."""
    assert input_schema(forms.Search)["properties"]["limit"]["default"] == 10
    assert "3600" in input_schema(forms.SetSession)["properties"]["ttl_seconds"]["description"]


@pytest.mark.parametrize(
    ("form", "given"),
    [
        (forms.Create, {"memories": []}),
        (forms.Create, {"memories": [{"text": " "}]}),
        (forms.Create, {"memories": [{"text": "x", "memory_type": "fact"}]}),
        (forms.Search, {"text": "x", "user": "alice"}),
        (forms.Search, {"text": "x", "distance_threshold": float("nan")}),
        (forms.One, {}),
        (forms.One, {"memory_id": ""}),
        (forms.SetSession, {"session_id": "a\x00b"}),
        (forms.SetSession, {"session_id": "a", "ttl_seconds": 0}),
        (forms.GetSession, {"session_id": "a", "user_id": "x" * 1_000}),
        (forms.Delete, {"memory_ids": "a"}),
    ],
)
def test_what_cannot_be_used_is_refused(form: type[forms.ToolInput], given: dict[str, Any]) -> None:
    """A restriction that is misspelt would restrict nothing, so it is refused."""
    with pytest.raises(ValidationError):
        form.model_validate(given)


def test_times_come_in_as_models_write_them() -> None:
    """With a zone, without one, or a date alone; all are UTC inside."""
    for written in ("2026-03-01T00:00:00Z", "2026-03-01", "2026-03-01T01:00:00+01:00"):
        memory = forms.NewMemory.model_validate({"text": "x", "event_date": written})
        assert memory.event_date == datetime(2026, 3, 1, tzinfo=UTC)
