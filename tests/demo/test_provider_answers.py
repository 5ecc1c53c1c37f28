"""The shapes of the answers, where the official client does not already check them."""

import base64
import json
import math
from array import array
from typing import Any

import pytest

from memproxy.demo.provider_answers import (
    completion_events,
    embed,
    embeddings_body,
    file_content,
    scripted_error,
    usage,
)
from memproxy.demo.script import Reply, ToolCallReply
from memproxy.wire.sse import parse_stream


def chunks(reply: Reply, **body: Any) -> list[dict[str, Any]]:
    counts = usage(reply, 10, cached_tokens=4, choices=body.get("n", 1))
    events = parse_stream(completion_events(reply, {"model": "m", **body}, created=1, usage=counts))
    assert events[-1].data == b"[DONE]"
    return [json.loads(event.data) for event in events[:-1]]


def test_a_stream_has_one_head_one_role_and_one_end() -> None:
    """Clients break on a second role or id, and on usage that they did not ask for."""
    all_chunks = chunks(Reply("one two"))
    assert len({chunk["id"] for chunk in all_chunks}) == 1
    assert all_chunks[0]["id"].startswith("chatcmpl-")
    assert [chunk["choices"][0]["delta"] for chunk in all_chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "one"},
        {"content": " two"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in all_chunks] == [None, None, None, "stop"]
    assert {tuple(chunk) for chunk in all_chunks} == {
        ("id", "object", "created", "model", "service_tier", "system_fingerprint", "choices")
    }


def test_usage_comes_only_when_asked_for() -> None:
    """It is one more chunk without choices, and a null in each other chunk."""
    *head, last = chunks(Reply("one"), stream_options={"include_usage": True})
    assert {chunk["usage"] for chunk in head} == {None}
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert last["usage"]["total_tokens"] == 10 + last["usage"]["completion_tokens"] == 11


def test_tool_calls_come_in_fragments() -> None:
    """Index in every fragment; id, type and name in the first one of a call only."""
    reply = Reply(tool_calls=(ToolCallReply("f", '{"order_id":"A-1042"}', id="call_1"), ToolCallReply("g")))
    first, *middle, last = [chunk["choices"][0] for chunk in chunks(reply)]
    assert first["delta"] == {"role": "assistant", "content": None, "refusal": None}
    fragments = [fragment for choice in middle for fragment in choice["delta"]["tool_calls"]]
    assert fragments[0] == {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert [fragment["index"] for fragment in fragments] == [0, 0, 0, 0, 1, 1]
    assert "".join(fragment["function"]["arguments"] for fragment in fragments[:4]) == '{"order_id":"A-1042"}'
    assert fragments[4]["id"].startswith("call_")
    assert last == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}


def test_several_choices_are_streamed_side_by_side() -> None:
    """With `n`, chunks of different choices take turns."""
    assert [chunk["choices"][0]["index"] for chunk in chunks(Reply("one"), n=2)] == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (Reply(status=401), "invalid_request_error", "invalid_api_key"),
        (Reply(status=429, error="Slow down."), "requests", "rate_limit_exceeded"),
        (Reply(status=503), "server_error", None),
        (Reply(status=400, error={"message": "m", "type": "t", "code": "c"}), "t", "c"),
    ],
)
def test_errors_have_the_usual_type(reply: Reply, kind: str, code: str | None) -> None:
    """Clients choose what to do by type and code."""
    error = scripted_error(reply)
    assert (error["type"], error["code"]) == (kind, code)
    assert error["message"]


def test_embeddings_depend_on_the_words_alone() -> None:
    """So a search by vectors finds something in a test without a model."""
    here, near, far = (embed(text, 64) for text in ("my laptop order", "My order laptop", "weather in Rome"))
    assert math.isclose(sum(each * each for each in here), 1.0, rel_tol=1e-5)
    assert here == near
    assert sum(a * b for a, b in zip(here, far, strict=True)) < 0.5
    assert len(embed("", 8)) == 8


def test_embeddings_come_as_floats_or_base64() -> None:
    """The official client asks for base64, others for floats."""
    asked = {"model": "m", "input": ["one", [1, 2]], "dimensions": 4}
    floats = [each["embedding"] for each in json.loads(embeddings_body(asked))["data"]]
    packed = json.loads(embeddings_body({**asked, "encoding_format": "base64"}))
    assert [array("f", base64.b64decode(each["embedding"])).tolist() for each in packed["data"]] == floats
    assert packed["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert len(json.loads(embeddings_body({**asked, "input": [1, 2]}))["data"]) == 1


@pytest.mark.parametrize("size", [0, 1, 256, 1000])
def test_file_content_has_the_size_that_was_asked_for(size: int) -> None:
    """The pass-through tests compare it byte for byte."""
    assert len(file_content(size)) == size
