"""The format of logs: lines for people, or JSON for machines. No content of messages is ever logged.

docs/observability.md has the fields of a JSON line as a table; a test compares the two.
"""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from typing_extensions import override

from memproxy.telemetry.requests import RUNNING

QUIET = ("httpx", "httpx2", "httpcore", "mcp", "openai", "redisvl", "urllib3")
"""Libraries that tell of every request what is no news to an operator."""

FIELDS: Mapping[str, str] = {
    "time": "When, in UTC, as ISO 8601",
    "level": "`debug`, `info`, `warning`, `error`",
    "logger": "The part that says it",
    "message": "What it says",
    "request_id": "The request in whose name it happened: `x-memproxy-request-id`",
    "client_request_id": "What the client called it in `x-request-id`, if that is a plain token",
    "trace_id": "Its trace, with tracing on",
    "error": "The kind of exception behind it",
    "stack": "Its traceback",
}
"""The fields of every line; those that are not known are left out."""

ACCESS_FIELDS: Mapping[str, str] = {
    "method": "The method of the request",
    "route": "A template such as `/v1/chat/completions`, never the path itself",
    "status": "The status of the response; 499 when the client left before",
    "ms": "Milliseconds to the last byte",
    "added_ms": "Milliseconds until the request went to the model server",
    "model": "The model that was asked for",
    "memories": "Memories that were injected",
    "degraded": "What was left out of it",
}
"""What a line of the access log has besides."""


class Line(logging.Formatter):
    """A line for people: time, level, part, message, and which request it is about."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        told = {name: value for name, value in _extra(record) if name not in {"method", "route", "status"}}
        told |= _request_fields()
        return super().formatMessage(record) + "".join(f" {name}={_shown(value)}" for name, value in told.items())


class JsonLine(logging.Formatter):
    """A line for machines."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_request_fields(),
            **dict(_extra(record)),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line |= {"error": record.exc_info[0].__qualname__, "stack": self.formatException(record.exc_info)}
        return json.dumps(line, ensure_ascii=False, default=str)


def _request_fields() -> dict[str, str]:
    seen = RUNNING.get()
    if seen is None:
        return {}
    known = {"request_id": seen.id, "client_request_id": seen.client_id, "trace_id": seen.trace_id}
    return {name: value for name, value in known.items() if value}


def _extra(record: logging.LogRecord) -> list[tuple[str, object]]:
    return [(name, vars(record)[name]) for name in ACCESS_FIELDS if name in vars(record)]


def _shown(value: object) -> str:
    """A value that ends where it seems to end: a model's name is whatever a client sent."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)


def configure_logging(level: str, log_format: str = "text") -> None:
    """One line a record on standard error; `log_format` is `text` or `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLine() if log_format == "json" else Line())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
