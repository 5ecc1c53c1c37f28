"""What the store is and whether it takes what memproxy needs, for people who set it up."""

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from memproxy.errors import StoreError
from memproxy.storage import schema
from memproxy.storage.cluster import cluster_behind
from memproxy.storage.connection import open_redis, translated
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.query_engine import missing_in_cluster, require_query_engine

CHECK_TTL_MS = 10_000


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """How the store describes itself."""

    version: str
    role: str
    """`master`, or `slave` for a replica."""
    memory_limit: int
    """Bytes; 0 is none."""
    memory_used: int
    eviction: str
    """`maxmemory-policy`."""
    is_appending: bool
    """It keeps an append-only file."""
    is_cluster: bool
    """It is a node of a Redis Cluster."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found. `refused`: what the store does not let us do, with its own words."""

    facts: StoreFacts
    took_ms: float
    """For one answer."""
    refused: dict[str, str]
    search_problem: str
    """Why memories can't be searched; empty when they can."""
    is_asked_as_cluster: bool = False
    """It is asked as a cluster, so whichever node has something is found."""
    has_recall_off: bool = False
    """memproxy serves without searching: it is a cluster."""


async def diagnose(url: str, *, connect_timeout_s: float, model: str, dims: int) -> Diagnosis:
    """Ask the store about itself, and try on it what requests and workers do. Raises `StoreError` if it is away."""
    async with aclosing(open_redis(url, connect_timeout_s=connect_timeout_s, max_connections=2)) as redis:
        with translated("asking whether it is there"):
            await redis.ping()
        began = time.perf_counter()
        facts = await _read_facts(redis)
        took_ms = (time.perf_counter() - began) * 1000
        missing = await missing_in_cluster(redis)
        forbidden = await _refused(redis, searches=not missing)
        problem = missing or ("" if forbidden else await _search_problem(redis, model=model, dims=dims))
        return Diagnosis(
            facts,
            took_ms,
            forbidden,
            problem,
            is_asked_as_cluster=cluster_behind(redis) is not None,
            has_recall_off=bool(missing),
        )


async def _read_facts(redis: Redis) -> StoreFacts:
    with translated("asking the store about itself"):
        info: dict[str, Any] = await redis.info()
    return StoreFacts(
        version=str(info.get("valkey_version") or info.get("redis_version", "")),
        role=str(info.get("role", "")),
        memory_limit=int(info.get("maxmemory", 0)),
        memory_used=int(info.get("used_memory", 0)),
        eviction=str(info.get("maxmemory_policy", "")),
        is_appending=bool(info.get("aof_enabled")),
        is_cluster=bool(info.get("cluster_enabled")),
    )


async def _refused(redis: Redis, *, searches: bool) -> dict[str, str]:
    """Tries what requests and workers do, on keys that are gone after ten seconds."""
    send: Any = redis.execute_command
    key, stream = f"{schema.CHECK_PREFIX}value", f"{schema.CHECK_PREFIX}stream"
    write = "redis.call('SET', KEYS[1], '1'); return redis.call('PEXPIRE', KEYS[1], ARGV[1])"
    attempts: dict[str, Callable[[], Awaitable[Any]]] = {
        "scripts that write (EVAL, SET, PEXPIRE)": lambda: send("EVAL", write, 1, key, CHECK_TTL_MS),
        "streams (XADD)": lambda: send("XADD", stream, "*", "a", "b"),
        "times to live (PEXPIRE)": lambda: send("PEXPIRE", stream, CHECK_TTL_MS),
    }
    if searches:
        attempts["the query engine (FT._LIST)"] = lambda: send("FT._LIST")
    failed = {}
    for name, attempt in attempts.items():
        try:
            with translated(name):
                await attempt()
        except StoreError as error:
            failed[name] = str(error.__cause__ or error)
    return failed


async def _search_problem(redis: Redis, *, model: str, dims: int) -> str:
    try:
        await require_query_engine(redis)
        await LongTermStore(redis, model=model, dims=dims).ensure_index()
    except StoreError as error:
        return str(error)
    return ""
