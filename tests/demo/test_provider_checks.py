"""What OpenAI would refuse is refused by the scripted model too, or broken tool calls would pass the tests."""

from typing import Any

import pytest

from memproxy.demo.provider_checks import find_embeddings_fault, find_fault

USER = {"role": "user", "content": "Where is my order?"}


def call(*ids: str) -> dict[str, Any]:
    calls = [{"id": each, "type": "function", "function": {"name": "get_order", "arguments": "{}"}} for each in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "on its way"}


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [{"role": "system", "content": "Be kind."}, {"role": "developer", "content": "Be short."}, USER],
        [USER, {"role": "assistant", "content": "Here."}, USER],
        [USER, call("a"), result("a")],
        [USER, call("a", "b"), result("b"), result("a"), USER],
        [USER, call("a"), result("a"), call("b"), result("b"), {"role": "assistant", "content": "Done."}],
        [USER, call("a"), result("a"), USER, call("a"), result("a")],
        [{"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {}}]}],
        [USER, {"role": "assistant", "content": None, "refusal": "No."}, USER],
    ],
)
def test_a_conversation_that_openai_takes_passes(messages: list[dict[str, Any]]) -> None:
    """A check that is too strict would blame the proxy for good requests."""
    assert find_fault({"model": "m", "messages": messages}) is None


@pytest.mark.parametrize(
    ("messages", "message", "param"),
    [
        ([USER, result("a")], "must be a response to a preceeding message with 'tool_calls'", "messages.[1].role"),
        ([result("a")], "must be a response to a preceeding message", "messages.[0].role"),
        ([USER, call("a"), USER], "did not have response messages: a", "messages.[1].role"),
        ([USER, call("a")], "did not have response messages: a", "messages.[1].role"),
        ([USER, call("a", "b"), result("a")], "did not have response messages: b", "messages.[1].role"),
        (
            [USER, call("a", "b"), result("a"), USER, result("b")],
            "did not have response messages: b",
            "messages.[1].role",
        ),
        ([USER, call("a"), result("b")], "'tool_call_id' of 'b' not found", "messages.[2].tool_call_id"),
        (
            [USER, call("a"), result("a"), result("a")],
            "Duplicate value for 'tool_call_id'",
            "messages.[3].tool_call_id",
        ),
        ([USER, call("a", "a"), result("a")], "Duplicate value for 'id'", "messages.[1].tool_calls"),
        ([USER, call("a"), result("a"), USER, result("a")], "must be a response to a preceeding", "messages.[4].role"),
    ],
)
def test_a_tool_call_apart_from_its_result_is_refused(messages: list[dict[str, Any]], message: str, param: str) -> None:
    """This is what cutting a history at the wrong place does."""
    fault = find_fault({"model": "m", "messages": messages})
    assert fault is not None
    assert message in fault["message"]
    assert (fault["type"], fault["param"], fault["code"]) == ("invalid_request_error", param, None)


def changed_call(**changes: Any) -> dict[str, Any]:
    first = call("a")
    return {**first, "tool_calls": [{**first["tool_calls"][0], **changes}]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "could not parse the JSON body"),
        ([], "could not parse the JSON body"),
        ({"messages": [USER]}, "you must provide a model parameter"),
        ({"model": 3, "messages": [USER]}, "Invalid type for 'model': expected a string, but got an integer instead."),
        ({"model": "m"}, "Missing required parameter: 'messages'."),
        ({"model": "m", "messages": "hi"}, "expected an array of objects, but got a string instead."),
        ({"model": "m", "messages": []}, "Invalid 'messages': empty array."),
        ({"model": "m", "messages": ["hi"]}, "Invalid type for 'messages[0]'"),
        ({"model": "m", "messages": [{"content": "x"}]}, "Missing required parameter: 'messages[0].role'."),
        ({"model": "m", "messages": [{"role": 1, "content": "x"}]}, "Invalid type for 'messages[0].role'"),
        (
            {"model": "m", "messages": [{"role": "memory", "content": "x"}]},
            "Invalid value: 'memory'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'd",
        ),
        ({"model": "m", "messages": [{"role": "user"}]}, "Invalid value for 'content': expected a string, got null."),
        ({"model": "m", "messages": [{"role": "assistant", "content": None}]}, "Invalid value for 'content'"),
        ({"model": "m", "messages": [{"role": "user", "content": 1.5}]}, "but got a decimal instead."),
        ({"model": "m", "messages": [{"role": "user", "content": []}]}, "Invalid 'messages[0].content': empty array."),
        ({"model": "m", "messages": [{"role": "user", "content": ["x"]}]}, "Invalid type for 'messages[0].content[0]'"),
        ({"model": "m", "messages": [{"role": "user", "content": [{}]}]}, "'messages[0].content[0].type'"),
        (
            {"model": "m", "messages": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]},
            "Invalid value: 'input_text'. Supported values are: 'text',",
        ),
        ({"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content[0].text'"),
        ({"model": "m", "messages": [{"role": "tool", "content": "x"}]}, "'messages[0].tool_call_id'"),
        ({"model": "m", "messages": [{**call("a"), "tool_calls": None}]}, "'messages[0].tool_calls'"),
        ({"model": "m", "messages": [{**call("a"), "tool_calls": []}]}, "'messages[0].tool_calls': empty array."),
        ({"model": "m", "messages": [{**call("a"), "tool_calls": ["a"]}]}, "'messages[0].tool_calls[0]'"),
        ({"model": "m", "messages": [changed_call(id=None)]}, "'messages[0].tool_calls[0].id'"),
        ({"model": "m", "messages": [changed_call(type="tool")]}, "Supported values are: 'function'."),
        ({"model": "m", "messages": [changed_call(function=None)]}, "function.name'"),
        ({"model": "m", "messages": [changed_call(function={"name": "f", "arguments": {}})]}, "but got an object"),
        ({"model": "m", "messages": [USER], "tools": {}}, "Invalid type for 'tools'"),
        ({"model": "m", "messages": [USER], "tools": []}, "Invalid 'tools': empty array."),
        ({"model": "m", "messages": [USER], "tools": ["x"]}, "'tools[0].function'"),
        ({"model": "m", "messages": [USER], "tools": [{"function": {"name": "no blanks"}}]}, "does not match pattern"),
        ({"model": "m", "messages": [USER], "stream": "yes"}, "Invalid type for 'stream'"),
        ({"model": "m", "messages": [USER], "stream_options": {}}, "only allowed when 'stream' is enabled"),
        ({"model": "m", "messages": [USER], "n": 0}, "between 1 and 128"),
        ({"model": "m", "messages": [USER], "n": True}, "between 1 and 128"),
    ],
)
def test_a_malformed_body_is_refused(body: object, message: str) -> None:
    """What the proxy sends upstream must be well formed in every part."""
    fault = find_fault(body)
    assert fault is not None
    assert message in fault["message"]


def test_options_that_openai_takes_pass() -> None:
    """Null means "not given" in most clients."""
    tools = [{"type": "function", "function": {"name": "get_order", "parameters": {}}}]
    body = {"model": "m", "messages": [USER], "tools": tools, "stream": True, "n": 2}
    assert find_fault({**body, "stream_options": {"include_usage": True}, "unknown": 1}) is None
    assert find_fault({**body, "tools": None, "stream": None, "stream_options": None, "n": None}) is None


@pytest.mark.parametrize("given", ["text", ["one", "two"], [1, 2], [[1, 2], [3]]])
def test_every_form_of_embedding_input_passes(given: object) -> None:
    """Clients send texts, and some send token numbers."""
    assert find_embeddings_fault({"model": "m", "input": given}) is None


@pytest.mark.parametrize(
    "body", [None, {"model": "m"}, {"input": "x"}, {"model": "m", "input": []}, {"model": "m", "input": [None]}]
)
def test_a_malformed_embeddings_request_is_refused(body: object) -> None:
    """A remote embedder that was called wrongly must find out."""
    assert find_embeddings_fault(body) is not None
