"""Every error that memproxy raises, as one tree.

    MemproxyError
    ├── SettingsError               a setting is wrong; refused at start
    ├── StoreError                  the store can't be used
    │   ├── StoreUnavailableError     not reachable, too slow, or not to be started
    │   │   └── StoreReadOnlyError      reachable, but takes no writes now
    │   ├── StoreUnfitError           reachable, but lacks what memproxy needs
    │   └── EmbeddingError            no vectors for what is to be stored or found
    ├── ModelCallError              the background stage's model did not give what was asked
    │   └── ModelAwayError            it can't be asked at all now, whatever the question
    ├── BudgetSpentError            the background stage's model may not be asked for a while: it would cost too much
    └── RequestError                the client's request can't be served
        ├── BadIdentityError          400
        ├── NotAuthenticatedError     401
        ├── NotFoundError             404
        ├── AmbiguousIdError          409
        ├── BodyTooLargeError         413
        ├── InvalidInputError         422
        ├── NotConfiguredError        503
        ├── StoreAwayError            503
        └── UpstreamError             the model server
            ├── UpstreamConnectError    502
            ├── UpstreamBrokenError     502
            └── UpstreamTimeoutError    504

Leaves below `RequestError` know their HTTP status and OpenAI error type; `openai_body` writes the body that OpenAI's
clients parse. Messages name the value that was wrong and what would help; they hold no secrets and no message text.
"""

from collections.abc import Sequence

from memproxy.records import JsonObject


class MemproxyError(Exception):
    """The root: catch this to catch everything that memproxy raises on purpose."""


class SettingsError(MemproxyError):
    """A setting is wrong; the message names it."""


class StoreError(MemproxyError):
    """The store can't be used."""


class StoreUnavailableError(StoreError):
    """The store is not reachable, did not answer in time, or could not be started."""


class StoreReadOnlyError(StoreUnavailableError):
    """The store answers, but takes no writes now: its memory or disk is full, or it is a replica."""


class StoreUnfitError(StoreError):
    """The store answers, but lacks something that memproxy needs, such as the query engine."""


class EmbeddingError(StoreError):
    """The service that makes vectors gave none: nothing can be stored until it does."""


class ModelCallError(MemproxyError):
    """The background stage's model did not give what was asked."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class ModelAwayError(ModelCallError):
    """The model can't be asked at all now: no connection, too many requests, a key or a name that is not known.

    The question is not to blame, and any other would have met the same.
    """


class BudgetSpentError(MemproxyError):
    """What the background stage's model may cost is spent for now; nothing was asked, and asking later will do."""

    def __init__(self, message: str, *, retry_after_s: float = 600.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestError(MemproxyError):
    """The client's request can't be served."""

    status = 400
    type = "invalid_request_error"
    code: str | None = None

    def openai_body(self) -> JsonObject:
        """The error in OpenAI's shape. Source: the `Error` object of OpenAI's API reference."""
        return {"error": {"message": str(self), "type": self.type, "param": None, "code": self.code}}


class BadIdentityError(RequestError):
    """A user, session or namespace that can't be used as one."""

    code = "memproxy_bad_identity"


class BodyTooLargeError(RequestError):
    """The body exceeds `max_body_mb`."""

    status = 413
    code = "memproxy_body_too_large"


class NotAuthenticatedError(RequestError):
    """A credential is needed, and none came."""

    status = 401
    type = "authentication_error"
    code = "memproxy_no_credential"


class NotFoundError(RequestError):
    """Nothing is served under this path, or nothing has this id."""

    status = 404
    code = "memproxy_not_found"


class AmbiguousIdError(RequestError):
    """Several memories of the tenant have this id, each in a scope of its own."""

    status = 409
    code = "memproxy_ambiguous_id"


class InvalidInputError(RequestError):
    """Parts of the request are not what they should be."""

    status = 422
    code = "memproxy_invalid_input"

    def __init__(self, message: str, *, problems: Sequence[JsonObject] = ()) -> None:
        super().__init__(message)
        self.problems = problems
        """Each part that was wrong: `type`, `loc`, `msg`, `input`."""


class NotConfiguredError(RequestError):
    """What was asked for needs a setting that is not set; the message names it."""

    status = 503
    type = "api_error"
    code = "memproxy_not_configured"


class StoreAwayError(RequestError):
    """What was asked for lies in the store, which can't be used right now."""

    status = 503
    type = "api_error"
    code = "memproxy_store_away"


class UpstreamError(RequestError):
    """The model server could not be asked."""

    status = 502
    type = "api_connection_error"


class UpstreamConnectError(UpstreamError):
    """No connection to the model server came about; safe to try again."""

    code = "memproxy_upstream_unreachable"


class UpstreamBrokenError(UpstreamError):
    """The model server closed the connection or sent no valid HTTP."""

    code = "memproxy_upstream_broken"


class UpstreamTimeoutError(UpstreamError):
    """The model server did not answer in time."""

    status = 504
    type = "timeout_error"
    code = "memproxy_upstream_timeout"
