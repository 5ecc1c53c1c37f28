"""Every error that memproxy raises, as one tree.

    MemproxyError
    ├── SettingsError               a setting is wrong; refused at start
    ├── StoreError                  the store can't be used
    │   ├── StoreUnavailableError     not reachable, too slow, or not to be started
    │   └── StoreUnfitError           reachable, but lacks what memproxy needs
    ├── ModelCallError              the background stage's model did not give what was asked
    └── RequestError                the client's request can't be served
        ├── BadIdentityError          400
        ├── BodyTooLargeError         413
        ├── NotFoundError             404
        └── UpstreamError             the model server
            ├── UpstreamConnectError    502
            ├── UpstreamBrokenError     502
            └── UpstreamTimeoutError    504

Leaves below `RequestError` know their HTTP status and OpenAI error type; `openai_body` writes the body that OpenAI's
clients parse. Messages name the value that was wrong and what would help; they hold no secrets and no message text.
"""

from memproxy.records import JsonObject


class MemproxyError(Exception):
    """The root: catch this to catch everything that memproxy raises on purpose."""


class SettingsError(MemproxyError):
    """A setting is wrong; the message names it."""


class StoreError(MemproxyError):
    """The store can't be used."""


class StoreUnavailableError(StoreError):
    """The store is not reachable, did not answer in time, or could not be started."""


class StoreUnfitError(StoreError):
    """The store answers, but lacks something that memproxy needs, such as the query engine."""


class ModelCallError(MemproxyError):
    """The background stage's model did not give what was asked."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


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


class NotFoundError(RequestError):
    """Nothing is served under this path."""

    status = 404
    code = "memproxy_not_found"


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
