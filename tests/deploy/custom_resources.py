"""Schemas of the custom resources that the chart can make, as far as it uses them.

Kubernetes' own schemas don't have them. Sources: the API references of Gateway API v1, prometheus-operator
(monitoring.coreos.com/v1) and KEDA (keda.sh/v1alpha1). A field that is not here may exist, but is one more that nobody
looked up.
"""

from collections.abc import Mapping
from typing import Any


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "additionalProperties": False, "properties": properties}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}


TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
PERIOD = {"type": "string", "pattern": r"^(\d+(ms|s|m|h))+$"}
MATCHES = _list(_object("path", path=_object("type", "value", type={"const": "PathPrefix"}, value=TEXT)))

SPECS: Mapping[str, Mapping[str, Any]] = {
    "HTTPRoute": _object(
        "parentRefs",
        "rules",
        parentRefs=_list(
            _object("name", name=TEXT, namespace=TEXT, sectionName=TEXT, port=PORT, group=TEXT, kind=TEXT)
        ),
        hostnames=_list(TEXT),
        rules=_list(
            _object(
                "matches",
                "backendRefs",
                matches=MATCHES,
                timeouts=_object("request", request={"type": "string", "pattern": r"^(\d{1,5}(h|m|s|ms)){1,4}$"}),
                backendRefs=_list(_object("name", "port", name=TEXT, port=PORT)),
            )
        ),
    ),
    "ServiceMonitor": _object(
        "selector",
        "endpoints",
        selector=_object("matchLabels", matchLabels=TEXTS, matchExpressions=_list({"type": "object"})),
        endpoints=_list(_object("port", "path", port=TEXT, path=TEXT, interval=PERIOD, scrapeTimeout=PERIOD)),
    ),
    "PrometheusRule": _object(
        "groups",
        groups=_list(
            _object(
                "name",
                "rules",
                name=TEXT,
                rules=_list(
                    _object(
                        "alert",
                        "expr",
                        "labels",
                        "annotations",
                        alert={"type": "string", "pattern": "^Memproxy[A-Za-z]+$"},
                        expr=TEXT,
                        **{"for": PERIOD},
                        labels=_object("severity", severity={"enum": ["warning", "critical"]}),
                        annotations=_object("summary", "description", summary=TEXT, description=TEXT),
                    )
                ),
            )
        ),
    ),
    "ScaledObject": _object(
        "scaleTargetRef",
        "triggers",
        scaleTargetRef=_object("name", name=TEXT),
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        pollingInterval=COUNT,
        cooldownPeriod=COUNT,
        triggers=_list(
            _object(
                "type",
                "metadata",
                type={"const": "prometheus"},
                metadata=_object(
                    "serverAddress", "query", "threshold", serverAddress=TEXT, query=TEXT, threshold={"type": "string"}
                ),
                authenticationRef=_object("name", name=TEXT),
            )
        ),
    ),
}

API_VERSIONS: Mapping[str, str] = {
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "ScaledObject": "keda.sh/v1alpha1",
}


def schema_of(kind: str) -> dict[str, Any]:
    """JSON schema of a whole object of this kind."""
    metadata = _object("name", "labels", name=TEXT, labels=TEXTS, annotations=TEXTS)
    version, kind_ = {"const": API_VERSIONS[kind]}, {"const": kind}
    return _object(
        "apiVersion", "kind", "metadata", "spec", apiVersion=version, kind=kind_, metadata=metadata, spec=SPECS[kind]
    )
