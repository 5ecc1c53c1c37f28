"""The search index over memories: its fields, and the queries that are sent to it. Pure.

One index for all tenants. A tag is made of two parts: 16 digits that stand for the tenant, and the value's bytes in
hexadecimal. So no query reaches another tenant, nothing that a client sent can mean anything to a query parser, and
values that begin alike are found by their beginning. What has no value has `_` in its place. A value of more than
`PLAIN_BYTES` bytes is its beginning, a `g`, and a digest of the whole; no shorter value has a `g`.

Who has a memory stands in it twice: as user and namespace, for code that asks across them, and as one tag for both,
`scope`, for the proxy, which asks for exactly one user and namespace: one tag instead of two halves the time of a
search in a large store. A memory that holds no longer has no scope.

The vector field carries the embedding model in its name: another model's vectors live in another field, under another
index, over the same documents. `made` says for which version and model a document was made.

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
- A tag of more than 4,096 characters is cut when it is stored and never found.
- A query that takes longer than the engine's own limit, 0.5 s, gives what it has, and does not say so. Searches that
  may read everything set their own.
- A beginning stands for at most MAXPREFIXEXPANSIONS values, 200 by default: the embedded store sets it higher.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from redisvl.schema import IndexSchema  # type: ignore[import-untyped]  # redisvl ships no types

from memproxy.errors import InvalidInputError
from memproxy.records import MemoryType, Scope
from memproxy.storage import schema
from memproxy.storage.memory_filter import Filter, Rule, TagField, TagRule, TagTest, TimeField, TimeRule

VERSION = 3
"""Raised when the fields or their terms change: documents of another version are made anew in the background."""

NAME_PREFIX = "memproxy-memories-"

TEXT_WEIGHT = 3
CONTEXT_WEIGHT = 1
"""What stands in a memory counts three times as much as what stood around it; measured best among 1:1 to 4:1."""

PLAIN_BYTES = 1_000
"""Of a value that stand in its tag; 2,049 characters then, half of what the engine takes."""

TIMEOUT_MS = 30_000
"""How long a search may take that reads everything; callers have deadlines of their own."""

MOST_RESULTS = 1_000_000
"""How far the engine reads a ranked list, by default."""

NO_VALUE = "_"
UNKNOWN = "unknown"
NOTHING = f"@tenant:{{{UNKNOWN}}}"
"""Finds nothing: every memory has a tenant, of 16 digits."""

CARRYING_TENANT = frozenset(TagField) - {TagField.TYPE}

ALWAYS_THERE = frozenset({TimeField.CREATED_AT, TimeField.LAST_ACCESSED})

Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Made:
    """What the documents of one embedding model are made for."""

    model: str
    dims: int

    @property
    def index_name(self) -> str:
        """The index for vectors of this model; different models never share one."""
        return f"{NAME_PREFIX}{VERSION}-{_plain(self.model)}-{self.dims}-{self._digest}"

    @property
    def vector_field(self) -> str:
        """The document field that holds this model's vector."""
        return f"vector_{self._digest}"

    @property
    def mark(self) -> str:
        """The value of `made` in every document of this version and model."""
        return f"{VERSION}{self._digest}"

    @property
    def vector_mark(self) -> str:
        """The second value of `made`, where the document has a vector."""
        return f"{self.mark}v"

    @property
    def _digest(self) -> str:
        return schema.digest_of("model", self.model, str(self.dims))[:12]


def index_schema(made: Made) -> IndexSchema:
    """The index as redisvl creates it. FLAT: exact, and faster than HNSW for queries that name one user."""
    tag = {"separator": ",", "case_sensitive": True}
    tags = ("tenant", "scope", *(field.value for field in TagField), "pinned", "superseded", "made")
    fields = [
        *({"name": name, "type": "tag", "attrs": tag} for name in tags),
        *({"name": field.value, "type": "numeric", "attrs": {"sortable": True}} for field in TimeField),
        {"name": "text", "type": "text", "attrs": {"no_stem": True, "weight": TEXT_WEIGHT}},
        {"name": "ctx", "type": "text", "attrs": {"no_stem": True, "weight": CONTEXT_WEIGHT}},
        {
            "name": made.vector_field,
            "type": "vector",
            "attrs": {"algorithm": "flat", "dims": made.dims, "datatype": "float32", "distance_metric": "cosine"},
        },
    ]
    index = {"name": made.index_name, "prefix": schema.MEMORY_PREFIX, "stopwords": []}
    return IndexSchema.from_dict({"index": index, "fields": fields})


def tenant_tag(tenant: str) -> str:
    """What every tag of this tenant begins with."""
    return schema.digest_of("tenant", tenant)[:16]


def scope_tag(scope: Scope) -> str:
    """The value of `scope`: exactly this user and namespace."""
    return schema.digest_of("scope", scope.tenant, scope.user, scope.namespace)


def tag(below: str, field: TagField, value: str | None) -> str:
    """What stands for a value in the index; `below` is its tenant's `tenant_tag`."""
    if value is None:
        return below + NO_VALUE
    raw = _bytes_of(field, value)
    if len(raw) <= PLAIN_BYTES:
        return below + raw.hex()
    whole = hashlib.blake2b(raw, digest_size=16).hexdigest()
    return f"{below}{raw[:PLAIN_BYTES].hex()}g{whole}"


def tags(below: str, field: TagField, values: Iterable[str]) -> str:
    """What stands for several values of one memory, or for none."""
    return ",".join(dict.fromkeys(tag(below, field, value) for value in values)) or below + NO_VALUE


def moment(at: datetime) -> str:
    """A time as the index has it: seconds since 1970."""
    return f"{at.timestamp():.6f}"


def selection(tenant: str, where: Filter) -> str:
    """The query for everything of this tenant that passes the filter; adds nothing to a score."""
    below = tenant_tag(tenant)
    scope, rules = (None, where.rules) if where.superseded else _one_scope(tenant, where.rules)
    clauses = [_clause(below, rule) for rule in rules]
    if scope is not None:
        clauses.insert(0, _any_tag("scope", [scope_tag(scope)]))
    elif not any(_names_tenant(rule) for rule in rules):
        clauses.insert(0, _any_tag("tenant", [below]))
    if not where.superseded and scope is None:
        clauses.append("-@superseded:{1}")
    if where.pinned is not None:
        clauses.append(f"{'' if where.pinned else '-'}@pinned:{{1|1}}" + ("=>{$weight: 0}" if where.pinned else ""))
    return " ".join(filter(None, clauses))


def everything_of_user(scope: Scope) -> str:
    """The query for all memories of this user, in every namespace, also those that version 1 wrote."""
    as_version_1 = schema.digest_of("user", scope.tenant, scope.user)
    return _any_tag("user", [tag(tenant_tag(scope.tenant), TagField.USER, scope.user), as_version_1])


def made_otherwise(made: Made) -> str:
    """The query for documents of another version or model, whoever they belong to."""
    return f"-@made:{{{made.mark}}}"


def with_vector_or_term(selected: str, made: Made, terms: Sequence[str]) -> str:
    """The query for all that a search by meaning and words can rank."""
    return f"{selected} ({'|'.join([f'@made:{{{made.vector_mark}}}', *terms])})=>{{$weight: 0}}"


def with_phrases(selected: str, phrases: Iterable[Sequence[str]]) -> str:
    """The query for what has each of these rows of terms in its text."""
    clauses = [f'(@text:("{" ".join(phrase)}"))=>{{$weight: 0}}' for phrase in phrases]
    return " ".join([selected, *clauses])


def text_search(
    index: str, selected: str, terms: Sequence[str], *, limit: int, keys: Sequence[str] = (), patient: bool = False
) -> list[Argument]:
    """`FT.SEARCH` for the best `limit` by BM25; `terms` not empty. The reply is read by `read_scores`.

    `keys`: only these documents, with the scores that they have among all. `patient`: it may read everything.
    """
    union = "|".join(terms if len(terms) > 1 else [*terms, *terms])
    optional = " ".join(f"~{term}" for term in terms)
    query = f"{selected} ({union})=>{{$weight: 0}} {optional}"
    order: list[Argument] = ["VERBATIM", "SCORER", "BM25STD", "WITHSCORES", "NOCONTENT"]
    limits = [*_only(keys), *_timeout(patient)]
    return ["FT.SEARCH", index, query, *order, *limits, "LIMIT", 0, limit, "DIALECT", 2]


def vector_search(
    index: str,
    selected: str,
    vector: bytes,
    *,
    field: str,
    nearest: int,
    limit: int,
    keys: Sequence[str] = (),
    patient: bool = False,
) -> list[Argument]:
    """`FT.SEARCH` for the nearest `limit` by cosine, which counts up to `nearest`. Read by `read_distances`.

    Distances come as sort keys, which is the only way to have them without any content. `keys`, `patient`: see
    `text_search`.
    """
    query = f"({selected})=>[KNN {nearest} @{field} $vector AS distance]"
    order: list[Argument] = ["SORTBY", "distance", "WITHSORTKEYS", "NOCONTENT"]
    limits = [*_only(keys), *_timeout(patient)]
    return ["FT.SEARCH", index, query, "PARAMS", 2, "vector", vector, *order, *limits, "LIMIT", 0, limit, "DIALECT", 2]


def listing(index: str, selected: str, *, offset: int, limit: int, newest_first: bool = True) -> list[Argument]:
    """`FT.SEARCH` in the order of creation. The reply is read by `read_page`."""
    order: list[Argument] = ["SORTBY", "created_at", "DESC" if newest_first else "ASC", "WITHSORTKEYS", "NOCONTENT"]
    return ["FT.SEARCH", index, selected, *order, *_timeout(True), "LIMIT", offset, limit, "DIALECT", 2]


def some(index: str, selected: str, *, limit: int, offset: int = 0) -> list[Argument]:
    """`FT.SEARCH` for any so many; with a limit of 0, to count. The reply is read by `read_keys`."""
    return ["FT.SEARCH", index, selected, "NOCONTENT", *_timeout(True), "LIMIT", offset, limit, "DIALECT", 2]


def one_of_each_scope(index: str, selected: str) -> list[Argument]:
    """`FT.AGGREGATE` for the key of one memory of each scope, the last value of each row."""
    load: list[Argument] = ["LOAD", 2, "@scope", "@__key"]
    group: list[Argument] = ["GROUPBY", 1, "@scope", "REDUCE", "FIRST_VALUE", 1, "@__key", "AS", "first"]
    return ["FT.AGGREGATE", index, selected, *load, *group, *_timeout(True), "DIALECT", 2]


def read_scores(reply: list[bytes]) -> dict[str, float]:
    """Key to BM25 score, best first."""
    return dict(zip(map(bytes.decode, reply[1::2]), map(float, reply[2::2]), strict=True))


def read_distances(reply: list[bytes]) -> dict[str, float]:
    """Key to cosine similarity, best first. A sort key is the distance behind a `#`."""
    cosines = [1.0 - float(distance[1:]) for distance in reply[2::2]]
    return dict(zip(map(bytes.decode, reply[1::2]), cosines, strict=True))


def read_keys(reply: list[bytes]) -> tuple[int, list[str]]:
    """How many there are in all, and the keys of this page."""
    return int(reply[0]), [key.decode() for key in reply[1:]]


def read_page(reply: list[bytes]) -> tuple[int, list[tuple[str, bytes]]]:
    """How many there are in all, and of this page the keys and what they were sorted by."""
    return int(reply[0]), [(key.decode(), by) for key, by in zip(reply[1::2], reply[2::2], strict=True)]


def _one_scope(tenant: str, rules: Sequence[Rule]) -> tuple[Scope | None, Sequence[Rule]]:
    """The one user and namespace that the rules ask for, and the other rules."""
    single = {
        rule.field: rule
        for rule in rules
        if isinstance(rule, TagRule) and rule.test is TagTest.ANY and len(rule.values) == 1
    }
    user, namespace = single.get(TagField.USER), single.get(TagField.NAMESPACE)
    if user is None or namespace is None:
        return None, rules
    others = [rule for rule in rules if rule is not user and rule is not namespace]
    return Scope(tenant, user.values[0], namespace.values[0]), others


def _names_tenant(rule: Rule) -> bool:
    """Whether nothing of another tenant can pass the rule."""
    if not isinstance(rule, TagRule) or rule.field not in CARRYING_TENANT:
        return False
    return rule.test in {TagTest.ANY, TagTest.STARTSWITH} or (rule.test is TagTest.ALL and bool(rule.values))


def _clause(below: str, rule: Rule) -> str:
    if isinstance(rule, TimeRule):
        return _span(rule)
    name = rule.field.value
    if rule.test is TagTest.STARTSWITH:
        return _beginnings(below, rule)
    if rule.field is TagField.TYPE:
        wanted = [value if value in set(MemoryType) else UNKNOWN for value in rule.values]
    else:
        wanted = [tag(below, rule.field, value) for value in rule.values]
    match rule.test:
        case TagTest.ANY:
            return _any_tag(name, wanted) if wanted else NOTHING
        case TagTest.ALL:
            return " ".join(_any_tag(name, [each]) for each in wanted)
        case TagTest.NONE:
            return f"-@{name}:{{{'|'.join(wanted)}}}" if wanted else ""


def _beginnings(below: str, rule: TagRule) -> str:
    name = rule.field.value
    beginnings = [value for value in rule.values if value is not None]
    if rule.field is TagField.TYPE:
        wanted = [kind.value for kind in MemoryType if kind.value.startswith(tuple(beginnings))]
        return _any_tag(name, wanted) if wanted else NOTHING
    if "" in beginnings:  # whatever there is
        return f"{_any_tag(name, [below + '*'])} -@{name}:{{{below}{NO_VALUE}}}"
    wanted = [below + _beginning(rule.field, value) + "*" for value in beginnings]
    return _any_tag(name, wanted) if wanted else NOTHING


def _beginning(field: TagField, value: str) -> str:
    raw = _bytes_of(field, value)
    if len(raw) > PLAIN_BYTES:
        raise InvalidInputError(f"A beginning to search for has at most {PLAIN_BYTES} bytes; this one has {len(raw)}.")
    return raw.hex()


def _bytes_of(field: TagField, value: str) -> bytes:
    return (value.casefold() if field.ignores_case else value).encode("utf-8", "surrogatepass")


def _any_tag(field: str, wanted: Sequence[str]) -> str:
    twice = [*wanted, *wanted] if len(wanted) == 1 else wanted
    return f"@{field}:{{{'|'.join(twice)}}}=>{{$weight: 0}}"


def _span(rule: TimeRule) -> str:
    if rule.field in ALWAYS_THERE and rule.first is rule.last is None and not rule.excluded:
        return ""
    low = "-inf" if rule.first is None else ("" if rule.first_counts else "(") + moment(rule.first)
    high = "+inf" if rule.last is None else ("" if rule.last_counts else "(") + moment(rule.last)
    return f"{'-' if rule.excluded else ''}@{rule.field.value}:[{low} {high}]"


def _timeout(patient: bool) -> list[Argument]:
    return ["TIMEOUT", TIMEOUT_MS] if patient else []


def _only(keys: Sequence[str]) -> list[Argument]:
    return ["INKEYS", len(keys), *keys] if keys else []


def _plain(model: str) -> str:
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in model)[:40]
