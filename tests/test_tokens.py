"""Token counts: exact where it is cheap, bounded where it is not, and windows of models by name."""

import base64
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.tokens import EXACT_LIMIT, Windows, count_tokens, estimate_tokens, load_vocabulary
from tests.fakes.shared_data import dialogues, trajectories


def test_counts_are_those_of_openais_vocabulary() -> None:
    """The budget is what the provider will bill."""
    load_vocabulary()
    assert count_tokens("") == 0
    assert count_tokens("hello world") == 2
    assert count_tokens("<|endoftext|>") > 1, "text of a user never becomes a control token"


def test_the_vocabulary_needs_no_network() -> None:
    """A machine without internet starts like any other."""
    code = "from memproxy.tokens import count_tokens; assert count_tokens('hello world') == 2"
    offline = "import socket; socket.socket.connect = None; "
    environment = {"PATH": "/usr/bin:/bin", "TIKTOKEN_CACHE_DIR": ""}
    environment.pop("TIKTOKEN_CACHE_DIR")
    subprocess.run([sys.executable, "-c", offline + code], check=True, env=environment, timeout=60)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(), max_size=60), st.integers(min_value=1, max_value=400))
def test_any_text_can_be_counted_and_estimated(text: str, times: int) -> None:
    """Lone surrogates, control characters and endless repetition are text, too."""
    assert count_tokens(text) >= (1 if text else 0)
    assert estimate_tokens(text * times) >= 0
    if len(text * times) <= EXACT_LIMIT:
        assert estimate_tokens(text * times) == count_tokens(text * times)


def test_long_texts_are_estimated_and_rather_too_high() -> None:
    """A conversation that is cut a little early still works; one that is too long does not."""
    runs = ["\n".join(str(message["content"]) for message in run["messages"]) for run in trajectories()]
    runs += [str(message["content"]) for run in trajectories() for message in run["messages"]]
    talks = ["\n".join(record["text"] for record in conversation["records"]) for conversation in dialogues()]
    made = ["漢" * 10_000, base64.b64encode(random.Random(7).randbytes(20_000)).decode(), "a" * 50_000]
    long = [text for text in (*runs, *talks, *made) if len(text) > EXACT_LIMIT]
    assert len(long) > 40
    for text in long:
        assert 0.95 <= estimate_tokens(text) / count_tokens(text) <= 1.4, text[:80]


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ("gpt-4.1", 1_000),
        ("gpt-4.1-mini-2025-04-14", 1_000),
        ("GPT-4o", 500),
        ("gpt-4", 100),
        ("openai/gpt-4o-mini", 500),
        ("azure/eu/gpt-4o", 500),
        ("org/special-1", 7),
        ("other/special-1", 10),
        ("unheard-of", 10),
        ("my-gpt-4o", 10),
        ("", 10),
        ("/", 10),
    ],
)
def test_the_longest_prefix_of_a_models_name_decides(model: str, window: int) -> None:
    """Dated and sized variants have their family's window; what nobody knows has the default."""
    windows = Windows({"gpt-4": 100, "gpt-4o": 500, "gpt-4.1": 1_000, "org/special": 7}, 10)
    assert windows.window_of(model) == window


def test_no_text_is_too_odd_to_be_counted() -> None:
    """A million blanks make tiktoken overflow its stack; the turn that holds them is recorded all the same."""
    assert count_tokens(" " * 1_200_000) > 0
    assert count_tokens("\t" * 2_100_000) > 0
