"""The folder of the embedded store: make and check it, lock it, and find a place for the server's socket.

Files under `data_dir/store` (mode 0700):
    owner.lock      held by the owning memproxy; contains its process id
    server.lock     held by the server itself: a second server never starts on the same data
    format          version of this layout; a higher one than ours is refused
    address         path of the server's socket, for guests
    store.log       what the server says
    appendonlydir   the data
    bin             copies of the server's files, only where the originals cannot be executed

The socket lies there too if its path is short enough and the file system has sockets; otherwise in a folder of its own
(mode 0700, ours, named by a hash of the data folder) below XDG_RUNTIME_DIR or the directory for temporary files.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import socket
import stat
import tempfile
import threading
import time
from pathlib import Path

from memproxy.errors import StoreUnavailableError
from memproxy.storage.embedded_server import RUN_REDIS, ask

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of the files below `data_dir/store`. Raise it when an older memproxy could not read them."""

ORPHAN_GRACE_S = 1.0
"""How long a server without an owner may take to leave by itself before it is told to."""

ORPHAN_STOP_S = 10.0
"""How long it may take to leave after it was told."""

SOCKET_PATH_BYTES = 100
"""Longest socket path: `sockaddr_un` has room for 108 bytes on Linux, 104 on macOS, with the final zero."""


def open_folder(data_dir: Path) -> Path:
    """The store's folder below `data_dir`, made if need be; raises StoreUnavailableError when it is no use to us."""
    folder = (data_dir / "store").resolve()
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not is_private(folder):
            with contextlib.suppress(OSError):
                folder.chmod(0o700)
        write_file(folder / f"probe-{os.getpid()}-{threading.get_ident()}", "").unlink()
    except OSError as error:
        raise StoreUnavailableError(
            f"Cannot write to the data folder {folder.parent} ({error.strerror}: {error.filename}). Choose another "
            f"with --data-dir or MEMPROXY_DATA_DIR. {RUN_REDIS}"
        ) from error
    if not is_private(folder):  # a shared disk that has no owners or modes
        log.warning("other users of this machine may be able to read the memories in %s", folder)
    marker = read_file(folder / "format")
    if marker and not (marker.isdecimal() and int(marker) <= FORMAT):
        raise StoreUnavailableError(
            f"The data in {folder} was written by a newer memproxy (format {marker}; this one knows {FORMAT}). Upgrade "
            "with pip install -U 'memproxy[embedded]', or choose another MEMPROXY_DATA_DIR."
        )
    return folder


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock on `path` until it is closed everywhere; None when somebody else holds it.

    The descriptor is close-on-exec. Raises StoreUnavailableError where the file system cannot lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return None
        raise StoreUnavailableError(
            f"The file system of {path} cannot lock files ({error.strerror}), so two processes could write the same "
            f"data. Choose a data folder on a local disk with MEMPROXY_DATA_DIR. {RUN_REDIS}"
        ) from error
    return descriptor


def claim_data(folder: Path, *, stop: threading.Event) -> int | None:
    """Wait until no server is left on this data, and tidy up: the server lock's descriptor; None when told to stop.

    After the owner was killed its server is usually still closing its files. One that stays (there is no parent-death
    signal outside Linux) is told to leave through its socket. Call only as the owner.
    """
    began, told = time.monotonic(), False
    while (lock := try_lock(folder / "server.lock")) is None:
        waited_s = time.monotonic() - began
        if waited_s > ORPHAN_GRACE_S and not told:
            told = True
            orphan = published_socket(folder)
            log.warning("stopping the embedded store that a former owner left behind at %s", orphan)
            if orphan is not None:
                ask(orphan, "SHUTDOWN NOSAVE")  # "nosave" is about snapshots; the append-only file is written out
        if waited_s > ORPHAN_GRACE_S + ORPHAN_STOP_S:
            raise StoreUnavailableError(
                f"A server that a former memproxy left behind still holds {folder / 'server.lock'} and does not react. "
                "End that valkey-server process, then start again."
            )
        if stop.wait(0.02):
            return None
    for leftover in folder.glob("temp-*"):  # a killed server does not remove its half-written rewrites
        leftover.unlink(missing_ok=True)
    return lock


def _temporary() -> str | None:
    """Where temporary files go; a container with a read-only file system may have no such place."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return None


def choose_socket(folder: Path) -> Path:
    """Where the server shall listen: the published place if that still works, else the first of three that does.

    Needs the server lock: it binds the path to try it, which takes it away from a server that is listening there.
    """
    hashed = hashed_name(folder)
    outside = [Path(root) / hashed for root in (os.environ.get("XDG_RUNTIME_DIR"), _temporary()) if root]
    published = published_socket(folder)
    refusals = []
    for place in filter(None, (published, *(home / "store.sock" for home in (folder, *outside)))):
        refusal = try_socket(place)
        if refusal is None:
            return place
        refusals.append(f"{place}: {refusal}")
    raise StoreUnavailableError(
        "No place for the embedded store's socket. " + "; ".join(refusals) + f". Use a shorter data folder. {RUN_REDIS}"
    )


def try_socket(path: Path) -> str | None:
    """Why a server must not or cannot listen at `path`; None when it can. Makes the folder when it is missing."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        return f"longer than {SOCKET_PATH_BYTES} bytes"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not is_private(path.parent):
            return "its folder is not private to this user (owner and mode 0700)"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
            trial.bind(str(path))
        path.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return None


def published_socket(folder: Path) -> Path | None:
    """The address an owner wrote down, if it can be this folder's: a copied data folder still names the original's."""
    text = read_file(folder / "address")
    path = Path(text)
    is_ours = path.parent == folder or path.parent.name == hashed_name(folder)
    return path if text and is_ours and is_private(path.parent) else None


def hashed_name(folder: Path) -> str:
    """The name, unique per store folder, of a socket folder elsewhere."""
    return f"memproxy-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"


def is_private(folder: Path) -> bool:
    """Whether it is a real folder, of this user, closed to everybody else."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def owner_of(folder: Path) -> str:
    """The owner's process id, for messages."""
    return read_file(folder / "owner.lock") or "unknown"


def read_file(path: Path) -> str:
    """The file's text without surrounding white space; empty when there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except FileNotFoundError:
        return ""


def write_file(path: Path, text: str) -> Path:
    """Replace the file in one step, so that a reader sees the old or the new text."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text, encoding="utf-8", errors="surrogateescape")
    return fresh.replace(path)
