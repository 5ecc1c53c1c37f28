"""The doctor: each thing that keeps memproxy from serving is found, and what to do is said."""

import asyncio
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from memproxy.demo.scripted_model import ScriptedModel
from memproxy.doctor import Finding, Level, examine, judge_store, show
from memproxy.settings import Settings, settings_without_environment
from memproxy.storage.diagnosis import Diagnosis, StoreFacts
from tests.fakes.stores import cluster_processes, free_port, store_process

HEALTHY = Diagnosis(
    StoreFacts(
        version="8.2", role="master", memory_limit=0, memory_used=10, eviction="noeviction", is_appending=True,
        is_cluster=False,
    ),
    took_ms=0.3,
    refused={},
    search_problem="",
)  # fmt: skip


def failed(findings: list[Finding]) -> list[str]:
    return [finding.subject for finding in findings if finding.level is Level.FAILED]


async def test_all_is_well(redis_url: str) -> None:
    """An installation that can serve passes, and is told so."""
    async with ScriptedModel().serve() as upstream:
        findings = await examine(
            settings_without_environment({"redis_url": redis_url, "upstream_base_url": upstream.base_url})
        )
    assert failed(findings) == []
    console = Console(file=io.StringIO(), width=200)
    assert show(console, findings)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "Ready to serve." in text
    assert {"configuration", "embeddings", "store", "search", "upstream"} <= {each.subject for each in findings}


async def test_the_embedded_store_is_looked_at_where_no_redis_is_named(tmp_path: Path) -> None:
    """The default installation is examined like any other."""
    async with ScriptedModel().serve() as upstream:
        given = {"data_dir": tmp_path / "data", "upstream_base_url": upstream.base_url}
        findings = await examine(settings_without_environment(given))
    assert failed(findings) == []
    assert any("embedded in" in finding.text for finding in findings)


async def test_what_is_away_is_named_and_the_rest_is_still_looked_at() -> None:
    """One thing at a time is how installing takes a day."""
    nobody = free_port()
    given = {"redis_url": f"redis://127.0.0.1:{nobody}", "upstream_base_url": f"http://127.0.0.1:{nobody}/v1"}
    findings = await examine(settings_without_environment(given))
    assert failed(findings) == ["store", "upstream"]
    console = Console(file=io.StringIO(), width=200)
    assert not show(console, findings)
    assert "2 of" in console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


async def test_a_key_that_the_provider_refuses_is_told() -> None:
    """The commonest mistake, found before the first agent meets it."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as provider:
        address = f"http://127.0.0.1:{provider.sockets[0].getsockname()[1]}/v1"
        given = {"upstream_base_url": address, "upstream_api_key": "sk-wrong", "redis_url": "redis://127.0.0.1:1"}
        findings = await examine(settings_without_environment(given))
    assert "upstream" in failed(findings)
    assert any("MEMPROXY_UPSTREAM_API_KEY" in each.advice for each in findings)
    assert not any("sk-wrong" in each.text + each.advice for each in findings)


async def test_a_store_without_the_query_engine_fails(tmp_path: Path) -> None:
    """memproxy would refuse to start on it: better told here, with what to do."""
    with store_process(tmp_path, engine=False) as (port, _):
        findings = await examine(settings_for(f"redis://127.0.0.1:{port}"))
    told = next(each for each in findings if each.level is Level.FAILED and each.subject == "store")
    assert "query engine" in told.text


async def test_what_is_no_redis_is_called_so() -> None:
    """A wrong port is a commoner mistake than a Redis without modules."""
    async with ScriptedModel().serve() as other:
        findings = await examine(settings_for(f"redis://127.0.0.1:{other.port}"))
    told = [each.text for each in findings if each.level is Level.FAILED and each.subject == "store"]
    assert ["no Redis" in text for text in told] == [True]


async def test_a_cluster_serves_without_recall_and_one_of_its_nodes_is_no_store(tmp_path: Path) -> None:
    """What works is not called broken; who names a node alone learns how to name the cluster."""
    with cluster_processes(tmp_path) as nodes:
        whole = await examine(settings_for(f"redis+cluster://127.0.0.1:{nodes[0].port}"))
        part = await examine(settings_for(f"redis://127.0.0.1:{nodes[0].port}"))
    assert failed(whole) == ["upstream"]
    assert [each.level for each in whole if "Long-term memory is off" in each.text] == [Level.NOTE]
    assert any("redis+cluster://" in each.advice for each in part if each.level is Level.FAILED)


async def test_a_user_without_rights_fails(tmp_path: Path) -> None:
    """What a least-privilege user lacks is named by what it is needed for."""
    rights = ("--user", "app", "on", ">secret", "~mp:*", "+@all", "-@scripting")
    with store_process(tmp_path, *rights) as (port, _):
        findings = await examine(settings_for(f"redis://app:secret@127.0.0.1:{port}"))
    told = [each for each in findings if each.level is Level.FAILED and each.subject == "store"]
    assert any("EVAL" in each.text and "right" in each.advice for each in told)
    assert not any("secret" in each.text for each in findings)


def settings_for(redis_url: str) -> Settings:
    return settings_without_environment({"redis_url": redis_url, "upstream_base_url": "http://127.0.0.1:1/v1"})


def test_the_command_tells_by_its_exit_code(tmp_path: Path) -> None:
    """An init container or a deployment script reads no tables."""
    command = [sys.executable, "-m", "memproxy", "doctor", "--redis-url", "redis://127.0.0.1:1"]
    run = subprocess.run(
        [*command, "--upstream", "http://127.0.0.1:1/v1"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert run.returncode == 1
    assert "failed" in run.stdout
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("facts", "level", "word"),
    [
        ({"role": "slave"}, Level.FAILED, "replica"),
        ({"eviction": "allkeys-lru", "memory_limit": 100}, Level.FAILED, "throw memories away"),
        ({"memory_limit": 10}, Level.NOTE, "100 %"),
        ({"is_appending": False}, Level.NOTE, "append-only"),
    ],
)
def test_what_may_lose_memories_is_said(facts: dict[str, object], level: Level, word: str) -> None:
    """Each with what to do about it."""
    found = replace(HEALTHY, facts=replace(HEALTHY.facts, **facts))  # type: ignore[arg-type]  # fields by name
    told = [each for each in judge_store(found, where="there", is_own=False) if word in each.text]
    assert [(each.level, bool(each.advice)) for each in told] == [(level, True)]


def test_a_healthy_store_has_no_advice() -> None:
    """No noise."""
    assert not any(each.advice for each in judge_store(HEALTHY, where="there", is_own=False))
    assert any("50 ms" in each.text for each in judge_store(replace(HEALTHY, took_ms=50), where="x", is_own=False))
