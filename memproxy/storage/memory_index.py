"""The search index over memories: its fields, and the queries that are sent to it. Pure.

One index for all tenants. Every query names the user and the namespace by digests, so nothing that a client sent stands
in a query; terms are letters, marks and digits only (`memproxy.words`). The vector field carries the embedding model in
its name: another model's vectors live in another field, under another index, over the same documents.

What the query engine must not be sent, measured on RediSearch 2.10.5:

- `@user:{u} (a|b)` alone scores wrongly: after a jump to the user's next document the union counts only its first
  matching term. So the union only selects (`$weight: 0`), and every term scores by itself as an optional one.
- A tag is scored like a word, by its rarity, and until RediSearch clamped it in late 2025 (MOD-12223) whatever nearly
  every document has got an immense one as soon as some documents had been deleted or replaced: with the default
  namespace as a second tag, recall@10 fell from 0.78 to 0.64. So tags weigh 0. Only a union can, which is why a single
  tag, or a single term, stands twice. A word that nearly every memory has suffers until the engine has collected its
  waste: have it do so soon (FORK_GC_CLEAN_THRESHOLD 1), and never replace a document by itself.
- A stop word inside a parenthesis crashes the server: the index has no stop words, and terms hold none.
- Dialect 4 together with scores crashes it too: dialect 2.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from redisvl.schema import IndexSchema  # type: ignore[import-untyped]  # redisvl ships no types

from memproxy.records import MemoryType, Scope
from memproxy.storage import schema

VERSION = 1
"""Raised when the fields change: an index of another version stays beside until it is dropped."""

TEXT_WEIGHT = 3
CONTEXT_WEIGHT = 1
"""What stands in a memory counts three times as much as what stood around it; measured best among 1:1 to 4:1."""

Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which of a user's memories to consider; an empty part restricts nothing, several values mean any of them."""

    sessions: tuple[str, ...] = ()
    excluded_sessions: tuple[str, ...] = ()
    types: tuple[MemoryType, ...] = ()
    topics: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    created_from: datetime | None = None
    """The first moment that counts."""
    created_until: datetime | None = None
    """The last moment that counts."""


def index_name(model: str, dims: int) -> str:
    """The index for vectors of this model; different models never share one."""
    return f"memproxy-memories-{VERSION}-{_plain(model)}-{dims}-{_model_digest(model, dims)}"


def vector_field(model: str, dims: int) -> str:
    """The document field that holds this model's vector."""
    return f"vector_{_model_digest(model, dims)}"


def index_schema(model: str, dims: int) -> IndexSchema:
    """The index as redisvl creates it. FLAT: exact, and faster than HNSW for queries that name one user."""
    tag = {"separator": ",", "case_sensitive": True}
    fields = [
        *({"name": name, "type": "tag", "attrs": tag} for name in ("user", "namespace", "session", "type")),
        *({"name": name, "type": "tag", "attrs": tag} for name in ("topics", "entities")),
        {"name": "text", "type": "text", "attrs": {"no_stem": True, "weight": TEXT_WEIGHT}},
        {"name": "ctx", "type": "text", "attrs": {"no_stem": True, "weight": CONTEXT_WEIGHT}},
        {"name": "created_at", "type": "numeric", "attrs": {"sortable": True}},
        {
            "name": vector_field(model, dims),
            "type": "vector",
            "attrs": {"algorithm": "flat", "dims": dims, "datatype": "float32", "distance_metric": "cosine"},
        },
    ]
    index = {"name": index_name(model, dims), "prefix": schema.MEMORY_PREFIX, "stopwords": []}
    return IndexSchema.from_dict({"index": index, "fields": fields})


def label_tag(kind: Literal["topic", "entity"], scope: Scope, label: str) -> str:
    """The value that stands for a topic or an entity in the index; case does not count."""
    return schema.digest_of(kind, scope.tenant, label.casefold())


def selection(scope: Scope, where: Filter) -> str:
    """The query for everything of this user in this namespace that passes the filter; adds nothing to a score."""
    clauses = [
        _any_of("user", [schema.user_tag(scope)]),
        _any_of("namespace", [schema.namespace_tag(scope)]),
        _any_of("session", [schema.session_tag(scope, session) for session in where.sessions]),
        _any_of("type", [kind.value for kind in where.types]),
        _any_of("topics", [label_tag("topic", scope, topic) for topic in where.topics]),
        _any_of("entities", [label_tag("entity", scope, entity) for entity in where.entities]),
        _none_of("session", [schema.session_tag(scope, session) for session in where.excluded_sessions]),
        _between("created_at", where.created_from, where.created_until),
    ]
    return " ".join(filter(None, clauses))


def everything_of_user(scope: Scope) -> str:
    """The query for all memories of this user, in every namespace."""
    return _any_of("user", [schema.user_tag(scope)])


def text_search(index: str, selected: str, terms: Sequence[str], *, limit: int) -> list[Argument]:
    """`FT.SEARCH` for the best `limit` by BM25; `terms` not empty. The reply is read by `read_scores`."""
    union = "|".join(terms if len(terms) > 1 else [*terms, *terms])
    optional = " ".join(f"~{term}" for term in terms)
    query = f"{selected} ({union})=>{{$weight: 0}} {optional}"
    order: list[Argument] = ["VERBATIM", "SCORER", "BM25STD", "WITHSCORES", "NOCONTENT"]
    return ["FT.SEARCH", index, query, *order, "LIMIT", 0, limit, "DIALECT", 2]


def vector_search(index: str, selected: str, vector: bytes, *, field: str, nearest: int, limit: int) -> list[Argument]:
    """`FT.SEARCH` for the nearest `limit` by cosine, which counts up to `nearest`. Read by `read_distances`.

    Distances come as sort keys, which is the only way to have them without any content.
    """
    query = f"({selected})=>[KNN {nearest} @{field} $vector AS distance]"
    order: list[Argument] = ["SORTBY", "distance", "WITHSORTKEYS", "NOCONTENT"]
    return ["FT.SEARCH", index, query, "PARAMS", 2, "vector", vector, *order, "LIMIT", 0, limit, "DIALECT", 2]


def listing(index: str, selected: str, *, offset: int, limit: int) -> list[Argument]:
    """`FT.SEARCH` for the newest memories first. The reply is read by `read_keys`."""
    order: list[Argument] = ["SORTBY", "created_at", "DESC", "NOCONTENT"]
    return ["FT.SEARCH", index, selected, *order, "LIMIT", offset, limit, "DIALECT", 2]


def read_scores(reply: list[bytes]) -> dict[str, float]:
    """Key to BM25 score, best first."""
    return {key.decode(): float(score) for key, score in zip(reply[1::2], reply[2::2], strict=True)}


def read_distances(reply: list[bytes]) -> dict[str, float]:
    """Key to cosine similarity, best first. A sort key is the distance behind a `#`."""
    return {key.decode(): 1.0 - float(distance[1:]) for key, distance in zip(reply[1::2], reply[2::2], strict=True)}


def read_keys(reply: list[bytes]) -> tuple[int, list[str]]:
    """How many there are in all, and the keys of this page."""
    return int(reply[0]), [key.decode() for key in reply[1:]]


def _any_of(field: str, tags: list[str]) -> str:
    if not tags:
        return ""
    twice = tags * 2 if len(tags) == 1 else tags
    return f"@{field}:{{{'|'.join(twice)}}}=>{{$weight: 0}}"


def _none_of(field: str, tags: list[str]) -> str:
    return f"-@{field}:{{{'|'.join(tags)}}}" if tags else ""


def _between(field: str, first: datetime | None, last: datetime | None) -> str:
    if first is None and last is None:
        return ""
    low = "-inf" if first is None else repr(first.timestamp())
    high = "+inf" if last is None else repr(last.timestamp())
    return f"@{field}:[{low} {high}]"


def _plain(model: str) -> str:
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in model)[:40]


def _model_digest(model: str, dims: int) -> str:
    return schema.digest_of("model", model, str(dims))[:12]


def tags_of(scope: Scope, kind: Literal["topic", "entity"], labels: Iterable[str]) -> str:
    """The value of a document's `topics` or `entities` field."""
    return ",".join(dict.fromkeys(label_tag(kind, scope, label) for label in labels))
