"""What of a message its author said."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memproxy.extraction.own_words import LONG_CHARS, own_words
from tests.fakes.shared_data import dialogues, trajectories

TRACE = "Traceback (most recent call last):\n" + "\n".join(f'  File "app.py", line {n}, in run' for n in range(5))
LOG = "\n".join(f"2024-05-01 12:00:0{n} INFO worker started with id {n}" for n in range(6))
CSV = "\n".join(f"{n},Ann,Leeds,{n * 3},2024-05-0{n}" for n in range(1, 7))
PATCH = (
    "diff --git a/x.py b/x.py\nindex 3f2a9c1..8d7e6b2 100644\n--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,2 @@\n-x = 1;\n+x = 2;"
)
CODE = "def run(self):\n    for each in self.items():\n    if each.ok():\n    return each.value()\nclass Other(Base):"
PAGE = "<div>\n<p>Hello there</p>\n<p>More of it</p>\n<span>x</span>\n</div>"


@pytest.mark.parametrize("machine", [TRACE, LOG, CSV, PATCH, CODE, PAGE, json.dumps({"a": [1, 2], "b": "c"}, indent=2)])
def test_what_a_machine_wrote_is_left_out(machine: str) -> None:
    """A pasted log is no memory, the question about it is."""
    assert own_words(f"Why does this happen?\n\n{machine}\n\nI use Debian.", is_user=True).split() == (
        ["Why", "does", "this", "happen?", "I", "use", "Debian."]
    )


@pytest.mark.parametrize(
    "words",
    [
        "I paid 12.50, 3.20, 4.99 and 17.00 euros for lunch, dinner, coffee and cake.",
        "Call me: +49 170 1234567",
        '"Hello," she said.\nI said "Hi."',
        "My options are:\n- tea\n- coffee\n- water\n- milk\n- juice",
        "You are so kind!\n\nI always wanted to see Rome, and you should come along. Never mind the cost.",
        "The error was 404 < 500 and a > b.",
        "import duties are high; we must return the goods and use another way to order them, always",
        "<task>Fix the garden fence</task>",
        "我对花生过敏。我住在柏林。",
    ],
)
def test_what_people_say_is_left_as_it_is(words: str) -> None:
    """Numbers, lists, quotations and little signs are how people talk."""
    assert own_words(words, is_user=True) == words


@pytest.mark.parametrize("fence", ["```", "~~~", "````"])
def test_code_between_fences_is_left_out(fence: str) -> None:
    """Also where the model forgot to end it."""
    assert own_words(f"Look:\n{fence}python\nx = 1\n{fence}\nNice?", is_user=True).split() == ["Look:", "Nice?"]
    assert own_words(f"Look:\n{fence}\nx = 1\ny", is_user=False) == "Look:"


@pytest.mark.parametrize(
    "tag",
    ["system-reminder", "environment_details", "file_contents", "tool_result", "memproxy-memory", "rules", "Context"],
)
def test_what_an_agent_put_between_tags_is_left_out(tag: str) -> None:
    """Agents put memories, files and their own instructions into the user's message."""
    text = f'<{tag} name="x">\nAnn lives in Rome.\n</{tag}>\nWhere do I live?'
    assert own_words(text, is_user=True) == "Where do I live?"


def test_a_tag_that_does_not_end_takes_nothing_along() -> None:
    """A user who writes "<file>" loses no words."""
    assert (
        own_words("Open <file> and <context> for me, please.", is_user=True)
        == "Open <file> and <context> for me, please."
    )


def test_instructions_to_the_model_in_a_users_message_are_left_out() -> None:
    """Many frameworks have no system prompt and put theirs before what the user says."""
    prompt = (
        "You are an expert travel agent and you must follow the rules below.\n\n# Rules\n- Always answer in French.\n"
        "- Never mention prices.\n\nRespond in the following format only: a list, and do not add anything else.\n\n"
        "My sister lives in Lyon and I want to visit her in June."
    )
    assert own_words(prompt, is_user=True) == "My sister lives in Lyon and I want to visit her in June."
    assert own_words(prompt, is_user=False) == prompt


def test_an_answer_in_json_says_what_its_sentences_say() -> None:
    """Agents with structured output talk in objects."""
    answer = {
        "message": "I booked table 12 for Friday.",
        "ids": ["a1", 7],
        "notes": [{"x": "Bring your wine, please."}],
    }
    assert own_words(json.dumps(answer), is_user=False) == "I booked table 12 for Friday.\nBring your wine, please."
    assert own_words('{"message": "ok"}', is_user=False) == ""
    assert own_words('{"message": "我对花生过敏"}', is_user=False) == "我对花生过敏"
    assert own_words('{"broken": "I booked table 12 for Friday."', is_user=False) != ""


def test_of_a_paste_both_ends_are_kept() -> None:
    """Whatever somebody pasted, they say before or behind it what they want."""
    text = "Please sum up this report for my boss. " + "Long words follow here. " * 2_000 + "My boss is called Eve."
    kept = own_words(text, is_user=True)
    assert kept.startswith("Please sum up")
    assert kept.endswith("My boss is called Eve.")
    assert len(kept) < LONG_CHARS / 2 + 100


def test_encoded_data_is_left_out() -> None:
    """A picture in base64 is not said by anybody."""
    assert own_words("See data:image/png;base64," + "iVBORw0KGgo" * 100 + " here", is_user=True).split() == [
        "See",
        "here",
    ]


def test_no_words_of_real_people_are_lost() -> None:
    """2,960 messages of ten people, who talk of cars, pets and programming, pass unchanged."""
    said = [record["text"].strip() for conversation in dialogues() for record in conversation["records"]]
    assert [words for words in said if own_words(words, is_user=True) != words] == []


def test_next_to_nothing_that_real_agents_say_is_lost() -> None:
    """Answers of 14 models with identifiers, prices and lists stay: at most one in a hundred loses anything."""
    said = [
        str(message["content"]).strip()
        for trajectory in trajectories()
        for message in trajectory["messages"]
        if message["role"] in {"user", "assistant"} and message.get("content")
    ]
    plain = [words for words in said if not words.startswith("{")]
    assert sum(own_words(words, is_user=False) != words for words in plain) <= len(plain) // 100


@given(st.text(max_size=200), st.booleans())
def test_no_text_breaks_it(text: str, is_user: bool) -> None:
    """Whatever a client sends, the worker goes on."""
    assert isinstance(own_words(text, is_user=is_user), str)


@pytest.mark.parametrize(
    "text", ["<file>" * 50_000, "<a1>" * 99_999, "```\n" * 50_000, '{"a":' * 50_000, "x" * 900_000]
)
def test_no_text_takes_long(text: str) -> None:
    """A message of a megabyte is cheap to let go."""
    began = time.process_time()
    own_words(text, is_user=True)
    assert time.process_time() - began < 2
