"""Who is calling, with no code in the agent.

Three levels, each only ever under the one before: the tenant pays and is decided by the credential alone; user, session
and namespace are what the client says. For each of them the first rule that has a value wins:

1. `header`: `X-Memproxy-User`, `X-Memproxy-Session`, `X-Memproxy-Namespace`
2. `path`: `/u/{user}`, `/s/{session}`, `/n/{namespace}` before `/v1`, in any order
3. `body`: fields that agents already send
4. `agent`: headers that known agents send
5. `default`: the operator's default user
6. `chain`: the conversation itself (decided later, where the store is asked; see `proxy/align` and `storage/working`)

Values named for memproxy (rules 1 and 2) are refused when they can't be used; values meant for somebody else (rules 3
and 4) are then passed over. Pure; the store sees digests only.
"""

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from memproxy.errors import BadIdentityError
from memproxy.records import JsonObject, Scope

MAX_LENGTH = 256
"""Characters that a user, session or namespace may have."""

SINGLE_TENANT = "single"
"""The one tenant of an installation that does not tell tenants apart."""

_PATH_FIELDS = {b"u": "user", b"s": "session", b"n": "namespace"}

_BODY_FIELDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "user": (("safety_identifier",), ("user",), ("metadata", "user_id")),
    "session": (
        ("metadata", "session_id"),
        ("metadata", "thread_id"),
        ("metadata", "conversation_id"),
        ("conversation",),
        ("conversation", "id"),
        ("metadata", "user_id"),
        ("prompt_cache_key",),
    ),
    "namespace": (),
}
"""Where agents say who they are, most exact first. Source: OpenAI's API reference; metadata by common usage."""

_AGENT_SESSION_HEADERS = (
    "session-id",
    "x-session-id",
    "thread-id",
    "x-session-affinity",
    "x-claude-code-session-id",
    "x-conversation-id",
    "x-thread-id",
    "x-librechat-conversation-id",
    "x-openwebui-chat-id",
)
_AGENT_USER_HEADERS = ("x-openwebui-user-id", "x-librechat-user-id")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_COMPOUND_USER = re.compile(r"(?P<user>user_[0-9a-f]+_account_.*)_session_(?P<session>[0-9a-f-]{36})", re.IGNORECASE)
_RUN = re.compile(r"[0-9a-zA-Z]{16,}")
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Claims:
    """What the request says about who is calling, with the rule that said it."""

    user: str | None = None
    session: str | None = None
    namespace: str | None = None
    user_rule: str = ""
    session_rule: str = ""

    @property
    def rule(self) -> str:
        """The rules that fired, the user's first: `header`, `path+chain`, `none`."""
        rules = [self.user_rule] if self.user_rule else []
        session_rule = self.session_rule or "chain"
        if session_rule not in rules:
            rules.append(session_rule)
        return "+".join(rules)


@dataclass(frozen=True, slots=True)
class SplitPath:
    """A request's path without its identity: what is left is relative to the upstream's base URL."""

    claims: Mapping[str, str]
    rest: bytes
    """Raw, still percent-encoded, beginning with a slash."""


def split_path(raw_path: bytes) -> SplitPath:
    """Take `/u/..`, `/s/..`, `/n/..` and `/v1` off the path.

    Double slashes, which base URLs with a slash at their end make, count as one; but not where a value should stand: it
    is missing there, as in `/u/$USER_ID/v1` with an unset variable, and the next segment must not be taken for it.

    Raises:
        BadIdentityError: a value is empty, too long, or has control characters.
    """
    rest = raw_path.lstrip(b"/")
    claims: dict[str, str] = {}
    while (field := rest.partition(b"/"))[0] in _PATH_FIELDS and field[1]:
        name = _PATH_FIELDS[field[0]]
        value, _, rest = field[2].partition(b"/")
        claims[name] = checked(name, _decoded(value), source=f"the path's /{field[0].decode()}/ part")
        rest = rest.lstrip(b"/")
    if rest == b"v1" or rest.startswith(b"v1/"):
        rest = rest[3:]
    return SplitPath(claims, re.sub(rb"/{2,}", b"/", b"/" + rest))


def _decoded(segment: bytes) -> str:
    return unquote_to_bytes(segment).decode("utf-8", "replace")


def checked(name: str, value: str, *, source: str) -> str:
    """The value in its one form, NFC without blanks around it.

    Raises:
        BadIdentityError: it is empty, too long, or has control characters.
    """
    text = unicodedata.normalize("NFC", value).strip()
    if not text:
        raise BadIdentityError(f"The {name} in {source} is empty; leave it out or give it a value.")
    if len(text) > MAX_LENGTH:
        raise BadIdentityError(f"The {name} in {source} has {len(text)} characters; {MAX_LENGTH} are allowed.")
    if text.isascii() and text.isprintable():
        return text
    if any(unicodedata.category(char) in {"Cc", "Cs"} or char == "\ufffd" for char in text):
        raise BadIdentityError(f"The {name} in {source} has control characters or is not UTF-8.")
    return text


def read_claims(
    headers: Mapping[str, str], path_claims: Mapping[str, str], body: JsonObject, *, default_user: str | None
) -> Claims:
    """Who is calling, as far as the request itself says.

    `headers` have lower-case names.

    Raises:
        BadIdentityError: a `X-Memproxy-*` value can't be used.
    """
    found: dict[str, tuple[str, str]] = {}
    for name in ("user", "session", "namespace"):
        candidates = _candidates(name, headers, path_claims, body)
        if name == "user" and default_user:
            candidates = [*candidates, ("default", default_user)]
        first = next(iter(candidates), None)
        if first is not None:
            found[name] = first
    user, session, namespace = (found.get(name, ("", None)) for name in ("user", "session", "namespace"))
    return Claims(user=user[1], session=session[1], namespace=namespace[1], user_rule=user[0], session_rule=session[0])


def _candidates(
    name: str, headers: Mapping[str, str], path_claims: Mapping[str, str], body: JsonObject
) -> list[tuple[str, str]]:
    header = headers.get(f"x-memproxy-{name}")
    if header is not None:
        return [("header", checked(name, _header_text(header), source=f"the header X-Memproxy-{name.title()}"))]
    if name in path_claims:
        return [("path", path_claims[name])]
    found = [("body", value) for path in _BODY_FIELDS[name] if (value := _usable(_said(name, body, path), path))]
    return [*found, *(("agent", value) for value in _agent_values(name, headers))]


def _header_text(value: str) -> str:
    """HTTP headers arrive as latin-1; clients put UTF-8 into them."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _said(name: str, body: JsonObject, path: tuple[str, ...]) -> object:
    """What the body says there. Claude Code says user and session in one field, and neither may stand for the other."""
    value = _at(body, path)
    if path != ("metadata", "user_id") or not isinstance(value, str):
        return value
    told = _COMPOUND_USER.fullmatch(value)
    if told is None:
        return value if name == "user" else None
    return told[name]


def _at(body: JsonObject, path: tuple[str, ...]) -> object:
    value: object = body
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _usable(value: object, path: tuple[str, ...]) -> str | None:
    if not isinstance(value, str) or (path == ("prompt_cache_key",) and not _looks_unique(value)):
        return None
    try:
        return checked("value", value, source="the body")
    except BadIdentityError:
        return None


def _looks_unique(value: str) -> bool:
    """Whether a `prompt_cache_key` looks made for one conversation: it has a UUID or a random run of characters in it.

    Many agents send one constant key for everybody (`support-agent-2025-06`), and their conversations must not merge.
    """
    runs = _RUN.findall(value)
    return bool(_UUID.search(value)) or any(len(_DIGITS.findall(run)) >= 3 for run in runs)


def _agent_values(name: str, headers: Mapping[str, str]) -> Iterable[str]:
    known = {"session": _AGENT_SESSION_HEADERS, "user": _AGENT_USER_HEADERS}.get(name, ())
    for header in known:
        value = _usable(headers.get(header), (header,))
        if value:
            yield value


def credential_of(headers: Mapping[str, str]) -> str | None:
    """The credential that the client sent, in whichever header its provider uses."""
    authorization = headers.get("authorization", "")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer":  # without a token it names nobody: an empty key is not a tenant that all share
        authorization = token
    found = (authorization, headers.get("api-key", ""), headers.get("x-api-key", ""))
    return next((value.strip() for value in found if value.strip()), None)


class Tenants:
    """Tells tenants apart by their credentials, or has one tenant for whoever reaches the port.

    The secret keys the digests of credentials, so that a credential can't be found by guessing at the store. It is read
    from the store; until it is there, no credential stands for a tenant.
    """

    def __init__(self, *, tells_apart: bool) -> None:
        self.tells_apart = tells_apart
        self.secret: bytes | None = None

    def tenant_of(self, credential: str | None) -> str | None:
        """The tenant that a credential stands for; None for a caller without one."""
        if not self.tells_apart:
            return SINGLE_TENANT
        if credential is None or self.secret is None:
            return None
        return hmac.new(self.secret, credential.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def scope_of(tenant: str, claims: Claims) -> Scope:
    """Where this caller's memory lives."""
    return Scope(tenant=tenant, user=claims.user, namespace=claims.namespace)
