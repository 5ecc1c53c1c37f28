"""A model's answer to what it says, whatever frame and names it chose; pure.

Small models answer with the right thing under wrong names: a list without its object, an object without its list,
`fact` for `text`, `quote` for `evidence`, bare strings, or the words "No memories." All of that is understood. An
answer that holds nothing to understand is a ValueError with the reason, in words for the model itself.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from itertools import chain
from types import MappingProxyType
from typing import Any

from memproxy.loose_json import read_json, without_thoughts
from memproxy.records import JsonObject

MAX_ITEMS = 50
"""Read from one answer; a model that writes more is running in circles."""

MAX_LABELS = 10
"""Topics or entities of a memory."""

MAX_LABEL_CHARS = 100
MAX_NOTHING_CHARS = 300
"""An answer in prose that says that there is nothing is no longer than this."""

_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "text": (
            *("text", "memory", "fact", "content", "statement", "memorytext", "description", "preference"),
            *("summary", "value", "info", "information", "note", "observation", "sentence"),
        ),
        "evidence": (
            *("evidence", "quote", "quotation", "quotes", "source", "sourcetext", "sourcequote", "proof", "support"),
            *("supportingtext", "supportingquote", "excerpt", "citation", "evidences"),
        ),
        "type": ("type", "memorytype", "kind"),
        "topics": ("topics", "topic", "tags", "categories", "category", "subjects"),
        "entities": ("entities", "entity", "names", "people"),
        "event_date": ("eventdate", "date", "when", "eventtime", "datetime"),
    }
)
"""What models call the fields, in lower case and letters only; the right name first."""

_FRAMES = (
    *("memories", "facts", "items", "results", "preferences", "data", "memory", "extractedmemories", "output", "list"),
    *("response", "answer", "discretememories", "newmemories", "observations", "statements", "summary"),
)
"""What they call the list of memories, or what stands around it."""

_NOTHING = re.compile(
    r"\W*(?:none|null|nil|nothing|n/?a|empty)\W*$"
    r"|\W*(?:[\w']+\W+){0,7}?(?:no|nothing|none|any)\b.{0,60}\b(?:memor|fact|preference|information|worth|relevant|extract|found|"
    r"remember|stor)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Item:
    """One memory as the model put it."""

    text: str
    evidence: str = ""
    """Empty when it gave none."""
    type: str = ""
    topics: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    event_date: str = ""


def read_items(answer: str) -> list[Item]:
    """The memories in an answer, each as it was put; raises ValueError when it can't be understood."""
    try:
        value = read_json(answer)
    except ValueError:
        if says_nothing(answer):
            return []
        raise
    raw = _listed(value)
    items = [item for each in raw[:MAX_ITEMS] if (item := _item(each)) is not None]
    if raw and not items:
        raise ValueError(f"none of its {len(raw)} memories has a text")
    return items


def says_nothing(answer: str) -> bool:
    """Whether an answer in prose says that there is nothing to say."""
    words = without_thoughts(answer).strip()
    return len(words) <= MAX_NOTHING_CHARS and bool(_NOTHING.match(words))


def _listed(value: list[Any] | JsonObject) -> list[Any]:
    """The list of memories, also where the frame around it, or the list around a single one, was left out."""
    if isinstance(value, list):
        return value
    fields = {_plain(name): each for name, each in value.items()}
    framed = [fields[name] for name in _FRAMES if isinstance(fields.get(name), list)]
    if framed:
        return list(chain.from_iterable(framed))
    if _item(value) is not None:
        return [value]
    for inner in (fields[name] for name in _FRAMES if name in fields):
        if isinstance(inner, dict):
            return _inside(inner)
        if inner is None or (isinstance(inner, str) and says_nothing(inner)):
            return []
    raise ValueError('it has no list under "memories"')


def _inside(frame: JsonObject) -> list[Any]:
    """The memories in an object where a list should be: framed once more, a single one, or numbered."""
    try:
        return _listed(frame)
    except ValueError:
        return list(frame.values())


def _item(value: Any) -> Item | None:
    """One memory; None for what has no text."""
    if isinstance(value, str):
        return Item(_tidied(value)) if value.strip() else None
    if not isinstance(value, dict):
        return None
    fields = {_plain(name): each for name, each in value.items()}
    text = _string(_field(fields, "text"))
    if not text:
        return None
    evidence = _field(fields, "evidence")
    if isinstance(evidence, list):
        evidence = " ... ".join(part for part in evidence if isinstance(part, str))
    return Item(
        text=_tidied(text),
        evidence=_string(evidence),
        type=_string(_field(fields, "type")).lower(),
        topics=labels(_field(fields, "topics")),
        entities=labels(_field(fields, "entities")),
        event_date=_string(_field(fields, "event_date")),
    )


def _field(fields: Mapping[str, Any], name: str) -> Any:
    """The value under the first of the field's names that holds one."""
    return next((fields[each] for each in _NAMES[name] if fields.get(each) not in (None, "", [])), None)


def _plain(name: object) -> str:
    return "".join(filter(str.isalpha, str(name))).lower()


def _string(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _tidied(text: str) -> str:
    return " ".join(text.split())


def labels(value: Any) -> tuple[str, ...]:
    """The value's strings, tidied, each once; a model may put them into one string. None holds a comma: the memory
    API's clients can't send one back."""
    values = _split(value) if isinstance(value, str) else value if isinstance(value, list) else []
    tidied = (_tidied(label.replace(",", " "))[:MAX_LABEL_CHARS] for label in map(_label, values) if label)
    return tuple(dict.fromkeys(label for label in tidied if label))[:MAX_LABELS]


def _split(value: str) -> Iterable[str]:
    return re.split(r"\s*[,;|]\s*", value.strip("[] "))


def _label(value: Any) -> str:
    """A label, also where the model made an object of it: {"name": "Ann", "type": "person"}."""
    if isinstance(value, dict):
        value = next((each for name, each in value.items() if _plain(name) in {"name", "text", "value", "label"}), "")
    return value if isinstance(value, str) else ""


def read_date(value: str, zone: tzinfo) -> datetime | None:
    """The point in time, in UTC; None for anything that is not a whole date.

    A day without a time is midnight UTC of that day, wherever the user is: filters ask for days.
    """
    try:
        at = datetime.fromisoformat(value.strip())
        if at.tzinfo is None:
            has_time = len(value.strip()) > len("2023-05-08")
            at = at.replace(tzinfo=zone if has_time else UTC)
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
