"""Messages of every dialect, read in one form."""

import pytest

from memproxy.records import JsonObject
from memproxy.wire.chat_form import chat_form, text_of
from tests.fakes import message_streams as anthropic
from tests.fakes import response_streams as responses

ASKED = [{"id": "a", "function": {"name": "f", "arguments": '{"q":1}'}}]


@pytest.mark.parametrize(
    ("message", "role", "words", "calls"),
    [
        ({"role": "user", "content": "hi"}, "user", "hi", None),
        ({"role": "tool", "tool_call_id": "a", "content": "found"}, "tool", "found", None),
        (responses.message("hi"), "assistant", "hi", None),
        (responses.reasoning("hm"), "assistant", "", []),
        (responses.call("f", '{"q":1}', "a"), "assistant", "", ASKED),
        ({"type": "function_call_output", "call_id": "a", "output": "found"}, "tool", "found", None),
        ({"role": "user", "content": [{"type": "input_text", "text": "hi"}]}, "user", "hi", None),
        (
            {"role": "assistant", "content": [anthropic.thinking("hm"), anthropic.text("hi")]},
            "assistant",
            "hi",
            [],
        ),
        ({"role": "assistant", "content": [anthropic.call("f", {"q": 1}, "a")]}, "assistant", "", ASKED),
        (
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "found"}]},
            "tool",
            "found",
            None,
        ),
    ],
)
def test_who_says_what_is_the_same_in_every_dialect(
    message: JsonObject, role: str, words: str, calls: list[JsonObject] | None
) -> None:
    """A session reads alike over the memory API, whatever its agent speaks."""
    read = chat_form(message)
    assert (read["role"], text_of(message), read.get("tool_calls")) == (role, words, calls)


def test_results_with_words_are_one_message() -> None:
    """What the user adds to a tool's result is not lost."""
    blocks = [{"type": "tool_result", "tool_use_id": "a", "content": "found"}, anthropic.text("and now?")]
    assert text_of({"role": "user", "content": blocks}) == "found\nand now?"
