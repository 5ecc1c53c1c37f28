"""Whatever is sent to the memory API: never an internal error, and never a memory that was not asked for.

One tenant's memories have owners, labels and times that are made to be mistaken for each other, or for a query's own
syntax. Another tenant has the very same under its own ids. What a filter finds is compared with what it says.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.serving import Serve

NAMES = (
    "alice",
    "ali",
    "alice,bob",
    "bob",
    "al*",
    "a|b",
    "@user:{x}",
    "-",
    "NONE",
    "ALICE",
    "ß",
    "日本",
    'q"q',
    "a\\b",
)
LABELS = ("tea", "TEA", "tea, green", "tea|wine", "*", "{tea}", "ﬁ", "İ", "te")
TYPES = ("semantic", "episodic", "message")
MINE, THEIRS = {"Authorization": "Bearer sk-mine"}, {"Authorization": "Bearer sk-theirs"}
LONG_TERM = "/v1/long-term-memory"


@dataclass(frozen=True, slots=True)
class World:
    """A memproxy with memories of two tenants, and those of the one who asks."""

    http: httpx.Client
    """Of a thread: hypothesis makes its examples there, while the server serves."""
    memories: dict[str, dict[str, Any]]

    def found(self, body: dict[str, Any], headers: dict[str, str] = MINE) -> set[str]:
        """The ids that a search finds."""
        answer = self.http.post(f"{LONG_TERM}/search", json={"limit": 100, **body}, headers=headers)
        assert answer.status_code == 200, answer.text
        return {memory["id"] for memory in answer.json()["memories"]}


def memories() -> list[dict[str, Any]]:
    """Each name as a user, a namespace and a session, each label as a topic and an entity."""
    made = []
    for number, name in enumerate([*NAMES, *NAMES, None, None]):
        other = NAMES[(number * 5) % len(NAMES)] if number % 3 else None
        given_ = {
            "id": f"id-{number}",
            "text": f"Statement {number} about tea and @user:{{wine}}",
            "user_id": name,
            "namespace": other,
            "session_id": name if number % 2 else other,
            "topics": list(LABELS[number % 4 : number % 4 + number % 3]),
            "entities": [LABELS[number % len(LABELS)]],
            "memory_type": TYPES[number % 3],
            "created_at": f"2024-01-{number + 1:02d}T00:00:00Z",
            "extraction_strategy": "custom" if number % 5 == 0 else "discrete",
        }
        made.append({key: value for key, value in given_.items() if value is not None})
    return made


@asynccontextmanager
async def a_world(serve: Serve) -> AsyncIterator[World]:
    """A memproxy with these memories, for each of two tenants."""
    async with serve(tenancy="key") as served:
        with httpx.Client(base_url=served.origin, timeout=30) as http:
            mine = memories()
            theirs = [{**memory, "id": f"their-{memory['id']}"} for memory in mine]
            for headers, records in ((MINE, mine), (THEIRS, theirs)):
                body = {"memories": records, "deduplicate": False}
                answer = await asyncio.to_thread(http.post, LONG_TERM, json=body, headers=headers)
                assert answer.status_code == 200, answer.text
            yield World(http, {memory["id"]: memory for memory in mine})


# ---- what a filter says, once more in plain Python ----


def passes(memory: dict[str, Any], name: str, one: dict[str, Any]) -> bool:
    """Whether a memory passes one filter."""
    value = memory.get(name)
    if name == "created_at":
        return _is_within(value, one)
    has = value if isinstance(value, list) else [] if value is None else [value]
    fold = str.casefold if name in {"topics", "entities"} else str
    has = [fold(each) for each in has]
    tests = {
        "eq": lambda given_: fold(given_) in has,
        "ne": lambda given_: fold(given_) not in has,
        "not_eq": lambda given_: fold(given_) not in has,
        "any": lambda given_: any(fold(each) in has for each in given_),
        "in": lambda given_: any(fold(each) in has for each in given_),
        "in_": lambda given_: any(fold(each) in has for each in given_),
        "all": lambda given_: all(fold(each) in has for each in given_),
        "none": lambda given_: not any(fold(each) in has for each in given_),
        "not_in": lambda given_: not any(fold(each) in has for each in given_),
        "startswith": lambda given_: any(each.startswith(fold(given_)) for each in has),
    }
    return all(tests[test](given_) for test, given_ in one.items())


def _is_within(value: Any, one: dict[str, Any]) -> bool:
    tests = {
        "eq": lambda given_: value == given_,
        "ne": lambda given_: value != given_,
        "gt": lambda given_: value > given_,
        "gte": lambda given_: value >= given_,
        "lt": lambda given_: value < given_,
        "lte": lambda given_: value <= given_,
        "between": lambda given_: given_[0] <= value <= given_[1],
    }
    return all(tests[test](given_) for test, given_ in one.items())


def tag_filter(values: st.SearchStrategy[str], *, begins: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    """A filter with one or two operators."""
    some = st.lists(values, min_size=1, max_size=3)
    operators: dict[str, st.SearchStrategy[Any]] = {
        "eq": values, "ne": values, "not_eq": values, "any": some, "in": some, "in_": some, "all": some,
        "none": some, "not_in": some,
    }  # fmt: skip
    if begins:
        operators["startswith"] = values
    pairs = st.sampled_from(sorted(operators)).flatmap(lambda name: st.tuples(st.just(name), operators[name]))
    return st.lists(pairs, min_size=1, max_size=2).map(dict).filter(lambda one: not {"in", "in_"} <= one.keys())


DAYS = st.integers(1, 31).map(lambda day: f"2024-01-{day:02d}T00:00:00Z")
TIME_FILTER = st.dictionaries(st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), DAYS, min_size=1, max_size=2) | (
    st.tuples(DAYS, DAYS).map(lambda ends: {"between": sorted(ends)})
)
BY_NAME: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "user_id": tag_filter(st.sampled_from(NAMES)),
    "namespace": tag_filter(st.sampled_from(NAMES)),
    "session_id": tag_filter(st.sampled_from(NAMES)),
    "topics": tag_filter(st.sampled_from(LABELS)),
    "entities": tag_filter(st.sampled_from(LABELS)),
    "memory_type": tag_filter(st.sampled_from(TYPES), begins=False),
    "extraction_strategy": tag_filter(st.sampled_from(["custom", "discrete", "summary"])),
    "created_at": TIME_FILTER,
}
FILTERS = st.lists(st.sampled_from(sorted(BY_NAME)), max_size=2, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: BY_NAME[name] for name in names})
)
"""At most two at once: with more, hardly anything passes, and a rule that is lost would not be seen."""


async def test_a_filter_finds_exactly_what_it_says(serve: Serve) -> None:
    """Of one's own tenant, and whatever characters names and labels have."""
    async with a_world(serve) as world:

        @given(filters=FILTERS)
        @settings(max_examples=150, deadline=None)
        def check(filters: dict[str, Any]) -> None:
            expected = {
                memory_id
                for memory_id, memory in world.memories.items()
                if all(passes(memory, name, one) for name, one in filters.items())
            }
            assert world.found(filters) == expected
            assert world.found({"text": "tea wine", "search_mode": "semantic", **filters}) == expected

        await asyncio.to_thread(check)


async def test_no_text_reaches_beyond_the_filter(serve: Serve) -> None:
    """Words of a query are words, whatever they look like to a query engine."""
    texts = st.text(max_size=30) | st.sampled_from([*NAMES, '"tea wine" | *', "@tenant:{*}", "-tea", "~(a|b)=>{$x: 1}"])
    async with a_world(serve) as world:

        @given(filters=FILTERS, text=texts, mode=st.sampled_from([None, "keyword", "hybrid", "semantic"]))
        @settings(max_examples=100, deadline=None)
        def check(filters: dict[str, Any], text: str, mode: str | None) -> None:
            for memory_id in world.found({"text": text, "search_mode": mode, **filters}):
                memory = world.memories[memory_id]
                assert all(passes(memory, name, one) for name, one in filters.items())

        await asyncio.to_thread(check)


# ---- anything at all ----

FIELDS = (
    "id", "text", "memories", "messages", "role", "content", "user_id", "namespace", "session_id", "topics", "entities",
    "memory_type", "created_at", "event_date", "metadata", "policy", "max_age_days", "budget", "limit", "offset",
    "search_mode", "distance_threshold", "hybrid_alpha", "eq", "any", "all", "none", "gte", "between", "startswith",
    "field", "query", "session", "long_term_search", "data", "context", "tokens", "ttl_seconds", "group_by", "source",
    "filters", "group", "pinned", "pinned_ids", "deduplicate", "recency_boost", "long_term_memory_strategy", "strategy",
    "config", "last_accessed", "extraction_strategy", "model_name", "prompt", "name", "time_window_days",
)  # fmt: skip
ODD = st.sampled_from(
    [
        "", " ", "\x00", "\ud800", "\U0001f600", "a\u0301", "../../..", "*", "@user:{*}", "'; DROP", "1e400", "%00",
        "x" * 5_000, "2024-13-45", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "true", "semantic",
        "id-1", "alice", "2024-01-01", "long_term", "user",
    ]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | ODD | st.text(max_size=20) | st.integers() | st.integers(-(10**400), 10**400)
VALUES = st.recursive(
    SCALARS | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=20,
)
BODIES = st.one_of(
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8).map(lambda body: json.dumps(body).encode()),
    VALUES.map(lambda body: json.dumps(body).encode()),
    st.binary(max_size=50),
    st.integers(1, 2_000).map(lambda depth: b'{"metadata":' * depth + b"1" + b"}" * depth),
    st.just(b'{"memories":[{"id":"1","text":"x","metadata":{"n":1e999}}]}'),
)
PATHS = st.sampled_from(
    [
        LONG_TERM, f"{LONG_TERM}/", f"{LONG_TERM}/search", f"{LONG_TERM}/forget", f"{LONG_TERM}/compact", "/v1/health",
        f"{LONG_TERM}/id-1", f"{LONG_TERM}/%00", f"{LONG_TERM}/%FF%FE", f"{LONG_TERM}/a%2F..%2Fb", "/v1/memory/prompt",
        "/v1/working-memory", "/v1/working-memory/", "/v1/working-memory/s", "/v1/working-memory/%00",
        "/v1/summary-views", "/v1/summary-views/x", "/v1/summary-views/x/run", "/v1/summary-views/x/partitions",
        "/v1/summary-views/x/partitions/run", "/v1/tasks/x", "/v1/tasks/", "/u/bob/v1/long-term-memory/search",
        "/n/%00/v1/long-term-memory/search", "/u//v1/health",
    ]
)  # fmt: skip
QUERIES = st.dictionaries(
    st.sampled_from(
        ["memory_ids", "user_id", "namespace", "session_id", "limit", "offset", "dry_run", "optimize_query", "other",
         "model_name", "context_window_max", "recent_messages_limit", "memory_type"]
    ),
    SCALARS.map(lambda value: str(value).encode("utf-8", "replace").decode()),
    max_size=4,
)  # fmt: skip


METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])


async def test_nothing_that_is_sent_is_an_internal_error(serve: Serve) -> None:
    """And whatever it does, it does to its own tenant."""
    async with a_world(serve) as world:

        @given(method=METHODS, path=PATHS, query=QUERIES, body=BODIES)
        @settings(max_examples=300, deadline=None)
        def check(method: str, path: str, query: dict[str, str], body: bytes) -> None:
            answer = world.http.request(method, path, params=query, content=body, headers=MINE)
            assert answer.status_code < 500, (method, path, query, body, answer.text)
            assert "their-" not in answer.text
            if answer.status_code >= 400 and method != "HEAD":
                assert isinstance(answer.json()["detail"], str | list)
            assert len(world.found({}, THEIRS)) == len(world.memories)

        await asyncio.to_thread(check)
