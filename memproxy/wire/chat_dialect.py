"""The chat-completions dialect: read a request and rewrite it. Messages are `chat_completions`, answers `chat_answers`.

Source of the shapes: OpenAI's API reference, "Create chat completion", and what compatible servers add to it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memproxy.errors import RequestError
from memproxy.records import JsonObject, ToolAnswer
from memproxy.wire import chat_answers, chat_rounds, chat_strain, raw_json
from memproxy.wire import chat_completions as chat
from memproxy.wire.dialect import IsOurs, Request
from memproxy.wire.joined import Joined


class ChatCompletions:
    """OpenAI's chat completions, and what speaks like them."""

    name = "chat"
    has_silent_messages = False
    has_references = False

    digest = staticmethod(chat.digest)
    text_of = staticmethod(chat.message_text)
    with_text = staticmethod(chat.with_text)
    countable_text = staticmethod(chat.countable_text)
    encode = staticmethod(raw_json.encode)
    replayable = staticmethod(chat.replayable)
    restorable = staticmethod(chat.replayable)
    complete_pairs = staticmethod(chat.complete_pairs)
    without_calls = staticmethod(chat.without_calls)
    read_answer = staticmethod(chat_answers.read_answer)
    joined_object = staticmethod(chat_rounds.joined_object)
    strained_object = staticmethod(chat_strain.strained_object)

    def read(self, body: bytes) -> Request | None:
        fields = raw_json.decoded(body)
        messages = fields.get("messages") if fields is not None else None
        if fields is None or not isinstance(messages, list) or not messages or not all(map(chat.is_message, messages)):
            return None
        lead = chat.leading_instructions(messages)
        return Request(
            self,
            body,
            fields,
            tuple(messages),
            lead=lead,
            instructions=tuple(messages[:lead]),
            reply_tokens=reply_tokens(fields, "max_completion_tokens", "max_tokens"),
        )

    def raw_messages(self, request: Request) -> list[bytes]:
        raw = raw_json.raw_field(request.body, "messages")
        assert raw is not None, "a request that was read has messages"
        return raw_json.raw_items(raw)

    def with_messages(
        self, request: Request, messages: Sequence[bytes], *, instructions: Sequence[JsonObject] = ()
    ) -> bytes:
        whole = [*map(raw_json.encode, instructions), *messages]
        return raw_json.with_fields(request.body, {"messages": raw_json.list_of(whole)})

    def with_tools(self, body: bytes, tools: Sequence[JsonObject]) -> bytes:
        return raw_json.with_more(body, "tools", [raw_json.encode(tool) for tool in tools])

    def with_round(self, body: bytes, messages: Sequence[JsonObject], *, after: str = "") -> bytes:
        return raw_json.with_more(body, "messages", [raw_json.encode(message) for message in messages])

    def continued(self, request: Request, answer_id: str, messages: Sequence[JsonObject]) -> bytes:
        return request.body

    def is_ordinary(self, request: Request) -> bool:
        fields = request.fields
        return (
            fields.get("n") in (None, 1)
            and fields.get("tool_choice") in (None, "auto")
            and not fields.get("functions")
            and not fields.get("audio")
            and not fields.get("logprobs")
        )

    def role_of(self, message: Mapping[str, Any]) -> str:
        return str(message.get("role"))

    def reference_of(self, message: Mapping[str, Any]) -> str:
        return ""

    def is_silent(self, message: Mapping[str, Any]) -> bool:
        return False

    def with_blocks(self, raw: bytes, blocks: Sequence[str]) -> bytes:
        return raw_json.with_text_before(raw, blocks, part_type="text")

    def results(self, answers: Sequence[ToolAnswer]) -> list[JsonObject]:
        return [{"role": "tool", "tool_call_id": answer.call.id, "content": answer.content} for answer in answers]

    def as_chat(self, messages: Sequence[JsonObject]) -> list[tuple[int, JsonObject]]:
        return list(enumerate(messages))

    def reading(self, joined: Joined, may_answer: Callable[[str], bool]) -> chat_rounds.ChatReading:
        return chat_rounds.ChatReading(joined, may_answer)

    def straining(self, is_ours: IsOurs) -> chat_strain.Strainer:
        return chat_strain.Strainer(is_ours)

    def error_body(self, error: RequestError) -> JsonObject:
        return error.openai_body()


def reply_tokens(fields: JsonObject, *names: str) -> int | None:
    """The first of these fields that is a number of tokens."""
    values = [fields.get(name) for name in names]
    counts = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    return next((count for count in counts if count > 0), None)


CHAT_COMPLETIONS = ChatCompletions()
