"""The chart as the tests look at it: rendered by Helm itself, for the values that matter."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from memproxy.records import JsonObject
from tests.rules.source import ROOT

NO_HELM = "helm-python-sdk has no wheel for this platform"

helm: Any = pytest.importorskip("helm_python", reason=NO_HELM)

CHART = ROOT / "helm" / "memproxy"

Values = Mapping[str, Any]

OBSERVED: Values = {
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True, "annotations": {"folder": "agents"}},
    }
}

SCHEDULING: Values = {
    "podAnnotations": {"example.com/a": "b"},
    "podLabels": {"team": "agents"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "agents", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
}

EVERYTHING: Values = {
    **OBSERVED,
    "commonLabels": {"team": "agents"},
    "image": {"repository": "registry.example/memproxy", "digest": "sha256:" + "a" * 64, "pullSecrets": ["pull"]},
    "settings": {
        "upstream_base_url": "http://models.example:8000/v1",
        "extraction_base_url": "https://other.example/v1",
        "extraction_model": "small",
        "tenancy": "key",
        "recall_tokens": 1200,
        "unnamed_session_ttl_s": 2592000,
        "history_keep_share": 0.55,
    },
    "toolsToml": '[tools]\nread = ["find_*"]\n',
    "modelsToml": "[windows]\nsmall = 32000\n",
    "credentials": {
        "upstream_api_key": {"secretName": "provider", "secretKey": "key"},
        "extraction_api_key": {"secretName": "extraction", "secretKey": "api-key"},
    },
    "redis": {
        "bundled": {
            **SCHEDULING,
            "auth": {"secretName": "redis-password"},
            "persistence": {"storageClass": "fast", "size": "20Gi"},
            "config": "timeout 0\nloglevel warning\n",
        }
    },
    "tracing": {
        "endpoint": "http://collector.monitoring:4318",
        "sampleRatio": 0.25,
        "headers": {"secretName": "collector", "secretKey": "token"},
    },
    "proxy": {**SCHEDULING, "autoscaling": {"enabled": True}},
    "worker": {
        **SCHEDULING,
        "autoscaling": {
            "by": "keda",
            "keda": {"prometheusAddress": "http://prometheus:9090", "triggerAuthentication": "prometheus"},
        },
    },
    "extraEnv": [
        {"name": "SSL_CERT_FILE", "value": "/etc/ca/ca.crt"},
        {"name": "HTTPS_PROXY", "valueFrom": {"configMapKeyRef": {"name": "proxies", "key": "https"}}},
    ],
    "extraVolumes": [{"name": "ca", "secret": {"secretName": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
    "serviceAccount": {"annotations": {"example.com/role": "memproxy"}},
    "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"example.com/a": "b"}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "annotations": {"example.com/a": "b"},
        "hosts": ["memory.example"],
        "tlsSecretName": "certificate",
    },
    "httpRoute": {
        "enabled": True,
        "parentRefs": [{"name": "gateway", "namespace": "infra", "sectionName": "https"}],
        "hostnames": ["memory.example"],
    },
    "networkPolicy": {
        "ingressFrom": [{"namespaceSelector": {"matchLabels": {"agents": "yes"}}}],
        "redisFrom": [{"podSelector": {"matchLabels": {"app": "exporter"}}}],
        "extraEgress": [{"ports": [{"port": 3128, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
}

TLS: Values = {
    "redis": {
        "mode": "external",
        "external": {
            "url": "rediss://redis.example:6380/2",
            "auth": {"secretName": "redis-user", "usernameKey": "username", "passwordKey": "password"},
            "tls": {"secretName": "redis-tls", "certKey": "tls.crt", "privateKeyKey": "tls.key"},
        },
    }
}

MATRIX: Mapping[str, Values] = {
    "defaults": {},
    "everything on": EVERYTHING,
    "external redis over TLS": TLS,
    "external redis, plain": {"redis": {"mode": "external", "external": {"url": "redis://redis.example"}}},
    "external redis, its address in a secret": {
        "redis": {"mode": "external", "external": {"urlSecret": {"name": "redis-address"}}}
    },
    "external redis behind sentinels": {
        "redis": {
            "mode": "external",
            "external": {
                "url": "rediss+sentinel://one.example:26379,two.example:26379/main/1?socket_keepalive=yes",
                "auth": {"secretName": "redis-user", "usernameKey": "username"},
                "sentinelAuth": {"secretName": "sentinels", "usernameKey": "username", "passwordKey": "password"},
                "tls": {"secretName": "redis-tls"},
            },
        }
    },
    "external redis cluster": {
        "redis": {
            "mode": "external",
            "external": {
                "url": "rediss+cluster://one.example:7000,two.example",
                "auth": {"secretName": "redis-user", "usernameKey": "username"},
                "tls": {"secretName": "redis-tls"},
            },
        }
    },
    "a slow mesh, and patience of one's own": {
        "proxy": {"preStopSeconds": 7, "drainSeconds": 20, "terminationGracePeriodSeconds": 300},
        "worker": {"terminationGracePeriodSeconds": 60},
    },
    "external redis on a socket": {
        "redis": {"mode": "external", "external": {"url": "unix:///run/redis/redis.sock"}},
        "extraVolumes": [{"name": "run", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "run", "mountPath": "/run/redis"}],
    },
    "redis without a volume": {"redis": {"bundled": {"persistence": {"enabled": False}}}},
    "no worker": {**OBSERVED, "worker": {"enabled": False}},
    "workers by processor time": {"worker": {"autoscaling": {"by": "cpu"}}},
    "workers by an adapter's metric": {
        "worker": {
            "autoscaling": {
                "by": "external-metric",
                "externalMetric": {"name": "memproxy_queue_length", "selector": {"namespace": "agents"}},
            }
        }
    },
    "nothing optional": {
        "worker": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "proxy": {
            "podDisruptionBudget": {"enabled": False},
            "topologySpread": {"enabled": False},
            "drainSeconds": 0,
        },
        "serviceAccount": {"create": False},
    },
    "other names": {"fullnameOverride": "memory", "serviceAccount": {"name": "somebody"}},
    "ipv6": {"settings": {"listen_host": "::"}},
    "observed": OBSERVED,
}
"""What people install, and each switch at least once in each position."""

EXTERNAL = [name for name in MATRIX if name.startswith("external redis")]


@dataclass(frozen=True, slots=True)
class Release:
    """What Helm would send to the cluster, and say."""

    manifests: tuple[JsonObject, ...]
    notes: str

    def of(self, kind: str) -> list[JsonObject]:
        """The objects of one kind."""
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def named(self, kind: str, name: str) -> JsonObject:
        """One object."""
        return next(manifest for manifest in self.of(kind) if manifest["metadata"]["name"] == name)

    @property
    def pods(self) -> list[tuple[str, JsonObject]]:
        """Every pod's metadata and spec as one object, with the name of what makes it."""
        found = []
        for manifest in self.manifests:
            name = manifest["metadata"]["name"]
            if manifest["kind"] == "Pod":
                found.append((name, {"metadata": manifest["metadata"], "spec": manifest["spec"]}))
            elif manifest["kind"] in {"Deployment", "StatefulSet"}:
                found.append((name, manifest["spec"]["template"]))
        return found

    def container(self, name: str) -> JsonObject:
        """The only container of the workload of this name."""
        (container,) = dict(self.pods)[name]["spec"]["containers"]
        return dict(container)


def render(values: Values, *, name: str = "mp", namespace: str = "agents") -> Release:
    """The release; raises Helm's own errors. YAML is read by Helm's reader, as Kubernetes reads it."""
    with helm.Chart.load(CHART) as chart:
        rendered: dict[str, str] = chart.render(dict(values), name=name, namespace=namespace)
    manifests = [
        helm.values_from_yaml(document)
        for path, text in sorted(rendered.items())
        if not path.endswith("NOTES.txt")
        for document in re.split(r"^---$", text, flags=re.MULTILINE)
        if re.sub(r"^\s*(#.*)?$", "", document, flags=re.MULTILINE).strip()
    ]
    return Release(tuple(manifests), rendered["memproxy/templates/NOTES.txt"])


def default_values() -> dict[str, Any]:
    """values.yaml."""
    with helm.Chart.load(CHART) as chart:
        values: dict[str, Any] = chart.values
    return values


def schema() -> dict[str, Any]:
    """values.schema.json."""
    loaded: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    return loaded
