"""Where a conversation is cut: only when it must be, never between a call and its results, far, and seldom."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.proxy.budget import (
    DEFAULT_REPLY,
    NOTE_TOKENS,
    Budget,
    Weight,
    choose_cut,
    divide,
    kept,
    note_room,
    opening,
)

quick = settings(max_examples=150, deadline=None)


def test_the_window_is_shared_between_reply_tools_and_conversation() -> None:
    """What the answer and the tools need is not given away to the conversation."""
    budget = divide(100_000, reply_tokens=1_000, tools_tokens=7_000)
    assert budget == Budget(window=100_000, reply=1_000, tools=7_000)
    assert budget.available == 98_000 - 8_000
    assert divide(100_000, reply_tokens=None, tools_tokens=0).reply == DEFAULT_REPLY


def test_a_reply_that_nobody_limits_does_not_take_half_of_a_small_window() -> None:
    """A model with 8,000 tokens can hold a conversation, too: answers are seldom longer than a page."""
    assert divide(8_000, reply_tokens=None, tools_tokens=0).reply == 2_000
    assert divide(8_000, reply_tokens=4_000, tools_tokens=0).reply == 4_000, "what the client asks for is kept free"


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


def loop(*pairs: int, question: int = 10) -> list[Weight]:
    """A turn of one question and many calls with their results; each pair takes so many tokens."""
    weights = [Weight(0, question, begins_turn=True)]
    for number, tokens in enumerate(pairs):
        weights.append(Weight(2 * number + 1, tokens // 2, is_seam=number > 0))
        weights.append(Weight(2 * number + 2, tokens - tokens // 2))
    return weights


def test_a_long_tool_loop_is_cut_between_results_and_the_next_call() -> None:
    """An agent that works on one request for hours outgrows every window; its task and its newest results stay."""
    weights = loop(*[20] * 6)
    cut = chosen(weights)
    assert cut in {3, 5, 7, 9, 11}
    assert opening(weights, cut) == 0, "the user's words stay"
    assert [weight.position for weight in kept(weights, cut)] == [0, *range(cut, 13)]
    assert sum(weight.tokens for weight in kept(weights, cut)) <= 45
    assert chosen(loop(20, 20, 500)) == 5, "what the newest call gave is never cut"
    assert chosen(loop(500)) == 0


def test_a_turn_is_rather_left_whole() -> None:
    """Half a turn says less than a whole one, unless leaving it whole would cost most of what could be kept."""
    before = [Weight(0, 60, begins_turn=True), Weight(1, 10)]
    rest = [Weight(2, 5, begins_turn=True), Weight(3, 15), Weight(4, 10), Weight(5, 5, is_seam=True)]
    assert chosen([*before, *rest]) == 2
    assert chosen([*before, *rest[:-1], Weight(5, 38, is_seam=True), Weight(6, 2, begins_turn=True)]) == 5


def test_without_a_user_nothing_opens_what_is_kept() -> None:
    """Some agents work from their instructions alone; their loops are cut all the same."""
    weights = [Weight(at, 20, is_seam=at > 0 and at % 2 == 0) for at in range(10)]
    cut = chosen(weights)
    assert cut == 8
    assert opening(weights, cut) is None
    assert opening([], 3) is None


@pytest.mark.parametrize("fixed", [90, 100, 500])
def test_long_instructions_leave_the_conversation_a_little_room(fixed: int) -> None:
    """Where they fill the window by themselves, cutting at every request would help nobody."""
    weights = turns(*[5] * 20)
    cuts = [chosen(weights[:length], cut=8, fixed=fixed) for length in range(9, 14)]
    assert cuts == [8] * 5
    assert note_room(100, fixed=fixed) == 6
    assert note_room(100_000, fixed=0) == NOTE_TOKENS


def test_the_note_takes_room_like_everything_else() -> None:
    """What stands for earlier messages is paid for, too."""
    weights = turns(*[20] * 6)
    assert chosen(weights, cut=2) == 2
    assert choose_cut(weights, cut=2, fixed=0, available=100, keep_share=0.6, note=30) == 4


@quick
@given(
    st.lists(st.tuples(st.integers(min_value=0, max_value=60), st.sampled_from("ucr"), st.booleans()), max_size=15),
    st.integers(min_value=0, max_value=8),
    st.integers(min_value=0, max_value=80),
)
def test_a_cut_parts_no_call_from_its_results_and_never_goes_back(
    told: list[tuple[int, str, bool]], cut: int, fixed: int
) -> None:
    """Servers refuse halves of pairs; and what was left out stays out, so that the prompt keeps its beginning."""
    weights = [Weight(None, tokens) for tokens, _, is_in in told if not is_in]
    was_result = False
    for at, (tokens, kind, _) in enumerate(each for each in told if each[2]):
        is_seam = was_result and kind != "r"
        weights.append(Weight(at, tokens, begins_turn=kind == "u", is_seam=is_seam))
        was_result = kind == "r"
    found = chosen(weights, cut=cut, fixed=fixed)
    assert found >= cut
    seams = [each.position for each in weights if each.position is not None and (each.begins_turn or each.is_seam)]
    assert found == cut or found in seams
    room, left = max(100 - fixed, 25), [sum(each.tokens for each in kept(weights, at)) for at in (cut, found)]
    if found != cut:
        assert left[0] > room
    if found > cut and any(seam > found for seam in seams):
        assert left[1] <= 0.6 * room, "it stopped where enough was gone"


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
