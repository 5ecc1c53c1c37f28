"""A client for a Redis Cluster: it knows which node has which keys, and learns it anew when that changes.

    redis+cluster://[user:password@]host:port[,host:port...][?option=value&...]

`rediss+cluster://` speaks TLS. Any of the nodes will do as address, for the others are asked for; options are those of
an ordinary address. All keys of a user lie on one node (`schema`), so scripts and transactions find theirs together;
what goes to several users' keys is split here.

A node that dies costs its users their memory until its replica has taken over, and for as long as the cluster calls
itself down, everybody theirs.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.exceptions import ResponseError
from typing_extensions import override

from memproxy.storage.sentinel import address_parts

MARK = "+cluster"
DEFAULT_PORT = 6379

LOOK_S = 0.1
"""How often streams on several nodes are looked at for somebody who waits: a node can only wait for its own."""


def is_clustered(url: str) -> bool:
    """Whether this is an address of a cluster's nodes."""
    return urlsplit(url).scheme.endswith(MARK)


class ClusterClient(RedisCluster):
    """What memproxy asks of a store, asked of a cluster."""

    async def replies(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The replies in order, each node asked once; a command that is refused has its error as reply.

        Raises redis-py's exceptions when a node does not answer.
        """
        pipe: Any = self.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        found: list[Any] = await pipe.execute(raise_on_error=False)
        return found

    async def is_searchable(self) -> bool:
        """Whether the nodes' query engines search the whole cluster, and not each its own part of it."""
        await self.ping()
        try:
            await self.execute_command("SEARCH.CLUSTERINFO", target_nodes=self.get_default_node())
        except ResponseError:
            return False
        return True

    @override
    async def info(self, section: str | None = None, *args: str, **kwargs: Any) -> dict[str, Any]:
        """What that primary says of itself which is nearest to its memory limit: it refuses writes first."""
        sections = [each for each in (section, *args) if each]
        facts = await self.execute_command("INFO", *sections, target_nodes=self.PRIMARIES, **kwargs)
        several = list(facts.values()) if all(isinstance(each, dict) for each in facts.values()) else [facts]
        return max(several, key=_memory_share)

    @override
    async def xreadgroup(  # type: ignore[override]  # theirs has more parameters, which nobody gives
        self,
        groupname: str,
        consumername: str,
        streams: Mapping[str, str],
        count: int | None = None,
        block: int | None = None,
    ) -> list[Any]:
        """What is new in these streams; up to `block` milliseconds are waited for something, as one node would."""
        clock = asyncio.get_running_loop().time
        until = clock() + (block or 0) / 1000
        while True:
            pipe: Any = self.pipeline(transaction=False)
            for name, after in streams.items():
                pipe.xreadgroup(groupname, consumername, {name: after}, count=count)
            found = [stream for streams_of_one in await pipe.execute() for stream in streams_of_one or ()]
            left_s = until - clock()
            if found or left_s <= 0:
                return found
            await asyncio.sleep(min(LOOK_S, left_s))


def cluster_behind(redis: object) -> ClusterClient | None:
    """The client as what it is, where it is a cluster's; everybody else takes it for a store of one node."""
    return redis if isinstance(redis, ClusterClient) else None


def open_cluster(url: str, **options: Any) -> ClusterClient:
    """A client for the cluster that these nodes belong to; nothing is sent yet. Raises ValueError."""
    hosts, database, given = address_parts(url, mark=MARK, default_port=DEFAULT_PORT)
    if not hosts:
        raise ValueError("The address of the cluster names no node: redis+cluster://host:6379,host:6379")
    if database not in {"", "0"} or given.pop("db", 0):
        raise ValueError("A cluster has one database: the address may not name another one than 0.")
    if given.pop("connection_class", None) is SSLConnection:
        given["ssl"] = True
    nodes = [ClusterNode(host, port) for host, port in hosts]
    return ClusterClient(startup_nodes=nodes, **{**options, **given})


def _memory_share(facts: Mapping[str, Any]) -> float:
    limit = facts.get("maxmemory", 0)
    return float(facts.get("used_memory", 0)) / limit if limit else 0.0
