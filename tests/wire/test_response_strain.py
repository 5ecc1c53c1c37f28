"""Calls of memory tools are taken out of an answer of the Responses API; everything else stays as it is."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.records import JsonObject
from memproxy.wire.response_strain import ResponsesStrainer, strained_object
from tests.fakes.response_streams import Round, StrictReader, Style, call, events, message, render, styles, whole


def is_ours(name: str) -> bool:
    return name.startswith("memproxy_")


def is_taken(item: JsonObject) -> bool:
    return item["type"] == "function_call" and is_ours(item["name"])


names = st.sampled_from(["memproxy_search_memory", "memproxy_create_memories", "get_order"])
items = st.lists(st.builds(call, names, st.just('{"q":1}')) | st.builds(message, st.just("hi")), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(items, styles)
def test_the_client_gets_its_own_items_numbered_without_gaps(drawn: list[JsonObject], style: Style) -> None:
    """Whatever stood between them, what is left arrives whole, in order, under indexes from 0."""
    said = Round(tuple({**item, "id": f"{item['id']}_{at}"} for at, item in enumerate(drawn)))
    strainer = ResponsesStrainer(is_ours)
    out = b"".join(piece for raw in events(said, style) for piece in strainer.feed(raw))
    view = StrictReader(style).read(out)
    assert view.items == [item for item in said.items if not is_taken(item)]
    if view.items == list(said.items):
        assert out == render(said, style)


@settings(max_examples=50, deadline=None)
@given(items)
def test_whole_answers_are_strained_alike(drawn: list[JsonObject]) -> None:
    """Streaming or not, the agent sees the same."""
    body = whole(Round(tuple(drawn)))
    out = strained_object(body, is_ours)
    assert json.loads(out)["output"] == [item for item in drawn if not is_taken(item)]
    if not any(map(is_taken, drawn)):
        assert out == body


def test_what_is_no_answer_passes() -> None:
    """Errors and comments are the client's."""
    for raw in (b": function_call\n\n", b"data: function_call\n\n", b""):
        assert ResponsesStrainer(is_ours).feed(raw) == [raw]
    assert strained_object(b"function_call", is_ours) == b"function_call"
