"""Rounds become one stream: what is held, what is released, and what changes in the events of later rounds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.proxy import splice
from memproxy.proxy.splice import Round
from memproxy.records import JsonObject
from memproxy.wire.chat_rounds import ChatReading
from memproxy.wire.joined import Joined
from memproxy.wire.sse import encode_event, parse_stream
from tests.fakes.dialects import (
    Asked,
    Dialect,
    Said,
    answerable,
    calling,
    cut,
    dialects,
    events,
    render,
    speaking,
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
    current, out = new_round(Joined(), may_answer, reads_on=reads_on), b""
    for chunk in cut(stream, at):
        out += b"".join(current.feed(chunk))
        assert stream.startswith(out)
        assert bool(out) is current.has_begun
    out += b"".join(current.close())
    assert out + b"".join(current.held_back) == stream
    if not current.is_released or reads_on:
        assert (((current.messages or ({},))[0]).get("content") or "") == said.content
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
    current = new_round(Joined(), every)
    out = [piece for each in stream for piece in current.feed(each)]
    assert not current.is_answerable
    assert b"".join([*out, *current.release()]) == b"".join(stream)


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("may_answer", [every, no_tool])
def test_recorded_streams_pass_or_are_held_whole(name: str, may_answer: Callable[[str], bool]) -> None:
    """Real servers' bytes, cut at every byte."""
    stream = CORPUS[name]
    current, out = new_round(Joined(), may_answer), b""
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
    current = new_round(Joined(), every)
    out = [piece for each in stream for piece in current.feed(each)]
    assert b"".join([*out, *current.break_off()]) == b"".join(stream)
    later = new_round(Joined(id="first", has_role=True, rounds=1), every)
    out = [piece for each in stream for piece in later.feed(each)]
    assert b'{"x' not in b"".join([*out, *later.break_off()])


def test_a_round_beyond_the_bound_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has a bound: from there on a round is the client's, whatever it asks for."""
    monkeypatch.setattr(splice, "MAX_READ_BYTES", 600)
    stream = render(Said(calls=(replace(LOOK, arguments='{"q": "' + "x" * 100 + '"}'),)), Dialect())
    current = new_round(Joined(), every)
    outs = [b"".join(current.feed(stream[at : at + 1])) for at in range(len(stream))]
    assert b"".join(outs) == stream
    assert not b"".join(outs[:600])
    assert current.is_released
    huge = b"data: " + b"x" * 700
    for joined in (Joined(), Joined(id="first", rounds=1)):
        assert b"".join(new_round(joined, every).feed(huge)) == huge
