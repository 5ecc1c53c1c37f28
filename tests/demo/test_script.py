"""A script sees the request as the client meant it."""

from typing import Any

import msgspec
import pytest

from memproxy.demo.script import ModelRequest, Reply, ToolCallReply, answer_from_request, in_order, text_of, words_of


def request(raw_body: bytes = b"", **body: Any) -> ModelRequest:
    headers = (("authorization", "Bearer x"), ("x-twice", "1"), ("x-twice", "2"))
    return ModelRequest("POST", "/v1/chat/completions", "", headers, raw_body or msgspec.json.encode(body), 0.0)


def test_a_request_shows_what_it_asks() -> None:
    """Scripts and assertions read these."""
    asked = request(model="m", stream=True, messages=[{"role": "user", "content": "Hi"}])
    assert (asked.model, asked.is_stream, asked.last_user_text) == ("m", True, "Hi")
    assert (asked.header("Authorization"), asked.header("x-twice"), asked.header("none")) == ("Bearer x", "1", None)


@pytest.mark.parametrize("raw_body", [b"", b"{", b"[1]", b"\xff"])
def test_a_body_that_is_no_object_reads_as_empty(raw_body: bytes) -> None:
    """Files and echoes are requests too."""
    asked = ModelRequest("POST", "/v1/files", "", (), raw_body, 0.0)
    assert (asked.body, asked.model, asked.messages, asked.is_stream, asked.last_user_text) == ({}, "", [], False, "")


def test_text_is_found_in_strings_and_parts() -> None:
    """Clients use both forms."""
    assert text_of({"content": "a"}) == "a"
    assert (
        text_of({"content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]})
        == "a\nb"
    )
    assert text_of({"content": None}) == text_of({}) == ""


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, Reply("You said: Hi")),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "x"}]}, Reply("You said: Hi")),
        ({"messages": [{"role": "tool", "content": "42"}]}, Reply("The tool says: 42")),
        (
            {"messages": [{"role": "user", "content": "Hi"}], "tool_choice": {"function": {"name": "f"}}},
            Reply(tool_calls=(ToolCallReply("f"),)),
        ),
        (
            {
                "messages": [{"role": "user", "content": "Hi"}],
                "tool_choice": "required",
                "tools": [{"function": {"name": "g"}}],
            },
            Reply(tool_calls=(ToolCallReply("g"),)),
        ),
    ],
)
def test_the_default_script_answers_from_what_it_sees(body: dict[str, Any], reply: Reply) -> None:
    """The answer shows what reached the model, which is what a demonstration of a proxy must show."""
    assert answer_from_request(request(**body)) == reply


def test_replies_in_order_stay_at_the_last_one() -> None:
    """A test that asks once more than it planned gets a sensible answer, not an accident."""
    script = in_order(Reply("a"), Reply("b"))
    assert [script(request()).text for _ in range(4)] == ["a", "b", "b", "b"]


def test_tool_arguments_may_be_text_or_an_object() -> None:
    """Broken JSON must be possible, and an object is easier to write."""
    assert ToolCallReply("f", '{"a": ').arguments_json == '{"a": '
    assert ToolCallReply("f", {"a": 1}).arguments_json == '{"a":1}'


@pytest.mark.parametrize("text", ["", "one", "one two", "  one\n\ttwo  ", " \u2003x\u3000y"])
def test_words_join_to_the_text(text: str) -> None:
    """A streamed answer is the same as one that is not."""
    assert "".join(words_of(text)) == text
