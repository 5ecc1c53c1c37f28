"""The embedded store's folder: what is refused, and where the socket goes."""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from memproxy.errors import StoreUnavailableError
from memproxy.storage.embedded_folder import (
    choose_socket,
    hashed_name,
    is_private,
    open_folder,
    published_socket,
    try_lock,
    write_file,
)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="mp-") as folder:
        yield Path(folder)


@pytest.fixture
def deep(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store folder too deep for a socket; the runtime and temporary directories are `short`/run and `short`/tmp."""
    for name in ("run", "tmp"):
        (short / name).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short / "run"))
    monkeypatch.setattr(tempfile, "tempdir", str(short / "tmp"))
    return open_folder(short / ("d" * 100))


def test_a_socket_folder_open_to_others_is_passed_over(short: Path, deep: Path) -> None:
    """Somebody else's folder under our name must not receive our clients."""
    (short / "run" / hashed_name(deep)).mkdir(mode=0o755)
    assert choose_socket(deep) == short / "tmp" / hashed_name(deep) / "store.sock"


def test_no_place_for_a_socket_is_explained(short: Path, deep: Path) -> None:
    """The message says for each place what is wrong with it."""
    for name in ("run", "tmp"):
        (short / name / hashed_name(deep)).symlink_to(short)
    with pytest.raises(StoreUnavailableError, match=r"longer than 100 bytes.*not private.*not private"):
        choose_socket(deep)


def test_the_published_place_is_kept(short: Path, deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner with another environment listens where the clients already look."""
    place = choose_socket(deep)
    write_file(deep / "address", f"{place}\n")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert choose_socket(deep) == published_socket(deep) == place == short / "run" / hashed_name(deep) / "store.sock"


def test_a_copied_data_folder_does_not_use_the_original_address(short: Path) -> None:
    """Starting a backup must not take the socket of the store it was copied from."""
    original, copy = open_folder(short / "original"), open_folder(short / "copy")
    write_file(copy / "address", f"{original / 'store.sock'}\n")
    assert published_socket(copy) is None
    assert choose_socket(copy) == copy / "store.sock"


def test_a_folder_open_to_others_is_closed(short: Path) -> None:
    """A folder made by hand gets the right mode."""
    (short / "store").mkdir(mode=0o755)
    assert is_private(open_folder(short))


def test_a_link_is_not_private(short: Path) -> None:
    """A link could be pointed elsewhere later."""
    (short / "link").symlink_to(short)
    assert is_private(short)
    assert not is_private(short / "link")


def test_a_lock_is_held_once(short: Path) -> None:
    """Two owners would write one file."""
    first = try_lock(short / "lock")
    assert first is not None
    assert try_lock(short / "lock") is None
    os.close(first)
    second = try_lock(short / "lock")
    assert second is not None
    os.close(second)


def test_a_file_system_without_locks_is_explained(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network disks can't lock; without locks the data would not be safe."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreUnavailableError, match=r"cannot lock files .*local disk"):
        try_lock(short / "lock")
