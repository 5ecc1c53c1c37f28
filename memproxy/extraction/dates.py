"""What "yesterday" and "two weeks ago" meant when they were said; pure.

A memory is read on another day than the one on which it was said, so what it says of time must not depend on the day.
The model is told what each such expression means, and where it leaves one as it was, the meaning is put behind it.
English only, and only what has one meaning: "next Friday" has two, "in two weeks" may be how long it took, and so
nothing is said about them.

All times here are in the user's time zone, and a date is no more precise than the words were.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType

from memproxy.extraction.spoken import day

MAX_EXPLAINED = 3
"""Expressions of one text behind which their meaning is put."""

_POSSESSIVE = re.compile(r"['\u2019]s?\b")
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NUMBERS = MappingProxyType(
    {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
    | {"nine": 9, "ten": 10, "eleven": 11, "twelve": 12}
)
_NUMBER = rf"(?P<number>\d{{1,3}}|{'|'.join(_NUMBERS)})"
_UNIT = r"(?P<unit>day|week|month|year)s?"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one expression meant."""

    expression: str
    """As it stands in the text."""
    start: int
    end: int
    says: str
    """In words: "7 May 2023", "the week of 1 May 2023", "April 2023", "2022"."""
    date: date | None
    """The day, where it is one day."""


def meanings(text: str, said_at: datetime) -> list[Meaning]:
    """What the expressions of relative time in a text mean, in order; `said_at` in the user's time zone."""
    found = [
        Meaning(match.group(), match.start(), match.end(), *meant)
        for pattern, resolve in _EXPRESSIONS
        for match in pattern.finditer(text)
        if (meant := _resolved(resolve, match, said_at.date())) is not None
    ]
    return list(_apart(sorted(found, key=lambda meaning: (meaning.start, -meaning.end))))


def told(text: str, said_at: datetime) -> dict[str, str]:
    """Each expression of relative time and what it means, as a prompt tells it; empty where there is none."""
    return {meaning.expression: meaning.says for meaning in meanings(text, said_at)}


def explained(text: str, said_at: datetime) -> str:
    """The text with the meaning of each relative time behind it, unless it says that somewhere itself."""
    parts, at = [], 0
    for meaning in meanings(text, said_at)[:MAX_EXPLAINED]:
        if _is_told(text, meaning):
            continue
        possessive = _POSSESSIVE.match(text, meaning.end)
        end = possessive.end() if possessive else meaning.end
        parts += [text[at:end], f" ({meaning.says})"]
        at = end
    return "".join([*parts, text[at:]])


def the_day(text: str, said_at: datetime) -> datetime | None:
    """The one day that a text speaks of in relative terms, as midnight UTC; None for none or several."""
    days = {meaning.date for meaning in meanings(text, said_at)}
    only = days.pop() if len(days) == 1 else None
    return None if only is None else datetime(only.year, only.month, only.day, tzinfo=UTC)


def _apart(found: list[Meaning]) -> Iterator[Meaning]:
    """Those that do not lie inside of a longer one: "the day before yesterday" is not yesterday."""
    end = 0
    for meaning in found:
        if meaning.start >= end:
            yield meaning
            end = meaning.end


def _is_told(text: str, meaning: Meaning) -> bool:
    if meaning.says.removeprefix("the week of ").removeprefix("the weekend of ").lower() in text.lower():
        return True
    at = meaning.date
    forms = () if at is None else (at.isoformat(), f"{at:%B} {at.day}", f"{at.day} {at:%B}")
    return any(form in text for form in forms)


def _resolved(resolve: "Resolve | int", found: re.Match[str], today: date) -> tuple[str, date | None] | None:
    try:
        return _one_day(today + timedelta(days=resolve)) if isinstance(resolve, int) else resolve(found, today)
    except (OverflowError, ValueError):  # before the year 1
        return None


def _one_day(at: date) -> tuple[str, date]:
    return day(at), at


def _distant(found: re.Match[str], today: date) -> tuple[str, date | None]:
    """So many days, weeks, months or years from today, before or after."""
    written = found["number"].lower()
    number = _NUMBERS[written] if written in _NUMBERS else int(written)
    number = -number if "ago" in found.re.groupindex else number
    match found["unit"].lower():
        case "day":
            return _one_day(today + timedelta(days=number))
        case "week":
            return _week_of(today + timedelta(weeks=number)), None
        case "month":
            return _month(today, number), None
        case _:
            return str(_checked(today.year + number)), None


def _near(found: re.Match[str], today: date) -> tuple[str, date | None]:
    """The week, weekend, month or year before this one, this one, or the one after it."""
    step = {"last": -1, "this": 0, "next": 1}[found["which"].lower()]
    match found["unit"].lower():
        case "week":
            return _week_of(today + timedelta(weeks=step)), None
        case "weekend":
            saturday = today - timedelta(days=today.weekday()) + timedelta(days=5, weeks=step)
            return f"the weekend of {day(saturday)}", None
        case "month":
            return _month(today, step), None
        case _:
            return str(_checked(today.year + step)), None


def _last_weekday(found: re.Match[str], today: date) -> tuple[str, date | None]:
    """The newest such day before today."""
    back = (today.weekday() - _WEEKDAYS.index(found["weekday"].lower()) - 1) % 7 + 1
    return _one_day(today - timedelta(days=back))


def _week_of(at: date) -> str:
    return f"the week of {day(at - timedelta(days=at.weekday()))}"


def _month(today: date, step: int) -> str:
    months = today.year * 12 + today.month - 1 + step
    return f"{date(_checked(months // 12), months % 12 + 1, 1):%B %Y}"


def _checked(year: int) -> int:
    if not 1 <= year <= 9999:
        raise ValueError(year)
    return year


Resolve = Callable[[re.Match[str], date], tuple[str, date | None]]
"""What an expression means, seen from a day: in words, and the day if it is one."""

_HOURS = r"(?:\s+(?:morning|afternoon|evening|night))?"

_EXPRESSIONS: tuple[tuple[re.Pattern[str], Resolve | int], ...] = (
    (re.compile(r"\bthe\s+day\s+before\s+yesterday\b", re.IGNORECASE), -2),
    (re.compile(r"\bthe\s+day\s+after\s+tomorrow\b", re.IGNORECASE), 2),
    (re.compile(rf"\b(?:yesterday{_HOURS}|last\s+night)\b", re.IGNORECASE), -1),
    (re.compile(r"\b(?:today|tonight|this\s+(?:morning|afternoon|evening))\b", re.IGNORECASE), 0),
    (re.compile(rf"\btomorrow{_HOURS}\b", re.IGNORECASE), 1),
    (re.compile(rf"\b{_NUMBER}\s+{_UNIT}\s+(?P<ago>ago)\b", re.IGNORECASE), _distant),
    (re.compile(rf"\b{_NUMBER}\s+{_UNIT}\s+from\s+now\b", re.IGNORECASE), _distant),
    (re.compile(rf"\bin\s+{_NUMBER}\s+{_UNIT}['\u2019]?s?\s+time\b", re.IGNORECASE), _distant),
    (re.compile(r"(?<!the )\b(?P<which>last|this|next)\s+(?P<unit>weekend|week|month|year)\b", re.IGNORECASE), _near),
    (re.compile(rf"\blast\s+(?P<weekday>{'|'.join(_WEEKDAYS)})\b", re.IGNORECASE), _last_weekday),
)
"""Expressions and what they mean; a number is so many days from today."""
