"""A client for a Redis that Sentinels watch: it asks them who the primary is, and asks again when that changes.

    redis+sentinel://[user:password@]host:port[,host:port...]/service[/db][?option=value&...]

`rediss+sentinel://` speaks TLS, to the Sentinels too. Options are those of an ordinary address (`ssl_ca_certs`, ...);
`sentinel_username` and `sentinel_password` are the Sentinels' own, since theirs are seldom the store's.

After a fail-over a connection to the old primary either breaks or is told READONLY; both end it, and the next one goes
where the Sentinels point.
"""

from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from typing_extensions import override

MARK = "+sentinel"
DEFAULT_PORT = 26_379
OWN_OPTIONS = ("sentinel_username", "sentinel_password")


class WaitingPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the primary; with all of them in use a command waits for one."""

    @override
    async def aclose(self) -> None:
        """Close the connections to the store, and those to the Sentinels."""
        await super().aclose()
        await self.sentinel_manager.aclose()


def is_watched(url: str) -> bool:
    """Whether this is an address of Sentinels."""
    return urlsplit(url).scheme.endswith(MARK)


def problem_of(url: str) -> str:
    """What is wrong with an address of Sentinels; empty when nothing is."""
    try:
        hosts, service, _ = address_parts(url, mark=MARK, default_port=DEFAULT_PORT)
    except ValueError as error:
        return str(error)
    if not hosts:
        return "names no Sentinel: redis+sentinel://host:26379,host:26379/service"
    return "" if service else "names no service behind the hosts: redis+sentinel://host:26379/service"


def open_watched(url: str, **options: Any) -> Redis:
    """A client for the primary of the service that the address names; nothing is sent yet.

    Raises ValueError where `problem_of` finds something.
    """
    if problem := problem_of(url):
        raise ValueError(f"The address of the Sentinels {problem}.")
    hosts, service, given = address_parts(url, mark=MARK, default_port=DEFAULT_PORT)
    own = {name.removeprefix("sentinel_"): given.pop(name) for name in OWN_OPTIONS if name in given}
    connection_class = given.pop("connection_class", None)
    secured = {"ssl": True} if connection_class is not None else {}
    reach = {name: value for name, value in {**options, **given}.items() if name.startswith(("socket_", "ssl_"))}
    kept = {**reach, **secured, **own, "retry": options.get("retry")}
    sentinels = Sentinel(hosts, sentinel_kwargs=kept)  # type: ignore[no-untyped-call]  # redis-py's gap
    pool = WaitingPool(service, sentinels, **{**options, **given, **secured})  # type: ignore[no-untyped-call]  # its gap
    return Redis.from_pool(pool)


def address_parts(url: str, *, mark: str, default_port: int) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """Hosts with ports, what stands first behind them, and options as redis-py takes them. Raises ValueError."""
    split = urlsplit(url)
    credentials, _, addresses = split.netloc.rpartition("@")
    service, _, database = split.path.strip("/").partition("/")
    scheme = split.scheme.removesuffix(mark)
    ordinary = f"{scheme}://{credentials}{'@' if credentials else ''}host/{database}?{split.query}"
    given: dict[str, Any] = dict(parse_url(ordinary))
    given.pop("host", None)
    hosts = [_address(one, default_port=default_port) for one in addresses.split(",") if one]
    return hosts, unquote(service), given


def _address(text: str, *, default_port: int) -> tuple[str, int]:
    """One host and port; an IPv6 address stands in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text.strip("[]"), default_port
    if not port.isdigit():
        raise ValueError(f"has a port that is no number: {text}")
    return host.strip("[]"), int(port)
