"""Reading answers: whole objects and streams, as servers really send them."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memproxy.records import JsonObject, ToolCall
from memproxy.wire import chat_answers, recorded
from memproxy.wire.dialect import NO_ANSWER, Answer
from tests.fakes.chat_messages import assistant, calling, json_values

CORPUS = Path(__file__).parent.parent / "corpus" / "chat_completions"


STREAMS = sorted(CORPUS.glob("*.sse"))


EXPECTED = json.loads((CORPUS / "expected.json").read_text())


quick = settings(max_examples=120, deadline=None)


def read(body: bytes, *, content_type: str = "text/event-stream", encoding: str = "") -> Answer:
    return chat_answers.read_answer([body], content_type=content_type, content_encoding=encoding)


def message_of(answer: Answer) -> JsonObject:
    (message,) = answer.messages
    return message


def stream(*deltas: JsonObject, finish: str | None = "stop") -> bytes:
    chunks: list[JsonObject] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def streamed(*deltas: JsonObject) -> JsonObject:
    return message_of(read(stream(*deltas)))


def fragment(index: object, arguments: str, **given: Any) -> JsonObject:
    name = {"name": given.pop("name")} if "name" in given else {}
    at = {} if index is ... else {"index": index}
    return {"tool_calls": [{**at, **given, "function": {**name, "arguments": arguments}}]}


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_recorded_stream_means_what_the_whole_answer_would(path: Path) -> None:
    """What is remembered of an answer does not depend on how the server spells its stream."""
    expected = EXPECTED[path.stem]
    answer = read(path.read_bytes(), content_type="text/event-stream; charset=utf-8")
    choice = expected["choices"]["0"]
    assert message_of(answer)["role"] == "assistant"
    assert (message_of(answer).get("content") or "") == choice.get("content", "")
    for name in ("refusal", "reasoning_content"):
        assert (message_of(answer).get(name) or "") == choice.get(name, "")
    told = [
        {"id": call["id"], "name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        for call in message_of(answer).get("tool_calls", [])
    ]
    assert told == choice.get("tool_calls", [])
    assert answer.finished == ("finish_reason" in choice)
    assert answer.usage == expected.get("usage")
    assert answer.error == ("error" in expected)
    whole: JsonObject = {
        "choices": [{"index": 0, "message": message_of(answer), "finish_reason": choice.get("finish_reason")}]
    }
    if answer.usage:
        whole["usage"] = answer.usage
    assert read(json.dumps(whole).encode(), content_type="application/json") == Answer(
        (message_of(answer),), finished=answer.finished, usage=answer.usage
    )


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_stream_reads_the_same_however_it_was_cut_or_packed(path: Path) -> None:
    """Networks cut and servers compress as they like."""
    body = path.read_bytes()
    plain = read(body)
    single = [body[at : at + 1] for at in range(len(body))]
    assert chat_answers.read_answer(single, content_type="text/event-stream", content_encoding="") == plain
    assert read(gzip.compress(body), encoding="gzip") == plain
    assert read(gzip.compress(body), encoding="GZIP", content_type="Text/Event-Stream") == plain
    assert read(zlib.compress(body), encoding="deflate") == plain


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_stream_cut_short_anywhere_is_read_as_far_as_it_went(path: Path) -> None:
    """A broken connection leaves a beginning of the answer, never a crash and never more than was said."""
    body, whole = path.read_bytes(), message_of(read(path.read_bytes()))
    for cut in range(0, len(body), 7):
        for message in read(body[:cut]).messages:
            for name in ("content", "refusal", "reasoning_content"):
                assert str(whole.get(name) or "").startswith(str(message.get(name) or ""))
            assert len(message.get("tool_calls", [])) <= len(whole.get("tool_calls", []))
    packed = gzip.compress(body)
    for cut in range(0, len(packed), 31):
        read(packed[:cut], encoding="gzip")


def test_a_whole_answer_is_read() -> None:
    """The plain case: one JSON object."""
    body = {
        "choices": [{"index": 1, "message": {"content": "no"}}, {"message": {"content": "hi"}, "finish_reason": "stop"}]
    }
    answer = read(json.dumps({**body, "usage": {"total_tokens": 3}}).encode(), content_type="application/json")
    assert answer == Answer(({"role": "assistant", "content": "hi"},), finished=True, usage={"total_tokens": 3})


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"[]", b"{}", b"null", b'{"choices":null}', b'{"choices":[]}', b'{"choices":[{}]}', b'{"choices":[1]}',
     b'{"choices":[{"message":"x"}]}', b'{"choices":[{"index":1,"message":{}}]}', b"\xff", b"[" * 100_000,
     b'{"choices":[{"message":{"content":"\\ud800"}}]}'],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
@pytest.mark.parametrize("form", ["application/json", "text/event-stream", "", "text/html"])
@pytest.mark.parametrize("encoding", ["", "gzip", "br", "zstd"])
def test_what_can_not_be_read_is_no_answer(body: bytes, form: str, encoding: str) -> None:
    """An unreadable answer has reached the client all the same; it is only not remembered."""
    assert read(body, content_type=form, encoding=encoding) == NO_ANSWER
    assert read(b"data: " + body + b"\n\n", content_type=form, encoding=encoding) == NO_ANSWER


def test_an_error_in_place_of_an_answer_is_seen() -> None:
    """What failed is not remembered as said."""
    assert read(b'{"error": {"message": "no"}}', content_type="application/json").error
    assert read(b'data: {"error": {"message": "no"}}\n\n').error
    assert not read(b'data: {"error": null, "choices": []}\n\n').error


def test_a_stream_beyond_all_bounds_is_no_answer() -> None:
    """An endless line is not kept in memory for reading."""
    assert read(b"data: " + b"x" * (17 * 1024 * 1024)) == NO_ANSWER


def test_a_small_answer_that_unpacks_without_end_is_read_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes of gzip can stand for gigabytes; the proxy does not unpack them."""
    monkeypatch.setattr(recorded, "MAX_ANSWER_BYTES", 10_000)
    packed = gzip.compress(stream({"content": "a"}) + b": padding\n" * 100_000)
    assert message_of(read(packed, encoding="gzip")) == {"role": "assistant", "content": "a"}
    assert (
        read(gzip.compress(b'"' + b"x" * 20_000 + b'"'), encoding="gzip", content_type="application/json") == NO_ANSWER
    )


@quick
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["role", "content", "tool_calls", "audio", "x"]),
            json_values
            | st.lists(
                st.dictionaries(st.sampled_from(["index", "id", "type", "function"]), json_values, max_size=3),
                max_size=2,
            ),
            max_size=3,
        ),
        max_size=4,
    )
)
def test_no_delta_is_too_odd_to_be_read(deltas: list[JsonObject]) -> None:
    """Whatever a compatible server makes of the format, the client has its answer and memproxy goes on."""
    answer = read(stream(*deltas))
    assert answer.finished
    assert all(msgspec.json.encode(message) for message in answer.messages)


def test_null_calls_on_each_chunk_do_not_hide_the_calls() -> None:
    """Several servers send every field of a delta every time, null where there is nothing."""
    none = {"tool_calls": None, "refusal": None}
    message = streamed(
        {"role": "assistant", "content": "", **none}, fragment(0, "{}", id="a", name="f"), {"content": None, **none}
    )
    assert message["tool_calls"] == [calling("f", "{}", id="a")]
    assert (message["content"], message["refusal"]) == ("", None)
    assert "tool_calls" not in streamed({"role": "assistant", "content": "hi", "tool_calls": []})


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    """Some servers number every call 0 or not at all; running them together would store a call that nobody made."""
    for index in (0, None, ...):
        message = streamed(
            fragment(index, '{"a":', id="a", name="f"),
            fragment(index, "1}", id="a"),
            fragment(index, '{"b":', id="b", name="g"),
            fragment(index, "2}"),
        )
        assert message["tool_calls"] == [calling("f", '{"a":1}', id="a"), calling("g", '{"b":2}', id="b")]


def test_fragments_of_calls_join_in_any_order() -> None:
    """Parallel calls arrive interleaved."""
    message = streamed(
        fragment(1, "[", id="b", name="g", type="function"),
        fragment(0, "{", id="a", name="f", type="custom"),
        fragment(1, "]", id="", type=None),
        fragment(0, "}", id=None),
    )
    assert [call["id"] for call in message["tool_calls"]] == ["a", "b"]
    assert [call["type"] for call in message["tool_calls"]] == ["custom", "function"]
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ["{}", "[]"]


def test_an_answer_without_a_role_is_the_assistants() -> None:
    """Servers that send null for it on every chunk do not turn the answer into nobody's."""
    assert streamed({"role": None, "content": "hi"}) == assistant("hi")
    body = b'{"choices":[{"message":{"role":null,"content":"hi"}}]}'
    assert message_of(read(body, content_type="application/json")) == assistant("hi")


def test_unknown_fields_of_deltas_are_kept_together() -> None:
    """What providers add, such as reasoning, goes into the stored answer whole."""
    message = streamed(
        {"role": "assistant", "reasoning": {"text": "a", "steps": [1]}, "flag": True, "n": 1},
        {"role": "assistant", "reasoning": {"text": "b", "steps": [2]}, "flag": False, "n": None},
        {"content": "x"},
        {"content": [{"type": "text", "text": "y"}]},
    )
    assert message["reasoning"] == {"text": "ab", "steps": [1, 2]}
    assert (message["role"], message["flag"], message["n"]) == ("assistant", False, 1)


# Reading along


def piece(delta: JsonObject, index: int = 0, **given: Any) -> JsonObject:
    return {"choices": [{"index": index, "delta": delta, **given}]}


def test_a_stream_can_be_asked_while_it_runs() -> None:
    """Whether calls can be answered inside is decided before the stream has ended."""
    reader = chat_answers.AnswerReader()
    assert (reader.answer(), reader.words, reader.calls) == (NO_ANSWER, "", ())
    reader.add(piece({"role": "assistant", "content": "Let me "}))
    reader.add(piece({"content": "see.", **fragment(0, '{"a":', id="c1", name="f")}))
    assert reader.words == "Let me see."
    assert reader.calls == (ToolCall("c1", "f", '{"a":'),)
    reader.add(piece(fragment(0, "1}")))
    reader.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}], "usage": {"total_tokens": 3}})
    assert reader.calls == (ToolCall("c1", "f", '{"a":1}'),)
    made = reader.answer()
    assert message_of(made) == assistant("Let me see.", tool_calls=[calling("f", '{"a":1}', id="c1")])
    assert (made.finished, made.usage, made.error, reader.is_unusual) == (True, {"total_tokens": 3}, False, False)


def test_more_than_one_choice_is_told() -> None:
    """Several answers at once are passed on as they are."""
    reader = chat_answers.AnswerReader()
    reader.add(piece({"content": "b"}, index=1))
    reader.add(piece({"content": "a"}))
    assert (reader.is_unusual, reader.words) == (True, "a")


def test_the_calls_of_any_message_can_be_read() -> None:
    """What is no call of a function is read over."""
    odd: list[Any] = ["x", {}, {"function": "f"}, {"id": None, "function": {"name": None}}, calling("f", "{}")]
    assert chat_answers.calls_of(assistant(tool_calls=odd)) == (ToolCall("", "", ""), ToolCall("call_1", "f", "{}"))
    empty: list[Any] = [None, [], "f"]
    for calls in empty:
        assert chat_answers.calls_of(assistant("x", tool_calls=calls)) == ()
