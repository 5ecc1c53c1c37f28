"""Open the store, and say in memproxy's own words what went wrong with it.

Every command of the request path runs under a deadline that its caller sets; redis-py itself retries nothing here,
since a caller that is told early can go on without memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from memproxy.errors import StoreError, StoreUnavailableError

TEMPORARY = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
    exceptions.OutOfMemoryError,
    TimeoutError,
    OSError,
)
"""Conditions that pass by themselves or when somebody acts; the command may be given again."""

TEMPORARY_REPLIES = ("MISCONF", "BUSY", "LOADING", "READONLY", "OOM", "NOREPLICAS", "UNKILLABLE")
"""First words of refusals of the same kind that redis-py has no exception for, or that a script passes on."""


def open_redis(url: str, *, connect_timeout_s: float, max_connections: int) -> Redis:
    """A client for the store; nothing is sent yet. RESP2, because query replies change their shape under RESP3.

    With all connections in use a command waits for one, as long as its caller lets it: a burst is not an outage.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        timeout=None,
        protocol=2,
        decode_responses=False,
        socket_timeout=None,  # deadlines are the callers'; this one swallows cancellations on Python 3.11
        socket_connect_timeout=connect_timeout_s,
        max_connections=max_connections,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    return Redis.from_pool(pool)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn redis-py's exceptions into `StoreError`s that say what was being done."""
    try:
        yield
    except TEMPORARY as error:
        reason = f"{type(error).__name__}: {error}"
        raise StoreUnavailableError(f"The store could not be used for {doing}: {reason}") from error
    except exceptions.RedisError as error:
        if str(error).startswith(TEMPORARY_REPLIES):
            raise StoreUnavailableError(f"The store does not take {doing} now: {error}") from error
        raise StoreError(f"The store refused {doing}: {type(error).__name__}: {error}") from error
