"""Tell the memory API's paths from the model provider's, both under `/v1`. Pure, and asked for every request."""

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

IDENTITY_SEGMENTS = frozenset({b"u/", b"s/", b"n/"})
"""What may stand before `/v1`; see `identity`."""

RESOURCES = frozenset({b"health", b"working-memory", b"long-term-memory", b"memory", b"summary-views", b"tasks"})
"""The segments after `/v1` that are agent-memory-server's; of `memory`, only `memory/prompt`."""


@dataclass(frozen=True, slots=True)
class ApiPath:
    """A path of the memory API, taken apart."""

    identity: bytes
    """What stood before the resource, with `/v1` at its end: `/u/alice/v1`. Raw."""
    path: bytes
    """From `/v1` on, without an identity and without doubled slashes before the resource. Raw."""


def api_path(raw_path: bytes) -> ApiPath | None:
    """The path taken apart, if it is one of the memory API's; None for all that are the provider's."""
    rest = raw_path.lstrip(b"/")
    while rest[:2] in IDENTITY_SEGMENTS:
        rest = rest[2:].partition(b"/")[2].lstrip(b"/")
    if not rest.startswith(b"v1/"):
        return None
    identity = raw_path[: len(raw_path) - len(rest) + 2]
    resource = rest[3:].lstrip(b"/")
    first, _, below = resource.partition(b"/")
    if first not in RESOURCES or (first == b"memory" and below.partition(b"/")[0] != b"prompt"):
        return None
    return ApiPath(identity, b"/v1/" + resource)


def ids_in(path: bytes, *, below: str) -> list[str]:
    """What an id at the end of a path may be, the likelier first: `/v1/tasks/a%20b` below `tasks` gives `a b`, `a%20b`.

    Ids come from clients and may hold slashes, and agent-memory-client puts them into its paths as they are: what looks
    like an escape may be one, or a part of the id. `path` is raw and begins with `/v1`.
    """
    raw = path.removeprefix(b"/v1/" + below.encode() + b"/").removesuffix(b"/")
    decoded = (unquote_to_bytes(raw).decode("utf-8", "replace"), raw.decode("utf-8", "replace"))
    return list(dict.fromkeys(decoded))
