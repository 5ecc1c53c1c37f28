"""Rounds of Anthropic's Messages API become one answer: what a client gets is what a plain loop would have given it."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.errors import UpstreamBrokenError
from memproxy.proxy import splice
from memproxy.proxy.answer import Limits
from memproxy.records import JsonObject, Outcome
from memproxy.wire.anthropic_dialect import MESSAGES
from memproxy.wire.anthropic_rounds import MessagesReading, MessagesStrainer, strained_object
from memproxy.wire.joined import Joined
from tests.fakes.chat_messages import json_values
from tests.fakes.dialects import cut
from tests.fakes.exchanges import JSON, Exchange, answer_of
from tests.fakes.message_streams import (
    Round,
    StrictReader,
    Style,
    answerable,
    anything,
    call,
    conversations,
    events,
    expected_view,
    quiet,
    render,
    styles,
    text,
    thinking,
    whole,
)

QUESTION = {"role": "user", "content": "Where is my order?"}
ASKED: JsonObject = {"model": "m", "max_tokens": 9, "messages": [QUESTION], "x": 1.0}
LOOK = call("look_up", {"q": "known"}, "call_0")


def exchange(*responses: Any, **given: Any) -> Exchange:
    return Exchange(*responses, dialect=MESSAGES, asked=ASKED, **given)


def new_round(joined: Joined | None = None, **given: Any) -> splice.Round:
    joined = joined or Joined()
    return splice.Round(MessagesReading(joined, lambda name: name.startswith("look")), joined, **given)


@settings(deadline=None, max_examples=250)
@given(conversations, styles, st.lists(st.integers(min_value=0), max_size=40), st.booleans())
async def test_a_streamed_answer_is_what_it_would_be_without_streaming(
    rounds: list[Round], style: Style, at: list[int], bytewise: bool
) -> None:
    """However a server streams, and wherever the network cuts, the client sees one well-formed answer."""
    last = len(rounds) - 1
    expected, inside = expected_view(rounds, last=last, is_stream=True)
    raw = [render(said, style) for said in rounds]
    pieces = [[bytes([byte]) for byte in one] if bytewise else cut(one, at) for one in raw]
    loop = exchange(*(answer_of(*each) for each in pieces), limits=Limits(rounds=last))
    body = await loop.run()
    assert StrictReader(style).read(body) == expected
    if not inside:
        assert body == raw[0]
    assert b"".join(loop.into.chunks) == body
    assert_told(loop, rounds, inside)


@settings(deadline=None, max_examples=150)
@given(conversations)
async def test_a_whole_answer_is_the_plain_loops(rounds: list[Round]) -> None:
    """Blocks in their order and usage summed; byte for byte the model server's when nothing was answered."""
    last = len(rounds) - 1
    expected, inside = expected_view(rounds, last=last, is_stream=False)
    loop = exchange(*(answer_of(whole(said), headers=[JSON]) for said in rounds), limits=Limits(rounds=last))
    body = await loop.run()
    value = json.loads(body)
    assert (value["id"], value["content"], value["stop_reason"]) == (expected.id, expected.blocks, expected.stop)
    assert value["usage"] == expected.usage
    if not inside:
        assert body == whole(rounds[0])
    assert_told(loop, rounds, inside)


def assert_told(loop: Exchange, rounds: Sequence[Round], inside: int) -> None:
    """The model server was sent each answered round with its results, thinking unchanged; records say the same."""
    hidden = [message for said in rounds[:inside] for message in told(said)]
    assert loop.sent[-1] == {**ASKED, "messages": [QUESTION, *hidden]}
    assert loop.done.hidden == hidden
    assert loop.done.rounds == inside
    assert loop.is_ended
    assert loop.into.outcome is Outcome.COMPLETED


def told(said: Round) -> list[JsonObject]:
    results = [
        {"type": "tool_result", "tool_use_id": one["id"], "content": f"{one['name']} found {compact(one['input'])}"}
        for one in said.calls
    ]
    return [{"role": "assistant", "content": list(said.blocks)}, {"role": "user", "content": results}]


def compact(value: JsonObject) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@settings(deadline=None)
@given(answerable | anything, styles, st.lists(st.integers(min_value=0), max_size=20), st.booleans())
def test_a_first_round_that_is_released_is_the_stream(
    blocks: list[JsonObject], style: Style, at: list[int], reads_on: bool
) -> None:
    """At any moment the client has a beginning of the model server's bytes, and in the end all of them."""
    stream = render(Round(tuple(blocks)), style)
    current, out = new_round(reads_on=reads_on), b""
    for chunk in cut(stream, at):
        out += b"".join(current.feed(chunk))
        assert stream.startswith(out)
        assert bool(out) is current.has_begun
    out += b"".join(current.close())
    assert out + b"".join(current.held_back) == stream
    assert out + b"".join(current.release()) == stream


async def test_words_are_out_before_the_next_event_is_read() -> None:
    """Tokens appear when the model says them, in the first round and in the later ones."""
    for inner in ([], [Round((thinking("hm"), LOOK))]):
        said = Round((text("one two three"),), number=1)

        def nothing_waits(sent: bytes) -> None:
            assert loop.body.count(b"text_delta") == sent.count(b"text_delta")  # noqa: B023

        speaking = answer_of(*events(said, Style()), after=nothing_waits)
        loop = exchange(*(answer_of(render(each, Style())) for each in inner), speaking)
        assert StrictReader(Style()).read(await loop.run()).blocks == [text("one two three")]


async def test_a_later_round_that_begins_with_an_error_is_none() -> None:
    """As long as the client got nothing of it, the round before is given."""
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
    first = render(Round((LOOK,)), Style())
    loop = exchange(answer_of(first), answer_of(events(Round((), number=1), Style())[0], error))
    assert await loop.run() == first
    begun = [*events(Round((text("Let me see"),)), Style())[:4], error]
    loop = exchange(answer_of(*begun))
    assert await loop.run() == b"".join(begun)


def test_what_is_no_answer_follows_nothing_and_stays_as_it_is() -> None:
    """There is nothing to put blocks before."""
    with pytest.raises(UpstreamBrokenError):
        new_round(Joined(rounds=1)).read_whole(b'{"type":"message"}')
    for body in (b"", b"[]", b'{"type":"error"}'):
        assert MESSAGES.joined_object(body, Joined(rounds=1, parts=(text("x"),))) == body
        assert strained_object(body, is_ours) == body


# Straining.


def is_ours(name: str) -> bool:
    return name.startswith("memproxy_")


def is_taken(block: JsonObject) -> bool:
    return block["type"] == "tool_use" and is_ours(block["name"])


names = st.sampled_from(["memproxy_search_memory", "memproxy_create_memories", "get_order"])
blocks = st.lists(st.builds(call, names, st.just({"q": 1})) | quiet, min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(blocks, styles)
def test_the_client_gets_its_own_blocks_numbered_without_gaps(drawn: list[JsonObject], style: Style) -> None:
    """Whatever stood between them, what is left arrives whole; where no call is left, the turn has simply ended."""
    said = Round(tuple(drawn))
    strainer = MessagesStrainer(is_ours)
    view = StrictReader(style).read(b"".join(p for raw in events(said, style) for p in strainer.feed(raw)))
    kept = [block for block in said.blocks if not is_taken(block)]
    assert view.blocks == kept
    assert view.stop == ("tool_use" if any(block["type"] == "tool_use" for block in kept) else "end_turn")
    value = json.loads(strained_object(whole(said), is_ours))
    assert (value["content"], value["stop_reason"]) == (kept, view.stop)
    if kept == list(said.blocks):
        assert strained_object(whole(said), is_ours) == whole(said)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["type", "index", "message", "content_block", "delta", "usage", "error"]),
            json_values
            | st.sampled_from(
                ["content_block_start", "content_block_delta", "message_delta", "message_stop", "message_start"]
            ),
        ),
        max_size=4,
    )
)
def test_no_event_is_too_odd_to_be_joined(odd: list[JsonObject]) -> None:
    """A compatible server may send anything, in the first round and in a later one; the request goes on."""
    first = new_round()
    first.feed(render(Round((text("x"), LOOK)), Style()))
    for joined in (Joined(), first.after(), Joined(rounds=1)):
        current, strainer = new_round(joined, reads_on=True), MessagesStrainer(is_ours)
        for event in odd:
            raw = b"data: " + json.dumps(event).encode() + b"\n\n"
            strainer.feed(raw)
            try:
                current.feed(raw)
            except UpstreamBrokenError:
                break
        current.close()
        assert current.is_answerable in (True, False)
        current.after()
        current.release()
