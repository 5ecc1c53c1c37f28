"""All routes of the memory API as one litestar application, with its errors in agent-memory-server's shape.

An error is `{"detail": "what was wrong"}`; one about the request's form has a list of the parts that were wrong, as
FastAPI gives it. Each module of handlers gives its own as `routes(api)`. A handler is told who asks and what for by
`call: NamedDependency[ApiRequest]`, and returns `answer(...)`.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from litestar import Litestar, Response, get
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from memproxy.errors import (
    BudgetSpentError,
    InvalidInputError,
    MemproxyError,
    ModelCallError,
    NotAuthenticatedError,
    RequestError,
    StoreError,
    StoreUnfitError,
)
from memproxy.memory_api import long_term, prompt, summary_views, tasks, working_memory
from memproxy.memory_api.api import MemoryApi
from memproxy.memory_api.requests import ApiRequest, HandlerRequest, answer, authenticated

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
"""What a client is told to wait for a store that does not answer: it is asked again about once a second."""


TOO_LARGE = "The body is larger than max_body_mb in memproxy's settings allows; send it in parts."


def memory_app(api: MemoryApi) -> Litestar:
    """The ASGI application of the memory API."""

    def call(request: HandlerRequest) -> ApiRequest:
        return authenticated(api, request)

    return Litestar(
        handlers(api),
        dependencies={"api": Provide(lambda: api, sync_to_thread=False), "call": Provide(call, sync_to_thread=False)},
        exception_handlers={
            MemproxyError: _own_error,
            HTTPException: _http_error,
            TimeoutError: _too_slow,
            Exception: _unexpected,
        },
        request_max_body_size=api.max_body_bytes,
        openapi_config=None,
        logging_config=None,
    )


def handlers(api: MemoryApi) -> list[HTTPRouteHandler]:
    """Every handler; a module of them has its line here."""
    return [
        _health,
        *long_term.routes(api),
        *working_memory.routes(api),
        *prompt.routes(api),
        *summary_views.routes(api),
        *tasks.routes(api),
    ]


@get("/v1/health", sync_to_thread=False)
def _health(api: NamedDependency[MemoryApi]) -> Response[bytes]:
    """Open to everybody, and says nothing of the store, as the reference's."""
    return answer({"now": int(api.clock.now().timestamp() * 1000)})


def refusal(status: int, detail: Any, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """An error in agent-memory-server's shape."""
    return answer({"detail": detail}, status=status, headers=headers)


def _own_error(_: HandlerRequest, error: MemproxyError) -> Response[bytes]:
    match error:
        case NotAuthenticatedError():
            return refusal(401, str(error), {"WWW-Authenticate": "Bearer"})
        case InvalidInputError(problems=problems) if problems:
            return refusal(422, problems)
        case RequestError(status=status):
            return refusal(status, str(error))
        case StoreUnfitError():
            return refusal(501, str(error))
        case StoreError():
            log.warning("the memory API could not use the store: %s", error)
            return _away("The memory store can't be used right now.")
        case BudgetSpentError(retry_after_s=seconds):
            return refusal(429, f"The background model is not asked: {error}.", {"Retry-After": str(int(seconds) + 1)})
        case ModelCallError():
            return refusal(502, f"The background model did not give what was asked: {error}.")
        case _:
            return _unexpected(_, error)


def _http_error(_: HandlerRequest, error: HTTPException) -> Response[bytes]:
    """litestar's own refusals: no such path, no such method, a body that is too large."""
    detail = TOO_LARGE if error.status_code == 413 else error.detail
    return refusal(error.status_code, detail, error.headers)


def _too_slow(_: HandlerRequest, _error: TimeoutError) -> Response[bytes]:
    return _away("The memory store did not answer in time.")


def _away(detail: str) -> Response[bytes]:
    return refusal(503, detail, {"Retry-After": str(RETRY_AFTER_S)})


def _unexpected(_: HandlerRequest, error: Exception) -> Response[bytes]:
    log.error("the memory API failed", exc_info=error)
    return refusal(500, HTTPStatus(500).phrase)
