"""What the installed wheel can do without its checkout: a program, run by the Python that the wheel is installed in.

    python -I alone.py [--sealed] FOLDER

Serves and works in FOLDER with the installed `memproxy`, before a scripted model, and prints what it saw as JSON. With
`--sealed` (inside `unshare --mount --net`) it first makes the file system read-only except for FOLDER, and has no
network but the loopback.
"""

import asyncio
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import memproxy
from memproxy.demo.scripted_model import Reply, ScriptedModel

SET_FLAGS, IS_UP = 0x8914, 0x1
"""SIOCSIFFLAGS and IFF_UP of Linux's netdevice(7)."""

PATIENCE_S = 120


def seal(folder: Path) -> None:
    """Make every file system that matters here read-only, except for `folder`; bring up the loopback."""
    _run("mount", "--make-rprivate", "/")
    _run("mount", "--bind", str(folder), str(folder))
    places = (Path("/"), folder.parent, Path(sys.prefix), Path.home(), Path(tempfile.gettempdir()))
    options = dict(_mounts())
    for point in {_mount_point(place) for place in places}:
        _run("mount", "-o", f"remount,bind,ro,{options[str(point)]}", str(point))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SET_FLAGS, struct.pack("16sh14x", b"lo", IS_UP))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _mounts() -> Iterator[tuple[str, str]]:
    """Mount points with the options that a remount has to repeat."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        yield fields[4], ",".join(option for option in fields[5].split(",") if option not in {"rw", "ro"})


def _mount_point(path: Path) -> Path:
    return next(place for place in (path.resolve(), *path.resolve().parents) if place.is_mount())


def refuses_writing(folder: Path) -> bool:
    """Whether nothing can be written there."""
    try:
        (folder / "probe").touch()
    except OSError as error:
        return error.errno in {errno.EROFS, errno.EACCES}
    (folder / "probe").unlink()
    return False


def has_network() -> bool:
    """Whether anything but the loopback is within reach: an address that is reserved for documentation (RFC 5737)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 53))  # a datagram socket only looks for a route
        except OSError:
            return False
        return True


@contextmanager
def command(*words: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """The installed command while inside; its environment is the image's."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **settings}
    program = Path(sys.executable).with_name("memproxy")
    pipe = subprocess.PIPE
    with subprocess.Popen([program, *words], env=environment, cwd="/", stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def get(address: str) -> tuple[int, str]:
    """Status and text; 0 when nobody listens."""
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def wait(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Until the condition holds; fails with the process's last words when it ends or it takes too long."""
    began = time.monotonic()
    while not condition():
        if process.poll() is not None or time.monotonic() - began > PATIENCE_S:
            process.kill()
            sys.exit((process.stderr.read() if process.stderr else b"").decode() or "no answer, and no word")
        time.sleep(0.05)


def say(origin: str, text: str) -> dict[str, Any]:
    """One chat completion of alice's first session."""
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}).encode()
    request = urllib.request.Request(
        f"{origin}/u/alice/s/one/v1/chat/completions", data=body, headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.loads(response.read())
        return {
            "status": response.status,
            "text": answer["choices"][0]["message"]["content"],
            "degraded": response.headers.get("x-memproxy-degraded"),
        }


def end(process: subprocess.Popen[bytes]) -> int:
    """The exit code after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    return process.wait(PATIENCE_S)


def speak_mcp(**settings: str) -> tuple[list[str], int]:
    """The names of the tools that `memproxy mcp` offers, and its exit code when nobody speaks to it any more."""
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    said: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": client},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list"},
    ]
    with command("mcp", **settings) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for message in said:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            process.stdin.flush()
        for line in process.stdout:
            if (answer := json.loads(line)).get("id") == 2:
                process.stdin.close()
                return [tool["name"] for tool in answer["result"]["tools"]], process.wait(PATIENCE_S)
        sys.exit((process.stderr.read() if process.stderr else b"").decode() or "no tools, and no word")


def ready(process: subprocess.Popen[bytes], port: str) -> str:
    """The origin of a server on this port, when it is ready."""
    origin = f"http://127.0.0.1:{port}"
    wait(lambda: get(f"{origin}/readyz")[0] == 200, process)
    return origin


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


def serve_and_work(folder: Path, upstream: str) -> dict[str, Any]:
    """A conversation over two servers, a worker, an MCP server; and a look at the metrics. What was seen.

    The first has the embedded store, which needs a folder for its data and one for temporary files. The others use it
    as a Redis at an address, and may write nowhere.
    """
    (folder / "tmp").mkdir()
    patient = {f"MEMPROXY_{name}_DEADLINE_S": "30" for name in ("SESSION", "RECALL", "RECORD")}
    settings = {"MEMPROXY_UPSTREAM_BASE_URL": upstream, "MEMPROXY_RUN_WORKER": "false", **patient}
    embedded = {"MEMPROXY_DATA_DIR": str(folder / "data"), "TMPDIR": str(folder / "tmp")}
    ports = free_port(), free_port()
    with command("serve", MEMPROXY_LISTEN_PORT=ports[0], **settings, **embedded) as server:
        origin = ready(server, ports[0])
        first = say(origin, "My order is LX-1.")
        wait(lambda: 'memproxy_turns_recorded_total{outcome="completed"} 1.0' in get(f"{origin}/metrics")[1], server)
        settings["MEMPROXY_REDIS_URL"] = f"unix://{folder / 'data' / 'store' / 'store.sock'}"
        with command("serve", MEMPROXY_LISTEN_PORT=ports[1], **settings) as other:
            origin = ready(other, ports[1])
            second = say(origin, "Where is it?")
            metrics = get(f"{origin}/metrics")[1]
            exits = [end(other)]
        with command("worker", MEMPROXY_WORKER_METRICS_PORT=ports[1], **settings) as worker:
            wait(lambda: "memproxy_jobs" in get(f"http://127.0.0.1:{ports[1]}/metrics")[1], worker)
            exits.append(end(worker))
        tools, code = speak_mcp(**settings)
        exits.append(code)
        exits.append(end(server))
    return {"answers": [first, second], "metrics": metrics, "tools": tools, "exits": exits}


async def main(folder: Path, *, sealed: bool) -> None:
    """Do it all, and print it."""
    if sealed:
        seal(folder)
    async with ScriptedModel(lambda _: Reply(text="Noted.")).serve() as upstream:
        seen = await asyncio.to_thread(serve_and_work, folder, upstream.base_url)
        asked = [[message["content"] for message in request.messages] for request in upstream.model.requests]
    closed = {name: refuses_writing(Path(name)) for name in ("/", sys.prefix, str(Path.home()))}
    about = {"package": memproxy.__file__, "asked": asked, "network": has_network(), "refuses_writing": closed}
    sys.stdout.write(json.dumps(seen | about))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[-1]), sealed="--sealed" in sys.argv))
