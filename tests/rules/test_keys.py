"""Every key of the store is documented, has one author, and ends some time unless it is meant to stay."""

import ast
import re
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from memproxy.records import Pin, Scope, SessionKey, StoredMessage
from memproxy.storage import schema
from memproxy.storage.working import NewTurn, Receipt, SessionStore
from tests.rules.source import PACKAGE, modules

HOUR_S = 3_600.0

_ROW = re.compile(r"^\| `(?P<kind>\w+)` \| (?P<type>[\w, ]+) \| (?P<holds>[^|]+) \| (?P<ttl>[^|]+) \|$", re.MULTILINE)
_LITERAL = re.compile(r"mp:([a-z]+)(?=[:\"'])")

DOCUMENTED = {found["kind"]: found["ttl"].strip() for found in _ROW.finditer(schema.__doc__ or "")}
"""The table in the docstring of `storage/schema`: kind to time to live."""


def test_the_table_is_read() -> None:
    """The other tests here would be content with an empty table."""
    assert {"s", "log", "m", "q"} <= DOCUMENTED.keys()


def test_what_stays_is_said_to_stay() -> None:
    """`PERMANENT` and the table are one decision."""
    permanent = {kind for kind, ttl in DOCUMENTED.items() if ttl.startswith("permanent")}
    assert permanent == schema.PERMANENT


def test_every_kind_in_the_code_is_documented() -> None:
    """Who looks at a store can tell what each key is."""
    sources = [module.text for module in modules()] + [path.read_text("utf-8") for path in PACKAGE.rglob("*.lua")]
    literal = {kind for text in sources for kind in _LITERAL.findall(text)}
    called = {
        node.args[0].value
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"key", "schema.key", "schema.session_key"}
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    assert literal | called <= DOCUMENTED.keys()


def test_keys_are_made_in_one_place() -> None:
    """A key that somebody puts together elsewhere is one that erasing a user would miss."""
    authors = {module.file for module in modules() if re.search(r"f[\"']mp:", module.text)}
    assert authors == {"memproxy/storage/schema.py"}


@pytest.fixture(params=["alice", None], ids=["a user", "no user"])
def user(request: pytest.FixtureRequest) -> str | None:
    """Whose keys are written."""
    name: str | None = request.param
    return name


@pytest.fixture(params=["chat-1", None], ids=["named", "unnamed"])
async def written(request: pytest.FixtureRequest, user: str | None, redis: Redis) -> dict[str, int]:
    """The time to live in ms (-1: none) of every key that a session's turn leaves, by key.

    Named sessions are kept for an hour here: by default they are kept for good.
    """
    scope, named = Scope("tenant", user), request.param
    sessions = SessionStore(redis, named_ttl_s=HOUR_S if named else 0, unnamed_ttl_s=HOUR_S, receipt_ttl_s=HOUR_S)
    key = SessionKey(scope, named or "conv-1")
    assert await sessions.record(a_turn(key, is_named=named is not None))
    await sessions.keep_instructions(key, raw=b"[]", is_named=named is not None)
    await sessions.put_receipt(Receipt(scope.tenant, "mpr-1", b"{}"))
    await sessions.secret(b"secret")
    names: list[bytes] = await redis.keys("*")  # type: ignore[assignment]  # the client gives bytes
    return {name.decode(): await redis.pttl(name) for name in names}


def a_turn(key: SessionKey, *, is_named: bool) -> NewTurn:
    """A turn that writes every key a turn can write."""
    message = StoredMessage({"role": "user", "content": "hi"}, digest="0" * 32, tokens=1, at=datetime.now(UTC))
    return NewTurn(
        key=key,
        turn_id="turn",
        expected_length=0,
        keep=0,
        messages=(message,),
        flags=(0,),
        facts={"session": key.session},
        pins={0: Pin("block")},
        queued=b"{}",
        chain="chain",
        is_named=is_named,
    )


def test_every_key_expires_or_is_meant_to_stay(written: dict[str, int]) -> None:
    """A store that nobody looks after does not fill up with what nobody asks for again."""
    kinds = {name.split(":")[1] for name in written}
    assert kinds == {"s", "log", "idx", "pin", "sys", "card", "c", "r", "q", "secret"}
    forever = {name.split(":")[1] for name, ttl_ms in written.items() if ttl_ms < 0}
    assert forever == kinds & schema.PERMANENT


def test_keys_show_nothing_of_whom_they_belong_to(written: dict[str, int]) -> None:
    """Names of users and sessions do not turn up in the store's logs and statistics."""
    assert not [name for name in written for part in ("alice", "chat-1", "tenant") if part in name]
