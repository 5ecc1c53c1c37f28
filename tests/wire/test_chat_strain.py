"""Calls of memory tools are taken out of an answer; everything else stays as it is."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.wire.chat_answers import read_answer
from memproxy.wire.chat_strain import Strainer, strained_object
from memproxy.wire.sse import encode_event


def is_ours(name: str) -> bool:
    return name.startswith("memproxy_")


NAMES = st.sampled_from(["memproxy_search_memory", "memproxy_create_memories", "get_order", "cancel_order"])
CALLS = st.lists(NAMES, min_size=1, max_size=5)


def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return encode_event(json.dumps({"id": "a", "choices": [choice], **more}).encode())


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[str], list[bytes]]:
    """Names of calls in their order, and a stream that asks for them, fragments interleaved."""
    names = draw(CALLS)
    events = [event({"role": "assistant", "content": None})]
    fragments = []
    for index, name in enumerate(names):
        first = {"index": index, "id": f"id{index}", "type": "function", "function": {"name": name, "arguments": ""}}
        events.append(event({"tool_calls": [first]}))
        fragments += [(index, piece) for piece in ('{"q"', ":1}")]
    by_call = draw(st.permutations(range(len(names))))
    for part in range(2):
        events += [
            event({"tool_calls": [{"index": index, "function": {"arguments": fragments[2 * index + part][1]}}]})
            for index in by_call
        ]
    events.append(event({}, "tool_calls"))
    events += [encode_event(b"[DONE]")]
    return names, events


@settings(max_examples=100, deadline=None)
@given(streams())
def test_the_client_gets_its_own_calls_numbered_from_zero(drawn: tuple[list[str], list[bytes]]) -> None:
    """Whatever stood between them, the agent's calls arrive whole, in order and without gaps."""
    names, events = drawn
    strainer = Strainer(is_ours)
    out = [piece for raw in events for piece in strainer.feed(raw)]
    theirs = [name for name in names if not is_ours(name)]
    answer = read_answer(out, content_type="text/event-stream", content_encoding="")
    calls = answer.messages[0].get("tool_calls", [])
    assert [call["function"] for call in calls] == [{"name": name, "arguments": '{"q":1}'} for name in theirs]
    assert answer.finished
    indexes = [
        part["index"]
        for raw in out
        if b"tool_calls" in raw and b'"finish_reason": "' not in raw
        for part in json.loads(raw[6:])["choices"][0].get("delta", {}).get("tool_calls", [])
    ]
    assert sorted(set(indexes)) == list(range(len(theirs)))
    assert (b'"stop"' in b"".join(out)) is (not theirs)
    if len(theirs) == len(names):
        assert out == events


@settings(max_examples=100, deadline=None)
@given(CALLS)
def test_whole_answers_are_strained_alike(names: list[str]) -> None:
    """Streaming or not, the agent sees the same."""
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in names]
    message = {"role": "assistant", "content": "Well.", "tool_calls": calls}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "n": 1.0}).encode()
    out = strained_object(body, is_ours)
    theirs = [name for name in names if not is_ours(name)]
    choice = json.loads(out)["choices"][0]
    assert [call["id"] for call in choice["message"].get("tool_calls", [])] == theirs
    assert choice["finish_reason"] == ("tool_calls" if theirs else "stop")
    if len(theirs) == len(names):
        assert out is body


def test_what_is_not_understood_passes() -> None:
    """Comments, markers and other shapes are none of the strainer's business."""
    strainer = Strainer(is_ours)
    for raw in (b": tool_calls\n\n", b"data: tool_calls\n\n", b'data: {"tool_calls": 1}\n\n', b"data: [DONE]\n\n"):
        assert strainer.feed(raw) == [raw]
    for body in (b"", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"tool_calls": "x"}}]}'):
        assert strained_object(body, is_ours) == body


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    """Some servers number nothing: the agent's call stands behind a memory tool's, and arrives."""
    ours = {"id": "a", "type": "function", "function": {"name": "memproxy_search_memory", "arguments": "{}"}}
    theirs = {"id": "b", "type": "function", "function": {"name": "get_order", "arguments": "{"}}
    rest = {"function": {"arguments": "}"}}
    strainer = Strainer(is_ours)
    out = [piece for call in (ours, theirs, rest) for piece in strainer.feed(event({"tool_calls": [call]}))]
    assert out == [event({"tool_calls": [theirs]}), event({"tool_calls": [rest]})]


def test_usage_on_every_chunk_stays_where_it_was() -> None:
    """A chunk whose fragment is taken out is no chunk at the stream's end."""
    ours = {"index": 0, "id": "a", "function": {"name": "memproxy_search_memory", "arguments": "{}"}}
    (out,) = Strainer(is_ours).feed(event({"tool_calls": [ours]}, usage={"total_tokens": 3}))
    value = json.loads(out[6:])
    assert value["choices"] == [{"index": 0, "delta": {}, "finish_reason": None}]
    assert value["usage"] == {"total_tokens": 3}
