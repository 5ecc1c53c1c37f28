"""What the tools of the MCP server take, and how that is told to a model.

The names of tools and arguments are agent-memory-server's. Arguments are checked as requests of the REST API are, and
what is unknown is refused: a restriction with a misspelt name would restrict nothing. Whose memory it is can be fixed
by the connection; then the arguments that would say it are not offered.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from memproxy.memory.search import SearchMode
from memproxy.memory_api.schemas import MAX_OFFSET
from memproxy.memory_api.session_schemas import MAX_TTL_S
from memproxy.memory_api.values import MAX_TEXT_CHARS, Id, Labels, Moment, Name, SmallJson, Text
from memproxy.records import JsonObject, MemoryType

MAX_MEMORIES = 100
MAX_MESSAGES = 1_000

UNTOLD = frozenset({"title", "minLength", "maxLength", "minItems", "maxItems"})
"""What takes a model's tokens and seldom matters to it; whoever goes beyond a bound is told."""

WHOSE = frozenset({"user_id", "namespace"})
"""Arguments that say whose memory it is."""

_ONE_OR_MORE = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
_SPAN = WithJsonSchema(
    {
        "type": "object",
        "properties": {name: {"type": "string", "format": "date-time"} for name in ("gt", "gte", "lt", "lte", "eq")},
        "additionalProperties": False,
    }
)
Values = Annotated[Any, _ONE_OR_MORE]
"""One value or several of which one must be there. The filters of the REST API are taken as well, but not offered."""
Span = Annotated[Any, _SPAN]
"""A span of time, as the REST API's filters have it."""


class ToolInput(BaseModel):
    """The arguments of a tool."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Whose(ToolInput):
    """Arguments that say whose memory it is."""

    user_id: Annotated[Name | None, Field(description="Whose memory it is. Leave it out for the usual user.")] = None
    namespace: Annotated[
        Name | None, Field(description="The namespace that it is in. Leave it out for the usual one.")
    ] = None


class Now(ToolInput):
    """Arguments of `get_current_datetime`."""

    timezone: Annotated[str, Field(max_length=64, description="An IANA name, such as Europe/Lisbon.")] = "UTC"


class NewMemory(Whose):
    """One memory to keep."""

    text: Annotated[Text, Field(description="One fact, so that somebody understands it who reads nothing else.")]
    memory_type: Annotated[
        MemoryType,
        Field(description="semantic for what lasts, episodic for what happened or will happen at a time."),
    ] = MemoryType.SEMANTIC
    topics: Annotated[Labels | None, Field(description="General subjects, such as travel.")] = None
    entities: Annotated[Labels | None, Field(description="Names of people, places and things in the text.")] = None
    event_date: Annotated[Moment | None, Field(description="When it happens, for an episodic memory.")] = None
    session_id: Annotated[Name | None, Field(description="The conversation that it is from.")] = None
    id: Annotated[Id | None, Field(description="Its id; leave it out to have one made.")] = None


class Create(ToolInput):
    """Arguments of `create_long_term_memories`."""

    memories: Annotated[list[NewMemory], Field(min_length=1, max_length=MAX_MEMORIES)]


class Filtered(ToolInput):
    """Arguments that restrict a search; all that are given must hold."""

    user_id: Annotated[Values, Field(description="Whose memories.")] = None
    namespace: Annotated[Values, Field(description="In which namespace.")] = None
    topics: Annotated[Values, Field(description="Only memories with one of these topics.")] = None
    entities: Annotated[Values, Field(description="Only memories with one of these entities.")] = None
    memory_type: Annotated[Values, Field(description="Only semantic, episodic or message memories.")] = None
    created_at: Annotated[Span, Field(description="When they were created.")] = None
    last_accessed: Annotated[Span, Field(description="When they were last found by a search.")] = None
    event_date: Annotated[Span, Field(description="When what they tell of happened.")] = None
    distance_threshold: Annotated[
        float | None, Field(ge=0, le=2, description="How far from the text in meaning they may be; 0 is the same.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=100, description="How many to give at most.")] = 10
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET, description="How many to pass over: next_offset.")] = 0
    optimize_query: Annotated[bool, Field(description="Have a model rewrite the text for the search first.")] = False


class Search(Filtered):
    """Arguments of `search_long_term_memory`."""

    text: Annotated[
        str | None,
        Field(max_length=MAX_TEXT_CHARS, description="What to look for. Leave it out to list the newest memories."),
    ] = None
    session_id: Annotated[Values, Field(description="From which conversation.")] = None
    search_mode: Annotated[
        SearchMode | None, Field(description="By meaning, by words, or both. Leave it out for the best of both.")
    ] = None


class Prompt(Filtered):
    """Arguments of `memory_prompt`."""

    query: Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS, description="The user's message.")]
    session_id: Annotated[Name | None, Field(description="The conversation whose history is to go in front.")] = None
    context_window_max: Annotated[
        int | None, Field(ge=1, description="How many tokens of history there may be at most.")
    ] = None


class Message(ToolInput):
    """One message of a conversation."""

    role: Annotated[str, Field(min_length=1, max_length=64, description="user, assistant, system or tool.")]
    content: Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS, description="What it says.")]
    id: Annotated[Id | None, Field(description="Its id; leave it out to have one made.")] = None
    created_at: Annotated[Moment | None, Field(description="When it was said; now, if it is left out.")] = None


class SetSession(Whose):
    """Arguments of `set_working_memory`."""

    session_id: Annotated[Name, Field(description="The conversation.")]
    messages: Annotated[
        list[Message] | None, Field(max_length=MAX_MESSAGES, description="All messages, in place of those it has.")
    ] = None
    memories: Annotated[
        list[NewMemory] | None, Field(max_length=MAX_MEMORIES, description="More facts to be kept for good.")
    ] = None
    data: Annotated[SmallJson | None, Field(description="What the conversation needs, by name; all of it.")] = None
    context: Annotated[
        str | None, Field(max_length=MAX_TEXT_CHARS, description="A summary of what was said before the messages.")
    ] = None
    ttl_seconds: Annotated[
        int | None,
        Field(ge=1, le=MAX_TTL_S, description="How long the conversation is kept; 3600 for a new one."),
    ] = None


class GetSession(Whose):
    """Arguments of `get_working_memory`."""

    session_id: Annotated[Name, Field(description="The conversation.")]
    recent_messages_limit: Annotated[
        int, Field(ge=1, le=MAX_MESSAGES, description="At most so many of the newest messages.")
    ] = 50


class One(Whose):
    """Arguments of `get_long_term_memory`."""

    memory_id: Annotated[Id, Field(description="The memory's id, as a search gives it.")]


class Edit(One):
    """Arguments of `edit_long_term_memory`."""

    text: Text | None = None
    topics: Annotated[Labels | None, Field(description="In place of its topics; an empty list for none.")] = None
    entities: Annotated[Labels | None, Field(description="In place of its entities; an empty list for none.")] = None
    memory_type: Literal["semantic", "episodic", "message"] | None = None
    session_id: Name | None = None
    event_date: Moment | None = None


class Delete(Whose):
    """Arguments of `delete_long_term_memories`."""

    memory_ids: Annotated[list[Id], Field(max_length=1_000, description="Ids as a search gives them.")]


def input_schema(model: type[ToolInput], *, without: Collection[str] = ()) -> JsonObject:
    """The JSON schema of a tool's arguments, free of references and titles; `without` arguments of these names."""
    schema = model.model_json_schema()
    del schema["description"]  # of the class, for readers of this file
    definitions = schema.pop("$defs", {})
    told: JsonObject = _plain(schema, definitions, frozenset(without))
    return told


def _plain(schema: Any, definitions: JsonObject, without: frozenset[str]) -> Any:
    if isinstance(schema, list):
        return [_plain(item, definitions, without) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        named = definitions[schema["$ref"].rpartition("/")[2]]
        return _plain({**named, **{key: value for key, value in schema.items() if key != "$ref"}}, definitions, without)
    plain = {}
    for key, value in schema.items():
        if key == "properties":
            plain[key] = {
                name: _plain(inner, definitions, without) for name, inner in value.items() if name not in without
            }
        elif key not in UNTOLD and (key, value) != ("default", None):
            plain[key] = _plain(value, definitions, without)
    return _without_null(plain)


def _without_null(schema: JsonObject) -> JsonObject:
    """`null` is as good as absent, and need not be offered."""
    kinds = schema.get("anyOf")
    if not isinstance(kinds, list) or {"type": "null"} not in kinds:
        return schema
    left = [kind for kind in kinds if kind != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**left[0], **rest} if len(left) == 1 else {**rest, "anyOf": left}
