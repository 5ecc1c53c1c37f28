"""The checks that OpenAI makes on a chat-completions request before it asks the model, with OpenAI's words.

Tests rely on them to notice a request that a real provider would refuse: above all tool calls that lost their results,
and results that lost their calls. Source: https://platform.openai.com/docs/api-reference/chat/create and answers of the
service. Parameters that only the model cares about are not looked at.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

ErrorObject = dict[str, Any]
"""The value of `error` in OpenAI's error body."""

ROLES = ("system", "assistant", "user", "function", "tool", "developer")
PART_TYPES = ("text", "image_url", "input_audio", "refusal", "file")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def error_object(
    message: str, kind: str = "invalid_request_error", *, param: str | None = None, code: str | None = None
) -> ErrorObject:
    """One error in the shape in which OpenAI reports it."""
    return {"message": message, "type": kind, "param": param, "code": code}


def find_fault(body: object) -> ErrorObject | None:
    """What OpenAI would refuse about the body of a chat-completions request; None when it would ask the model."""
    if not isinstance(body, dict):
        return error_object("We could not parse the JSON body of your request: a JSON object is expected.")
    return next((fault for check in CHECKS for fault in check(body)), None)


def find_embeddings_fault(body: object) -> ErrorObject | None:
    """What OpenAI would refuse about the body of an embeddings request."""
    if not isinstance(body, dict):
        return error_object("We could not parse the JSON body of your request: a JSON object is expected.")
    given = body.get("input")
    items = given if isinstance(given, list) else [given]
    if not items or not all(isinstance(each, str | int) or _is_tokens(each) for each in items):
        return error_object("'$.input' is invalid. Please check the API reference.", param="input")
    return next(_model_faults(body), None)


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, int) for each in value)


def _model_faults(body: dict[str, Any]) -> Iterator[ErrorObject]:
    if "model" not in body:
        yield error_object("you must provide a model parameter")
    elif not isinstance(body["model"], str):
        yield _wrong_type("model", "a string", body["model"])


def _messages_faults(body: dict[str, Any]) -> Iterator[ErrorObject]:
    messages = body.get("messages")
    if "messages" not in body:
        yield _missing("messages")
    elif not isinstance(messages, list):
        yield _wrong_type("messages", "an array of objects", messages)
    elif not messages:
        yield _empty("messages")
    else:
        for index, message in enumerate(messages):
            yield from _message_faults(message, f"messages[{index}]")
        yield from _pairing_faults(messages)


def _message_faults(message: object, at: str) -> Iterator[ErrorObject]:
    if not isinstance(message, dict):
        yield _wrong_type(at, "an object", message)
        return
    role = message.get("role")
    if "role" not in message:
        yield _missing(f"{at}.role")
    elif not isinstance(role, str):
        yield _wrong_type(f"{at}.role", "a string", role)
    elif role not in ROLES:
        yield _not_one_of(f"{at}.role", ROLES, role)
    if "tool_calls" in message:
        yield from _tool_calls_faults(message["tool_calls"], f"{at}.tool_calls")
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        yield _missing(f"{at}.tool_call_id")
    yield from _content_faults(message, at)


def _content_faults(message: dict[str, Any], at: str) -> Iterator[ErrorObject]:
    content = message.get("content")
    if content is None:
        may_lack = message.get("role") == "assistant" and any(
            message.get(key) for key in ("tool_calls", "function_call", "refusal", "audio")
        )
        if not may_lack:
            yield error_object("Invalid value for 'content': expected a string, got null.", param=f"{at}.content")
    elif isinstance(content, list):
        if not content:
            yield _empty(f"{at}.content")
        for index, part in enumerate(content):
            yield from _part_faults(part, f"{at}.content[{index}]")
    elif not isinstance(content, str):
        yield _wrong_type(f"{at}.content", "one of a string or array of objects", content)


def _part_faults(part: object, at: str) -> Iterator[ErrorObject]:
    if not isinstance(part, dict):
        yield _wrong_type(at, "an object", part)
    elif "type" not in part:
        yield _missing(f"{at}.type")
    elif part["type"] not in PART_TYPES:
        yield _not_one_of(f"{at}.type", PART_TYPES, part["type"])
    elif part["type"] == "text" and not isinstance(part.get("text"), str):
        yield _wrong_type(f"{at}.text", "a string", part.get("text"))


def _tool_calls_faults(calls: object, at: str) -> Iterator[ErrorObject]:
    if not isinstance(calls, list):
        yield _wrong_type(at, "an array of objects", calls)
        return
    if not calls:
        yield _empty(at)
    for index, call in enumerate(calls):
        if not isinstance(call, dict):
            yield _wrong_type(f"{at}[{index}]", "an object", call)
            continue
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        if not isinstance(call.get("id"), str):
            yield _missing(f"{at}[{index}].id")
        if call.get("type") != "function":
            yield _not_one_of(f"{at}[{index}].type", ("function",), call.get("type"))
        for key in ("name", "arguments"):
            if not isinstance(function.get(key), str):
                yield _wrong_type(f"{at}[{index}].function.{key}", "a string", function.get(key))


def _pairing_faults(messages: list[dict[str, Any]]) -> Iterator[ErrorObject]:
    """Each tool call is followed by its result before anything else is said, and each result has its call."""
    called: list[str] = []
    open_ids: list[str] = []
    called_at = 0
    for index, message in enumerate([*messages, {"role": "end"}]):
        if message["role"] == "tool":
            yield from _result_faults(message["tool_call_id"], called, open_ids=open_ids, index=index)
            continue
        if open_ids:
            yield error_object(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                "'tool_call_id'. The following tool_call_ids did not have response messages: " + ", ".join(open_ids),
                param=f"messages.[{called_at}].role",
            )
        called = [call["id"] for call in message.get("tool_calls", ())]
        open_ids, called_at = list(called), index
        if len(set(called)) < len(called):
            yield error_object(
                f"Duplicate value for 'id' in 'tool_calls' of messages[{index}].",
                param=f"messages.[{index}].tool_calls",
            )


def _result_faults(call_id: str, called: list[str], *, open_ids: list[str], index: int) -> Iterator[ErrorObject]:
    """Takes the id off `open_ids`, or says why it cannot."""
    if call_id in open_ids:
        open_ids.remove(call_id)
    elif call_id in called:
        yield error_object(
            f"Duplicate value for 'tool_call_id' of '{call_id}' in message[{index}].",
            param=f"messages.[{index}].tool_call_id",
        )
    elif called:
        yield error_object(
            f"Invalid parameter: 'tool_call_id' of '{call_id}' not found in 'tool_calls' of previous message.",
            param=f"messages.[{index}].tool_call_id",
        )
    else:
        yield error_object(
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
            "'tool_calls'.",
            param=f"messages.[{index}].role",
        )


def _tools_faults(body: dict[str, Any]) -> Iterator[ErrorObject]:
    tools = body.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        yield _wrong_type("tools", "an array of objects", tools)
        return
    if not tools:
        yield _empty("tools")
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            yield _missing(f"tools[{index}].function")
        elif not isinstance(function.get("name"), str) or not _TOOL_NAME.fullmatch(function["name"]):
            yield error_object(
                f"Invalid 'tools[{index}].function.name': string does not match pattern. Expected a string that "
                "matches the pattern '^[a-zA-Z0-9_-]+$'.",
                param=f"tools[{index}].function.name",
                code="invalid_value",
            )


def _option_faults(body: dict[str, Any]) -> Iterator[ErrorObject]:
    stream, count = body.get("stream"), body.get("n")
    if not isinstance(stream, bool | None):
        yield _wrong_type("stream", "a boolean", stream)
    if body.get("stream_options") is not None and not stream:
        yield error_object(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
        )
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 128):
        yield error_object("Invalid 'n': expected an integer between 1 and 128.", param="n", code="invalid_value")


CHECKS: tuple[Callable[[dict[str, Any]], Iterator[ErrorObject]], ...] = (
    _model_faults,
    _messages_faults,
    _tools_faults,
    _option_faults,
)
"""In the order in which they are reported. Only the first fault is asked for, so later lines may trust earlier ones."""


def _missing(param: str) -> ErrorObject:
    return error_object(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def _empty(param: str) -> ErrorObject:
    return error_object(
        f"Invalid '{param}': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        param=param,
        code="empty_array",
    )


def _not_one_of(param: str, allowed: tuple[str, ...], value: object) -> ErrorObject:
    quoted = [f"'{each}'" for each in allowed]
    listed = ", ".join(quoted[:-1]) + ", and " * (len(quoted) > 1) + quoted[-1]
    return error_object(f"Invalid value: '{value}'. Supported values are: {listed}.", param=param, code="invalid_value")


_JSON_TYPES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a decimal",
    bool: "a boolean",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def _wrong_type(param: str, expected: str, value: object) -> ErrorObject:
    return error_object(
        f"Invalid type for '{param}': expected {expected}, but got {_JSON_TYPES[type(value)]} instead.",
        param=param,
        code="invalid_type",
    )
