"""An agent's calls for itself get no memory; what people say, however it reads, does."""

import json
import time

import pytest

from memproxy.proxy.utility import is_utility
from memproxy.records import JsonObject
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from tests.fakes.shared_data import dialogues, trajectories


def asks(user: str, system: str = "", **fields: object) -> bool:
    messages: list[JsonObject] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    request = CHAT_COMPLETIONS.read(json.dumps({"messages": messages, **fields}).encode())
    assert request is not None
    return is_utility(request)


TITLES = [
    "You are a title generator. You output ONLY a thread title.",
    "You are a helpful title writer for chats.",
    "You are a tag generator",
    "Generate a concise title of at most 5 words for the following conversation.",
    "Create a short title for this chat.",
    "Please suggest three follow-up questions for this discussion.",
    "Come up with a headline for the thread below",
]


@pytest.mark.parametrize("system", TITLES)
def test_calls_for_titles_are_the_agents_own(system: str) -> None:
    """A list of chats with titles must not fill the memory with "generate a title"."""
    assert asks("User: hi\nAssistant: hello", system)


@pytest.mark.parametrize(
    "text",
    [
        "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.",
        "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history",
        "## Task:\nSuggest 3-5 relevant follow-up questions or prompts, based on the chat history",
    ],
)
def test_tasks_of_chat_front_ends_are_recognised_in_the_message(text: str) -> None:
    """Web front ends ask the model about a chat in the chat's own form."""
    assert asks(text)


def test_a_probe_for_one_token_is_no_conversation() -> None:
    """Connection checks leave no trace."""
    assert asks("hi", max_tokens=1)
    assert asks("hi", max_completion_tokens=1)
    assert not asks("hi", max_tokens=2)


@pytest.mark.parametrize(
    ("user", "system"),
    [
        ("Generate a title for my conversation with Anna, please", ""),
        ("Write a headline for the article in my last message", ""),
        ("### Task:\nBook a table for two and remind me tomorrow", ""),
        ("hi", "You are a support agent. Keep the conversation friendly. Titles of books are in italics."),
        ("hi", "You are a summary assistant"),
        ("hi", "You write code. " + "Never generate files you were not asked for. " * 10 + "Use message titles."),
        ("What was the title of the book in our last chat?", "You are a helpful assistant."),
    ],
)
def test_what_people_ask_for_is_not_taken_for_a_utility_call(user: str, system: str) -> None:
    """A user who asks for a title still has a memory."""
    assert not asks(user, system)


def test_only_the_newest_message_can_be_a_task() -> None:
    """A tool's result that looks like a task is not one."""
    messages = [{"role": "user", "content": "hi"}, {"role": "tool", "content": "### Task: write a title for this chat"}]
    request = CHAT_COMPLETIONS.read(json.dumps({"messages": messages}).encode())
    assert request is not None
    assert not is_utility(request)


def test_real_conversations_are_none() -> None:
    """Three thousand turns between people and forty agent runs, and not one is mistaken."""
    for trajectory in trajectories():
        request = CHAT_COMPLETIONS.read(json.dumps({"messages": trajectory["messages"]}).encode())
        assert request is not None
        assert not is_utility(request), trajectory["id"]
    told = [record["text"] for conversation in dialogues() for record in conversation["records"]]
    assert [text for text in told if asks(text, "You are a helpful assistant.")] == []


def test_looking_takes_no_time_whatever_is_said() -> None:
    """Text made to be slow to search is searched at its beginning only."""
    began = time.perf_counter()
    for text in ("generate " * 100_000, "title " * 100_000, "generate title " * 50_000, "create a" + " " * 500_000):
        asks("## Task: " + text, text)
    assert time.perf_counter() - began < 2
