"""Where a conversation is cut: only when it must be, at a turn's beginning, far, and seldom."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.proxy.budget import DEFAULT_REPLY, Budget, Weight, choose_cut, divide

quick = settings(max_examples=150, deadline=None)


def test_the_window_is_shared_between_reply_tools_and_conversation() -> None:
    """What the answer and the tools need is not given away to the conversation."""
    budget = divide(100_000, reply_tokens=1_000, tools_tokens=7_000)
    assert budget == Budget(window=100_000, reply=1_000, tools=7_000)
    assert budget.available == 98_000 - 8_000
    assert divide(100_000, reply_tokens=None, tools_tokens=0).reply == DEFAULT_REPLY


@quick
@given(
    st.integers(min_value=1, max_value=2_000_000),
    st.none() | st.integers(min_value=1, max_value=5_000_000),
    st.integers(min_value=0, max_value=5_000_000),
)
def test_no_request_takes_the_whole_window_for_reply_or_tools(window: int, reply: int | None, tools: int) -> None:
    """A client that asks for more than the model has still gets an answer, if the provider lets it."""
    budget = divide(window, reply_tokens=reply, tools_tokens=tools)
    assert 0 <= budget.available <= window
    assert max(budget.reply, budget.tools) <= window // 2 or window == 1


def turns(*tokens: int) -> list[Weight]:
    """Turns of a message of the user and an answer, each with so many tokens."""
    return [Weight(at, count, begins_turn=at % 2 == 0) for at, count in enumerate(tokens)]


def chosen(weights: list[Weight], *, cut: int = 0, fixed: int = 0, available: int = 100, share: float = 0.6) -> int:
    return choose_cut(weights, cut=cut, fixed=fixed, available=available, keep_share=share)


@pytest.mark.parametrize(
    ("weights", "cut", "fixed", "expected"),
    [
        (turns(), 0, 0, 0),
        (turns(10, 10, 10, 10), 0, 0, 0),
        (turns(50, 50), 0, 0, 0),
        (turns(20, 20, 20, 20, 20, 20), 0, 0, 4),
        (turns(20, 20, 20, 20, 20, 20), 0, 40, 4),
        (turns(20, 20, 20, 20, 20, 20), 2, 0, 2),
        (turns(20, 20, 20, 20, 20, 20), 2, 50, 4),
        (turns(500, 500), 0, 0, 0),
        (turns(10, 10, 500), 0, 0, 2),
        (turns(10, 10, 10), 0, 200, 2),
    ],
)
def test_a_conversation_is_cut_only_when_it_does_not_fit(
    weights: list[Weight], cut: int, fixed: int, expected: int
) -> None:
    """It keeps its beginning as long as it can, then loses whole turns; the newest one stays in any case."""
    assert chosen(weights, cut=cut, fixed=fixed) == expected


def test_messages_outside_of_the_log_are_never_cut_away() -> None:
    """A client's own summary of earlier messages is not memproxy's to drop, but it takes its room."""
    weights = [Weight(None, 50, begins_turn=True), *turns(20, 20, 20, 20)]
    assert chosen(weights) == 2
    assert chosen([Weight(None, 500, begins_turn=True), *turns(20, 20)]) == 0


@quick
@given(
    st.lists(st.tuples(st.integers(min_value=0, max_value=60), st.booleans(), st.booleans()), max_size=15),
    st.integers(min_value=0, max_value=8),
    st.integers(min_value=0, max_value=80),
)
def test_a_cut_stands_before_a_turn_and_never_goes_back(
    told: list[tuple[int, bool, bool]], cut: int, fixed: int
) -> None:
    """A call and its results lie in one turn, so no cut can part them; and what was left out stays out."""
    outside = [Weight(None, tokens, begins_turn=begins) for tokens, begins, is_in in told if not is_in]
    inside = [(tokens, begins) for tokens, begins, is_in in told if is_in]
    weights = outside + [Weight(at, tokens, begins_turn=begins) for at, (tokens, begins) in enumerate(inside)]
    found = chosen(weights, cut=cut, fixed=fixed)
    assert found >= cut
    starts = [weight.position for weight in weights if weight.begins_turn and weight.position is not None]
    assert found == cut or found in starts
    if found != cut:
        assert fixed + sum(w.tokens for w in weights if w.position is None or w.position >= cut) > 100
    later = [start for start in starts if start > found]
    if found > cut and later:
        rest = fixed + sum(w.tokens for w in weights if w.position is None or w.position >= found)
        assert rest <= 60, "it stopped where enough was gone"


def test_a_long_conversation_is_cut_seldom() -> None:
    """Each cut costs the provider's prompt cache once; in between, the prompt only grows at its end."""
    random.seed(7)
    available, weights, cut, cuts = 8_000, list[Weight](), 0, list[int]()
    sent: list[list[int]] = []
    for _ in range(300):
        for begins in (True, False, False, False):
            weights.append(Weight(len(weights), random.randint(10, 250), begins_turn=begins))
        now = choose_cut(weights, cut=cut, fixed=1_500, available=available, keep_share=0.6)
        if now != cut:
            cuts.append(now)
        cut = now
        left = [weight for weight in weights if weight.position is not None and weight.position >= cut]
        sent.append([weight.position or 0 for weight in left])
        assert 1_500 + sum(weight.tokens for weight in left) <= available
        assert left[0].begins_turn
    total = sum(weight.tokens for weight in weights)
    assert len(cuts) <= total / (available * 0.4 - 1_000) + 1
    kept = sum(after[: len(before)] == before for before, after in pairwise(sent))
    assert kept == len(sent) - 1 - len(cuts)
