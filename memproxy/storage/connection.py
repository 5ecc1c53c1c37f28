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

from memproxy.errors import SettingsError, StoreError, StoreReadOnlyError, StoreUnavailableError
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
    exceptions.MasterDownError,
    TimeoutError,
    OSError,
)
"""Conditions that pass by themselves or when somebody acts; the command may be given again."""

TEMPORARY_REPLIES = ("BUSY", "LOADING", "UNKILLABLE")
"""First words of refusals of everything, for now."""


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
            return open_watched(url, **options)
        return Redis.from_pool(BlockingConnectionPool.from_url(url, **options))
    except ValueError as error:
        raise SettingsError(f"The setting redis_url can't be used: {error}") from error


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn redis-py's exceptions into `StoreError`s that say what was being done."""
    try:
        yield
    except READ_ONLY as error:
        raise StoreReadOnlyError(_no_writes(doing, error)) from error
    except TEMPORARY as error:
        reason = f"{type(error).__name__}: {error}"
        raise StoreUnavailableError(f"The store could not be used for {doing}: {reason}") from error
    except exceptions.RedisError as error:
        if str(error).startswith(READ_ONLY_REPLIES):
            raise StoreReadOnlyError(_no_writes(doing, error)) from error
        if str(error).startswith(TEMPORARY_REPLIES):
            raise StoreUnavailableError(f"The store does not take {doing} now: {error}") from error
        raise StoreError(f"The store refused {doing}: {type(error).__name__}: {error}") from error


def _no_writes(doing: str, error: exceptions.RedisError) -> str:
    return f"The store takes no writes now, so nothing comes of {doing}: {type(error).__name__}: {error}"
