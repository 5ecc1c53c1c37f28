"""What the caller says about memory for one request, by header; else the operator decides."""

import enum
from collections.abc import Mapping
from typing import TypeVar

from memproxy.errors import BadIdentityError

Mode = TypeVar("Mode", bound=enum.StrEnum)


def chosen(headers: Mapping[str, str], name: str, default: Mode) -> Mode:
    """The mode in the header `X-Memproxy-{name}`, or the default; header names are in lower case.

    Raises:
        BadIdentityError: the header has a value that is none of the modes.
    """
    value = headers.get(f"x-memproxy-{name}")
    if value is None:
        return default
    try:
        return type(default)(value.strip().lower())
    except ValueError:
        modes = ", ".join(mode.value for mode in type(default))
        raise BadIdentityError(f"The header X-Memproxy-{name.title()} takes one of: {modes}.") from None
