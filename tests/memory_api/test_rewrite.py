"""Rewriting a query by a model, which may fail."""

import pytest

from memproxy.demo.scripted_model import Reply, ScriptedModel
from memproxy.llm import JsonModel
from memproxy.memory_api.rewrite import rewritten


def model_at(base_url: str) -> JsonModel:
    """A model behind this address."""
    return JsonModel(base_url, None, "small", 30)


async def ask(reply: Reply, text: str = "Hi! What tea do I like?") -> tuple[str, int]:
    """What is searched for when the model answers so, and how often it was asked."""
    async with ScriptedModel(lambda _: reply).serve() as upstream, model_at(upstream.base_url) as model:
        return await rewritten(text, model), len(upstream.model.requests)


async def test_the_model_writes_the_query() -> None:
    """Greetings and requests are left out of the search."""
    assert await ask(Reply(text='{"query": "tea preference"}')) == ("tea preference", 1)


@pytest.mark.parametrize("text", ['{"query": " "}', '{"query": 5}', '["tea"]', "no JSON at all"])
async def test_a_model_that_answers_something_else_changes_nothing(text: str) -> None:
    """The search goes on with what was asked."""
    found, _ = await ask(Reply(text=text))
    assert found == "Hi! What tea do I like?"


async def test_a_model_that_fails_changes_nothing() -> None:
    """A search does not depend on it."""
    async with model_at("http://127.0.0.1:9") as model:
        assert await rewritten("tea?", model) == "tea?"


async def test_a_model_that_is_slow_is_not_waited_for() -> None:
    """Whoever searches waits for it."""
    slow = Reply(text='{"query": "x"}', delay_s=30)
    async with ScriptedModel(lambda _: slow).serve() as upstream, model_at(upstream.base_url) as model:
        assert await rewritten("tea?", model, deadline_s=0.05) == "tea?"


async def test_what_is_too_short_is_not_rewritten() -> None:
    """There is nothing to leave out."""
    assert await ask(Reply(text='{"query": "x"}'), "?") == ("?", 0)
