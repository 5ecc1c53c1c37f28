"""compose.yaml: what a person starts with one command, as hardened as the chart."""

import json
import re
from typing import Any

import pytest

from memproxy.settings import PREFIX, settings_without_environment
from tests.deploy.chart import default_values, helm, render
from tests.deploy.dockerfile import stages
from tests.rules.source import ROOT

COMPOSE: dict[str, Any] = helm.values_from_yaml((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
IMAGE = stages((ROOT / "Dockerfile").read_text("utf-8"))[-1]

OF_COMPOSE = frozenset({"PORT"})
"""Variables of the file itself, that no container gets."""


def given(name: str) -> dict[str, str]:
    """A service's environment where nothing is set outside, as memproxy gets it."""
    environment: dict[str, str] = SERVICES[name]["environment"]
    return {key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for key, value in environment.items()}


@pytest.mark.parametrize("name", ["proxy", "worker"])
def test_its_settings_are_ones_that_memproxy_takes(name: str) -> None:
    """With the image's own beside them, and none of the secrets written down."""
    own = {key: value for key, value in IMAGE.environment.items() if key.startswith(PREFIX)}
    values = {key.removeprefix(PREFIX).lower(): value for key, value in (own | given(name)).items() if value}
    settings = settings_without_environment(values)
    assert settings.run_worker == (name == "worker")
    assert settings.redis_url == "redis://redis:6379/0"
    assert not any(given(name)[key] for key in given(name) if key.endswith("_KEY"))


def test_what_is_set_outside_arrives_under_its_own_name() -> None:
    """`${MEMPROXY_X:-}` belongs to MEMPROXY_X."""
    for name in ("proxy", "worker"):
        for key, value in SERVICES[name]["environment"].items():
            assert set(re.findall(r"\$\{(\w+)", value)) <= {key}
    used = set(re.findall(r"\$\{(\w+)", json.dumps(COMPOSE)))
    assert used <= SERVICES["proxy"]["environment"].keys() | OF_COMPOSE


@pytest.mark.parametrize("name", SERVICES)
def test_services_may_do_little_and_tell_how_they_are(name: str) -> None:
    """As the chart's pods: nothing is written outside of volumes, no privileges, a health check each."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("user", "image's own") != "root"
    assert service["restart"] == "unless-stopped"
    assert "healthcheck" in service or name == "proxy"  # the proxy's is in the image
    assert "privileged" not in service


def test_nobody_outside_of_this_machine_reaches_it() -> None:
    """Whoever reaches the proxy may spend keys, and whoever reaches Redis reads memories."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"proxy"}
    assert all(port.startswith("127.0.0.1:") for port in published["proxy"])
    assert SERVICES["redis"]["networks"] == ["store"]
    assert COMPOSE["networks"]["store"] == {"internal": True}


def test_the_images_are_those_of_the_chart() -> None:
    """One release, one Redis."""
    assert SERVICES["proxy"]["image"] == SERVICES["worker"]["image"] == render({}).container("mp-memproxy")["image"]
    redis = default_values()["redis"]["bundled"]["image"]
    assert SERVICES["redis"]["image"] == f"{redis['repository']}:{redis['tag']}"


def test_redis_is_configured_as_in_the_chart() -> None:
    """Durable, and refusing writes rather than dropping memories."""
    words = iter(SERVICES["redis"]["command"][1:])
    options = {word.removeprefix("--"): next(words) for word in words}
    text = render({}).named("ConfigMap", "mp-memproxy-redis")["data"]["redis.conf"]
    lines = dict(line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert options == {name: value.strip('"') for name, value in lines.items() if name not in {"dir", "maxmemory"}}


def test_containers_are_given_time_to_end() -> None:
    """Docker's own ten seconds would cut streams and running jobs off."""
    for name in ("proxy", "worker"):
        grace_s = settings_without_environment({}).shutdown_grace_s
        assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= 2 * grace_s + 5
