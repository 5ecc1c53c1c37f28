"""The dialect of OpenAI's Responses API: read a request and rewrite it. Items are `response_items`.

A request says `input` as a string or as items. With `previous_response_id` or `conversation` the history lies at the
provider, who puts it before the input: nothing is added to it here but what belongs to the newest message. Source of
the shapes: OpenAI's API reference, "Create a model response".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memproxy.errors import RequestError
from memproxy.records import JsonObject
from memproxy.wire import raw_json, response_answers, response_rounds, response_strain
from memproxy.wire import response_items as items_of
from memproxy.wire.chat_completions import INSTRUCTION_ROLES
from memproxy.wire.chat_dialect import reply_tokens
from memproxy.wire.dialect import IsOurs, Request
from memproxy.wire.joined import Joined


class Responses:
    """OpenAI's Responses API, and what speaks like it."""

    name = "responses"
    has_silent_messages = True
    has_references = True

    role_of = staticmethod(items_of.role_of)
    is_silent = staticmethod(items_of.is_silent)
    reference_of = staticmethod(items_of.reference_of)
    digest = staticmethod(items_of.digest)
    text_of = staticmethod(items_of.text_of)
    with_text = staticmethod(items_of.with_text)
    countable_text = staticmethod(items_of.countable_text)
    encode = staticmethod(raw_json.encode)
    restorable = staticmethod(items_of.restorable)
    complete_pairs = staticmethod(items_of.complete_pairs)
    without_calls = staticmethod(items_of.without_calls)
    results = staticmethod(items_of.results)
    as_chat = staticmethod(items_of.as_chat)
    read_answer = staticmethod(response_answers.read_answer)
    joined_object = staticmethod(response_rounds.joined_object)
    strained_object = staticmethod(response_strain.strained_object)

    def read(self, body: bytes) -> Request | None:
        fields = raw_json.decoded(body)
        items = _items(fields.get("input")) if fields is not None else None
        if fields is None or not items:
            return None
        lead = _leading_instructions(items)
        told = fields.get("instructions")
        own = [{"role": "system", "content": told}] if isinstance(told, str) and told else []
        previous = fields.get("previous_response_id")
        is_compacted = any(items_of.type_of(item) in items_of.COMPACTION_TYPES for item in items)
        return Request(
            self,
            body,
            fields,
            tuple(items),
            lead=lead,
            instructions=(*own, *items[:lead]),
            reply_tokens=reply_tokens(fields, "max_output_tokens"),
            continues=previous if isinstance(previous, str) else "",
            is_chained=bool(previous or fields.get("conversation")),
            is_compacted=is_compacted,
        )

    def raw_messages(self, request: Request) -> list[bytes]:
        return _raw_items(request.body)

    def with_messages(
        self, request: Request, messages: Sequence[bytes], *, instructions: Sequence[JsonObject] = ()
    ) -> bytes:
        changed = {"input": raw_json.list_of(messages)}
        if isinstance(request.fields.get("input"), str) and len(messages) == 1:
            changed["input"] = raw_json.raw_field(messages[0], "content") or changed["input"]
        if instructions and not request.fields.get("instructions"):
            changed["instructions"] = raw_json.encode("\n\n".join(map(items_of.text_of, instructions)))
        return raw_json.with_fields(request.body, changed)

    def with_tools(self, body: bytes, tools: Sequence[JsonObject]) -> bytes:
        flat = [{"type": "function", "strict": False, **tool["function"]} for tool in tools]
        return raw_json.with_more(body, "tools", [raw_json.encode(tool) for tool in flat])

    def with_round(self, body: bytes, messages: Sequence[JsonObject], *, after: str = "") -> bytes:
        """Behind an answer that is referred to, and in a conversation, all but the results is there already."""
        fields = raw_json.decoded(body)
        has_rest = bool(after) or (fields is not None and bool(fields.get("conversation")))
        added = [raw_json.encode(item) for item in messages if not has_rest or items_of.role_of(item) == "tool"]
        before = [] if has_rest else _raw_items(body)
        changed = {"input": raw_json.list_of([*before, *added])}
        if after:
            changed["previous_response_id"] = raw_json.encode(after)
        return raw_json.with_fields(body, changed)

    def continued(self, request: Request, answer_id: str, messages: Sequence[JsonObject]) -> bytes:
        changed = {"previous_response_id": raw_json.encode(answer_id)} if request.continues else {}
        if messages:
            whole = [*map(raw_json.encode, messages), *_raw_items(request.body)]
            changed["input"] = raw_json.list_of(whole)
        return raw_json.with_fields(request.body, changed)

    def is_ordinary(self, request: Request) -> bool:
        fields = request.fields
        return fields.get("tool_choice") in (None, "auto") and not fields.get("background")

    def with_blocks(self, raw: bytes, blocks: Sequence[str]) -> bytes:
        return raw_json.with_text_before(raw, blocks, part_type="input_text")

    def replayable(self, message: JsonObject) -> JsonObject:
        return message

    def reading(self, joined: Joined, may_answer: Callable[[str], bool]) -> response_rounds.ResponsesReading:
        return response_rounds.ResponsesReading(joined, may_answer)

    def straining(self, is_ours: IsOurs) -> response_strain.ResponsesStrainer:
        return response_strain.ResponsesStrainer(is_ours)

    def error_body(self, error: RequestError) -> JsonObject:
        return error.openai_body()


def _items(given: object) -> list[JsonObject] | None:
    """The items of an input; None for one that is none."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return given if isinstance(given, list) and all(map(items_of.is_item, given)) else None


def _raw_items(body: bytes) -> list[bytes]:
    raw = raw_json.raw_field(body, "input")
    assert raw is not None, "a request that was read has an input"
    if raw.lstrip().startswith(b'"'):
        return [b'{"role":"user","content":' + raw + b"}"]
    return raw_json.raw_items(raw)


def _leading_instructions(items: Sequence[Mapping[str, Any]]) -> int:
    count = 0
    for item in items:
        if items_of.type_of(item) != "message" or item.get("role") not in INSTRUCTION_ROLES:
            break
        count += 1
    return count


RESPONSES = Responses()
