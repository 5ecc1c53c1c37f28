"""The other proxies that memproxy is measured beside, where they are installed: nginx and LiteLLM's.

Each has one worker, no access log, no database and no key to check, so that it relays and does nothing else.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.processes import ROOT
from bench.scenarios import Host
from memproxy.demo.bench_answers import BENCH_MODELS

PEERS = frozenset({Host.NGINX, Host.LITELLM})
LITELLM = ROOT / ".venv-peers" / "bin" / "litellm"

_KEPT = ("--keepalive_timeout", "75")
"""As the others: by default it closes connections that were silent for 5 s, as some are when many wait for it."""

_LITELLM_READY = "/health/liveliness"
_NGINX = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; server_tokens off; keepalive_timeout 75; keepalive_requests 1000000; client_max_body_size 64m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_body_buffer_size 1m;
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Accept-Encoding identity; proxy_buffering off; proxy_request_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """How one of them is started."""

    program: Sequence[str]
    ready_path: str
    environment: Mapping[str, str] = field(default_factory=dict)


def missing(host: Host) -> str | None:
    """How to install a peer that is not here; None for what needs no installing."""
    match host:
        case Host.NGINX if shutil.which("nginx") is None:
            return "nginx is not installed, so it is left out; the package is called nginx or nginx-light"
        case Host.LITELLM if not LITELLM.exists():
            return "LiteLLM's proxy is not installed, so it is left out; make bench-peers does it"
        case _:
            return None


def prepared(host: Host, folder: Path, *, port: int, upstream: int) -> Peer:
    """Write a peer's configuration into the folder."""
    folder.mkdir()
    return (_nginx if host is Host.NGINX else _litellm)(folder, port, upstream)


def _nginx(folder: Path, port: int, upstream: int) -> Peer:
    configuration = folder / "nginx.conf"
    configuration.write_text(_NGINX.format(folder=folder, port=port, upstream=upstream))
    program = (shutil.which("nginx") or "nginx", "-p", str(folder), "-c", str(configuration), "-e", "stderr")
    return Peer(program, "/v1/models")


def _litellm(folder: Path, port: int, upstream: int) -> Peer:
    """JSON is YAML, too."""
    base = f"http://127.0.0.1:{upstream}/v1"
    models = [
        {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_base": base, "api_key": "sk-bench"}}
        for name in BENCH_MODELS
    ]
    settings = {
        "model_list": models,
        "litellm_settings": {"telemetry": False, "set_verbose": False},
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    configuration, logging = folder / "litellm.yaml", folder / "logging.json"
    configuration.write_bytes(msgspec.json.encode(settings))
    logging.write_bytes(msgspec.json.encode({"version": 1, "disable_existing_loggers": False}))
    program = (str(LITELLM), "--config", str(configuration), "--log_config", str(logging), *_KEPT)
    environment = {
        "HOME": str(folder),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would fetch prices from the network
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "NO_DOCS": "True",
    }
    return Peer(
        (*program, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"), _LITELLM_READY, environment
    )
