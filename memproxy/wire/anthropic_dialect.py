"""The dialect of Anthropic's Messages API: read a request and rewrite it. Messages are `anthropic_messages`.

The agent's instructions stand in `system`, a string or blocks. What is added goes behind what the client has marked for
the provider's cache, or is put there again unchanged, so that the marks keep their worth. Source of the shapes:
Anthropic's API reference, "Create a Message".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memproxy.errors import RequestError
from memproxy.records import JsonObject, ToolAnswer
from memproxy.wire import anthropic_answers, anthropic_rounds, raw_json
from memproxy.wire import anthropic_messages as messages_of
from memproxy.wire.chat_dialect import reply_tokens
from memproxy.wire.dialect import IsOurs, Request
from memproxy.wire.joined import Joined

ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    404: "not_found_error",
    413: "request_too_large",
    504: "timeout_error",
}
"""By status; any other is an `api_error`. Source: Anthropic's API reference, "Errors"."""


class Messages:
    """Anthropic's Messages API, and what speaks like it."""

    name = "messages"
    has_silent_messages = False
    has_references = False

    role_of = staticmethod(messages_of.role_of)
    digest = staticmethod(messages_of.digest)
    text_of = staticmethod(messages_of.text_of)
    with_text = staticmethod(messages_of.with_text)
    countable_text = staticmethod(messages_of.countable_text)
    encode = staticmethod(raw_json.encode)
    replayable = staticmethod(messages_of.replayable)
    restorable = staticmethod(messages_of.restorable)
    complete_pairs = staticmethod(messages_of.complete_pairs)
    without_calls = staticmethod(messages_of.without_calls)
    as_chat = staticmethod(messages_of.as_chat)
    read_answer = staticmethod(anthropic_answers.read_answer)
    joined_object = staticmethod(anthropic_rounds.joined_object)
    strained_object = staticmethod(anthropic_rounds.strained_object)

    def read(self, body: bytes) -> Request | None:
        fields = raw_json.decoded(body)
        messages = fields.get("messages") if fields is not None else None
        if fields is None or not isinstance(messages, list) or not messages:
            return None
        if not all(map(messages_of.is_message, messages)):
            return None
        system = fields.get("system")
        return Request(
            self,
            body,
            fields,
            tuple(messages),
            instructions=({"role": "system", "content": system},) if system else (),
            reply_tokens=reply_tokens(fields, "max_tokens"),
        )

    def raw_messages(self, request: Request) -> list[bytes]:
        raw = raw_json.raw_field(request.body, "messages")
        assert raw is not None, "a request that was read has messages"
        return raw_json.raw_items(raw)

    def with_messages(
        self, request: Request, messages: Sequence[bytes], *, instructions: Sequence[JsonObject] = ()
    ) -> bytes:
        changed = {"messages": raw_json.list_of(messages)}
        if instructions and not request.fields.get("system"):
            changed["system"] = raw_json.encode(instructions[0].get("content"))
        return raw_json.with_fields(request.body, changed)

    def with_tools(self, body: bytes, tools: Sequence[JsonObject]) -> bytes:
        functions = [tool["function"] for tool in tools]
        added = [
            {
                "name": function["name"],
                "description": function.get("description", ""),
                "input_schema": function["parameters"],
            }
            for function in functions
        ]
        return raw_json.with_more(body, "tools", [raw_json.encode(tool) for tool in added])

    def with_round(self, body: bytes, messages: Sequence[JsonObject], *, after: str = "") -> bytes:
        return raw_json.with_more(body, "messages", [raw_json.encode(message) for message in messages])

    def continued(self, request: Request, answer_id: str, messages: Sequence[JsonObject]) -> bytes:
        return request.body

    def is_ordinary(self, request: Request) -> bool:
        choice = request.fields.get("tool_choice")
        return choice is None or (isinstance(choice, dict) and choice.get("type") == "auto")

    def reference_of(self, message: Mapping[str, Any]) -> str:
        return ""

    def is_silent(self, message: Mapping[str, Any]) -> bool:
        return False

    def with_blocks(self, raw: bytes, blocks: Sequence[str]) -> bytes:
        return raw_json.with_text_before(raw, blocks, part_type="text", behind=frozenset({messages_of.RESULT}))

    def results(self, answers: Sequence[ToolAnswer]) -> list[JsonObject]:
        return messages_of.results(answers)

    def reading(self, joined: Joined, may_answer: Callable[[str], bool]) -> anthropic_rounds.MessagesReading:
        return anthropic_rounds.MessagesReading(joined, may_answer)

    def straining(self, is_ours: IsOurs) -> anthropic_rounds.MessagesStrainer:
        return anthropic_rounds.MessagesStrainer(is_ours)

    def error_body(self, error: RequestError) -> JsonObject:
        kind = ERROR_TYPES.get(error.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": str(error)}}


MESSAGES = Messages()
