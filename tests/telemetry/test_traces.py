"""Whether traces are made at all."""

import importlib
from collections.abc import Mapping
from typing import Any

import pytest

from memproxy.errors import SettingsError
from memproxy.telemetry.traces import is_wanted, open_traces

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        (False, {}, False),
        (True, {}, True),
        (False, ENDPOINT, True),
        (False, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        (False, {"OTEL_TRACES_EXPORTER": "otlp"}, True),
        (False, {"OTEL_TRACES_EXPORTER": "console"}, True),
        (True, {"OTEL_TRACES_EXPORTER": "none"}, False),
        (True, ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, False),
        (False, {"OTEL_SERVICE_NAME": "shop"}, False),
        (False, ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
    ],
)
def test_the_setting_or_opentelemetrys_variables_ask_for_them(
    setting: bool, environment: Mapping[str, str], expected: bool
) -> None:
    """Off by default; what every other program on the machine heeds is heeded."""
    assert is_wanted(setting=setting, environment=environment) is expected


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is zipkin"),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "4318"),
    ],
)
def test_what_cant_be_had_is_told_at_start(environment: Mapping[str, str], told: str) -> None:
    """Spans that never arrive are noticed on the day on which they are needed."""
    with pytest.raises(SettingsError, match=told):
        is_wanted(setting=True, environment=environment)


async def test_the_missing_extra_is_told_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do about it."""

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(SettingsError, match="with the extra otel"):
        async with open_traces(setting=True, environment={}):
            pass


async def test_unwanted_traces_need_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """memproxy starts without OpenTelemetry."""
    monkeypatch.setattr(importlib, "import_module", None)
    async with open_traces(setting=False, environment={}) as traces:
        assert traces is None
