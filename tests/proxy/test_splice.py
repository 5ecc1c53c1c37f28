"""Rounds become one stream: what is held, what is released, and what changes in the events of later rounds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.errors import UpstreamBrokenError
from memproxy.proxy import splice
from memproxy.proxy.splice import Joined, Round, joined_object, summed
from memproxy.records import JsonObject
from memproxy.wire.sse import encode_event, parse_stream
from tests.fakes.dialects import (
    Asked,
    Dialect,
    Said,
    StrictReader,
    answerable,
    calling,
    cut,
    dialects,
    events,
    payloads_of,
    render,
    speaking,
    usages,
)

FOLDER = Path(__file__).parents[1] / "corpus" / "chat_completions"
CORPUS = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.sse"))}
LOOK = Asked("call_0", "look_up")


def every(_: str) -> bool:
    return True


def no_tool(_: str) -> bool:
    return False


def looks(name: str) -> bool:
    return name.startswith("look")


def fed(pieces: Sequence[bytes], joined: Joined | None = None, may_answer: Callable[[str], bool] = every) -> Round:
    """A round that has read all pieces."""
    current = Round(joined or Joined(), may_answer)
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


# Holding and releasing.


@settings(deadline=None)
@given(
    answerable | calling | speaking,
    dialects,
    st.lists(st.integers(min_value=0), max_size=20),
    st.sampled_from([every, no_tool, looks]),
    st.booleans(),
)
def test_a_first_round_that_is_released_is_the_stream(
    said: Said, dialect: Dialect, at: list[int], may_answer: Callable[[str], bool], reads_on: bool
) -> None:
    """At any moment the client has a beginning of the model server's bytes, and in the end all of them."""
    stream = render(said, dialect)
    current, out = Round(Joined(), may_answer, reads_on=reads_on), b""
    for chunk in cut(stream, at):
        out += b"".join(current.feed(chunk))
        assert stream.startswith(out)
        assert bool(out) is current.has_begun
    out += b"".join(current.close())
    assert out + b"".join(current.held_back) == stream
    if not current.is_released or reads_on:
        assert ((current.message or {}).get("content") or "") == said.content
    assert out + b"".join(current.release()) == stream
    assert current.held_back == ()


@settings(deadline=None)
@given(answerable | calling | speaking, dialects)
def test_only_whole_calls_of_known_tools_are_answerable(said: Said, dialect: Dialect) -> None:
    """One call that can't be answered here makes the round the client's."""
    said = replace(said, calls=tuple(replace(call, id=f"call_{at}") for at, call in enumerate(said.calls)))
    current = fed([render(said, dialect)], may_answer=looks)
    known = all(looks(call.name) and not call.is_custom for call in said.calls)
    assert current.is_answerable is (
        bool(said.calls) and known and not said.refusal and said.finish_reason in {"stop", "tool_calls"}
    )
    if current.is_answerable:
        assert [call.arguments for call in current.calls] == [call.arguments for call in said.calls]


@pytest.mark.parametrize(
    "odd",
    [b'data: {"choices": [{"ind\n\n', b"data: [1]\n\n", event({"tool_calls": [{"index": 1, "id": "b"}]})],
    ids=["cut", "no object", "a call without a name"],
)
def test_a_round_with_something_that_nobody_understands_is_not_answered(odd: bytes) -> None:
    """It may belong to a call."""
    stream = [*events(Said(calls=(LOOK,)), Dialect())[:2], odd, event({}, finish="tool_calls")]
    current = Round(Joined(), every)
    out = [piece for each in stream for piece in current.feed(each)]
    assert not current.is_answerable
    assert b"".join([*out, *current.release()]) == b"".join(stream)


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("may_answer", [every, no_tool])
def test_recorded_streams_pass_or_are_held_whole(name: str, may_answer: Callable[[str], bool]) -> None:
    """Real servers' bytes, cut at every byte."""
    stream = CORPUS[name]
    current, out = Round(Joined(), may_answer), b""
    for at in range(len(stream)):
        out += b"".join(current.feed(stream[at : at + 1]))
    out += b"".join(current.close())
    assert current.is_answerable is (may_answer is every and "tool_call" in name)
    assert bool(current.held_back) is current.is_answerable
    assert out + b"".join(current.held_back) == stream


@pytest.mark.parametrize("kept", range(7))
def test_a_stream_that_breaks_gives_all_that_came(kept: int) -> None:
    """Also the beginning of an event: a client may make something of it."""
    stream = [*events(Said(words="Hm.", calls=(LOOK,)), Dialect())[:kept], b'data: {"x']
    current = Round(Joined(), every)
    out = [piece for each in stream for piece in current.feed(each)]
    assert b"".join([*out, *current.break_off()]) == b"".join(stream)
    later = Round(Joined(id="first", has_role=True, rounds=1), every)
    out = [piece for each in stream for piece in later.feed(each)]
    assert b'{"x' not in b"".join([*out, *later.break_off()])


def test_a_round_beyond_the_bound_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has a bound: from there on a round is the client's, whatever it asks for."""
    monkeypatch.setattr(splice, "MAX_READ_BYTES", 600)
    stream = render(Said(calls=(replace(LOOK, arguments='{"q": "' + "x" * 100 + '"}'),)), Dialect())
    current = Round(Joined(), every)
    outs = [b"".join(current.feed(stream[at : at + 1])) for at in range(len(stream))]
    assert b"".join(outs) == stream
    assert not b"".join(outs[:600])
    assert current.is_released
    huge = b"data: " + b"x" * 700
    for joined in (Joined(), Joined(id="first", rounds=1)):
        assert b"".join(Round(joined, every).feed(huge)) == huge


# Later rounds.

BEFORE = Joined(id="first", created=1, has_role=True, words="Let me see.", usage={"total_tokens": 5}, rounds=1)


def test_a_later_round_speaks_with_the_first_ones_voice() -> None:
    """One id, one time, one role: clients that see them change take it for another answer."""
    current = Round(BEFORE, every)
    assert shown(current, event({"role": "assistant", "content": ""})) == []
    said = shown(
        current, event({"role": "assistant", "content": "Found"}), event({"content": " it."}), event({}, finish="stop")
    )
    assert [(one["id"], one["created"]) for one in said] == [("first", 1)] * 3
    assert [one["choices"][0]["delta"] for one in said] == [{"content": "\n\nFound"}, {"content": " it."}, {}]


def test_other_fields_of_a_later_round_stay_as_they_are() -> None:
    """Extra fields carry a provider's own features."""
    (one,) = shown(Round(BEFORE, every), event({"content": "x", "annotations": [1]}, service_tier="flex", usage=None))
    assert (one["service_tier"], one["usage"]) == ("flex", None)
    assert one["choices"][0]["delta"]["annotations"] == [1]
    assert shown(Round(BEFORE, every), encode_event(b'{"choices":[{"index":0,"text":"x"}]}')) == [
        {"choices": [{"index": 0, "text": "x"}]}
    ]


def test_a_server_without_ids_gets_none() -> None:
    """What it never sends is not made up, and what it sends later is kept."""
    first = fed([encode_event(b'{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a"}]}}]}')])
    (one,) = shown(Round(first.after(), every), event({"content": "x"}))
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
    (one,) = shown(Round(first.after(), every), event({"role": "assistant", "content": "x"}))
    assert one["choices"][0]["delta"] == {"content": "x"}
    silent = fed(events(Said(calls=(LOOK,)), Dialect()))
    assert not silent.after().has_role
    (one,) = shown(Round(silent.after(), every), event({"role": "assistant", "content": "x"}))
    assert one["choices"][0]["delta"] == {"role": "assistant", "content": "x"}


def test_content_in_parts_passes() -> None:
    """Some models think in parts of the content: there is no text to put a joint before."""
    parts = [{"type": "thinking", "thinking": "hm"}]
    said = shown(Round(BEFORE, every), event({"content": parts}), event({"content": "So."}))
    assert [one["choices"][0]["delta"]["content"] for one in said] == [parts, "\n\nSo."]


def test_all_choices_of_a_later_round_are_kept() -> None:
    """Nobody asked for several; a server that sends them has its reasons."""
    both = encode_event(b'{"choices":[{"index":1,"delta":{"content":"b"}},{"index":0,"delta":{"content":"a"}}]}')
    current = Round(BEFORE, every)
    (one,) = shown(current, both)
    assert [choice["delta"]["content"] for choice in one["choices"]] == ["b", "\n\na"]
    assert current.is_released


def test_usage_that_comes_with_a_dropped_role_is_not_lost() -> None:
    """Servers that count along send it on the very first chunk."""
    (one,) = shown(
        Round(BEFORE, every),
        event({"role": "assistant", "content": ""}, usage={"total_tokens": 2}),
        event({"content": "x"}),
    )[:1]
    assert one["usage"] == {"total_tokens": 7}
    assert one["choices"][0]["delta"] == {"content": ""}
    (one,) = shown(Round(BEFORE, every), event(usage={"total_tokens": 2}))
    assert (one["usage"], one["choices"]) == ({"total_tokens": 7}, [])


def test_a_later_round_that_begins_with_an_error_is_none() -> None:
    """As long as the client got nothing of it, the round before can still be given."""
    error = encode_event(b'{"error": {"message": "busy"}}')
    with pytest.raises(UpstreamBrokenError):
        fed([event({"role": "assistant"}), error], BEFORE)
    with pytest.raises(UpstreamBrokenError):
        fed([error.rstrip()], BEFORE)
    for begun in (Round(BEFORE, every), Round(Joined(), every)):
        assert [one.get("error") for one in shown(begun, event({"content": "x"}), error)] == [None, {"message": "busy"}]
    first = Round(Joined(), every)
    assert first.feed(error) == [error]
    with pytest.raises(UpstreamBrokenError):
        Round(BEFORE, every).read_whole(b'{"choices": [{"index": 0, "message": {}}]}')


@settings(deadline=None)
@given(answerable, answerable, speaking, dialects)
def test_words_beside_calls_are_said_before_the_next_round(
    first: Said, second: Said, last: Said, dialect: Dialect
) -> None:
    """A server may say something in the very chunk that holds the call, or after it."""
    out, joined = b"", Joined()
    for number, said in enumerate((first, second, last)):
        current = Round(joined, every)
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
    assert Round(joined, every).release() == list(joined.unsaid)
    odd = encode_event(b'{"choices":[{"index":0,"delta":null}]}')
    assert fed([event({"tool_calls": [{"index": 0}]}), odd, b"data: [DONE]\n\n"]).after().unsaid == ()


# Usage.


@given(usages, usages)
def test_usage_is_added_number_by_number(first: JsonObject | None, second: JsonObject | None) -> None:
    """In whatever order rounds ran, they cost the same."""
    total = summed(first, second)
    assert total == summed(second, first)
    counts = [each["prompt_tokens"] for each in (first, second) if each is not None]
    assert (total or {}).get("prompt_tokens", 0) == sum(counts)


@pytest.mark.parametrize(
    ("first", "second", "total"),
    [
        (None, None, None),
        ({}, None, None),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"cost": 0.5}, {"cost": 1}, {"cost": 1.5}),
        ({"is_byok": False}, {"is_byok": False}, {"is_byok": False}),
        ({"tier": "a"}, {"tier": "b"}, {"tier": "b"}),
        ({"details": {"x": 1}}, {"details": None}, {"details": {"x": 1}}),
        ({"details": None}, {"details": {"x": 1}}, {"details": {"x": 1}}),
        ({}, {"details": None}, {"details": None}),
        ({"details": {}}, {"details": {}}, {"details": {}}),
    ],
)
def test_what_is_no_number_is_not_added(first: JsonObject | None, second: JsonObject | None, total: Any) -> None:
    """Providers put more into usage than counts."""
    assert json.dumps(summed(first, second)) == json.dumps(total)


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
