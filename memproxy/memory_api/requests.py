"""One request to the memory API: who asks, what for, and in which form the answer goes out.

Bodies and queries are read here and not by litestar, so that what is wrong with them is told in FastAPI's shape, which
agent-memory-server's clients know.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar import MediaType, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from memproxy.errors import InvalidInputError, NotAuthenticatedError, StoreUnavailableError
from memproxy.identity import Claims, credential_of, read_claims, split_path
from memproxy.memory_api.api import MemoryApi
from memproxy.memory_api.paths import ids_in
from memproxy.records import JsonObject

HandlerRequest = Request[Any, Any, Any]

IDENTITY_PREFIX = "memproxy.identity"
"""Under this name the ASGI scope holds what stood before the path, raw: `/u/alice/v1`."""

MAX_PROBLEMS = 50
ECHO_CHARS = 200
ECHO_ITEMS = 10
ECHO_DEPTH = 3
"""How much of what was wrong is said back: enough to find it, whatever came in."""


class Input(BaseModel):
    """What a client sends; unknown keys are passed over, as the reference does."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class QueryInput(Input):
    """What a client sends behind the path's question mark."""

    repeated: ClassVar[frozenset[str]] = frozenset()
    """Names that may stand several times; of others the last one counts."""


InputT = TypeVar("InputT", bound=Input)
QueryT = TypeVar("QueryT", bound=QueryInput)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. The tenant comes from the credential only; user and namespace are what path or headers name."""

    tenant: str
    user: str | None = None
    namespace: str | None = None
    default_user: str | None = None

    @property
    def owner(self) -> str | None:
        """Whose memory it is when the request itself names no user: as in the proxy's own requests."""
        return self.user or self.default_user


@dataclass(frozen=True, slots=True)
class Call:
    """One operation that somebody asks for, however it came in."""

    api: MemoryApi
    caller: Caller

    def within_deadline(self) -> asyncio.Timeout:
        """Inside of it, waiting ends after `api_deadline_s` with a TimeoutError, which is answered as 503."""
        return asyncio.timeout(self.api.deadline_s)


@dataclass(frozen=True, slots=True)
class ApiRequest(Call):
    """One HTTP request to the memory API. Handlers take it as the dependency `call`."""

    http: HandlerRequest

    async def body(self, model: type[InputT]) -> InputT:
        """The body as this model has it; raises InvalidInputError."""
        return read_body(model, await self.http.body())

    def query(self, model: type[QueryT]) -> QueryT:
        """The query as this model has it; raises InvalidInputError."""
        return read_query(model, self.http.scope["query_string"])

    def ids(self, *, below: str) -> list[str]:
        """What the id at the end of the path may be, the likelier first."""
        return ids_in(self.http.scope.get("raw_path") or self.http.scope["path"].encode(), below=below)


def authenticated(api: MemoryApi, http: HandlerRequest) -> ApiRequest:
    """The request with who asks; raises as `caller_of` does."""
    headers = {name.lower(): value for name, value in http.headers.items()}
    return ApiRequest(api, caller_of(api, headers, http.scope.get(IDENTITY_PREFIX, b"")), http)


def caller_of(api: MemoryApi, headers: Mapping[str, str], prefix: Any) -> Caller:
    """Who asks. `headers` have lower-case names; `prefix` is what stood before the path, raw: `/u/alice/v1`.

    Raises:
        NotAuthenticatedError: tenants are told apart, and no credential came.
        StoreUnavailableError: they are told apart, and what does so has not been read from the store yet.
        BadIdentityError: the path or a header names a user or namespace that can't be one.
    """
    credential = credential_of(headers)
    tenant = api.tenants.tenant_of(credential)
    if tenant is None:
        if credential is None:
            raise NotAuthenticatedError("Send a credential, as in Authorization: Bearer KEY; it decides whose memory.")
        raise StoreUnavailableError("The store has not been reached yet.")
    claims = _claims(headers, prefix)
    return Caller(tenant, claims.user, claims.namespace, api.default_user)


def _claims(headers: Mapping[str, str], prefix: Any) -> Claims:
    own = {name: value for name, value in headers.items() if name.startswith("x-memproxy-")}
    return read_claims(own, split_path(prefix).claims if prefix else {}, {}, default_user=None)


def read_body(model: type[InputT], body: bytes) -> InputT:
    """The JSON body as this model has it; raises InvalidInputError."""
    try:
        return model.model_validate_json(body or b"null")
    except ValidationError as error:
        raise _invalid(error, place="body") from error


def read_query(model: type[QueryT], query: bytes) -> QueryT:
    """The query string as this model has it; raises InvalidInputError."""
    values: dict[str, list[str]] = {}
    for name, value in parse_qsl(query.decode("utf-8", "replace"), keep_blank_values=True):
        values.setdefault(name, []).append(value)
    given = {name: found if name in model.repeated else found[-1] for name, found in values.items()}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _invalid(error, place="query") from error


def invalid(message: str, *, loc: Sequence[str | int], input_: Any = None) -> InvalidInputError:
    """The error for one part of a request, found outside of its model; `loc` as in `["body", "text"]`."""
    problem = {"type": "value_error", "loc": list(loc), "msg": message, "input": _echo(input_, ECHO_DEPTH)}
    return InvalidInputError(message, problems=[problem])


def _invalid(error: ValidationError, *, place: str) -> InvalidInputError:
    found = error.errors(include_url=False, include_context=False)
    problems: list[JsonObject] = [
        {
            "type": problem["type"],
            "loc": [place, *problem["loc"]],
            "msg": problem["msg"],
            "input": _echo(problem["input"], ECHO_DEPTH),
        }
        for problem in found[:MAX_PROBLEMS]
    ]
    return InvalidInputError(problems[0]["msg"], problems=problems)


def _echo(value: Any, depth: int) -> Any:
    """What came in, cut so that it fits into an answer and into JSON."""
    match value:
        case bool() | float() | None:
            return value
        case int():
            return value if abs(value) < 2**53 else str(value)[:ECHO_CHARS]
        case str():
            return value[:ECHO_CHARS].encode("utf-8", "replace").decode()
        case list() if depth:
            return [_echo(item, depth - 1) for item in value[:ECHO_ITEMS]]
        case dict() if depth:
            first = list(value.items())[:ECHO_ITEMS]
            return {_echo(str(name), 0): _echo(item, depth - 1) for name, item in first}
        case _:
            return "…"


def answer(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """An answer as JSON; times in UTC end in `Z`."""
    encoded = msgspec.json.encode(content)
    return Response(encoded, status_code=status, media_type=MediaType.JSON, headers=dict(headers or {}))
