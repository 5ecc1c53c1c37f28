"""The values that requests to the memory API are made of, each with its bounds: names, texts, times, JSON."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from memproxy.errors import BadIdentityError
from memproxy.identity import checked
from memproxy.records import JsonObject

MAX_ID_CHARS = 512
MAX_TEXT_CHARS = 100_000
"""Of one memory or one query: a long document; what is longer belongs into several."""
MAX_LABELS = 200
"""Topics, entities, or ids of messages that one memory may have."""
MAX_LABEL_CHARS = 256
MAX_JSON_CHARS = 64_000
"""Of a memory's metadata, written out: it is read with the memory on every search."""
MAX_JSON_INT = 2**63
"""What is written as a number must be one to every reader of it."""


def _name(value: str) -> str:
    """A user, session or namespace in its one form, which is also what the proxy stores."""
    try:
        return checked("name", value, source="the request")
    except BadIdentityError as error:
        raise ValueError(str(error)) from error


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty or blank")
    return value


def _in_utc(value: datetime) -> datetime:
    """The moment in UTC; one without a zone is taken to be in it."""
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("lies outside of the years 1 to 9999 in UTC") from error


def _small_json(value: JsonObject) -> JsonObject:
    """The object, if it can be written as JSON that every reader understands, and is not large."""
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False))
    except ValueError as error:
        raise ValueError("has a number that JSON can't hold") from error
    if size > MAX_JSON_CHARS:
        raise ValueError(f"has {size} characters as JSON; {MAX_JSON_CHARS} are allowed")
    if not _has_only_usual_numbers(value):
        raise ValueError("has a whole number beyond 64 bits; write it as a string")
    return value


def _has_only_usual_numbers(value: Any) -> bool:
    match value:
        case bool():
            return True
        case int():
            return -MAX_JSON_INT <= value < MAX_JSON_INT
        case dict():
            return all(_has_only_usual_numbers(item) for item in value.values())
        case list():
            return all(_has_only_usual_numbers(item) for item in value)
        case _:
            return True


Name = Annotated[str, AfterValidator(_name)]
"""A user, session or namespace."""
Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS), AfterValidator(_not_blank)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS), AfterValidator(_not_blank)]
Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS), AfterValidator(_not_blank)]
"""A topic or an entity."""
Labels = Annotated[list[Label], Field(max_length=MAX_LABELS)]
Ids = Annotated[list[Id], Field(max_length=MAX_LABELS)]
Moment = Annotated[datetime, AfterValidator(_in_utc)]
"""A time in UTC; ISO 8601 with or without a zone comes in."""
SmallJson = Annotated[JsonObject, AfterValidator(_small_json)]
"""A JSON object that is kept beside a memory."""
