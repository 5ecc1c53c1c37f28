"""Usage grows with the prompt, and a changed prefix shows in the cached tokens as it would on a bill."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from memproxy.demo.counting import MESSAGE_OVERHEAD, PromptCache, text_tokens, value_tokens

messages = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": st.text(max_size=40)}), min_size=1, max_size=6
)


def prompt(*texts: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text} for text in texts], **more}


@given(messages, messages)
def test_a_longer_prompt_costs_more_and_keeps_its_prefix(
    head: list[dict[str, Any]], tail: list[dict[str, Any]]
) -> None:
    """Token budgets are tested by these counts."""
    cache = PromptCache()
    first = cache.count({"model": "m", "messages": head})
    second = cache.count({"model": "m", "messages": head + tail})
    assert first[1] == 0
    assert second[0] >= first[0] + len(tail) * MESSAGE_OVERHEAD
    assert first[0] <= second[1] <= second[0]


def test_texts_are_counted_wherever_they_stand() -> None:
    """Tool calls and parts are part of the prompt too."""
    assert text_tokens("") == 0
    assert text_tokens("abcd") == 1
    assert text_tokens("abcde") == 2
    assert value_tokens({"a": "abcd", "b": ["abcde", {"c": "x"}], "d": 7, "e": None, "f": True}) == 4


def test_a_prompt_that_was_sent_before_is_cached_completely() -> None:
    """The best case: nothing before the newest message has changed."""
    cache = PromptCache()
    total, cached = cache.count(prompt("one", "two"))
    assert (total > 0, cached) == (True, 0)
    assert cache.count(prompt("one", "two")) == (total, total)


def test_a_change_at_the_start_spoils_everything_after_it() -> None:
    """That is why the proxy replays what it injected byte for byte."""
    cache = PromptCache()
    cache.count(prompt("one", "two", "three"))
    assert cache.count(prompt("changed", "two", "three"))[1] == 0
    assert cache.count(prompt("one", "two", "three", tools=[{"name": "x"}]))[1] == 0
    assert cache.count({**prompt("one", "two", "three"), "model": "other"})[1] == 0
    assert cache.count(prompt("one", "changed", "three"))[1] == MESSAGE_OVERHEAD + text_tokens("user") + text_tokens(
        "one"
    )


def test_the_oldest_prefixes_are_forgotten() -> None:
    """A server that runs for days may not grow without end."""
    cache = PromptCache()
    cache.count(prompt("first"))
    for number in range(6):
        cache.count(prompt(*(f"{number}-{index}" for index in range(2000))))
    assert cache.count(prompt("first", "second"))[1] == 0
