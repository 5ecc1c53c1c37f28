"""A cluster behind the same door: what goes to several nodes is split, and comes back in order. Real servers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime

import pytest
from redis.asyncio import Redis

from memproxy.errors import SettingsError, StoreUnavailableError, StoreUnfitError
from memproxy.records import Scope
from memproxy.storage.cluster import ClusterClient, cluster_behind, is_clustered
from memproxy.storage.connection import open_redis, translated
from memproxy.storage.leases import Leases
from memproxy.storage.pipelined import Pipelined
from memproxy.storage.query_engine import missing_in_cluster, require_query_engine
from memproxy.storage.queue import TurnQueue
from memproxy.storage.schema import partition_of, partitions
from memproxy.storage.session_summaries import SessionSummaries
from memproxy.storage.spent_tokens import SpentTokens
from memproxy.storage.summary_views import SummaryView, SummaryViewStore
from tests.fakes.learning import stored, turn_of
from tests.fakes.stores import Node, cluster_processes
from tests.fakes.talks import TALK, talk, write

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

USERS = [Scope("tenant", f"user-{number}") for number in range(40)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    with cluster_processes(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
async def cluster(nodes: list[Node]) -> AsyncIterator[Redis]:
    redis = open_redis(f"redis+cluster://127.0.0.1:{nodes[0].port}", connect_timeout_s=5, max_connections=20)
    await redis.flushall()
    yield redis
    await redis.aclose()


async def test_turns_of_all_partitions_come_and_go(cluster: Redis) -> None:
    """A worker reads what lies on every node, as it does on one."""
    queue = TurnQueue(cluster)
    await queue.ensure_groups()
    for number, scope in enumerate(USERS):
        await queue.add(turn_of(stored("user", "Hello."), scope=scope, id=f"t{number}"))
    assert len({partition_of(scope) for scope in USERS}) > 10
    claimed = await queue.claim("one", queue.partitions, count=1_000, block_s=1)
    assert {each.turn.id for each in claimed} == {f"t{number}" for number in range(len(USERS))}
    assert len(await queue.begin("one", claimed)) == len(USERS)
    assert len(await queue.finish("one", claimed)) == len(USERS)
    depth = await queue.depth()
    assert (depth.waiting, depth.pending) == (0, 0)


async def test_who_waits_for_a_turn_gets_it_when_it_comes(cluster: Redis) -> None:
    """No node can wait for all of them; whoever looks must not look past what comes meanwhile."""
    queue = TurnQueue(cluster)
    await queue.ensure_groups()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(queue.claim("one", queue.partitions, count=10, block_s=20))
        await asyncio.sleep(0)
        await queue.add(turn_of(stored("user", "Hello."), scope=USERS[0], id="late"))
    assert [each.turn.id for each in waiting.result()] == ["late"]
    assert await queue.claim("one", queue.partitions, count=10, block_s=0.05) == []


async def test_leases_lie_on_all_nodes(cluster: Redis) -> None:
    """Two workers share the users of a cluster as those of one store."""
    one, other = (Leases(cluster, stage="turns", worker=name) for name in ("one", "other"))
    assert (await one.beat()).workers == ("one",)
    assert await one.take(partitions()[:8]) == set(partitions()[:8])
    assert await other.free() == set(partitions()[8:])
    assert await other.take(partitions()) == set(partitions()[8:])


async def test_replies_come_in_the_order_of_the_commands(cluster: Redis) -> None:
    """Nobody may be given what is another's because it lies on another node."""
    commands = Pipelined(cluster)
    keys = [f"mp:check:{partition}" for partition in partitions()]
    await commands.ask([["SET", key, key, "PX", 5_000] for key in keys])
    assert await commands.ask([["GET", key] for key in keys]) == [key.encode() for key in keys]


async def test_transactions_stay_with_one_user(cluster: Redis) -> None:
    """What is read or written in one step lies on one node."""
    await write(cluster, talk(4))
    state = await SessionSummaries(cluster).read(TALK)
    assert state is not None
    assert len(state.index) == 4
    spent = SpentTokens(cluster)
    assert [await spent.add("tenant", date(2026, 3, 1), 5) for _ in range(2)] == [5, 10]
    views = SummaryViewStore(cluster)
    assert await views.add("tenant", SummaryView("v", NOON), due=NOON)
    assert await views.delete("tenant", "v")
    assert await views.views("tenant") == []


async def test_the_fullest_node_speaks_for_the_memory_of_all(cluster: Redis, nodes: list[Node]) -> None:
    """What is queued is thinned out before the first node refuses writes, not after the average one does."""
    async with Redis(port=nodes[2].port) as full:
        await full.config_set("maxmemory", "1gb")
        try:
            assert (await cluster.info("memory"))["maxmemory"] == 2**30
        finally:
            await full.config_set("maxmemory", "0")


async def test_no_query_engine_is_told_of_a_cluster_and_refused_of_a_node(cluster: Redis, nodes: list[Node]) -> None:
    """The cluster serves without recall; whoever names one node alone would have a third of the users."""
    assert "Long-term memory is off" in await missing_in_cluster(cluster)
    async with open_redis(f"redis://127.0.0.1:{nodes[0].port}", connect_timeout_s=5, max_connections=2) as node:
        assert await missing_in_cluster(node) == ""
        with pytest.raises(StoreUnfitError, match=r"redis\+cluster://"):
            await require_query_engine(node)


async def test_a_store_of_one_node_is_no_cluster(redis: Redis, redis_url: str) -> None:
    """The client of an ordinary store is asked as it always was."""
    assert cluster_behind(redis) is None
    assert not is_clustered(redis_url)


async def test_a_cluster_that_is_away_is_away_for_now() -> None:
    """It may be started later; until then requests go on without memory."""
    redis = open_redis("redis+cluster://127.0.0.1:1", connect_timeout_s=1, max_connections=2)
    with pytest.raises(StoreUnavailableError), translated("asking"):
        await redis.ping()
    await redis.aclose()


@pytest.mark.parametrize("url", ["redis+cluster://", "redis+cluster://h:1/2", "redis+cluster://u:secret@h:port"])
def test_a_wrong_address_is_told_at_start(url: str) -> None:
    """With what is wrong about it, and without the password."""
    with pytest.raises(SettingsError, match="redis_url") as told:
        _ = open_redis(url, connect_timeout_s=1, max_connections=1)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "hosts", "login", "is_secure"),
    [
        ("redis+cluster://a,b:7000", ["a:6379", "b:7000"], (None, None), False),
        ("rediss+cluster://app:p%40ss@[::1]:7001/0?ssl_ca_certs=/ca.crt", ["::1:7001"], ("app", "p@ss"), True),
    ],
)
def test_an_address_names_nodes_and_options(
    url: str, hosts: list[str], login: tuple[str | None, str | None], is_secure: bool
) -> None:
    """As with every other form: several hosts, user, password, TLS."""
    client = cluster_behind(open_redis(url, connect_timeout_s=1, max_connections=1))
    assert isinstance(client, ClusterClient)
    assert [node.name for node in client.startup_nodes] == hosts
    given = client.connection_kwargs
    assert (given["username"], given["password"]) == login
    assert given.get("ssl_ca_certs") == ("/ca.crt" if is_secure else None)
