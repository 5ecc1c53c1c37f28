"""What a model says in one round, the many ways in which servers stream it, and a reader that forgives nothing."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from memproxy.records import JsonObject

JOINT = "\n\n"
"""Between the words of two rounds."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A tool call; one of a custom tool takes free text."""

    id: str
    name: str
    arguments: str = "{}"
    is_custom: bool = False

    @property
    def whole(self) -> JsonObject:
        """As it stands in a message."""
        if self.is_custom:
            return {"id": self.id, "type": "custom", "custom": {"name": self.name, "input": self.arguments}}
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}

    def fragments(self, index: int, step: int) -> list[JsonObject]:
        """As a stream brings it, `step` characters of arguments at a time; 0 for all at once."""
        kind, given = ("custom", "input") if self.is_custom else ("function", "arguments")
        head: JsonObject = {"index": index, "id": self.id, "type": kind}
        if not step:
            return [{**head, kind: {"name": self.name, given: self.arguments}}]
        pieces = pieces_of(self.arguments, step)
        return [
            {**head, kind: {"name": self.name, given: ""}},
            *({"index": index, kind: {given: piece}} for piece in pieces),
        ]


@dataclass(frozen=True, slots=True)
class Said:
    """One round of the model."""

    words: str = ""
    more_words: str = ""
    """After the first call has begun."""
    calls: tuple[Asked, ...] = ()
    refusal: str = ""
    reasoning: str = ""
    usage: JsonObject | None = None
    finish: str | None = None
    """By default what fits."""

    @property
    def content(self) -> str:
        return self.words + self.more_words

    @property
    def finish_reason(self) -> str:
        return self.finish or ("tool_calls" if self.calls else "stop")

    @property
    def message(self) -> JsonObject:
        """As a whole answer has it."""
        message: JsonObject = {"role": "assistant", "content": self.content or None}
        if self.refusal:
            message["refusal"] = self.refusal
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [call.whole for call in self.calls]
        return message


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server streams."""

    role: str = "first"
    """`first`: in a chunk of its own; `merged`: with the first delta; `every`: on every delta; `never`."""
    calls: str = "in turn"
    """`in turn`, `interleaved`, or `bundled`: all fragments in one delta."""
    step: int = 3
    """Characters in a delta; 0 for all at once."""
    with_call: bool = False
    """Words after a call's beginning come in the same delta as that."""
    finish: str = "own"
    """`own`: a chunk without a delta; `merged`: with the last delta."""
    usage: str = "chunk"
    """`chunk`: a last one without choices; `finish`: in the chunk that finishes; `every`: growing, on all."""
    done: bool = True
    line_end: bytes = b"\n"
    comments: bool = False
    prelude: bool = False
    """A first chunk without choices and without an id."""


def pieces_of(text: str, step: int) -> list[str]:
    return [text[at : at + step] for at in range(0, len(text), step)] if step else [text] if text else []


def render(said: Said, dialect: Dialect, *, number: int = 0) -> bytes:
    """The round as a stream; `number` tells its id from those of other rounds."""
    return b"".join(events(said, dialect, number=number))


def events(said: Said, dialect: Dialect, *, number: int = 0) -> list[bytes]:
    """The stream event by event, comments as events of their own."""
    head = {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": 1_700_000_000 + number}
    chunks = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        for delta, finish in _finished(_deltas(said, dialect), said, dialect)
    ]
    payloads = [json.dumps(chunk, ensure_ascii=False) for chunk in _with_usage(chunks, said, dialect, head)]
    if dialect.prelude:
        payloads.insert(0, json.dumps({"id": "", "created": 0, "choices": [], "prompt_filter_results": []}))
    if dialect.done:
        payloads.append("[DONE]")
    end = dialect.line_end
    lines = [b"data: " + payload.encode() + end + end for payload in payloads]
    comment = b": still thinking" + end + end
    return [each for line in lines for each in ((comment, line) if dialect.comments else (line,))]


def _deltas(said: Said, dialect: Dialect) -> list[JsonObject]:
    deltas: list[JsonObject] = [{"reasoning_content": piece} for piece in pieces_of(said.reasoning, dialect.step)]
    deltas += [{"content": piece} for piece in pieces_of(said.words, dialect.step)]
    deltas += [{"refusal": piece} for piece in pieces_of(said.refusal, dialect.step)]
    calls: list[JsonObject] = [{"tool_calls": fragments} for fragments in _fragments(said, dialect)]
    more: list[JsonObject] = [{"content": piece} for piece in pieces_of(said.more_words, dialect.step)]
    if calls and more and dialect.with_call:
        calls[0] = {**more.pop(0), **calls[0]}
    deltas += [*calls, *more]
    match dialect.role:
        case "first":
            deltas.insert(0, {"role": "assistant", "content": ""})
        case "merged":
            deltas[:1] = [{"role": "assistant", **(deltas[0] if deltas else {})}]
        case "every":
            deltas = [{"role": "assistant", **delta} for delta in deltas]
        case _:
            pass
    return deltas


def _fragments(said: Said, dialect: Dialect) -> Iterator[list[JsonObject]]:
    each = [call.fragments(index, dialect.step) for index, call in enumerate(said.calls)]
    in_turn = [fragment for fragments in each for fragment in fragments]
    if dialect.calls == "bundled":
        if in_turn:
            yield in_turn
    elif dialect.calls == "interleaved":
        for row in itertools.zip_longest(*each):
            yield from ([fragment] for fragment in row if fragment is not None)
    else:
        yield from ([fragment] for fragment in in_turn)


def _finished(deltas: list[JsonObject], said: Said, dialect: Dialect) -> Iterator[tuple[JsonObject, str | None]]:
    if dialect.finish == "own" or not deltas:
        deltas = [*deltas, {}]
    for at, delta in enumerate(deltas):
        yield delta, said.finish_reason if at == len(deltas) - 1 else None


def _with_usage(chunks: list[JsonObject], said: Said, dialect: Dialect, head: JsonObject) -> list[JsonObject]:
    if said.usage is None:
        return chunks
    if dialect.usage == "chunk":
        return [*({**chunk, "usage": None} for chunk in chunks), {**head, "choices": [], "usage": said.usage}]
    if dialect.usage == "finish":
        return [*chunks[:-1], {**chunks[-1], "usage": said.usage}]
    prompt = {**said.usage, "completion_tokens": 0, "total_tokens": said.usage["prompt_tokens"]}
    return [*({**chunk, "usage": prompt} for chunk in chunks[:-1]), {**chunks[-1], "usage": said.usage}]


def whole(said: Said, *, number: int = 0) -> bytes:
    """The round as an answer that is not streamed, white space and all."""
    value: JsonObject = {
        "id": f"chatcmpl-{number}",
        "choices": [{"index": 0, "message": said.message, "finish_reason": said.finish_reason}],
    }
    if said.usage is not None:
        value["usage"] = said.usage
    return json.dumps(value, indent=1).encode()


@dataclass(slots=True)
class View:
    """What a client has in the end."""

    words: str = ""
    refusal: str = ""
    reasoning: str = ""
    calls: list[Asked] = field(default_factory=list)
    finish: str = ""
    usage: JsonObject | None = None
    done: bool = False


def expected_view(rounds: Sequence[Said], is_answered: Callable[[int, Said], bool]) -> tuple[View, int]:
    """What a client would have without any stream, and how many rounds were answered: the plain loop."""
    before: list[Said] = []
    for number, said in enumerate(rounds):
        if is_answered(number, said):
            before.append(said)
            continue
        seen = [*before, said]
        usages = [each.usage for each in seen if each.usage is not None]
        return View(
            words=JOINT.join(each.content for each in seen if each.content),
            refusal=said.refusal,
            reasoning="".join(each.reasoning for each in seen),
            calls=list(said.calls),
            finish=said.finish_reason,
            usage=added(usages) if said.usage is not None else None,
        ), number
    raise AssertionError("the last round is the client's")


def added(usages: Sequence[JsonObject]) -> JsonObject:
    total = dict(usages[0])
    for usage in usages[1:]:
        for name, value in usage.items():
            total[name] = added([total[name], value]) if isinstance(value, dict) else total[name] + value
    return total


def payloads_of(stream: bytes) -> list[bytes]:
    """The data of each event; anything but data and comments is refused."""
    blocks = stream.replace(b"\r\n", b"\n").split(b"\n\n")
    assert blocks.pop() == b"", "the last event is not complete"
    lines = [line for block in blocks for line in block.split(b"\n") if not line.startswith(b":")]
    assert all(line.startswith(b"data: ") for line in lines), lines
    return [line.removeprefix(b"data: ") for line in lines]


class StrictReader:
    """Reads a stream as the pickiest of clients: what one of them stumbles over fails here."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.view = View()
        self.ids: set[tuple[str, int]] = set()
        self.roles = 0
        self.usages: list[JsonObject] = []

    def read(self, stream: bytes) -> View:
        """The whole stream."""
        payloads = payloads_of(stream)
        self.view.done = bool(payloads) and payloads[-1] == b"[DONE]"
        for payload in payloads[:-1] if self.view.done else payloads:
            self.chunk(json.loads(payload))
        assert self.view.finish, "no finish"
        assert len(self.ids) == 1, f"ids that change: {self.ids}"
        assert self.roles <= 1 or self.dialect.role == "every"
        if self.usages:
            assert len(self.usages) == 1 or self.dialect.usage == "every"
            self.view.usage = self.usages[-1]
        return self.view

    def so_far(self, stream: bytes) -> list[str]:
        """What was thought and said in a stream that goes on."""
        for payload in payloads_of(stream):
            if payload != b"[DONE]" and (value := json.loads(payload))["choices"]:
                self.chunk(value)
        return [self.view.reasoning, self.view.words]

    def chunk(self, chunk: JsonObject) -> None:
        if chunk["id"]:
            self.ids.add((chunk["id"], chunk["created"]))
        if chunk.get("usage") is not None:
            self.usages.append(chunk["usage"])
        if not chunk["choices"]:
            is_prelude = "prompt_filter_results" in chunk
            assert is_prelude or (chunk["usage"] is not None and self.view.finish), "a chunk that says nothing"
            return
        (choice,) = chunk["choices"]
        assert choice["index"] == 0
        assert not self.view.finish, "words after the end"
        self.delta(choice["delta"])
        self.view.finish = choice["finish_reason"] or ""

    def delta(self, delta: JsonObject) -> None:
        self.roles += "role" in delta
        self.view.words += delta.get("content") or ""
        self.view.refusal += delta.get("refusal") or ""
        self.view.reasoning += delta.get("reasoning_content") or ""
        assert delta.get("tool_calls") != [], "an empty list of calls"
        for fragment in delta.get("tool_calls") or ():
            self.fragment(fragment)

    def fragment(self, fragment: JsonObject) -> None:
        calls, index = self.view.calls, fragment["index"]
        kind, given = ("custom", "input") if "custom" in fragment else ("function", "arguments")
        part = fragment[kind]
        if "id" in fragment:
            assert index == len(calls), "a gap between indexes"
            assert fragment["type"] == kind
            calls.append(Asked(fragment["id"], part["name"], part[given], is_custom=kind == "custom"))
        else:
            calls[index] = replace(calls[index], arguments=calls[index].arguments + part[given])


dialects = st.builds(
    Dialect,
    role=st.sampled_from(["first", "merged", "every", "never"]),
    calls=st.sampled_from(["in turn", "interleaved", "bundled"]),
    step=st.sampled_from([0, 1, 3]),
    with_call=st.booleans(),
    finish=st.sampled_from(["own", "merged"]),
    usage=st.sampled_from(["chunk", "finish", "every"]),
    done=st.booleans(),
    line_end=st.sampled_from([b"\n", b"\r\n"]),
    comments=st.booleans(),
    prelude=st.booleans(),
)

words = st.text("ab é👩\n", max_size=9)

counts = st.integers(0, 1000)
usages = st.none() | st.builds(
    lambda prompt, completion, cached: {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    },
    counts,
    counts,
    counts,
)

ARGUMENTS = ("{}", '{"q": "known"}', '{"q":"é👩"}', "", '{"q": "unknown"}')
"""The last is what no source has an answer to."""

tools = st.sampled_from(["look_up", "look_up", "look_far", "look_up", "cancel"])
asked = st.builds(
    Asked,
    id=st.just(""),
    name=tools,
    arguments=st.sampled_from(ARGUMENTS),
    is_custom=st.sampled_from([False] * 9 + [True]),
)


def _said(calls: st.SearchStrategy[tuple[Asked, ...]], **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Said]:
    return st.builds(
        Said, words=words, more_words=words, calls=calls, reasoning=st.just("") | words, usage=usages, **given
    )


known = st.builds(
    Asked, id=st.just(""), name=st.sampled_from(["look_up", "look_far"]), arguments=st.sampled_from(ARGUMENTS[:-1])
)
answerable = _said(st.lists(known, min_size=1, max_size=4).map(tuple), finish=st.sampled_from([None, "stop"]))
calling = _said(
    st.lists(asked, min_size=1, max_size=4).map(tuple),
    refusal=st.sampled_from(["", "", "", "I can't."]),
    finish=st.sampled_from([None, None, None, "length", "content_filter"]),
)
speaking = st.builds(Said, words=words, reasoning=st.just("") | words, usage=usages, refusal=st.just("") | words)


def _named(said: Said, number: int) -> Said:
    return replace(said, calls=tuple(replace(call, id=f"call_{number}_{at}") for at, call in enumerate(said.calls)))


conversations: st.SearchStrategy[list[Said]] = st.builds(
    lambda inner, last: [_named(said, number) for number, said in enumerate([*inner, last])],
    st.lists(answerable | answerable | calling, max_size=3),
    answerable | calling | speaking,
)
"""One to four rounds; the last is the client's, whatever it asks for."""


def cut(stream: bytes, at: Sequence[int]) -> list[bytes]:
    """The stream in pieces."""
    places = sorted({0, len(stream), *(place % (len(stream) + 1) for place in at)})
    return [stream[start:end] for start, end in itertools.pairwise(places)]


def is_answered(said: Said) -> bool:
    """Whether sources that know every `look_*` but the unknown answer this round."""
    return (
        bool(said.calls)
        and not said.refusal
        and said.finish_reason in {"tool_calls", "stop"}
        and all(
            call.name.startswith("look") and call.arguments != ARGUMENTS[-1] and not call.is_custom
            for call in said.calls
        )
    )
