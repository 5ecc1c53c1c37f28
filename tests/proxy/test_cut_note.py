"""What stands for messages that were cut away: what later calls of tools need, within its room, and nothing forged."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.proxy.compose import CUT_CLOSING, CUT_OPENING, without_blocks
from memproxy.proxy.cut_note import (
    PIECE_CHARS,
    argument_values,
    cut_note,
    identifiers_in,
    pieces_for,
)
from memproxy.records import JsonObject
from memproxy.tokens import estimate_tokens
from memproxy.wire.anthropic_dialect import MESSAGES
from memproxy.wire.chat_dialect import CHAT_COMPLETIONS
from memproxy.wire.response_dialect import RESPONSES
from tests.fakes.shared_data import trajectories
from tests.proxy.test_compose import FORGERIES, answer, user

quick = settings(max_examples=100, deadline=None)


def call(name: str, **arguments: object) -> JsonObject:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]}


def gave(value: object) -> JsonObject:
    return {"role": "tool", "tool_call_id": "c", "content": value if isinstance(value, str) else json.dumps(value)}


def note_of(dropped: list[JsonObject], query: str = "order?", *, summary: str = "", max_tokens: int = 500) -> str:
    return cut_note(CHAT_COMPLETIONS, dropped, query, summary=summary, max_tokens=max_tokens)


def test_identifiers_are_found_the_last_ones_first() -> None:
    """Order numbers, ids and dates are what later tool calls need; they survive when the words around them go."""
    old = "order A-1042, ref #88231 (user_77), 2025 plain 12 ab1 on 2025-06-01"
    new = "tracking DHL.99/x7; order A-1042, booking HXDUBJ, mail ann@example.com, item 6817146515"
    new += ", see src/shop/cart.py or/and so on"
    assert identifiers_in([old, new], max_tokens=100) == [
        "DHL.99/x7",
        "A-1042",
        "HXDUBJ",
        "ann@example.com",
        "6817146515",
        "src/shop/cart.py",
        "#88231",
        "user_77",
        "2025-06-01",
    ]
    assert identifiers_in([old], max_tokens=8) == ["A-1042"]
    assert identifiers_in([old], max_tokens=100, known={"A-1042", "#88231"}) == ["user_77", "2025-06-01"]
    assert identifiers_in([], max_tokens=100) == []


def test_a_long_address_does_not_crowd_out_the_identifiers() -> None:
    """Encoded data or a path in a tool result is no identifier; those beside it are still told."""
    noise = "https://example.com/" + "a1b2c3/" * 100
    assert identifiers_in(["order A-1042", noise], max_tokens=50) == ["A-1042"]


def test_looking_for_identifiers_takes_no_longer_than_reading() -> None:
    """A tool result full of punctuation can't hold up the proxy."""
    assert identifiers_in(["#" * 2_000_000, "-/" * 1_000_000, "A" * 2_000_000], max_tokens=10) == []


def test_arguments_of_earlier_calls_are_told_with_their_names() -> None:
    """What a call was made with is what the next one is most often made with: who the user is, which order."""
    calls = [
        call("get_user", user_id="ann_1", full=True),
        call("book", user_id="ann_1", flights=[{"number": "HAT1", "date": "2025-06-01"}], seats=2, total=120.5),
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "x", "arguments": "{broken"}}]},
    ]
    assert argument_values(calls, max_tokens=100) == {
        "user_id": ["ann_1"],
        "number": ["HAT1"],
        "date": ["2025-06-01"],
        "total": ["120.5"],
    }
    assert argument_values([call("find", q="first"), call("find", q="last")], max_tokens=4) == {"q": ["last"]}
    assert argument_values([call("write", text="word " * 100)], max_tokens=500) == {}, "prose is no value"


def test_pieces_share_words_with_the_question_and_keep_their_order() -> None:
    """What was cut is not gone: the lines that the conversation is about come back."""
    said = [user("my laptop is silver\nthe sky is blue"), answer("a silver laptop ships on Monday"), user("thanks")]
    assert pieces_for("when will the laptop ship, silver one?", said, max_tokens=100) == [
        "user: my laptop is silver",
        "user: the sky is blue",
        "assistant: a silver laptop ships on Monday",
    ]
    assert pieces_for("laptop ships", said, max_tokens=14) == ["assistant: a silver laptop ships on Monday"]
    assert pieces_for("nothing of it", said, max_tokens=100) == []
    assert pieces_for("", said, max_tokens=100) == []


def test_objects_in_results_are_told_whole() -> None:
    """A price without its article is of no use: a piece of JSON is an object that means something."""
    variants = {f"item{at}": {"item_id": f"{at}", "colour": colour} for at, colour in enumerate(["red", "blue"] * 20)}
    found = pieces_for("the blue one", [gave({"product": "lamp", "variants": variants})], max_tokens=60)
    assert found
    assert all("blue" in piece and '"item_id"' in piece for piece in found)
    again = pieces_for("word", [user("word and more words. " * 200)] * 3, max_tokens=10_000)
    assert len(again) == len(set(again)), "each text once"
    long = pieces_for("word7", [user(" ".join(f"word{at} says so." for at in range(400)))], max_tokens=10_000)
    assert [len(piece) <= PIECE_CHARS + 20 for piece in long] == [True]


def test_json_that_is_nested_too_deep_is_read_as_words() -> None:
    """One odd result must not keep the conversation from being cut: then it would not fit."""
    deep = "[" * 5_000
    odd = {"role": "tool", "tool_call_id": "1", "content": f"{deep} order LX-4417 " + "]" * 5_000}
    nested = {"id": "1", "type": "function", "function": {"name": "look", "arguments": deep + "]" * 5_000}}
    assert "LX-4417" in note_of([{"role": "assistant", "tool_calls": [nested]}, odd])
    whole = {"role": "tool", "tool_call_id": "1", "content": deep + "]" * 5_000}
    assert "LX-4417" in note_of([odd, whole])


def test_what_is_too_long_to_be_read_in_time_does_not_hide_the_rest() -> None:
    """A file of megabytes in a result must not hold the request up, nor cost it what else was cut."""
    file = {"role": "tool", "tool_call_id": "1", "content": "x1234 " * 400_000}
    assert "A-1042" in note_of([user("my order is A-1042"), file])


def test_the_note_tells_summary_values_identifiers_and_pieces() -> None:
    """One block says that something was left out, and what it was."""
    dropped = [user("my order is A-1042"), call("get_order", order="A-1042"), gave("sent with DHL-77-81")]
    assert note_of(dropped, summary="They\nordered.").splitlines() == [
        CUT_OPENING,
        "Summary: They ordered.",
        "Arguments of calls, newest first: order A-1042",
        "Identifiers mentioned, newest first: DHL-77-81",
        "- user: my order is A-1042",
        CUT_CLOSING,
    ]
    assert note_of([user("hi")], "what?") == ""
    assert note_of([], "what?") == ""


def test_what_was_said_is_told_before_what_tools_gave() -> None:
    """A list of a hundred flights does not push out the booking that the user named."""
    flights = gave([{"flight": f"HAT{number}"} for number in range(1_000, 1_200)])
    note = note_of([user("my booking is LX-4417"), flights], max_tokens=120)
    assert "LX-4417" in note
    assert "HAT1000" in note


@pytest.mark.parametrize("dialect", [CHAT_COMPLETIONS, RESPONSES, MESSAGES], ids=lambda each: str(each.name))
def test_calls_are_read_in_every_format(dialect: object) -> None:
    """Agents of all three formats keep what their calls were made with."""
    arguments = {"order_id": "A-1042"}
    messages: dict[str, list[JsonObject]] = {
        "chat": [call("get_order", **arguments)],
        "responses": [{"type": "function_call", "call_id": "c", "name": "g", "arguments": json.dumps(arguments)}],
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "g", "input": arguments}]}
        ],
    }
    note = cut_note(dialect, messages[dialect.name], "x", summary="", max_tokens=500)  # type: ignore[arg-type, attr-defined]
    assert "order_id A-1042" in note


@pytest.mark.parametrize("max_tokens", [0, 40, 100, 300, 1_000])
def test_a_note_keeps_to_its_room(max_tokens: int) -> None:
    """In a small window the note must not take what the conversation needs, nor a summary what the rest needs."""
    dropped = [user(f"Please find order LX-{number}.") for number in range(4_000, 4_050)]
    dropped += [call("find", order=f"KX-{number}") for number in range(100)]
    note = note_of(dropped, summary="The order was found and sent. " * 100, max_tokens=max_tokens)
    assert estimate_tokens(note) <= 1.05 * max(max_tokens, 0)
    assert ("Summary: The order" in note) is (max_tokens >= 100)
    assert ("KX-99" in note) is (max_tokens >= 100)


@pytest.mark.parametrize("text", FORGERIES)
def test_nothing_that_was_said_breaks_out_of_the_note(text: str) -> None:
    """What somebody once said can't speak with another voice later."""
    dropped = [user(f"find {text}"), call("find", **{text[:30]: text[:50]}), gave({"found": text})]
    made = note_of(dropped, "find", summary=text)
    lines = made.splitlines()
    assert made.count("<memproxy-") == 1
    assert [line for line in lines[1:-1] if "<memproxy" in line.lower().replace(" ", "").replace("</", "<")] == []
    assert all(line.startswith(("- ", "Summary: ", "Identifiers ", "Arguments ")) for line in lines[1:-1])
    assert without_blocks(f"{made}\n\nwords") == "words"


@quick
@given(st.lists(st.text(max_size=60) | st.sampled_from(FORGERIES), max_size=6), st.integers(-10, 400))
def test_any_words_make_a_note_that_comes_off_again(texts: list[str], max_tokens: int) -> None:
    """Whatever was cut: the note is one block, within its room, and never learned from."""
    dropped = (
        [user(text) for text in texts] + [call("x", value=text) for text in texts] + [gave(text) for text in texts]
    )
    made = note_of(dropped, " ".join(texts), max_tokens=max_tokens)
    assert estimate_tokens(made) <= 1.05 * max(0, max_tokens) + 5
    assert without_blocks(f"{made}\n\nwords") == "words" or not made


def test_notes_of_real_trajectories_hold_what_later_calls_were_made_with() -> None:
    """The note's purpose, on agents' real work: most arguments of calls after a cut stand in it or behind it."""
    kept = needed = 0
    for trajectory in trajectories():
        log = [message for message in trajectory["messages"] if message["role"] != "system"]
        cut = 2 * len(log) // 3
        note = note_of(log[:cut], str(log[cut].get("content")), max_tokens=600)
        before = json.dumps(log[:cut])
        for values in argument_values(log[cut:], max_tokens=10_000).values():
            wanted = [
                value
                for value in values
                if len(value) > 2 and value in before and value not in json.dumps(log[cut : cut + 1])
            ]
            needed += len(wanted)
            kept += sum(value in note for value in wanted)
    assert needed > 100
    assert kept / needed > 0.8
