"""Rounds of the Responses API become one answer: what a client gets is what a plain loop would have given it."""

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
from memproxy.wire.joined import Joined
from memproxy.wire.response_dialect import RESPONSES
from memproxy.wire.response_rounds import ResponsesReading
from memproxy.wire.response_strain import ResponsesStrainer
from tests.fakes.chat_messages import json_values
from tests.fakes.dialects import ARGUMENTS, cut
from tests.fakes.exchanges import JSON, Exchange, answer_of
from tests.fakes.response_streams import (
    Round,
    StrictReader,
    Style,
    answerable,
    anything,
    call,
    conversations,
    events,
    expected_view,
    is_answered,
    message,
    reasoning,
    render,
    styles,
    whole,
)

ASKED: JsonObject = {"model": "m", "input": "Where is my order?", "x": 1.0}
LOOK = call("look_up", '{"q": "known"}', "call_0")
CANCEL = call("cancel", "{}", "call_1")


def exchange(*responses: Any, asked: JsonObject = ASKED, **given: Any) -> Exchange:
    return Exchange(*responses, dialect=RESPONSES, asked=asked, **given)


def new_round(joined: Joined | None = None, **given: Any) -> splice.Round:
    joined = joined or Joined()
    return splice.Round(ResponsesReading(joined, lambda name: name.startswith("look")), joined, **given)


@settings(deadline=None, max_examples=250)
@given(conversations, styles, st.lists(st.integers(min_value=0), max_size=40), st.booleans())
async def test_a_streamed_answer_is_what_it_would_be_without_streaming(
    rounds: list[Round], style: Style, at: list[int], bytewise: bool
) -> None:
    """However a server streams, and wherever the network cuts, the client sees one well-formed answer."""
    last = len(rounds) - 1
    expected, inside = expected_view(rounds, last=last, style=style)
    raw = [render(said, style) for said in rounds]
    pieces = [[bytes([byte]) for byte in one] if bytewise else cut(one, at) for one in raw]
    loop = exchange(*(answer_of(*each) for each in pieces), limits=Limits(rounds=last))
    body = await loop.run()
    assert StrictReader(style).read(body) == expected
    if not inside:
        assert body == raw[0]
    assert b"".join(loop.into.chunks) == body
    assert_told(loop, rounds, inside)


@settings(deadline=None, max_examples=200)
@given(conversations)
async def test_a_whole_answer_is_the_plain_loops(rounds: list[Round]) -> None:
    """Items in their order and usage summed; byte for byte the model server's when nothing was answered."""
    last = len(rounds) - 1
    expected, inside = expected_view(rounds, last=last, style=None)
    loop = exchange(*(answer_of(whole(said), headers=[JSON]) for said in rounds), limits=Limits(rounds=last))
    body = await loop.run()
    value = json.loads(body)
    assert (value["id"], value["output"], value["status"]) == (expected.id, expected.items, expected.status)
    assert value["usage"] == expected.usage
    if not inside:
        assert body == whole(rounds[0])
    assert_told(loop, rounds, inside)


def assert_told(loop: Exchange, rounds: Sequence[Round], inside: int) -> None:
    """The model server was sent each answered round with its results; records say the same."""
    hidden = [item for said in rounds[:inside] for item in (*said.items, *results(said))]
    assert len(loop.sent) == inside + 1
    if inside:
        assert loop.sent[-1]["input"] == [{"role": "user", "content": ASKED["input"]}, *hidden]
    else:
        assert loop.sent[-1] == ASKED
    assert loop.sent[-1]["x"] == 1.0
    assert loop.done.rounds == inside
    assert loop.done.hidden == hidden
    assert loop.is_ended
    assert loop.into.outcome is Outcome.COMPLETED
    if inside and is_answered(rounds[inside]):
        assert loop.done.answer_id == rounds[inside].id


def results(said: Round) -> list[JsonObject]:
    return [
        {"type": "function_call_output", "call_id": one["call_id"], "output": f"{one['name']} found {one['arguments']}"}
        for one in said.calls
    ]


@settings(deadline=None)
@given(
    answerable | anything,
    styles,
    st.lists(st.integers(min_value=0), max_size=20),
    st.booleans(),
)
def test_a_first_round_that_is_released_is_the_stream(
    items: list[JsonObject], style: Style, at: list[int], reads_on: bool
) -> None:
    """At any moment the client has a beginning of the model server's bytes, and in the end all of them."""
    stream = render(Round(tuple(items)), style)
    current, out = new_round(reads_on=reads_on), b""
    for chunk in cut(stream, at):
        out += b"".join(current.feed(chunk))
        assert stream.startswith(out)
        assert bool(out) is current.has_begun
    out += b"".join(current.close())
    assert out + b"".join(current.held_back) == stream
    assert out + b"".join(current.release()) == stream


async def test_words_are_out_before_the_next_event_is_read() -> None:
    """Tokens appear when the model says them, in the first round and in the later ones; thoughts once they led to words
    or to nothing that is answered here."""
    for inner in ([], [Round((reasoning("hm"), LOOK))]):
        said = Round((message("one two three", 1),), number=1)

        def nothing_waits(sent: bytes) -> None:
            assert loop.body.count(b"output_text.delta") == sent.count(b"output_text.delta")  # noqa: B023

        speaking = answer_of(*events(said, Style()), after=nothing_waits)
        loop = exchange(*(answer_of(render(each, Style())) for each in inner), speaking)
        assert StrictReader(Style()).read(await loop.run()).words == "one two three"


async def test_a_call_of_an_unknown_tool_is_released_when_its_name_is_known() -> None:
    """What can't be answered here is not held a moment longer."""
    stream = events(Round((reasoning("hm"), CANCEL)), Style())

    def only_thoughts_wait(sent: bytes) -> None:
        assert loop.body == (sent if b"cancel" in sent else b"")

    loop = exchange(answer_of(*stream, after=only_thoughts_wait))
    assert await loop.run() == b"".join(stream)


async def test_reasoning_that_nobody_kept_is_not_sent_again() -> None:
    """A provider that stores nothing refuses an id of reasoning; encrypted reasoning it takes back."""
    for is_encrypted in (True, False):
        thought = reasoning("hm", is_encrypted=is_encrypted)
        loop = exchange(
            answer_of(render(Round((thought, LOOK), store=False), Style())),
            answer_of(render(Round((message("Found."),), store=False, number=1), Style())),
            asked={**ASKED, "store": False},
        )
        await loop.run()
        assert [item["type"] for item in loop.sent[-1]["input"][1:]] == [
            *(["reasoning"] if is_encrypted else []),
            "function_call",
            "function_call_output",
        ]


async def test_a_conversation_at_the_provider_gets_the_results_alone() -> None:
    """It has the calls already, and would have them twice."""
    loop = exchange(
        answer_of(render(Round((LOOK,)), Style())),
        answer_of(render(Round((message("Found."),), number=1), Style())),
        asked={**ASKED, "conversation": "conv_1"},
    )
    await loop.run()
    assert [item["type"] for item in loop.sent[-1]["input"]] == ["function_call_output"]
    assert loop.sent[-1]["conversation"] == "conv_1"


@pytest.mark.parametrize("kind", ["error", "response.failed"])
async def test_a_later_round_that_begins_with_an_error_is_none(kind: str) -> None:
    """As long as the client got nothing of it, the round before is given."""
    failed = Round((), number=1).response(status="failed") | {"error": {"message": "busy"}}
    event = {"type": kind, "response": failed} if kind == "response.failed" else {"type": kind, "message": "busy"}
    opened = events(Round((), number=1), Style(names=False))[0]
    first = render(Round((LOOK,)), Style())
    loop = exchange(answer_of(first), answer_of(opened, b"data: " + json.dumps(event).encode() + b"\n\n"))
    assert await loop.run() == first
    assert loop.done.answer_id == "resp_0"


async def test_an_error_after_words_is_the_clients() -> None:
    """It saw the beginning; the error ends it."""
    event = b'data: {"type":"error","message":"busy"}\n\n'
    stream = [*events(Round((message("Let me see"),)), Style(names=False))[:5], event]
    loop = exchange(answer_of(*stream))
    assert await loop.run() == b"".join(stream)


def test_a_whole_answer_without_output_follows_nothing() -> None:
    """It is none."""
    with pytest.raises(UpstreamBrokenError):
        new_round(Joined(rounds=1)).read_whole(b'{"object":"response","status":"completed"}')


def test_what_is_no_answer_stays_as_it_is() -> None:
    """There is nothing to put items before."""
    for body in (b"", b"[]", b'{"error":{}}'):
        assert RESPONSES.joined_object(body, Joined(rounds=1, parts=(message("x"),))) == body


async def test_calls_with_arguments_that_no_source_knows_pass() -> None:
    """One call that can't be answered makes the round the client's."""
    stream = render(Round((LOOK, call("look_up", ARGUMENTS[-1], "call_2"))), Style())
    loop = exchange(answer_of(stream))
    assert await loop.run() == stream


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["type", "output_index", "item", "response", "delta", "sequence_number", "error", "part"]),
            json_values
            | st.sampled_from(
                ["response.output_item.added", "response.output_text.delta", "response.completed", "response.created"]
            ),
        ),
        max_size=4,
    )
)
def test_no_event_is_too_odd_to_be_joined(odd: list[JsonObject]) -> None:
    """A compatible server may send anything, in the first round and in a later one; the request goes on."""
    first = new_round()
    first.feed(render(Round((message("x"), LOOK)), Style()))
    for joined in (Joined(), first.after(), Joined(rounds=1)):
        current, strainer = new_round(joined, reads_on=True), ResponsesStrainer(lambda name: name.startswith("look"))
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
