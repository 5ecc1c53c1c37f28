"""The parts of the chart's schema that list memproxy's settings, made from the settings themselves.

    python -m tests.deploy.settings_schema

writes them into helm/memproxy/values.schema.json; a test says when that is due.
"""

import json
from collections.abc import Mapping
from typing import Any

from memproxy.settings import Settings
from tests.rules.source import ROOT

SCHEMA = ROOT / "helm" / "memproxy" / "values.schema.json"

SET_BY_THE_CHART: Mapping[str, str] = {
    "listen_port": "the container's port",
    "workers": "one pod is one process: `proxy.replicas`",
    "redis_url": "`redis`",
    "redis_username": "`redis.external.auth`",
    "redis_password": "`redis.external.auth`, `redis.bundled.auth`",
    "drain_s": "`proxy.drainSeconds`",
    "data_dir": "there is no embedded store",
    "tools_file": "`toolsToml`",
    "models_file": "`modelsToml`",
    "run_worker": "`worker.enabled`",
    "worker_metrics_port": "the container's port",
}
"""Settings that values can't name, and what sets them instead."""

KEPT = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern", "items")

EXTRA: Mapping[str, Mapping[str, Any]] = {
    "listen_host": {"enum": ["0.0.0.0", "::"]},
    "upstream_base_url": {"pattern": "^https?://"},
}
"""What a pod needs, and pydantic's schema does not say."""

ADDRESS: Mapping[str, Any] = {"pattern": "^(https?://.*)?$"}
"""What the validator of addresses asks for."""


def settings_schema() -> dict[str, Any]:
    """JSON schema of `settings`: each one with its type and its limits, and nothing else."""
    whole = Settings.model_json_schema()
    definitions = whole.get("$defs", {})
    return _closed(
        {
            name: {**_plain(field, definitions), **EXTRA.get(name, ADDRESS if name.endswith("_base_url") else {})}
            for name, field in whole["properties"].items()
            if name not in SET_BY_THE_CHART.keys() | secrets()
        }
    )


def credentials_schema() -> dict[str, Any]:
    """JSON schema of `credentials`: every secret setting, and where it lies."""
    return _closed({name: {"$ref": "#/definitions/keyFromSecret"} for name in sorted(secrets())})


def secrets() -> set[str]:
    """Settings that must not stand in values."""
    fields = Settings.model_fields.items()
    return {name for name, field in fields if "SecretStr" in str(field.annotation)} - SET_BY_THE_CHART.keys()


def _closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": dict(properties)}


def _plain(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A field without references and defaults; one that may be none is simply left out."""
    variants = [variant for variant in field.get("anyOf", []) if variant.get("type") != "null"]
    source = variants[0] if len(variants) == 1 else field
    if "$ref" in source:
        source = definitions[source["$ref"].rpartition("/")[2]]
    return {key: source[key] for key in KEPT if key in source}


def main() -> None:
    """Write it."""
    schema = json.loads(SCHEMA.read_text("utf-8"))
    schema["properties"] |= {"settings": settings_schema(), "credentials": credentials_schema()}
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
