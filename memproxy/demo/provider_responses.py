"""The Responses API as a provider serves it, without a model: what is stored, what is refused, and each event. Pure
but for what it remembers.

Shapes follow OpenAI's API reference, "Responses", "Streaming events" and "Conversations". It refuses what the provider
refuses about a conversation's state: calls without results, results without calls, reasoning that lost what it led to,
ids that nobody stored.
"""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from memproxy.demo.provider_answers import usage as chat_usage
from memproxy.demo.provider_checks import ErrorObject, error_object
from memproxy.demo.script import Reply, text_of, words_of
from memproxy.wire.sse import encode_event

Item = dict[str, Any]

_FRAGMENT_CHARS = 8


class RefusedError(Exception):
    """The provider would refuse the request."""

    def __init__(self, error: ErrorObject, status: int = 400) -> None:
        super().__init__(error["message"])
        self.error = error
        self.status = status


@dataclass(slots=True)
class ResponseStore:
    """What the provider keeps: responses with all that stands before them, and conversations."""

    responses: dict[str, Item] = field(default_factory=dict)
    histories: dict[str, list[Item]] = field(default_factory=dict)
    """The items up to the end of each response, and of each conversation."""
    inputs: dict[str, list[Item]] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    """The items of stored answers, for references to them."""

    def shown(self, body: Item) -> list[Item]:
        """All items that the model is shown. Raises RefusedError."""
        return [*self.history(body), *map(self._resolved, input_items(body))]

    def _resolved(self, item: Item) -> Item:
        if item.get("type") != "item_reference":
            return item
        if item["id"] not in self.items:
            raise RefusedError(error_object(f"Item with id '{item['id']}' not found.", param="input"), 404)
        return self.items[item["id"]]

    def history(self, body: Item) -> list[Item]:
        """The items before this request's own. Raises RefusedError."""
        previous, conversation = body.get("previous_response_id"), _conversation_id(body)
        if previous and conversation:
            raise RefusedError(
                error_object("Mutually exclusive parameters: 'previous_response_id' and 'conversation'.")
            )
        if previous and previous not in self.histories:
            message = f"Previous response with id '{previous}' not found."
            raise RefusedError(error_object(message, param="previous_response_id", code="previous_response_not_found"))
        if conversation and conversation not in self.histories:
            raise RefusedError(error_object(f"Conversation with id '{conversation}' not found."), 404)
        return list(self.histories.get(previous or conversation or "", ()))

    def open_conversation(self, body: Item) -> Item:
        """A new conversation at the provider."""
        conversation_id = _new_id("conv_")
        self.histories[conversation_id] = list(body.get("items") or ())
        made = {"id": conversation_id, "object": "conversation", "created_at": 1_700_000_000}
        return {**made, "metadata": body.get("metadata") or {}}

    def keep(self, body: Item, response: Item) -> None:
        """Remember an answer, if the request lets the provider."""
        whole = [*self.shown(body), *response["output"]]
        if conversation := _conversation_id(body):
            self.histories[conversation] = whole
        if body.get("store") is not False:
            self.responses[response["id"]] = response
            self.items |= {item["id"]: item for item in response["output"]}
            self.histories[response["id"]] = whole
            self.inputs[response["id"]] = input_items(body)

    def stored(self, response_id: str) -> Item:
        """A response that was kept. Raises RefusedError."""
        if response_id not in self.responses:
            raise RefusedError(error_object(f"Response with id '{response_id}' not found."), 404)
        return self.responses[response_id]

    def forget(self, response_id: str) -> Item:
        """Delete a response. Raises RefusedError."""
        self.stored(response_id)
        del self.responses[response_id]
        return {"id": response_id, "object": "response", "deleted": True}


def input_items(body: Item) -> list[Item]:
    """A request's input as items."""
    given = body.get("input")
    return [{"role": "user", "content": given}] if isinstance(given, str) else list(given or ())


def conversation_of(body: Item, items: Sequence[Item]) -> list[Item]:
    """All that the model is shown, in the form of chat completions. Raises RefusedError."""
    _check(body, items)
    told = body.get("instructions")
    own = [{"role": "system", "content": told}] if isinstance(told, str) else []
    return own + _messages(items)


def _messages(items: Sequence[Item]) -> list[Item]:
    """Items as messages of chat completions; calls stand in the message before them."""
    messages: list[Item] = []
    for item in items:
        kind, is_after_answer = _type_of(item), bool(messages) and messages[-1]["role"] == "assistant"
        if _is_result(item):
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
        elif kind == "message" and item["role"] == "assistant" and is_after_answer:
            messages[-1]["content"] = "\n".join(filter(None, (messages[-1]["content"], text_of(item))))
        elif kind == "message":
            is_answer = item["role"] == "assistant"
            messages.append({"role": item["role"], "content": text_of(item) if is_answer else item["content"]})
        elif kind == "function_call":
            if not is_after_answer:
                messages.append({"role": "assistant", "content": None})
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            messages[-1].setdefault("tool_calls", []).append(call)
    return messages


def _type_of(item: Item) -> str:
    return str(item.get("type") or "message")


def _is_result(item: Item) -> bool:
    return _type_of(item).endswith("_output")


def _check(body: Item, items: Sequence[Item]) -> None:
    if not isinstance(body.get("model"), str):
        raise RefusedError(error_object("Missing required parameter: 'model'.", param="model"))
    if not items or not all("type" in item or "role" in item for item in items):
        raise RefusedError(error_object("Invalid 'input': expected a string or an array of items.", param="input"))
    waiting: dict[str, Item] = {}
    for at, item in enumerate(items):
        call_id = item.get("call_id")
        if call_id is None:
            pass
        elif not _is_result(item):
            waiting[call_id] = item
        elif waiting.pop(call_id, None) is None:
            message = f"No tool call found for function call output with call_id {call_id}."
            raise RefusedError(error_object(message, param="input"))
        if _type_of(item) == "reasoning":
            _check_reasoning(body, items, at)
    if waiting:
        message = f"No tool output found for function call {next(iter(waiting))}."
        raise RefusedError(error_object(message, param="input"))


def _check_reasoning(body: Item, items: Sequence[Item], at: int) -> None:
    item = items[at]
    after = items[at + 1] if at + 1 < len(items) else None
    if after is None or _is_result(after) or after.get("role", "assistant") != "assistant":
        message = f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item."
        raise RefusedError(error_object(message, param="input"))
    if body.get("store") is False and not item.get("encrypted_content"):
        message = f"Item with id '{item.get('id')}' not found. Items are not persisted when `store` is set to false."
        raise RefusedError(error_object(message, param="input"), 404)


def response_body(reply: Reply, body: Item, *, created: int, prompt_tokens: int, cached_tokens: int) -> Item:
    """The whole response."""
    counts = chat_usage(reply, prompt_tokens, cached_tokens=cached_tokens, choices=1)
    return {
        "id": _new_id("resp_"),
        "object": "response",
        "created_at": created,
        "status": "completed",
        "background": bool(body.get("background")),
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": body["model"],
        "output": _output(reply, body),
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "conversation": {"id": _conversation_id(body)} if _conversation_id(body) else None,
        "reasoning": {"effort": None, "summary": None},
        "store": body.get("store") is not False,
        "temperature": 1.0,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": body.get("truncation") or "disabled",
        "usage": {
            "input_tokens": prompt_tokens,
            "input_tokens_details": {"cached_tokens": cached_tokens},
            "output_tokens": counts["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counts["total_tokens"],
        },
        "metadata": body.get("metadata") or {},
    }


def _output(reply: Reply, body: Item) -> list[Item]:
    items: list[Item] = []
    if reply.reasoning:
        thought = {"id": _new_id("rs_"), "type": "reasoning", "summary": [_summary(reply.reasoning)]}
        if "reasoning.encrypted_content" in (body.get("include") or ()):
            thought["encrypted_content"] = "gAAAA" + secrets.token_hex(32)
        items.append(thought)
    if reply.text is not None:
        items.append(
            {
                "id": _new_id("msg_"),
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": reply.text}],
            }
        )
    items += [
        {
            "id": _new_id("fc_"),
            "type": "function_call",
            "status": "completed",
            "arguments": call.arguments_json,
            "call_id": call.id or _new_id("call_"),
            "name": call.name,
        }
        for call in reply.tool_calls
    ]
    return items


def _summary(text: str) -> Item:
    return {"type": "summary_text", "text": text}


def response_events(response: Item) -> tuple[bytes, ...]:
    """The response as a stream, event by event."""
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    told: list[Item] = [{"type": f"response.{name}", "response": begun} for name in ("created", "in_progress")]
    for index, item in enumerate(response["output"]):
        told += [{**event, "output_index": index} for event in _item_events(item)]
    told.append({"type": "response.completed", "response": response})
    return tuple(
        encode_event(msgspec.json.encode({**event, "sequence_number": number}), event["type"])
        for number, event in enumerate(told)
    )


def _item_events(item: Item) -> Iterator[Item]:
    kind = item["type"]
    grows = {"message": "content", "function_call": "arguments", "reasoning": "summary"}[kind]
    empty: Any = "" if kind == "function_call" else []
    begun = {**item, grows: empty} | ({"status": "in_progress"} if "status" in item else {})
    yield {"type": "response.output_item.added", "item": begun}
    at = {"item_id": item["id"]}
    if kind == "function_call":
        for piece in _fragments(item["arguments"]):
            yield {"type": "response.function_call_arguments.delta", **at, "delta": piece}
        yield {"type": "response.function_call_arguments.done", **at, "arguments": item["arguments"]}
    elif kind == "message":
        yield from _part_events(at | {"content_index": 0}, item["content"][0], "content_part", "output_text")
    else:
        yield from _part_events(
            at | {"summary_index": 0}, item["summary"][0], "reasoning_summary_part", "reasoning_summary_text"
        )
    yield {"type": "response.output_item.done", "item": item}


def _part_events(at: Item, part: Item, part_name: str, text_name: str) -> Iterator[Item]:
    more: Item = {"logprobs": []} if text_name == "output_text" else {}
    yield {"type": f"response.{part_name}.added", **at, "part": {**part, "text": ""}}
    for word in words_of(part["text"]):
        yield {"type": f"response.{text_name}.delta", **at, "delta": word, **more}
    yield {"type": f"response.{text_name}.done", **at, "text": part["text"], **more}
    yield {"type": f"response.{part_name}.done", **at, "part": part}


def _fragments(text: str) -> list[str]:
    return [text[place : place + _FRAGMENT_CHARS] for place in range(0, len(text), _FRAGMENT_CHARS)]


def _conversation_id(body: Item) -> str | None:
    given = body.get("conversation")
    return given.get("id") if isinstance(given, dict) else given


def _new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(24)
