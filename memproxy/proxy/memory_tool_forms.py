"""What the model is told about the memory tools, and what it may write into a call of one; pure.

`definitions` are always the same bytes in the same order, since they stand at the beginning of every prompt and the
provider's prompt cache goes by it. Parameters are named as agent-memory-client names them. Their schemas use only what
every provider and every local server takes: no references, no alternatives, no defaults.

Reading is more lenient than the definitions: null is as good as absent, a single label as good as a list of one, and
what is not known is passed over. What can't be used raises `UnusableCallError`, whose message tells the model why.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from memproxy.records import JsonObject, MemoryType, ToolCall

PREFIX = "memproxy_"
"""What the names of all memory tools begin with, and nobody else's."""

DEFAULT_FOUND = 10
MAX_FOUND = 20
MAX_IDS = 50
MAX_MEMORIES = 20
MAX_TEXT_CHARS = 4_000
MAX_LABELS = 20
MAX_LABEL_CHARS = 100
MAX_DATA_BYTES = 16 * 1024
MAX_DATA_LEVELS = 20
"""Of objects and lists within each other. Readers of JSON give up at some depth, each at another."""
MAX_REASON_CHARS = 300

Labels = list[str] | str | None
"""Topics or entities."""


class UnusableCallError(ValueError):
    """A call can't be carried out as it is; the message is for the model."""


class Search(msgspec.Struct, frozen=True):
    """Arguments of `memproxy_search_memory`."""

    query: str = ""
    limit: int | None = None
    memory_type: MemoryType | None = None
    topics: Labels = None
    entities: Labels = None
    created_after: str | None = None
    created_before: str | None = None


class NewMemory(msgspec.Struct, frozen=True):
    """One of `memproxy_create_memories`."""

    text: str
    memory_type: Literal["semantic", "episodic"] | None = None
    topics: Labels = None
    entities: Labels = None
    event_date: str | None = None


class Create(msgspec.Struct, frozen=True):
    """Arguments of `memproxy_create_memories`."""

    memories: list[NewMemory]


class Edit(msgspec.Struct, frozen=True):
    """Arguments of `memproxy_edit_memory`."""

    memory_id: str
    text: str | None = None
    topics: Labels = None
    entities: Labels = None
    event_date: str | None = None


class Delete(msgspec.Struct, frozen=True):
    """Arguments of `memproxy_delete_memories`."""

    memory_ids: list[str] | str


class UpdateData(msgspec.Struct, frozen=True):
    """Arguments of `memproxy_update_session_data`."""

    data: dict[str, Any] | str
    """Models that may not write objects of any form write them as a string."""


class Now(msgspec.Struct, frozen=True):
    """Arguments of `memproxy_get_current_datetime`."""

    timezone: str | None = None


Arguments = Search | Create | Edit | Delete | UpdateData | Now

ARGUMENTS: Mapping[str, type[Arguments]] = MappingProxyType(
    {
        "memproxy_search_memory": Search,
        "memproxy_create_memories": Create,
        "memproxy_edit_memory": Edit,
        "memproxy_delete_memories": Delete,
        "memproxy_update_session_data": UpdateData,
        "memproxy_get_current_datetime": Now,
    }
)
"""Each tool by its name, with the form of its arguments."""


def read_call(call: ToolCall) -> Arguments:
    """What the model asks for. Raises `UnusableCallError` for an unknown tool and for arguments of another form."""
    form = ARGUMENTS.get(call.name)
    if form is None:
        raise UnusableCallError(f"there is no such tool; the memory tools are {', '.join(ARGUMENTS)}")
    written = call.arguments.strip()
    raw = b"{}" if written in {"", "null"} else written.encode("utf-8", "replace")
    try:
        return msgspec.json.decode(raw, type=form, strict=False)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UnusableCallError(f"the arguments can't be used: {str(error)[:MAX_REASON_CHARS]}") from None


def text_of(text: str) -> str:
    """A memory's text without blanks around it."""
    text = text.strip()
    if not text:
        raise UnusableCallError("a memory's text is empty")
    if len(text) > MAX_TEXT_CHARS:
        raise UnusableCallError(f"a memory's text has {len(text)} characters; at most {MAX_TEXT_CHARS} are allowed")
    return text


def labels_of(value: Labels, name: str) -> tuple[str, ...]:
    """Topics or entities without blanks around them, each once."""
    values = [value] if isinstance(value, str) else value or []
    labels = tuple(dict.fromkeys(label for label in map(str.strip, values) if label))
    if len(labels) > MAX_LABELS or any(len(label) > MAX_LABEL_CHARS for label in labels):
        raise UnusableCallError(f"{name} may hold {MAX_LABELS} labels of {MAX_LABEL_CHARS} characters at most")
    return labels


def time_of(value: str | None, name: str) -> datetime | None:
    """The point in time, in UTC, which is also meant where no offset is given; None for an empty one."""
    if value is None or not value.strip():
        return None
    try:
        at = datetime.fromisoformat(value.strip())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UnusableCallError(f"{name} must be an ISO 8601 date or time, such as 2025-03-01") from None


def memories_of(asked: Create) -> Sequence[NewMemory]:
    """The memories to create, neither none nor too many."""
    _check_number(len(asked.memories), MAX_MEMORIES, "memories")
    return asked.memories


def ids_of(asked: Delete) -> Sequence[str]:
    """The ids to delete, each once, neither none nor too many."""
    ids = list(dict.fromkeys([asked.memory_ids] if isinstance(asked.memory_ids, str) else asked.memory_ids))
    _check_number(len(ids), MAX_IDS, "memory_ids")
    return ids


def data_of(asked: UpdateData) -> JsonObject:
    """What to merge into the session's data."""
    data = _object(asked.data) if isinstance(asked.data, str) else asked.data
    if not _is_within(data, levels=MAX_DATA_LEVELS):
        raise UnusableCallError(f"data has more than {MAX_DATA_LEVELS} levels")
    return data


def _check_number(number: int, most: int, name: str) -> None:
    if not 0 < number <= most:
        raise UnusableCallError(f"{name} holds {number}; 1 to {most} are allowed at a time")


def _object(text: str) -> JsonObject:
    try:
        return msgspec.json.decode(text.strip() or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise UnusableCallError("data must be a JSON object") from None


def _is_within(value: object, *, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels >= 0 and all(_is_within(each, levels=levels - 1) for each in inner)


def definitions() -> tuple[JsonObject, ...]:
    """The tools as chat completions take them; each time the same, and the caller's own to change."""
    return (_search(), _create(), _edit(), _delete(), _update_data(), _now())


def _search() -> JsonObject:
    return _tool(
        "memproxy_search_memory",
        "Look up what is remembered about the user from earlier conversations. What fits the user's newest message is"
        " given to you without asking, so search only for something from the past that you need and do not see. Gives"
        " candidates, the likeliest first; some may have nothing to do with the query. If they do not answer it, ask"
        " the user instead of searching again and again.",
        {
            "query": _words("What to look for, in a few words; empty to list the newest memories."),
            "limit": {"type": "integer", "description": f"1 to {MAX_FOUND}, {DEFAULT_FOUND} if left out."},
            "memory_type": _choice(
                "Only one kind: semantic (facts), episodic (events), message (what was said, word for word).",
                [kind.value for kind in MemoryType],
            ),
            "topics": _list("Only memories with any of these topics."),
            "entities": _list("Only memories about any of these people, places or things."),
            "created_after": _words("Only memories since this ISO 8601 date or time."),
            "created_before": _words("Only memories from before this ISO 8601 date or time."),
        },
        required=[],
    )


def _create() -> JsonObject:
    memory = {
        "text": _words(
            "One statement that will be understood alone: names instead of pronouns, dates instead of 'tomorrow'."
        ),
        "memory_type": _choice("semantic for facts and preferences, episodic for events.", ["semantic", "episodic"]),
        "topics": _list("One to three general topics."),
        "entities": _list("The people, places and things in it."),
        "event_date": _words("When an event happens or happened, ISO 8601."),
    }
    return _tool(
        "memproxy_create_memories",
        "Remember something about the user in all later conversations. Use it when the user asks you to remember, or"
        " says a lasting fact, preference or decision that will matter again. Do not store small talk, guesses,"
        " passwords or other secrets, or what is remembered already; if a memory is out of date, edit it instead.",
        {
            "memories": {
                "type": "array",
                "description": f"1 to {MAX_MEMORIES} memories, one fact each.",
                "items": {"type": "object", "properties": memory, "required": ["text", "memory_type"]},
            }
        },
        required=["memories"],
    )


def _edit() -> JsonObject:
    return _tool(
        "memproxy_edit_memory",
        "Correct or complete one memory, for example when an address or a preference has changed. Search for it first"
        " to know its id. What you leave out stays as it is.",
        {
            "memory_id": _words("The id, exactly as the search gave it."),
            "text": _words("The whole new text."),
            "topics": _list("All topics that it has from now on."),
            "entities": _list("All people, places and things that it is about from now on."),
            "event_date": _words("When the event happens or happened, ISO 8601; empty to remove the date."),
        },
        required=["memory_id"],
    )


def _delete() -> JsonObject:
    return _tool(
        "memproxy_delete_memories",
        "Forget memories for good. Use it only when the user wants something to be forgotten or says that it is wrong."
        " Search first to know the ids.",
        {"memory_ids": _list(f"1 to {MAX_IDS} ids, exactly as the search gave them.")},
        required=["memory_ids"],
    )


def _update_data() -> JsonObject:
    return _tool(
        "memproxy_update_session_data",
        "Keep notes for the rest of this conversation only, such as the step that a task has reached or the order that"
        " it is about. Names that you give are set, those with null are removed, all others stay. Gives all notes; an"
        " empty object just reads them.",
        {
            "data": {
                "type": "object",
                "description": 'Notes by name, such as {"order_id": "LX-4417"}.',
                "additionalProperties": True,
            }
        },
        required=["data"],
    )


def _now() -> JsonObject:
    return _tool(
        "memproxy_get_current_datetime",
        "The date and time now. Use it when an answer or a memory depends on what day or what time it is.",
        {"timezone": _words("An IANA time zone such as Europe/Lisbon; UTC if left out.")},
        required=[],
    )


def _tool(name: str, description: str, properties: JsonObject, *, required: Sequence[str]) -> JsonObject:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _words(description: str) -> JsonObject:
    return {"type": "string", "description": description}


def _choice(description: str, values: Sequence[str]) -> JsonObject:
    return {"type": "string", "description": description, "enum": list(values)}


def _list(description: str) -> JsonObject:
    return {"type": "array", "description": description, "items": {"type": "string"}}
