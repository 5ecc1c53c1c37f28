"""Open the store, and say in memproxy's own words what went wrong with it.

Every command of the request path runs under a deadline that its caller sets; redis-py itself retries nothing here,
since a caller that is told early can go on without memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from memproxy.errors import SettingsError, StoreError, StoreReadOnlyError, StoreUnavailableError, StoreUnfitError
from memproxy.storage.cluster import is_clustered, open_cluster
from memproxy.storage.sentinel import is_watched, open_watched

READ_ONLY = (exceptions.OutOfMemoryError, exceptions.ReadOnlyError)
"""Writes are refused for now; reads go on."""

READ_ONLY_REPLIES = ("MISCONF", "READONLY", "OOM", "NOREPLICAS")
"""First words of refusals of the same kind that redis-py has no exception for, or that a script passes on."""

TEMPORARY = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    exceptions.ClusterError,
    exceptions.SlotNotCoveredError,
    exceptions.MasterDownError,
    TimeoutError,
    OSError,
)
"""Conditions that pass by themselves or when somebody acts; the command may be given again."""

TEMPORARY_REPLIES = (
    "BUSY",
    "LOADING",
    "UNKILLABLE",
    "Redis Cluster cannot be connected",
    "All slots are not covered",
    "startup_nodes could not agree",
)
"""First words of refusals of everything, for now, or of what redis-py says then."""

UNFIT = {
    "Cluster mode is not enabled": "This is no Redis Cluster: its address begins with redis://, not redis+cluster://.",
    "unknown command": "It is no Redis with all that memproxy needs.",
}
"""What redis-py or the store says of a store that will never do, and what that means."""


def open_redis(url: str, *, connect_timeout_s: float, max_connections: int) -> Redis:
    """A client for the store; nothing is sent yet. RESP2, because query replies change their shape under RESP3.

    With all connections in use a command waits for one, as long as its caller lets it: a burst is not an outage.
    Raises `SettingsError` for an address that can't be read.
    """
    options = {
        "timeout": None,
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": None,  # deadlines are the callers'; this one swallows cancellations on Python 3.11
        "socket_connect_timeout": connect_timeout_s,
        "max_connections": max_connections,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }
    try:
        if is_watched(url):
            watched = open_watched(url, **options)
            watched.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's gap
            return watched
        if is_clustered(url):
            del options["timeout"]  # its connections are not waited for
            return cast("Redis", open_cluster(url, **options))  # the same commands, in another class
        pool = BlockingConnectionPool.from_url(url, **options)
        pool.make_connection()  # type: ignore[no-untyped-call]  # connects nothing, but takes no unknown option
        return Redis.from_pool(pool)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"The setting redis_url can't be used: {_told(error)}") from error


def _told(error: ValueError | TypeError) -> str:
    _, is_unknown, option = str(error).partition("unexpected keyword argument ")
    return f"It has the option {option}, which there isn't." if is_unknown else str(error)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn redis-py's exceptions into `StoreError`s that say what was being done."""
    try:
        yield
    except READ_ONLY as error:
        raise StoreReadOnlyError(_no_writes(doing, error)) from error
    except exceptions.InvalidResponse as error:
        raise StoreUnfitError(
            f"What answers at the store's address is no Redis. It gave for {doing}: {type(error).__name__}: {error}"
        ) from error
    except TEMPORARY as error:
        _raise_if_unfit(doing, error)
        reason = f"{type(error).__name__}: {error}"
        raise StoreUnavailableError(f"The store could not be used for {doing}: {reason}") from error
    except (exceptions.RedisError, exceptions.RedisClusterException) as error:
        _raise_if_unfit(doing, error)
        if str(error).startswith(READ_ONLY_REPLIES):
            raise StoreReadOnlyError(_no_writes(doing, error)) from error
        if str(error).startswith(TEMPORARY_REPLIES):
            raise StoreUnavailableError(f"The store does not take {doing} now: {error}") from error
        raise StoreError(f"The store refused {doing}: {type(error).__name__}: {error}") from error


def _raise_if_unfit(doing: str, error: Exception) -> None:
    text, _, _ = str(error).partition(", with args")  # which may quote what a client sent
    for sign, meaning in UNFIT.items():
        if sign in text:
            raise StoreUnfitError(f"The store can't be used for {doing} ({text}). {meaning}") from error


def _no_writes(doing: str, error: Exception) -> str:
    return f"The store takes no writes now, so nothing comes of {doing}: {type(error).__name__}: {error}"
