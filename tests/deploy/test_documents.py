"""What is written about deployment is true: links, variables, values, alerts."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from memproxy.settings import PREFIX, Settings
from tests.deploy.chart import OBSERVED, default_values, helm, render, schema
from tests.rules.source import ROOT

DOCUMENTS = ("docs/deployment.md", "docs/scaling.md", "helm/memproxy/README.md")


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_files_lead_somewhere(name: str) -> None:
    """A reader who follows one gets there."""
    folder = (ROOT / name).parent
    for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", text_of(name)):
        assert (folder / link).exists(), link
    for path in re.findall(r"`((?:memproxy|config|tests|helm|docs)/[\w./-]+|compose\.yaml|Dockerfile)`", text_of(name)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", DOCUMENTS)
def test_settings_exist(name: str) -> None:
    """In their own form, and in the environment's."""
    known = {PREFIX + setting.upper() for setting in Settings.model_fields} | {PREFIX + "CONFIG"}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", text_of(name))) <= known
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)(?: = \w+)?`", text_of(name)))
    assert {one for one in named if not one.startswith("memproxy_")} <= Settings.model_fields.keys()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_version_is_the_released_one(name: str) -> None:
    """Commands can be copied."""
    with helm.Chart.load(ROOT / "helm" / "memproxy") as chart:
        assert set(re.findall(r"memproxy:(\d+\.\d+\.\d+)", text_of(name))) <= {chart.version}


def paths(values: dict[str, Any], before: str = "") -> Iterator[str]:
    """Every path in values.yaml."""
    for name, value in values.items():
        yield before + name
        if isinstance(value, dict):
            yield from paths(value, f"{before}{name}.")


def test_the_charts_readme_names_values_that_exist() -> None:
    """With their whole path, or below `redis.external` where its table says so."""
    top = "|".join(default_values())
    named = set(re.findall(rf"`((?:{top})(?:\.[A-Za-z]+)+)(?::[^`]*)?`", text_of("helm/memproxy/README.md")))
    settings = {f"settings.{name}" for name in schema()["properties"]["settings"]["properties"]}
    assert "proxy.drainSeconds" in named
    assert named <= set(paths(default_values())) | settings
    below = set(re.findall(r"`((?:auth|tls|urlSecret)\.[A-Za-z]+)`", text_of("helm/memproxy/README.md")))
    assert {f"redis.external.{one}" for one in below} <= set(paths(default_values()))


def test_examples_of_the_charts_readme_are_taken() -> None:
    """Whoever copies them gets a release."""
    blocks = re.findall(r"```yaml\n(.*?)```", text_of("helm/memproxy/README.md"), re.DOTALL)
    examples = [values for values in map(helm.values_from_yaml, blocks) if values.keys() <= default_values().keys()]
    assert len(examples) == 2
    for values in examples:
        assert render(values).manifests


def test_the_table_of_alerts_is_complete() -> None:
    """Each alert with its severity; alerts that other documents name exist."""
    (rule,) = render(OBSERVED).of("PrometheusRule")
    alerts = {each["alert"]: each["labels"]["severity"] for each in rule["spec"]["groups"][0]["rules"]}
    table = re.findall(r"^\| (Memproxy\w+) \| (\w+) \|", text_of("helm/memproxy/README.md"), re.MULTILINE)
    assert dict(table) == alerts
    for name in DOCUMENTS:
        assert set(re.findall(r"\bMemproxy[A-Z]\w+", text_of(name))) <= alerts.keys()
