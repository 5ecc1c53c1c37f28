"""Rounds of chat completions become one stream: what changes in the chunks of later rounds."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings

from memproxy.errors import UpstreamBrokenError
from memproxy.proxy.splice import Round
from memproxy.records import JsonObject
from memproxy.wire.chat_rounds import ChatReading, joined_object
from memproxy.wire.joined import Joined
from memproxy.wire.sse import encode_event, parse_stream
from tests.fakes.dialects import (
    Asked,
    Dialect,
    Said,
    StrictReader,
    answerable,
    dialects,
    events,
    payloads_of,
    render,
    speaking,
)

LOOK = Asked("call_0", "look_up")


def every(_: str) -> bool:
    return True


def no_tool(_: str) -> bool:
    return False


def looks(name: str) -> bool:
    return name.startswith("look")


def new_round(joined: Joined, may_answer: Callable[[str], bool], *, reads_on: bool = False) -> Round:
    return Round(ChatReading(joined, may_answer), joined, reads_on=reads_on)


def fed(pieces: Sequence[bytes], joined: Joined | None = None, may_answer: Callable[[str], bool] = every) -> Round:
    """A round that has read all pieces."""
    current = new_round(joined or Joined(), may_answer)
    for piece in pieces:
        current.feed(piece)
    current.close()
    return current


def event(delta: JsonObject | None = None, *, finish: str | None = None, **fields: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return encode_event(json.dumps({"id": "later", "created": 7, "choices": choices} | fields).encode())


def shown(current: Round, *pieces: bytes) -> list[JsonObject]:
    """What the client gets of these pieces."""
    out = b"".join(piece for given in pieces for piece in current.feed(given))
    return [json.loads(one.data) for one in parse_stream([out])]


# Later rounds.

BEFORE = Joined(id="first", created=1, has_role=True, words="Let me see.", usage={"total_tokens": 5}, rounds=1)


def test_a_later_round_speaks_with_the_first_ones_voice() -> None:
    """One id, one time, one role: clients that see them change take it for another answer."""
    current = new_round(BEFORE, every)
    assert shown(current, event({"role": "assistant", "content": ""})) == []
    said = shown(
        current, event({"role": "assistant", "content": "Found"}), event({"content": " it."}), event({}, finish="stop")
    )
    assert [(one["id"], one["created"]) for one in said] == [("first", 1)] * 3
    assert [one["choices"][0]["delta"] for one in said] == [{"content": "\n\nFound"}, {"content": " it."}, {}]


def test_other_fields_of_a_later_round_stay_as_they_are() -> None:
    """Extra fields carry a provider's own features."""
    (one,) = shown(
        new_round(BEFORE, every), event({"content": "x", "annotations": [1]}, service_tier="flex", usage=None)
    )
    assert (one["service_tier"], one["usage"]) == ("flex", None)
    assert one["choices"][0]["delta"]["annotations"] == [1]
    assert shown(new_round(BEFORE, every), encode_event(b'{"choices":[{"index":0,"text":"x"}]}')) == [
        {"choices": [{"index": 0, "text": "x"}]}
    ]


def test_a_server_without_ids_gets_none() -> None:
    """What it never sends is not made up, and what it sends later is kept."""
    first = fed([encode_event(b'{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a"}]}}]}')])
    (one,) = shown(new_round(first.after(), every), event({"content": "x"}))
    assert (one["id"], one["created"]) == ("later", 7)
    second = fed([event({"content": "x"})], first.after())
    assert (second.after().id, second.after().created) == ("later", 7)


def test_the_id_is_that_of_the_words() -> None:
    """Azure sends a first chunk about the prompt, with an empty id."""
    current = fed(events(Said(calls=(LOOK,)), Dialect(prelude=True), number=3))
    assert (current.after().id, current.after().created) == ("chatcmpl-3", 1_700_000_003)
    current.feed(event(id="", created=0))
    assert (current.after().id, current.after().created) == ("chatcmpl-3", 1_700_000_003)


def test_a_role_that_came_with_thoughts_does_not_come_again() -> None:
    """A round may think aloud and say nothing before its call."""
    first = fed(events(Said(reasoning="hm", calls=(LOOK,)), Dialect()))
    assert first.after().has_role
    assert first.after().words == ""
    (one,) = shown(new_round(first.after(), every), event({"role": "assistant", "content": "x"}))
    assert one["choices"][0]["delta"] == {"content": "x"}
    silent = fed(events(Said(calls=(LOOK,)), Dialect()))
    assert not silent.after().has_role
    (one,) = shown(new_round(silent.after(), every), event({"role": "assistant", "content": "x"}))
    assert one["choices"][0]["delta"] == {"role": "assistant", "content": "x"}


def test_content_in_parts_passes() -> None:
    """Some models think in parts of the content: there is no text to put a joint before."""
    parts = [{"type": "thinking", "thinking": "hm"}]
    said = shown(new_round(BEFORE, every), event({"content": parts}), event({"content": "So."}))
    assert [one["choices"][0]["delta"]["content"] for one in said] == [parts, "\n\nSo."]


def test_all_choices_of_a_later_round_are_kept() -> None:
    """Nobody asked for several; a server that sends them has its reasons."""
    both = encode_event(b'{"choices":[{"index":1,"delta":{"content":"b"}},{"index":0,"delta":{"content":"a"}}]}')
    current = new_round(BEFORE, every)
    (one,) = shown(current, both)
    assert [choice["delta"]["content"] for choice in one["choices"]] == ["b", "\n\na"]
    assert current.is_released


def test_usage_that_comes_with_a_dropped_role_is_not_lost() -> None:
    """Servers that count along send it on the very first chunk."""
    (one,) = shown(
        new_round(BEFORE, every),
        event({"role": "assistant", "content": ""}, usage={"total_tokens": 2}),
        event({"content": "x"}),
    )[:1]
    assert one["usage"] == {"total_tokens": 7}
    assert one["choices"][0]["delta"] == {"content": ""}
    (one,) = shown(new_round(BEFORE, every), event(usage={"total_tokens": 2}))
    assert (one["usage"], one["choices"]) == ({"total_tokens": 7}, [])


def test_a_later_round_that_begins_with_an_error_is_none() -> None:
    """As long as the client got nothing of it, the round before can still be given."""
    error = encode_event(b'{"error": {"message": "busy"}}')
    with pytest.raises(UpstreamBrokenError):
        fed([event({"role": "assistant"}), error], BEFORE)
    with pytest.raises(UpstreamBrokenError):
        fed([error.rstrip()], BEFORE)
    for begun in (new_round(BEFORE, every), new_round(Joined(), every)):
        assert [one.get("error") for one in shown(begun, event({"content": "x"}), error)] == [None, {"message": "busy"}]
    first = new_round(Joined(), every)
    assert first.feed(error) == [error]
    with pytest.raises(UpstreamBrokenError):
        new_round(BEFORE, every).read_whole(b'{"choices": [{"index": 0, "message": {}}]}')


@settings(deadline=None)
@given(answerable, answerable, speaking, dialects)
def test_words_beside_calls_are_said_before_the_next_round(
    first: Said, second: Said, last: Said, dialect: Dialect
) -> None:
    """A server may say something in the very chunk that holds the call, or after it."""
    out, joined = b"", Joined()
    for number, said in enumerate((first, second, last)):
        current = new_round(joined, every)
        out += b"".join([*current.feed(render(said, dialect, number=number)), *current.close()])
        joined = current.after()
    view = StrictReader(dialect).read(out)
    assert view.words == "\n\n".join(said.content for said in (first, second, last) if said.content) == joined.words
    assert view.reasoning == first.reasoning + second.reasoning + last.reasoning
    assert view.calls == []
    assert joined.rounds == 3


def test_what_is_said_beside_a_call_shows_no_end() -> None:
    """The chunk may hold words, call, end and usage in one: only the words are said."""
    whole = event(
        {"role": "assistant", "content": "So.", "tool_calls": [{"index": 0, **LOOK.whole}]},
        finish="tool_calls",
        usage={"total_tokens": 3},
    )
    joined = fed([whole]).after()
    (payload,) = payloads_of(b"".join(joined.unsaid))
    value = json.loads(payload)
    assert value["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": "So."}, "finish_reason": None}]
    assert "usage" not in value
    assert joined.has_role
    assert new_round(joined, every).release() == list(joined.unsaid)
    odd = encode_event(b'{"choices":[{"index":0,"delta":null}]}')
    assert fed([event({"tool_calls": [{"index": 0}]}), odd, b"data: [DONE]\n\n"]).after().unsaid == ()


# Whole answers.


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Found.", "Let me see.\n\nFound."),
        (None, "Let me see."),
        ("", "Let me see."),
        ([], [{"type": "text", "text": "Let me see."}]),
        (
            [{"type": "text", "text": "Found."}],
            [{"type": "text", "text": "Let me see.\n\n"}, {"type": "text", "text": "Found."}],
        ),
    ],
)
def test_a_whole_answer_has_the_words_of_all_rounds(content: Any, expected: Any) -> None:
    """In whatever form the last one's come."""
    body = json.dumps({"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]})
    value = json.loads(joined_object(body.encode(), BEFORE))
    assert value["choices"][0]["message"] == {"role": "assistant", "content": expected}
    assert value["usage"] == {"total_tokens": 5}
    silent = json.loads(joined_object(body.encode(), Joined(rounds=1)))
    assert silent == json.loads(body)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices":[]}', b'{"choices":[{"index":1}]}'])
def test_what_is_no_whole_answer_stays_as_it_is(body: bytes) -> None:
    """There is nothing to put words before."""
    assert joined_object(body, BEFORE) == body
