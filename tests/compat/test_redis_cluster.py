"""A Redis Cluster as store: what needs no query engine works on it, and what does says so."""

import logging
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from tests.compat.test_store_forms import serving
from tests.fakes.serving import Served, until
from tests.fakes.stores import cluster_processes

USERS = [f"user-{number}" for number in range(12)]
"""Enough to have keys on each node."""


async def say(served: Served, words: str, user: str) -> str:
    """The newest message of a session that each user has; what memproxy left out."""
    async with served.openai(f"/u/{user}/s/one/v1") as client:
        answer = await client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": words}]
        )
    assert answer.status_code == 200
    return answer.headers.get("x-memproxy-degraded", "")


def told(served: Served) -> list[str]:
    """What the model was shown last."""
    return [message["content"] for message in served.model.requests[-1].messages]


async def test_sessions_receipts_and_the_queue_live_on_all_nodes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has a cluster gets histories that are kept, nothing that waits for ever, and is told what is missing."""
    with cluster_processes(tmp_path) as nodes, caplog.at_level(logging.WARNING):
        async with serving(f"redis+cluster://127.0.0.1:{nodes[0].port}") as served:
            for user in USERS:
                assert await say(served, f"I am {user}.", user) == ""
            await served.settled()
            for user in USERS:
                assert await say(served, "Who am I?", user) == ""
                assert told(served) == [f"I am {user}.", f"You said: I am {user}.", "Who am I?"]
            await served.settled()
        async with RedisCluster(host="127.0.0.1", port=nodes[0].port) as cluster:
            sizes = [await cluster.dbsize(target_nodes=node) for node in cluster.get_primaries()]
    assert all(sizes)
    assert len([record for record in caplog.records if "Long-term memory is off" in record.message]) == 1
    assert "Traceback" not in caplog.text
    assert "given up" not in caplog.text


async def test_code_is_told_which_part_of_memory_is_missing(tmp_path: Path) -> None:
    """Sessions can be written and read over REST; a search is refused with the reason, and not as an outage."""
    with cluster_processes(tmp_path) as nodes:
        async with (
            serving(f"redis+cluster://127.0.0.1:{nodes[1].port}") as served,
            httpx.AsyncClient(base_url=f"{served.origin}/u/ann", verify=False) as http,
        ):
            session = {"messages": [{"role": "user", "content": "I like tea."}]}
            assert (await http.put("/v1/working-memory/talk", json=session)).status_code == 200
            read = await http.get("/v1/working-memory/talk")
            assert [message["content"] for message in read.json()["messages"]] == ["I like tea."]
            refused = [
                await http.post("/v1/long-term-memory/search", json={"text": "tea"}),
                await http.post("/v1/long-term-memory/", json={"memories": [{"id": "a", "text": "Ann likes tea."}]}),
                await http.get("/v1/working-memory/"),
            ]
            assert [answer.status_code for answer in refused] == [501, 501, 501]
            assert "query engine" in refused[0].json()["detail"]
            await served.settled()


@pytest.mark.timeout(120)
async def test_the_death_of_a_node_fails_no_request_and_loses_no_turn(tmp_path: Path) -> None:
    """Its replica takes over: until then users go on without memory, and afterwards nothing is missing or twice."""
    with cluster_processes(tmp_path, replicas=1) as nodes:
        addresses = ",".join(f"127.0.0.1:{node.port}" for node in nodes[:3])
        async with serving(f"redis+cluster://{addresses}") as served:
            for user in USERS:
                assert await say(served, "number 0", user) == ""
            await served.settled()
            await until(lambda: _is_copied(nodes[0].port, nodes[3].port))
            nodes[0].process.kill()
            degraded, number = [], 0
            while number < 4 or not await _is_primary(nodes[3].port):
                number += 1
                degraded += [await say(served, f"number {number}", user) for user in USERS]
            assert any(degraded)
            await until(served.instance.is_quiet)
            for user in USERS:
                assert await say(served, "the last", user) == ""
                said = [words for words in told(served) if words.startswith("number")]
                assert said == [f"number {at}" for at in range(number + 1)]


async def _is_copied(primary: int, replica: int) -> bool:
    async with Redis(port=primary) as one, Redis(port=replica) as other:
        ahead, behind = await one.info("replication"), await other.info("replication")
    return bool(ahead["master_repl_offset"] == behind["slave_repl_offset"])


async def _is_primary(port: int) -> bool:
    async with Redis(port=port) as redis:
        return bool((await redis.info("replication"))["role"] == "master")
