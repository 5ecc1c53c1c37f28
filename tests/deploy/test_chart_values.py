"""The chart's values: wrong ones are refused with the key's name, right ones reach memproxy as they were meant."""

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from memproxy.app import OWN_SEGMENTS
from memproxy.settings import PREFIX, Settings, settings_without_environment
from tests.deploy.chart import CHART, EVERYTHING, Values, default_values, helm, render, schema
from tests.deploy.settings_schema import SET_BY_THE_CHART, credentials_schema, secrets, settings_schema
from tests.rules.source import ROOT

FREE = frozenset(
    {
        "annotations", "commonLabels", "externalMetric.selector", "global", "labels", "nodeAffinity", "nodeSelector",
        "podAffinity", "podAnnotations", "podAntiAffinity", "podLabels",
    }
)  # fmt: skip
"""Objects whose keys are the user's own: labels, annotations, and affinities as Kubernetes has them."""

INSIDE = frozenset({b"healthz", b"readyz", b"metrics"})
"""Pages that are for the cluster, not for who comes through an ingress."""


def refusal(values: Values) -> str:
    """What Helm says to these values; fails when it takes them."""
    with pytest.raises(helm.HelmError) as caught:
        render(values)
    return str(caught.value)


def nested(path: str, value: Any) -> dict[str, Any]:
    """`a.b` and 1 as {"a": {"b": 1}}."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


def closed_objects(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Paths of all objects in values.yaml whose keys the chart decides."""
    for name, value in values.items():
        here = f"{path}{name}"
        if isinstance(value, dict) and not any(here == free or here.endswith(f".{free}") for free in FREE):
            yield here
            yield from closed_objects(value, f"{here}.")


@pytest.mark.parametrize("path", ["", *closed_objects(default_values())])
def test_a_typo_is_refused_with_its_name(path: str) -> None:
    """At every level: a misspelt key would silently leave the default in place."""
    typo = f"{path}.recall_tokns" if path else "recall_tokns"
    message = refusal(nested(typo, 1))
    assert "'recall_tokns'" in message
    assert not path or path.replace(".", "/") in message


WRONG: Mapping[str, tuple[Values, tuple[str, ...]]] = {
    "a number that is too small": (nested("settings.recall_tokens", 10), ("recall_tokens", "50")),
    "a number as text": (nested("proxy.replicas", "2"), ("proxy/replicas",)),
    "a mode that does not exist": (nested("settings.memory", "on"), ("settings/memory", "full")),
    "a loopback address": (nested("settings.listen_host", "127.0.0.1"), ("listen_host",)),
    "a key in values": (nested("settings.upstream_api_key", "sk-1"), ("'upstream_api_key'",)),
    "a key instead of a Secret": (nested("credentials.upstream_api_key", "sk-1"), ("credentials/upstream_api_key",)),
    "an address without scheme": (nested("settings.upstream_base_url", "api.example/v1"), ("upstream_base_url",)),
    "a password in the address": (
        {"redis": {"mode": "external", "external": {"url": "redis://:secret@host"}}},
        ("redis/external/url",),
    ),
    "another database": ({"redis": {"mode": "external", "external": {"url": "http://host"}}}, ("redis/external/url",)),
    "a digest that is none": (nested("image.digest", "sha256:abc"), ("image/digest",)),
    "an alert that does not exist": (nested("metrics.prometheusRule.without", ["Memproxy"]), ("without",)),
    "a variable with two values": (
        {"extraEnv": [{"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {}}}]},
        ("extraEnv/0",),
    ),
    "external without an address": (nested("redis.mode", "external"), ("redis.external.url",)),
    "two addresses": (
        {"redis": {"mode": "external", "external": {"url": "redis://host", "urlSecret": {"name": "s"}}}},
        ("redis.external.url", "redis.external.urlSecret.name"),
    ),
    "credentials beside an address that has its own": (
        {"redis": {"mode": "external", "external": {"urlSecret": {"name": "s"}, "auth": {"secretName": "t"}}}},
        ("redis.external.auth", "redis.external.urlSecret"),
    ),
    "an address that is not used": (nested("redis.external.url", "redis://host"), ("redis.mode",)),
    "certificates without TLS": (
        {"redis": {"mode": "external", "external": {"url": "redis://host", "tls": {"secretName": "s"}}}},
        ("redis.external.tls.secretName", "rediss://"),
    ),
    "a certificate without its key": (
        {
            "redis": {
                "mode": "external",
                "external": {"url": "rediss://host", "tls": {"secretName": "s", "certKey": "c"}},
            }
        },
        ("certKey", "privateKeyKey"),
    ),
    "credentials of Sentinels that are none": (
        {"redis": {"mode": "external", "external": {"url": "redis://host", "sentinelAuth": {"secretName": "s"}}}},
        ("redis.external.sentinelAuth.secretName",),
    ),
    "a range of pods that is empty": (
        {"proxy": {"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}},
        ("proxy.autoscaling.minReplicas",),
    ),
    "a range of workers that is empty": (
        {"worker": {"autoscaling": {"minReplicas": 9}}},
        ("worker.autoscaling.minReplicas",),
    ),
    "too little time to stop": (
        {"proxy": {"terminationGracePeriodSeconds": 69, "drainSeconds": 10}},
        ("proxy.terminationGracePeriodSeconds", "69", "70"),
    ),
    "too little time for a longer grace": (
        {"worker": {"terminationGracePeriodSeconds": 119}, "settings": {"shutdown_grace_s": 60}},
        ("worker.terminationGracePeriodSeconds", "119", "120"),
    ),
    "a metric without a name": (nested("worker.autoscaling.by", "external-metric"), ("externalMetric.name",)),
    "KEDA without Prometheus": (nested("worker.autoscaling.by", "keda"), ("keda.prometheusAddress",)),
    "an ingress for no host": (nested("ingress.enabled", True), ("ingress.hosts",)),
    "a route without a gateway": (nested("httpRoute.enabled", True), ("httpRoute.parentRefs",)),
    "a setting among other variables": (
        {"extraEnv": [{"name": "MEMPROXY_RECALL_TOKENS", "value": "1"}]},
        ("MEMPROXY_RECALL_TOKENS", "settings"),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_refused_clearly(case: str) -> None:
    """Before anything reaches the cluster, and with the name of what to change."""
    values, named = WRONG[case]
    message = refusal(values)
    for name in named:
        assert name in message


def test_every_setting_can_be_set() -> None:
    """Those that are missing could not be set at all, since unknown names are refused."""
    for name, wanted in (("settings", settings_schema()), ("credentials", credentials_schema())):
        assert schema()["properties"][name] == wanted, "run python -m tests.deploy.settings_schema"


def test_settings_that_the_chart_sets_itself_exist() -> None:
    """The list of what has a place of its own names nothing that is gone, and every secret comes from a Secret."""
    assert SET_BY_THE_CHART.keys() <= Settings.model_fields.keys()
    assert "upstream_api_key" in secrets()
    assert not secrets() & schema()["properties"]["settings"]["properties"].keys()
    given = {
        name: {"secretName": f"secret-{number}", "secretKey": "k"} for number, name in enumerate(sorted(secrets()))
    }
    for container in ("mp-memproxy", "mp-memproxy-worker"):
        env = {each["name"]: each for each in render({"credentials": given}).container(container)["env"]}
        for name, source in given.items():
            reference = env[PREFIX + name.upper()]["valueFrom"]["secretKeyRef"]
            assert reference == {"name": source["secretName"], "key": source["secretKey"]}


def described(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema with its reference followed."""
    while "$ref" in node:
        node = definitions[node["$ref"].rpartition("/")[2]]
    return node


def differences(values: Mapping[str, Any], node: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Values without a schema, and a schema's properties without a default."""
    definitions = schema()["definitions"]
    node = described(node, definitions)
    if "properties" not in node or path in {".settings", ".credentials"}:
        return
    if node.get("additionalProperties") is not False:
        yield f"{path} is open"
    for name in values.keys() ^ node["properties"].keys():
        yield f"{path}.{name}"
    for name, value in values.items():
        if isinstance(value, dict) and name in node["properties"]:
            yield from differences(value, node["properties"][name], f"{path}.{name}")


def test_schema_and_defaults_speak_of_the_same() -> None:
    """values.yaml is the chart's reference: what is not in it nobody finds, and what has no schema is not checked."""
    found = set(differences(default_values(), schema()))
    optional = re.compile(r"\.(requests|limits)\.(cpu|memory|ephemeral-storage)$|\.(affinity)\.\w+$|^\.global$")
    assert {each for each in found if not optional.search(each)} == set()


def test_the_schema_is_plain_enough_for_every_helm() -> None:
    """Helm 3 knows draft 7 only, and its regular expressions have no look-ahead."""
    assert schema()["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert "(?" not in (CHART / "values.schema.json").read_text("utf-8")


def test_settings_arrive_as_they_were_meant() -> None:
    """Helm reads all numbers as floating-point ones, and large ones easily turn into 2.592e+06."""
    data = render(EVERYTHING).named("ConfigMap", "mp-memproxy")["data"]
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in data.items()
        if name not in {"MEMPROXY_TOOLS_FILE", "MEMPROXY_MODELS_FILE"}
    }
    settings = settings_without_environment(given)
    for name, value in EVERYTHING["settings"].items():
        assert getattr(settings, name) == value
    assert given["unnamed_session_ttl_s"] == "2592000"
    assert (settings.listen_host, settings.listen_port) == ("0.0.0.0", 8080)
    assert settings.tells_tenants_apart


def test_files_arrive_as_they_were_given() -> None:
    """Rules for tools and windows are mounted where the settings point."""
    made = render(EVERYTHING)
    data = made.named("ConfigMap", "mp-memproxy")["data"]
    files = made.named("ConfigMap", "mp-memproxy-files")["data"]
    for name in ("mp-memproxy", "mp-memproxy-worker"):
        (mount,) = [each for each in made.container(name)["volumeMounts"] if each["name"] == "files"]
        for variable, value in (("MEMPROXY_TOOLS_FILE", "toolsToml"), ("MEMPROXY_MODELS_FILE", "modelsToml")):
            folder, _, file = data[variable].rpartition("/")
            assert folder == mount["mountPath"]
            assert files[file] == EVERYTHING[value]
            assert tomllib.loads(files[file])


def test_a_setting_can_be_taken_back() -> None:
    """null, as everywhere in Helm."""
    made = render(nested("settings.upstream_base_url", None))
    assert "MEMPROXY_UPSTREAM_BASE_URL" not in made.named("ConfigMap", "mp-memproxy")["data"]


def test_versions_are_one() -> None:
    """The chart installs the image that was released with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    with helm.Chart.load(CHART) as chart:
        assert chart.version == chart.metadata["appVersion"] == project
    assert render({}).container("mp-memproxy")["image"] == f"memproxy:{project}"
    assert render({}).container("mp-memproxy-worker")["image"] == f"memproxy:{project}"
    assert f"memproxy:{project}" in (ROOT / "Dockerfile").read_text("utf-8")
    by_digest = render(EVERYTHING).container("mp-memproxy")["image"]
    assert by_digest == "registry.example/memproxy@sha256:" + "a" * 64


@pytest.mark.parametrize("way", ["ingress", "httpRoute"])
def test_agents_reach_all_they_need_and_nothing_of_the_operators(way: str) -> None:
    """Metrics and health are for the cluster."""
    prefixes = {path.strip("/").encode() for path in default_values()[way]["paths"]}
    assert prefixes == {b"v1", b"u", b"s", b"n", b"mcp"} | (OWN_SEGMENTS - INSIDE)


NOTES: Mapping[str, tuple[Values, str]] = {
    "in the cluster": ({}, "http://mp-memproxy.agents.svc/u/alice/v1"),
    "at another port": ({"service": {"port": 8000}}, "http://mp-memproxy.agents.svc:8000/u/alice/v1"),
    "from a machine outside": ({}, "http://127.0.0.1:8080/u/alice/v1"),
    "through an ingress": (
        {"ingress": {"enabled": True, "hosts": ["memory.example"]}},
        "http://memory.example/u/alice/v1",
    ),
    "through an ingress with TLS": (EVERYTHING, "https://memory.example/u/alice/v1"),
    "through a gateway": (
        {"httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}], "hostnames": ["memory.example"]}},
        "https://memory.example/u/alice/v1",
    ),
}


@pytest.mark.parametrize("case", NOTES)
def test_the_notes_say_what_to_set(case: str) -> None:
    """The one variable that an agent needs, ready to be copied."""
    values, address = NOTES[case]
    assert f"export OPENAI_BASE_URL={address}\n" in render(values).notes + "\n"


def test_nobody_changes_the_values_of_a_test() -> None:
    """They are shared."""
    before = copy.deepcopy(dict(EVERYTHING))
    render(EVERYTHING)
    assert before == EVERYTHING
