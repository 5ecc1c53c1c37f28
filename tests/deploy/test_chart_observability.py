"""Alerts, dashboard, probes and scaling ask for what a running memproxy really shows."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from memproxy.demo.scripted_model import Reply
from memproxy.telemetry.metrics import Metrics
from tests.deploy.chart import CHART, EVERYTHING, OBSERVED, render
from tests.fakes.serving import Serve, Served, until

promql: Any = pytest.importorskip("promql_parser", reason="promql-parser has no wheel for this platform")

OF_PROMETHEUS = frozenset({"up"})
"""A series that Prometheus makes itself."""

OF_TARGETS = frozenset({"job", "namespace", "instance", "le"})
"""Labels that come with being read, or with a histogram."""

GRAFANA = {"$__rate_interval": "5m", "$__range": "1h", "$job": ".*", "$namespace": ".*"}
"""What Grafana puts in the place of its variables."""

DASHBOARD = json.loads((CHART / "dashboards" / "memproxy.json").read_text("utf-8"))


def alerts() -> list[dict[str, Any]]:
    (rule,) = render(OBSERVED).of("PrometheusRule")
    found: list[dict[str, Any]] = rule["spec"]["groups"][0]["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Every query of the chart, with what it is for."""
    for alert in alerts():
        yield alert["alert"], alert["expr"]
    for panel in panels():
        for target in panel["targets"]:
            expr = target["expr"]
            for name, value in GRAFANA.items():
                expr = expr.replace(name, value)
            yield panel["title"], expr
    yield "scaling", render(EVERYTHING).of("ScaledObject")[0]["spec"]["triggers"][0]["metadata"]["query"]


EXPRESSIONS = list(expressions())


def selectors(node: Any) -> Iterator[Any]:
    """All selectors of series in a parsed query."""
    if type(node).__name__ == "VectorSelector":
        yield node
        return
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs", "args", "param"):
        inner = getattr(node, name, None)
        for each in inner if isinstance(inner, list) else [inner]:
            if each is not None and not isinstance(each, str):
                yield from selectors(each)


def grouping(node: Any) -> Iterator[str]:
    """All labels that a query groups by."""
    yield from re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", str(node))))


@pytest.fixture(scope="module")
def declared() -> Mapping[str, tuple[str, ...]]:
    """Series by name, with their own labels, as telemetry declares them."""
    found = {}
    for each in Metrics().declared:
        endings = ("_bucket", "_sum", "_count") if each.kind == "histogram" else ("",)
        found.update({each.name + ending: each.labels for ending in endings})
    return found


@pytest.mark.parametrize(("what", "query"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS])
def test_queries_ask_for_series_and_labels_that_exist(
    what: str, query: str, declared: Mapping[str, tuple[str, ...]]
) -> None:
    """A query for a metric that is gone is valid, and silent for ever."""
    found = list(selectors(promql.parse(query)))
    assert found
    for selector in found:
        assert selector.name in declared.keys() | OF_PROMETHEUS
        own = set(declared.get(selector.name, ()))
        assert {matcher.name for matcher in selector.matchers.matchers} <= own | OF_TARGETS
    every = {label for selector in found for label in declared.get(selector.name, ())}
    assert set(grouping(query)) <= every | OF_TARGETS


def test_all_selectors_of_a_query_are_seen() -> None:
    """The check above can fail: it looks into everything that a query is made of."""
    left = 'histogram_quantile(0.5, sum by (le) (rate(a[5m]))) / (b{x="y"} unless -c)'
    query = f"{left} > max(absent(d) or topk(2, e offset 1m))"
    assert [selector.name for selector in selectors(promql.parse(query))] == ["a", "b", "c", "d", "e"]
    assert list(grouping("sum by (le, stage) (rate(a[5m]))")) == ["le", "stage"]


async def test_the_series_are_there_when_it_runs(serve: Serve) -> None:
    """Names, and the values of labels that queries look for, as Prometheus would read them."""
    answers = iter([Reply(text="Noted."), Reply(status=500, text="no")])
    async with serve(lambda _: next(answers)) as served:
        await ask(served, memory="full")
        await ask(served, memory="off")
        await list_models(served)
        await until(lambda: has_measured(served))
        text = await metrics_of(served)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    names = {name for family in families.values() for name in series(family)}
    values = {value for family in families.values() for sample in family.samples for value in sample.labels.values()}
    for what, query in EXPRESSIONS:
        for selector in selectors(promql.parse(query)):
            assert selector.name in names | OF_PROMETHEUS, what
            for matcher in selector.matchers.matchers:
                if matcher.name not in OF_TARGETS:
                    assert set(matcher.value.split("|")) <= values, what


def series(family: Any) -> set[str]:
    """The names of a family's series, whether it has samples yet or not."""
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
    return {family.name + ending for ending in endings}


async def ask(served: Served, *, memory: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}]}
    async with httpx.AsyncClient(verify=False) as http:
        headers = {"X-Memproxy-Memory": memory}
        await http.post(f"{served.origin}/u/alice/v1/chat/completions", json=body, headers=headers)


async def list_models(served: Served) -> None:
    async with httpx.AsyncClient(verify=False) as http:
        await http.get(f"{served.base_url}/models")


async def metrics_of(served: Served) -> str:
    async with httpx.AsyncClient(verify=False) as http:
        return (await http.get(f"{served.origin}/metrics")).text


async def has_measured(served: Served) -> bool:
    return 'memproxy_queued_turns{stage="turns",state="dead"}' in await metrics_of(served)


async def test_probes_ask_for_pages_that_answer(serve: Serve) -> None:
    """A probe of a page that does not exist restarts a healthy pod for ever."""
    container = render({}).container("mp-memproxy")
    paths = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    paths |= {
        endpoint["path"]
        for monitor in render(OBSERVED).of("ServiceMonitor")
        for endpoint in monitor["spec"]["endpoints"]
    }
    assert paths == {"/healthz", "/readyz", "/metrics"}
    async with serve() as served, httpx.AsyncClient(verify=False) as http:
        for path in paths:
            assert (await http.get(served.origin + path)).status_code == 200


def test_traces_go_where_values_say() -> None:
    """Both kinds of pods send them, under a name that tells which one it was; the policy lets them out."""
    release = render(EVERYTHING)
    for name in ("mp-memproxy", "mp-memproxy-worker"):
        env = {each["name"]: each for each in release.container(name)["env"]}
        assert env["OTEL_EXPORTER_OTLP_ENDPOINT"]["value"] == "http://collector.monitoring:4318"
        assert env["OTEL_TRACES_SAMPLER_ARG"]["value"] == "0.25"
        assert env["OTEL_EXPORTER_OTLP_HEADERS"]["valueFrom"]["secretKeyRef"] == {"name": "collector", "key": "token"}
        names = list(env)
        assert names.index("POD_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES"), "it is put into it"
        ports = [
            port["port"] for rule in release.named("NetworkPolicy", name)["spec"]["egress"] for port in rule["ports"]
        ]
        assert 4318 in ports


def test_no_traces_no_variables() -> None:
    """A pod without a collector does not look for one."""
    names = {each["name"] for each in render({}).container("mp-memproxy")["env"]}
    assert not {name for name in names if name.startswith("OTEL_")}


def test_alerts_say_what_is_wrong_and_what_follows() -> None:
    """Somebody reads them at night."""
    names = [alert["alert"] for alert in alerts()]
    assert len(set(names)) == len(names)
    for alert in alerts():
        assert len(alert["annotations"]["summary"]) < 80
        assert alert["annotations"]["description"].endswith(".")
        for expression in re.findall(r"\{\{(.*?)\}\}", alert["annotations"]["description"]):
            assert re.fullmatch(r"\s*\$(value|labels\.\w+)( \| humanize\w*)?\s*", expression)
        used = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["description"]))
        assert used <= set(grouping(alert["expr"])), "a label that the query drops is empty"


def test_alerts_are_about_this_release() -> None:
    """Two releases in one cluster, and nobody is woken for the other one."""
    for alert in alerts():
        for selector in selectors(promql.parse(alert["expr"])):
            given = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
            assert given["namespace"] == "agents"
            assert re.fullmatch(given["job"], "mp-memproxy")
    (rule,) = render({"metrics": {"selector": 'cluster="a"', "prometheusRule": {"enabled": True}}}).of("PrometheusRule")
    for alert in rule["spec"]["groups"][0]["rules"]:
        assert 'cluster="a"' in alert["expr"]
        assert "namespace" not in alert["expr"]


def test_the_monitors_jobs_are_what_alerts_select() -> None:
    """prometheus-operator names the job after the Service."""
    services = [each["metadata"]["name"] for each in render(OBSERVED).of("Service")]
    assert {"mp-memproxy", "mp-memproxy-worker"} <= set(services)
    for alert in alerts():
        (jobs,) = {
            m.value for s in selectors(promql.parse(alert["expr"])) for m in s.matchers.matchers if m.name == "job"
        }
        assert jobs == ("mp-memproxy" if alert["alert"] == "MemproxyDown" else "mp-memproxy(-worker)?")


def test_the_dashboard_is_what_grafana_takes() -> None:
    """Unique numbers, no panel over another, every panel explained, one data source that can be chosen."""
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "namespace", "job"]


def test_the_dashboard_is_shipped_as_it_is() -> None:
    """Helm's templates and Grafana's legends are both in double braces."""
    shipped = render(OBSERVED).named("ConfigMap", "mp-memproxy-dashboard")
    assert json.loads(shipped["data"]["memproxy.json"]) == DASHBOARD
    assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"
    legends = [target.get("legendFormat", "") for panel in panels() for target in panel["targets"]]
    assert any("{{stage}}" in legend for legend in legends)
