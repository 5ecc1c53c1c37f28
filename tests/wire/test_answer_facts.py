"""What traces and metrics tell of an answer, in each format."""

import json
from typing import Any

import pytest

from memproxy.wire.answer_facts import AnswerFacts, TokenCounts, answer_facts, token_counts

EVENTS = "text/event-stream"


def stream(*values: Any) -> list[bytes]:
    return [f"data: {json.dumps(value)}\n\n".encode() for value in values] + [b"data: [DONE]\n\n"]


CHAT = stream(
    {"id": "chatcmpl-1", "model": "gpt-4o-2024", "choices": [{"delta": {"content": "Hi"}, "finish_reason": None}]},
    {"id": "chatcmpl-1", "model": "gpt-4o-2024", "choices": [{"delta": {}, "finish_reason": "stop"}]},
)
RESPONSES = stream(
    {"type": "response.created", "response": {"id": "resp_1", "model": "o4", "object": "response", "status": "queued"}},
    {
        "type": "response.incomplete",
        "response": {
            "id": "resp_1",
            "model": "o4",
            "object": "response",
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
        },
    },
)
MESSAGES = stream(
    {"type": "message_start", "message": {"id": "msg_1", "model": "claude-x", "stop_reason": None}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (CHAT, AnswerFacts("chatcmpl-1", "gpt-4o-2024", ("stop",))),
        (RESPONSES, AnswerFacts("resp_1", "o4", ("max_output_tokens",))),
        (MESSAGES, AnswerFacts("msg_1", "claude-x", ("tool_use",))),
    ],
)
def test_streams_of_all_formats(chunks: list[bytes], expected: AnswerFacts) -> None:
    """A trace of any agent can be searched for the model that answered."""
    assert answer_facts(chunks, content_type=EVENTS, content_encoding="") == expected


def test_whole_answers() -> None:
    """Agents that do not stream are told of, too."""
    body = {"id": "msg_1", "model": "claude-x", "role": "assistant", "stop_reason": "end_turn", "content": []}
    found = answer_facts([json.dumps(body).encode()], content_type="application/json", content_encoding="")
    assert found == AnswerFacts("msg_1", "claude-x", ("end_turn",))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"choices": 3, "id": 7}', b'{"choices": [null]}'])
def test_what_is_no_answer_has_no_facts(body: bytes) -> None:
    """Whatever the provider sent, telling of it fails nothing."""
    assert answer_facts([body], content_type="application/json", content_encoding="") == AnswerFacts()


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, TokenCounts()),
        ({"prompt_tokens": 9, "completion_tokens": 2}, TokenCounts(9, 2)),
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}},
            TokenCounts(9, 2, 8),
        ),
        (
            {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 8}},
            TokenCounts(9, 2, 8),
        ),
        (
            {
                "input_tokens": 1,
                "output_tokens": 2,
                "cache_read_input_tokens": 8,
                "cache_creation_input_tokens": 3,
            },
            TokenCounts(12, 2, 8),
        ),
        ({"prompt_tokens": "many", "prompt_tokens_details": None}, TokenCounts()),
    ],
)
def test_usage_of_all_formats(usage: dict[str, Any] | None, expected: TokenCounts) -> None:
    """What the cache saved is a part of what was read, whoever counts."""
    assert token_counts(usage) == expected
