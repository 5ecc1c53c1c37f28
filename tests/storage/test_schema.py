"""Keys: different parts never meet in one, nothing of a client's can be read in one, and a user's stay together."""

import re
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.records import Scope, SessionKey
from memproxy.storage import schema

quick = settings(max_examples=150, deadline=None)

parts = st.lists(st.none() | st.text(max_size=6) | st.sampled_from(["", "-", "1:a", "0:", "1:a1:b", ":"]), max_size=4)


@quick
@given(parts, parts)
def test_different_parts_are_encoded_differently(one: list[str | None], other: list[str | None]) -> None:
    """No user can choose a name that is read as another user in another namespace."""
    assert (schema.encode_parts(one) == schema.encode_parts(other)) == (one == other)
    assert (schema.digest_of(*one) == schema.digest_of(*other)) == (one == other)


def test_names_that_look_like_several_parts_are_one() -> None:
    """Separators in names are no separators."""
    tricky = [None, "", "a", "b", "a1:b", "a:b", "1:a", "-", "a\0b", "a ", "\ud800"]
    keys = {
        schema.session_key("s", SessionKey(Scope(tenant, user, namespace), session, thread))
        for tenant, user, namespace, session, thread in product(
            ["", "a", "1:a"], tricky, [None, "", "a"], ["", "a1:b"], ["", "a"]
        )
    }
    assert len(keys) == 3 * len(tricky) * 3 * 2 * 2


def test_all_keys_of_a_user_lie_on_one_shard() -> None:
    """One script may touch a session, its chain and its queue, also on a cluster."""
    for user in ("ann", "bob", None):
        scope = Scope("tenant", user, "shop")
        key = SessionKey(scope, "one", "thread")
        keys = [
            *(schema.session_key(kind, key) for kind in ("s", "log", "idx", "pin", "sys")),
            schema.chain_key(scope, None, "c"),
            schema.chain_key(scope, "one", "c"),
            schema.queue_key(schema.partition_of(scope)),
            schema.dead_key(schema.partition_of(scope)),
            schema.memory_key(scope, "m"),
            schema.memory_key(Scope("tenant", user), "m"),
        ]
        assert len({re.findall(r"\{(\w+)\}", key)[0] for key in keys}) == 1
        assert len(set(keys)) == len(keys)


def test_users_are_spread_over_all_partitions() -> None:
    """Load goes to every shard and every worker."""
    found = {schema.partition_of(Scope("tenant", f"user-{number}")) for number in range(500)}
    assert found == set(schema.partitions())
    assert len(schema.partitions()) == schema.PARTITIONS


def test_nothing_that_a_client_sent_is_readable_in_a_key() -> None:
    """Names are personal data, and key names end up in logs."""
    scope = Scope("tenant", "alice@example.com", "alices-shop")
    made = [
        schema.session_key("s", SessionKey(scope, "about-alice", "alices-thread")),
        schema.chain_key(scope, "about-alice", "chain"),
        schema.receipt_key("alice-tenant", "mpr-1"),
        schema.memory_key(scope, "alice-1"),
        schema.done_key(scope, "alices-turn"),
    ]
    assert not [key for key in made if "alice" in key]
    assert all(re.fullmatch(r"(mp:[a-z]+:\{p\d\d\}:)?[0-9a-f]{32}", key) for key in made)


def test_a_named_and_an_unnamed_conversation_never_share_a_chain() -> None:
    """A conversation is found again under the name it was led under, or under none."""
    scope = Scope("tenant", "ann")
    assert len({schema.chain_key(scope, name, "c") for name in (None, "", "one")}) == 3
    assert schema.chain_key(scope, None, "c") != schema.chain_key(Scope("other", "ann"), None, "c")


def test_receipts_belong_to_their_tenant() -> None:
    """A request id is no secret; whoever has one still needs the credential."""
    assert schema.receipt_key("one", "mpr-1") != schema.receipt_key("two", "mpr-1")


def test_tool_results_are_shared_with_nobody_else() -> None:
    """A session, a user and a tenant have their own results each; a stranger without a name has only the session's."""
    keys = [
        schema.tool_key(SessionKey(Scope(tenant, user, namespace), session), shared_by)
        for tenant, user, namespace, session in product("ab", ["ann", None], ["shop", None], ["one", "two"])
        for shared_by in ("session", "user", "tenant")
    ]
    of_sessions, of_users, of_tenants = 16, 4, 4
    assert len(set(keys)) == of_sessions + of_users + of_tenants
    stranger = SessionKey(Scope("a", None), "one")
    assert schema.tool_key(stranger, "user") == schema.tool_key(stranger)
