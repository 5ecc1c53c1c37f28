"""Who is calling, from paths, headers and bodies as clients send them; and who must never be taken for another."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.errors import BadIdentityError
from memproxy.identity import (
    MAX_LENGTH,
    SINGLE_TENANT,
    Claims,
    Tenants,
    checked,
    credential_of,
    read_claims,
    scope_of,
    split_path,
)
from memproxy.records import Scope

quick = settings(max_examples=150, deadline=None)

UUID = "0198c1f2-7a3b-7c4d-8e5f-0123456789ab"


def claims(
    headers: dict[str, str] | None = None,
    path: dict[str, str] | None = None,
    body: Any = None,
    *,
    default_user: str | None = None,
) -> Claims:
    return read_claims(headers or {}, path or {}, body or {}, default_user=default_user)


# Paths


@pytest.mark.parametrize(
    ("path", "told", "rest"),
    [
        (b"/v1/models", {}, b"/models"),
        (b"/models", {}, b"/models"),
        (b"/v1", {}, b"/"),
        (b"/v1/", {}, b"/"),
        (b"/v11/models", {}, b"/v11/models"),
        (b"/", {}, b"/"),
        (b"", {}, b"/"),
        (b"/u/alice/v1/chat/completions", {"user": "alice"}, b"/chat/completions"),
        (b"/u/alice", {"user": "alice"}, b"/"),
        (b"/u", {}, b"/u"),
        (b"/v1/u/alice", {}, b"/u/alice"),
        (b"/s/one/n/shop/u/alice/v1/models/", {"session": "one", "namespace": "shop", "user": "alice"}, b"/models/"),
        (b"/u/alice/models", {"user": "alice"}, b"/models"),
        (b"/u/a/u/b/v1/models", {"user": "b"}, b"/models"),
        (b"/u/a%2Fb%20c/v1/files/a%2Fb", {"user": "a/b c"}, b"/files/a%2Fb"),
        (b"/u/alice%40example.com/v1/models", {"user": "alice@example.com"}, b"/models"),
        (b"/u/v1/v1/models", {"user": "v1"}, b"/models"),
        ("/u/ zoë /v1".encode(), {"user": "zoë"}, b"/"),
        ("/u/zoe\u0308/v1".encode(), {"user": "zo\u00eb"}, b"/"),
        (b"/u/%E5%B1%B1%E7%94%B0/v1", {"user": "山田"}, b"/"),
        (b"/u/100%/v1", {"user": "100%"}, b"/"),
        (b"//v1//models", {}, b"/models"),
        (b"/u/alice//v1//files///x/", {"user": "alice"}, b"/files/x/"),
    ],
)
def test_an_identity_is_read_from_the_base_url(path: bytes, told: dict[str, str], rest: bytes) -> None:
    """The base URL is the one setting every agent has; what stands in it is who is calling."""
    split = split_path(path)
    assert (dict(split.claims), split.rest) == (told, rest)


@pytest.mark.parametrize(
    "path",
    [
        b"/u//v1/models",
        b"/u/",
        b"/u/%20/v1",
        b"/s/%E2%80%83/v1",
        b"/u/a%00b/v1",
        b"/u/%0A/v1",
        b"/u/a%1Fb/v1",
        b"/u/%C2%85/v1",
        b"/u/%FF/v1",
        b"/u/%ED%A0%80/v1",
        b"/u/" + b"x" * (MAX_LENGTH + 1) + b"/v1",
        b"//n///v1",
    ],
    ids=lambda path: repr(path[:20]),
)
def test_a_value_in_the_path_that_can_not_be_one_is_refused(path: bytes) -> None:
    """An unset variable in a base URL must be heard of, not become a user that everybody shares."""
    with pytest.raises(BadIdentityError, match=r"in the path's /[usn]/ part") as refused:
        split_path(path)
    assert refused.value.status == 400


@quick
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_any_name_survives_percent_encoding(name: str) -> None:
    """Whatever a user is called, they are the same one by path and by header."""
    raw = "".join(f"%{byte:02x}" for byte in name.encode()).encode()
    try:
        wanted = checked("user", name, source="the test")
    except BadIdentityError:
        with pytest.raises(BadIdentityError):
            split_path(b"/u/" + raw + b"/v1")
        return
    split = split_path(b"/u/" + raw + b"/v1/models")
    assert (dict(split.claims), split.rest) == ({"user": wanted}, b"/models")
    header = name.encode().decode("latin-1")
    assert claims({"x-memproxy-user": header}).user == wanted


@quick
@given(st.lists(st.sampled_from([b"", b"u", b"s", b"n", b"v1", b"a", b"%2F", b"..", b"\xff", b"%00"]), max_size=7))
def test_no_path_is_too_odd_to_be_split(segments: list[bytes]) -> None:
    """A path is split or refused; a proxy that fails on one is a proxy that can be made to fail."""
    try:
        split = split_path(b"/" + b"/".join(segments))
    except BadIdentityError:
        return
    assert split.rest.startswith(b"/")
    assert b"//" not in split.rest


def test_a_value_of_the_greatest_length_is_allowed() -> None:
    """Digests and e-mail addresses fit; the limit is told when it is exceeded."""
    assert split_path(b"/u/" + b"x" * MAX_LENGTH + b"/v1").claims["user"] == "x" * MAX_LENGTH
    with pytest.raises(BadIdentityError, match=f"has {MAX_LENGTH + 1} characters; {MAX_LENGTH} are allowed"):
        checked("user", "x" * (MAX_LENGTH + 1), source="the test")


# Which rule wins


EVERYWHERE: dict[str, Any] = {
    "headers": {
        "x-memproxy-user": "h-user",
        "x-memproxy-session": "h-session",
        "x-memproxy-namespace": "h-space",
        "session-id": "a-session",
        "x-openwebui-user-id": "a-user",
    },
    "path": {"user": "p-user", "session": "p-session", "namespace": "p-space"},
    "body": {"user": "b-user", "metadata": {"session_id": "b-session"}},
}


def test_the_first_rule_that_has_a_value_wins() -> None:
    """What was said for memproxy counts more than what an agent says by itself, and the operator's default least."""
    found = claims(**EVERYWHERE, default_user="d-user")
    assert found == Claims("h-user", "h-session", "h-space", user_rule="header", session_rule="header")
    agent = {name: value for name, value in EVERYWHERE["headers"].items() if not name.startswith("x-memproxy")}
    found = claims(agent, EVERYWHERE["path"], EVERYWHERE["body"], default_user="d-user")
    assert found == Claims("p-user", "p-session", "p-space", user_rule="path", session_rule="path")
    found = claims(agent, {}, EVERYWHERE["body"], default_user="d-user")
    assert found == Claims("b-user", "b-session", None, user_rule="body", session_rule="body")
    found = claims(agent, default_user="d-user")
    assert found == Claims("a-user", "a-session", None, user_rule="agent", session_rule="agent")
    assert claims(default_user="d-user") == Claims("d-user", user_rule="default")
    assert claims() == Claims()


def test_each_level_is_decided_by_itself() -> None:
    """A user in the path and a session from the agent go together."""
    found = claims({"session-id": "one"}, {"user": "alice"})
    assert (found.user, found.session, found.rule) == ("alice", "one", "path+agent")


@pytest.mark.parametrize(
    ("user", "session", "rule"),
    [
        ("header", "header", "header"),
        ("path", "", "path+chain"),
        ("", "", "chain"),
        ("default", "body", "default+body"),
        ("", "agent", "agent"),
    ],
)
def test_the_rules_that_fired_are_named(user: str, session: str, rule: str) -> None:
    """A response says why it was taken for whose, so that a wrong setting is found."""
    assert Claims(user_rule=user, session_rule=session).rule == rule


@pytest.mark.parametrize("value", ["", "  ", "a\x00b", "a\nb", "x" * (MAX_LENGTH + 1), "\ud800"])
@pytest.mark.parametrize("name", ["user", "session", "namespace"])
def test_a_header_for_memproxy_that_can_not_be_used_is_refused(name: str, value: str) -> None:
    """Whoever names a user for memproxy wants that user, and not silently another or none."""
    with pytest.raises(BadIdentityError, match=f"X-Memproxy-{name.title()}"):
        claims({f"x-memproxy-{name}": value}, {name: "from-the-path"})


@pytest.mark.parametrize("value", ["", "a\x00b", "x" * 300, 7, None, True, ["a"], {"id": 7}, {"id": {"id": "x"}}])
def test_what_was_meant_for_somebody_else_is_passed_over(value: object) -> None:
    """A field of the provider's that memproxy can't use never costs the request."""
    body = {
        "safety_identifier": value,
        "user": value,
        "metadata": {"session_id": value, "user_id": "fits"},
        "conversation": value,
    }
    found = claims({"session-id": str(value) if value == "a\x00b" else ""}, body=body)
    assert (found.user, found.session) == ("fits", None)
    assert claims(body={"metadata": value}) == Claims()


def test_the_most_exact_field_of_a_body_wins() -> None:
    """OpenAI's newest field for the user is the one it means."""
    body: dict[str, Any] = {"safety_identifier": "safe", "user": "old", "metadata": {"user_id": "meta"}}
    assert claims(body=body).user == "safe"
    assert claims(body={"user": "old", "metadata": {"user_id": "meta"}}).user == "old"
    assert claims(body={"conversation": {"id": "conv_1"}, "prompt_cache_key": UUID}).session == "conv_1"
    assert claims(body={"conversation": "conv_2"}).session == "conv_2"
    assert claims(body={"metadata": {"thread_id": "t", "conversation_id": "c"}}).session == "t"


@pytest.mark.parametrize(
    "key",
    [
        UUID,
        UUID.upper(),
        UUID.replace("-", ""),
        f"codex:{UUID}",
        "ses_5b3c0e91affeXk2LmNp8QrStUv",
        "01J9ZC3M8KQ4T7VXB2N5H6D0WA",
    ],
)
def test_a_cache_key_that_is_made_for_one_conversation_is_a_session(key: str) -> None:
    """Coding agents send the id of their conversation as `prompt_cache_key` and nothing else."""
    assert claims(body={"prompt_cache_key": key}).session == key


@pytest.mark.parametrize(
    "key",
    [
        "support-agent",
        "my-company-support-agent-v1",
        "support-agent-2025-06",
        "prompt-2025-06-01-version-12",
        "gpt-4.1-mini-2025-04-14",
        "supportagentprompt2025",
        "AGENT_SYSTEM_PROMPT_0001",
        "org:team:app:prod:1",
        "x" * 40,
        "short1234",
        "1234567890123456",
        "",
        "a b c 1 2 3 4 5 6 7 8 9",
    ],
)
def test_a_cache_key_for_everybody_is_no_session(key: str) -> None:
    """Most agents send one key with every prompt of theirs; strangers' conversations must not run together for it."""
    assert claims(body={"prompt_cache_key": key}).session is None


def test_values_have_one_form() -> None:
    """The same name typed on another system, or with a blank behind it, is the same user."""
    composed, decomposed = "zo\u00eb", "zoe\u0308 "
    assert claims(path={}, body={"user": decomposed}).user == claims({"x-memproxy-user": composed}).user == composed
    assert claims({"x-memproxy-user": "zoë".encode().decode("latin-1")}).user == composed
    assert claims({"x-memproxy-user": "M\xfcller"}).user == "Müller", "latin-1 that is no UTF-8 stays as it is"


# Tenants


@pytest.mark.parametrize(
    ("headers", "credential"),
    [
        ({"authorization": "Bearer sk-1"}, "sk-1"),
        ({"authorization": "bearer   sk-1 "}, "sk-1"),
        ({"authorization": "Basic abc"}, "Basic abc"),
        ({"authorization": "sk-raw"}, "sk-raw"),
        ({"api-key": "azure"}, "azure"),
        ({"x-api-key": "other"}, "other"),
        ({"authorization": "Bearer", "api-key": "azure"}, "azure"),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "", "api-key": "", "x-api-key": " "}, None),
        ({}, None),
    ],
)
def test_a_credential_is_found_where_its_provider_wants_it(headers: dict[str, str], credential: str | None) -> None:
    """An empty key is no credential: all who forgot theirs would share one memory."""
    assert credential_of(headers) == credential


def test_a_tenant_can_not_be_guessed_from_a_credential() -> None:
    """Whoever reads the store can't test which key somebody has."""
    tenants, others = Tenants(tells_apart=True), Tenants(tells_apart=True)
    tenants.secret, others.secret = b"one", b"two"
    tenant = tenants.tenant_of("sk-1")
    assert tenant is not None
    assert re.fullmatch(r"[0-9a-f]{32}", tenant)
    assert tenant == tenants.tenant_of("sk-1")
    assert len({tenant, tenants.tenant_of("sk-2"), others.tenant_of("sk-1"), SINGLE_TENANT}) == 4
    assert tenants.tenant_of("sk-\ud800") is not None


def test_without_a_credential_there_is_no_tenant() -> None:
    """Strangers get no memory at all rather than a common one; so does everybody while the secret is not known yet."""
    tenants = Tenants(tells_apart=True)
    assert tenants.tenant_of("sk-1") is None
    tenants.secret = b"one"
    assert tenants.tenant_of(None) is None


def test_one_tenant_holds_whoever_reaches_the_port() -> None:
    """On one's own machine a rotated provider key loses no memory."""
    tenants = Tenants(tells_apart=False)
    assert tenants.tenant_of(None) == tenants.tenant_of("sk-1") == SINGLE_TENANT


def test_memory_lives_under_tenant_user_and_namespace() -> None:
    """A session never decides whose memory is read."""
    found = Claims("alice", "one", "shop", user_rule="path", session_rule="path")
    assert scope_of("tenant", found) == Scope("tenant", "alice", "shop")


def test_claude_codes_one_field_is_a_user_and_a_session() -> None:
    """Taken as it stands, every session would be another user's, and nothing would ever be recalled."""
    session = "0b3d2c8e-6a51-4c1f-9e7a-1f2e3d4c5b6a"
    body = {"metadata": {"user_id": f"user_{'a1' * 32}_account__session_{session}"}}
    claims = read_claims({}, {}, body, default_user=None)
    assert (claims.user, claims.session, claims.rule) == (f"user_{'a1' * 32}_account_", session, "body")
    plain = read_claims({}, {}, {"metadata": {"user_id": "ann_session_1"}}, default_user=None)
    assert (plain.user, plain.session) == ("ann_session_1", None)
