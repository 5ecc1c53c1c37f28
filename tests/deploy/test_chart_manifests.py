"""The chart's objects: Kubernetes takes them, they fit together, and the pods may do as little as possible."""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk import environment_variables

from memproxy.records import JsonObject
from memproxy.settings import PREFIX, Settings
from tests.deploy.chart import CHART, MATRIX, Release, helm, render, schema
from tests.deploy.custom_resources import API_VERSIONS, schema_of

kubernetes: Any = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
jsonschema: Any = pytest.importorskip("jsonschema", reason="kubernetes-validate brings jsonschema")

OTHER_VARIABLES = frozenset({"SENTINEL_USERNAME", "SENTINEL_PASSWORD"})
"""Variables of memproxy's containers that are no settings: Kubernetes puts them into MEMPROXY_REDIS_URL."""

TRACING_VARIABLES = frozenset({"POD_NAME"}) | {name for name in vars(environment_variables) if name.startswith("OTEL_")}
"""What OpenTelemetry itself reads, and what Kubernetes puts into it."""

EXTRA_VARIABLES = frozenset({"SSL_CERT_FILE", "HTTPS_PROXY"})
"""What the matrix gives as `extraEnv`."""


@functools.cache
def release(case: str) -> Release:
    return render(MATRIX[case])


def versions() -> list[str]:
    """The oldest Kubernetes that the chart says it supports, the newest that is known, and one between."""
    known = [version.rpartition(".")[0] for version in kubernetes.utils.all_versions()]
    oldest = re.search(r'^kubeVersion: ">=(\d+\.\d+)', (CHART / "Chart.yaml").read_text("utf-8"), re.MULTILINE)
    assert oldest
    supported = known[known.index(oldest[1]) :]
    return [supported[0], supported[len(supported) // 2], supported[-1]]


@pytest.fixture(scope="module", autouse=True)
def _read_schemas_once() -> Iterator[None]:
    """kubernetes-validate reads 2 MB for each object."""
    patched = pytest.MonkeyPatch()
    patched.setattr(kubernetes.utils, "schema_contents", functools.cache(kubernetes.utils.schema_contents))
    yield
    patched.undo()


def problems(manifest: JsonObject, version: str) -> list[str]:
    """What this Kubernetes would refuse."""
    kind = manifest["kind"]
    try:
        if kind in API_VERSIONS:
            jsonschema.validate(manifest, schema_of(kind))
        else:
            kubernetes.validate(manifest, version, strict=True)
    except jsonschema.ValidationError as error:
        place = ".".join(map(str, error.path))
        return [f"{kind}/{manifest['metadata']['name']} in {version}: {place}: {error.message}"]
    return []


@pytest.mark.parametrize("case", MATRIX)
def test_helm_finds_nothing_to_say(case: str) -> None:
    """A warning today is a broken installation with the next Helm."""
    report = helm.lint(CHART, dict(MATRIX[case]), strict=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("case", MATRIX)
@pytest.mark.parametrize("version", versions())
def test_kubernetes_takes_every_object(case: str, version: str) -> None:
    """A field that Kubernetes does not know is dropped in silence, or the whole release is refused."""
    assert [problem for manifest in release(case).manifests for problem in problems(manifest, version)] == []


def test_an_unknown_field_would_be_found() -> None:
    """The check above can fail."""
    deployment = json.loads(json.dumps(release("defaults").named("Deployment", "mp-memproxy")))
    deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    assert problems(deployment, versions()[0])
    route = json.loads(json.dumps(release("everything on").named("HTTPRoute", "mp-memproxy")))
    route["spec"]["rules"][0]["timeout"] = "1s"
    assert problems(route, versions()[0])


@pytest.mark.parametrize("case", MATRIX)
def test_every_variable_is_a_setting(case: str) -> None:
    """memproxy ignores variables that it does not know: what they were to change would not change."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OTHER_VARIABLES | EXTRA_VARIABLES
    known |= TRACING_VARIABLES
    for name, pod in release(case).pods:
        for container in pod["spec"]["containers"]:
            if container["name"] in {"proxy", "worker"}:
                assert set(variables(release(case), container)) <= known, name


def variables(made: Release, container: JsonObject) -> dict[str, Any]:
    """A container's environment by name: from its ConfigMap, then its own."""
    maps = [made.named("ConfigMap", source["configMapRef"]["name"])["data"] for source in container.get("envFrom", [])]
    own = {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", [])}
    return {name: value for values in [*maps, own] for name, value in values.items()}


@pytest.mark.parametrize("case", MATRIX)
def test_pods_keep_to_the_restricted_standard(case: str) -> None:
    """Namespaces that enforce Pod Security "restricted" would not run them; and the root file system is read-only."""
    pods = release(case).pods
    assert pods
    for name, pod in pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
        assert all(volume.keys() - {"name"} <= allowed for volume in spec.get("volumes", []))
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("case", MATRIX)
def test_whatever_is_named_is_there(case: str) -> None:
    """A Service that selects nothing, a budget for nobody, a port without a name: valid, and of no use."""
    made = release(case)
    labels = [pod["metadata"]["labels"] for _, pod in made.pods]

    def selects(selector: JsonObject) -> bool:
        return any(selector.items() <= each.items() for each in labels)

    for manifest in made.of("Service"):
        assert selects(manifest["spec"]["selector"])
        (container,) = [
            pod["spec"]["containers"][0]
            for _, pod in made.pods
            if manifest["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        ]
        names = {port["name"] for port in container["ports"]}
        assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= names
    for kind in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
        for manifest in made.of(kind):
            assert selects(manifest["spec"]["selector"]["matchLabels"])
    for manifest in made.of("NetworkPolicy"):
        assert selects(manifest["spec"]["podSelector"]["matchLabels"])
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for manifest in made.of(kind):
            deployment = made.named("Deployment", manifest["spec"]["scaleTargetRef"]["name"])
            assert "replicas" not in deployment["spec"], "it would be set back with every upgrade"


@pytest.mark.parametrize("case", MATRIX)
def test_ways_in_lead_to_the_service(case: str) -> None:
    """Ingress, route and monitor name ports that the Services have."""
    made = release(case)
    service = next(each for each in made.of("Service") if each["spec"]["ports"][0]["name"] == "http")
    for ingress in made.of("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": "http"}}
    for route in made.of("HTTPRoute"):
        (backend,) = route["spec"]["rules"][0]["backendRefs"]
        assert backend == {"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]}
    ports = {port["name"] for each in made.of("Service") for port in each["spec"]["ports"]}
    for monitor in made.of("ServiceMonitor"):
        wanted = {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}
        assert wanted == {"http", "metrics"}
        assert wanted & ports


@pytest.mark.parametrize("case", MATRIX)
def test_volumes_and_accounts_exist(case: str) -> None:
    """A pod whose volume, ConfigMap or account is missing never starts."""
    made = release(case)
    accounts = {account["metadata"]["name"] for account in made.of("ServiceAccount")}
    maps = {each["metadata"]["name"] for each in made.of("ConfigMap")}
    claims = {
        claim["metadata"]["name"]
        for each in made.of("StatefulSet")
        for claim in each["spec"].get("volumeClaimTemplates", [])
    }
    for _, pod in made.pods:
        assert pod["spec"]["serviceAccountName"] in (accounts or {"default"})
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])} | claims
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
        own = [volume["configMap"]["name"] for volume in pod["spec"].get("volumes", []) if "configMap" in volume]
        assert set(own) <= maps


def test_the_objects_of_each_part_are_there() -> None:
    """What the chart promises, by kind."""
    kinds = {
        kind: len(release("everything on").of(kind)) for kind in {m["kind"] for m in release("everything on").manifests}
    }
    assert kinds == {
        "ConfigMap": 4,
        "Deployment": 2,
        "HTTPRoute": 1,
        "HorizontalPodAutoscaler": 1,
        "Ingress": 1,
        "NetworkPolicy": 3,
        "Pod": 1,
        "PodDisruptionBudget": 2,
        "PrometheusRule": 1,
        "ScaledObject": 1,
        "Service": 3,
        "ServiceAccount": 1,
        "ServiceMonitor": 1,
        "StatefulSet": 1,
    }
    assert not release("external redis over TLS").of("StatefulSet")
    assert not release("external redis over TLS").of("Secret")


@pytest.mark.parametrize("case", MATRIX)
def test_pods_are_spread_and_given_time_to_end(case: str) -> None:
    """Killed before they have drained, pods lose streams and turns; all on one node, they go with it."""
    made = release(case)
    grace_s = Settings.model_fields["shutdown_grace_s"].default
    for deployment in made.of("Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        spec = deployment["spec"]["template"]["spec"]
        stop = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        drain = [each["value"] for each in container["env"] if each["name"] == "MEMPROXY_DRAIN_S"]
        assert bool(drain) == (container["args"] == ["serve"])
        assert spec["terminationGracePeriodSeconds"] >= int(stop[1]) + sum(map(int, drain)) + 2 * grace_s
        if case != "nothing optional":
            keys = [each["topologyKey"] for each in spec["topologySpreadConstraints"]]
            assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]


def test_a_longer_grace_is_waited_for() -> None:
    """`shutdown_grace_s` and the cluster's own patience go together."""
    made = render({"settings": {"shutdown_grace_s": 120.5}, "worker": {"enabled": False}})
    (deployment,) = made.of("Deployment")
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= 10 + 3 * 121


def test_new_values_bring_new_pods() -> None:
    """Pods read their environment once: a ConfigMap that changes under them changes nothing."""
    before, after = (render({"settings": {"recall_tokens": tokens}}) for tokens in (800, 900))
    for name in ("mp-memproxy", "mp-memproxy-worker"):
        checksums = [
            made.named("Deployment", name)["spec"]["template"]["metadata"]["annotations"] for made in (before, after)
        ]
        assert checksums[0] != checksums[1]


def test_names_stay_within_kubernetes_limits() -> None:
    """The longest release name that Helm takes, with the longest suffix of ours."""
    made = render({}, name="r" * 53)
    assert max(len(manifest["metadata"]["name"]) for manifest in made.manifests) <= 63
    assert len({(m["kind"], m["metadata"]["name"]) for m in made.manifests}) == len(made.manifests)


def test_two_releases_in_one_namespace_do_not_meet() -> None:
    """Each selects its own pods only."""
    one, other = render({}, name="one"), render({}, name="other")
    names = [{(m["kind"], m["metadata"]["name"]) for m in made.manifests} for made in (one, other)]
    assert not names[0] & names[1]
    selector = one.of("Service")[0]["spec"]["selector"]
    assert not [1 for _, pod in other.pods if selector.items() <= pod["metadata"]["labels"].items()]


def test_the_alerts_that_can_be_left_out_are_those_that_exist() -> None:
    """A name in `without` that fits nothing would leave the alert on."""
    (rule,) = release("observed").of("PrometheusRule")
    alerts = [each["alert"] for each in rule["spec"]["groups"][0]["rules"]]
    metrics = schema()["properties"]["metrics"]["properties"]
    assert metrics["prometheusRule"]["properties"]["without"]["items"]["enum"] == alerts
    (left,) = render({"metrics": {"prometheusRule": {"enabled": True, "without": alerts[1:]}}}).of("PrometheusRule")
    assert [each["alert"] for each in left["spec"]["groups"][0]["rules"]] == alerts[:1]


def test_the_packaged_chart_is_the_same(tmp_path: Path) -> None:
    """What is published has the schema, the dashboard and every template in it."""
    archive = helm.package(CHART, destination=tmp_path)
    with helm.Chart.load(archive) as packaged, helm.Chart.load(CHART) as chart:
        values = dict(MATRIX["everything on"])
        assert packaged.render(values, name="mp") == chart.render(values, name="mp")
        with pytest.raises(helm.HelmError, match="recall_tokns"):
            packaged.render({"settings": {"recall_tokns": 1}}, name="mp")
