"""How a session looks to code: words for what has none, and shares of a window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.memory.working import Window, shown_role, shown_text, window_of
from memproxy.records import JsonObject
from memproxy.tokens import Windows
from tests.fakes.chat_messages import assistant, calling, json_values
from tests.fakes.sessions import answered, said

IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
WINDOWS = Windows({"gpt-4o": 128_000, "gpt-4": 8_192}, default=50_000)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (said(" as it is ").message, " as it is "),
        (said("").message, ""),
        (said(None).message, ""),
        (
            said([{"type": "text", "text": "see"}, IMAGE, {"type": "text", "text": "this"}]).message,
            "see\nthis\n[image_url]",
        ),
        (said([IMAGE]).message, "[image_url]"),
        (assistant(None, refusal="I won't."), "I won't."),
        (assistant(None, tool_calls=[calling("get_order", '{"id":1}')]), '[calls get_order({"id":1})]'),
        (
            assistant("Looking.", tool_calls=[calling("f", {"a": "é"}), calling("g", None)]),
            'Looking.\n[calls f({"a": "é"})]\n[calls g({})]',
        ),
        (
            assistant("", tool_calls=[{"type": "custom", "custom": {"name": "sql", "input": "select 1"}}]),
            "[calls sql(select 1)]",
        ),
        (assistant(None, function_call={"name": "f", "arguments": "{}"}), "[calls f({})]"),
        (assistant("x", tool_calls=[]), "x"),
    ],
)
def test_what_a_message_says_is_told_as_text(message: JsonObject, text: str) -> None:
    """The memory API knows a role and a text; nothing that was said or asked for is left out."""
    assert shown_text(message) == text


@given(st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "function_call", "refusal"]), json_values))
def test_whatever_was_stored_is_shown_the_same_each_time(message: JsonObject) -> None:
    """By the same text a message is known to come back unchanged."""
    assert shown_text(message) == shown_text(dict(message))


@pytest.mark.parametrize(
    ("message", "role"),
    [
        (said("x", "narrator").message, "narrator"),
        (answered("x").message, "tool"),
        ({"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}, "assistant"),
        ({"type": "function_call_output", "call_id": "a", "output": "x"}, "tool"),
        ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}, "user"),
        ({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "x"}]}, "tool"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}]}, "user"),
    ],
)
def test_whose_a_message_is_is_told_alike_in_every_format(message: JsonObject, role: str) -> None:
    """A session may have been led in any of them; code reads one."""
    assert shown_role(message) == role


@pytest.mark.parametrize(
    ("model", "most", "window"),
    [
        ("gpt-4o-2024-08-06", None, Window(128_000, is_given=True)),
        ("a-model-of-next-year", None, Window(50_000, is_given=True)),
        ("gpt-4", 3_000, Window(3_000, is_given=True)),
        (None, 3_000, Window(3_000, is_given=True)),
        (None, None, Window(50_000, is_given=False)),
    ],
)
def test_a_window_is_what_the_request_says(model: str | None, most: int | None, window: Window) -> None:
    """Any model's name will do; tokens count more than a name."""
    assert window_of(WINDOWS, model=model, most=most) == window


@pytest.mark.parametrize(
    ("tokens", "window", "shares"),
    [
        (0, 1_000, (0.0, 0.0)),
        (350, 1_000, (35.0, 50.0)),
        (700, 1_000, (70.0, 100.0)),
        (5_000, 1_000, (100.0, 100.0)),
        (1, 1, (100.0, 100.0)),
        (2_000, 16_000, (12.5, 2_000 / 11_200 * 100)),
    ],
)
def test_shares_are_those_of_the_reference(tokens: int, window: int, shares: tuple[float, float]) -> None:
    """Per cent of the window, and of the 70 % above which a session is summarised."""
    assert Window(window, is_given=True).shares(tokens) == pytest.approx(shares)


def test_without_a_window_there_are_no_shares() -> None:
    """Nobody said what the session should fit into."""
    assert Window(1_000, is_given=False).shares(500) == (None, None)
