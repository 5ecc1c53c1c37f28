"""What a model says in one round of Anthropic's Messages API, the ways in which servers stream it, a strict reader."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from memproxy.records import JsonObject
from tests.fakes.dialects import added, counts, pieces_of


@dataclass(frozen=True, slots=True)
class Round:
    """One message."""

    blocks: tuple[JsonObject, ...]
    read: int = 10
    """Tokens of the prompt."""
    written: int = 5
    stop: str | None = None
    number: int = 0

    @property
    def calls(self) -> list[JsonObject]:
        return [block for block in self.blocks if block["type"] == "tool_use"]

    @property
    def stop_reason(self) -> str:
        return self.stop or ("tool_use" if self.calls else "end_turn")

    @property
    def usage(self) -> JsonObject:
        return {"input_tokens": self.read, "cache_read_input_tokens": 0, "output_tokens": self.written}

    def message(self) -> JsonObject:
        return {
            "id": f"msg_{self.number}",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": list(self.blocks),
            "stop_reason": self.stop_reason,
            "stop_sequence": None,
            "usage": self.usage,
        }


@dataclass(frozen=True, slots=True)
class Style:
    """How a server streams."""

    names: bool = True
    step: int = 3
    line_end: bytes = b"\n"
    pings: bool = False
    full_usage: bool = False
    """The last usage repeats what was read."""


def text(words: str) -> JsonObject:
    return {"type": "text", "text": words}


def thinking(words: str, signature: str = "sig") -> JsonObject:
    return {"type": "thinking", "thinking": words, "signature": signature}


def call(name: str, given: JsonObject, call_id: str = "") -> JsonObject:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def whole(said: Round) -> bytes:
    return json.dumps(said.message(), indent=1).encode()


def render(said: Round, style: Style) -> bytes:
    return b"".join(events(said, style))


def events(said: Round, style: Style) -> list[bytes]:
    """The stream event by event."""
    begun = {**said.message(), "content": [], "stop_reason": None, "usage": {**said.usage, "output_tokens": 1}}
    told: list[JsonObject] = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(said.blocks):
        told += [{"index": index, **event} for event in _block_events(block, style)]
        told += [{"type": "ping"}] * style.pings
    usage = said.usage if style.full_usage else {"output_tokens": said.written}
    ended = {"stop_reason": said.stop_reason, "stop_sequence": None}
    told += [{"type": "message_delta", "delta": ended, "usage": usage}, {"type": "message_stop"}]
    out = []
    for event in told:
        name = b"event: " + event["type"].encode() + style.line_end if style.names else b""
        out.append(name + b"data: " + json.dumps(event, ensure_ascii=False).encode() + style.line_end * 2)
    return out


def _block_events(block: JsonObject, style: Style) -> list[JsonObject]:
    match block["type"]:
        case "text":
            begun = text("")
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces_of(block["text"], style.step)]
        case "thinking":
            begun = thinking("", "")
            deltas = [
                {"type": "thinking_delta", "thinking": piece} for piece in pieces_of(block["thinking"], style.step)
            ]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        case "tool_use":
            begun = {**block, "input": {}}
            pieces = pieces_of(json.dumps(block["input"]), style.step)
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        case _:
            begun, deltas = block, []
    return [
        {"type": "content_block_start", "content_block": begun},
        *({"type": "content_block_delta", "delta": delta} for delta in deltas),
        {"type": "content_block_stop"},
    ]


@dataclass(slots=True)
class View:
    """What a client has in the end."""

    id: str = ""
    blocks: list[JsonObject] = field(default_factory=list)
    stop: str = ""
    usage: JsonObject | None = None


class StrictReader:
    """Reads a stream as the pickiest of clients: what one of them stumbles over fails here."""

    def __init__(self, style: Style) -> None:
        self.style = style
        self.view = View()
        self.open: JsonObject | None = None
        self.given = ""
        self.is_done = False

    def read(self, stream: bytes) -> View:
        blocks = stream.replace(b"\r\n", b"\n").split(b"\n\n")
        assert blocks.pop() == b"", "the last event is not complete"
        for number, raw in enumerate(blocks):
            name, _, data = raw.rpartition(b"data: ")
            event = json.loads(data)
            assert name == (b"event: " + event["type"].encode() + b"\n" if self.style.names else b"")
            assert (event["type"] == "message_start") is (number == 0), "it begins once"
            assert not self.is_done, "events after the end"
            self.event(event)
        assert self.is_done, "no end"
        return self.view

    def event(self, event: JsonObject) -> None:
        match event["type"]:
            case "message_start":
                self.view.id, self.view.usage = event["message"]["id"], event["message"]["usage"]
            case "content_block_start":
                assert self.open is None
                assert event["index"] == len(self.view.blocks), "a gap between indexes"
                self.open, self.given = dict(event["content_block"]), ""
            case "content_block_delta":
                assert event["index"] == len(self.view.blocks)
                self.delta(event["delta"])
            case "content_block_stop":
                assert event["index"] == len(self.view.blocks)
                assert self.open is not None
                if self.open["type"] == "tool_use":
                    self.open["input"] = json.loads(self.given or "{}")
                self.view.blocks.append(self.open)
                self.open = None
            case "message_delta":
                self.view.stop = event["delta"]["stop_reason"]
                self.view.usage = {**(self.view.usage or {}), **event["usage"]}
            case "message_stop":
                assert self.view.stop
                self.is_done = True
            case kind:
                assert kind == "ping"

    def delta(self, delta: JsonObject) -> None:
        assert self.open is not None
        if delta["type"] == "input_json_delta":
            self.given += delta["partial_json"]
            return
        for name in ("text", "thinking", "signature"):
            if name in delta:
                self.open[name] += delta[name]


def spoken(blocks: Sequence[JsonObject]) -> list[JsonObject]:
    """What a client sees of a round whose calls were answered."""
    first = next((at for at, block in enumerate(blocks) if block["type"] == "tool_use"), len(blocks))
    last = max((at for at in range(first) if blocks[at]["type"] != "thinking"), default=-1)
    return [
        block
        for at, block in enumerate(blocks)
        if block["type"] != "tool_use" and (at <= last or (at > first and block["type"] != "thinking"))
    ]


def is_answered(said: Round) -> bool:
    """Whether sources that know every `look_*` but the unknown answer this round."""
    return (
        bool(said.calls)
        and said.stop_reason == "tool_use"
        and all(one["name"].startswith("look") and one["input"] != {"q": "unknown"} for one in said.calls)
    )


def expected_view(rounds: Sequence[Round], *, last: int, is_stream: bool) -> tuple[View, int]:
    """What a client has after the plain loop, and how many rounds were answered."""
    inside = next(number for number, said in enumerate(rounds) if number >= last or not is_answered(said))
    shown = [block for said in rounds[:inside] for block in spoken(said.blocks)]
    first = next((said for said in rounds[:inside] if spoken(said.blocks)), rounds[inside])
    return View(
        id=f"msg_{(first if is_stream else rounds[inside]).number}",
        blocks=[*shown, *rounds[inside].blocks],
        stop=rounds[inside].stop_reason,
        usage=added([said.usage for said in rounds[: inside + 1]]),
    ), inside


styles = st.builds(
    Style,
    names=st.booleans(),
    step=st.sampled_from([0, 1, 3]),
    line_end=st.sampled_from([b"\n", b"\r\n"]),
    pings=st.booleans(),
    full_usage=st.booleans(),
)

words = st.text("ab é👩\u2028", min_size=1, max_size=9)
quiet = st.one_of(
    st.builds(text, words),
    st.builds(thinking, words),
    st.just({"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}}),
)
known = st.builds(call, st.sampled_from(["look_up", "look_far"]), st.sampled_from([{"q": "known"}, {"q": "é👩"}, {}]))
unknown = st.builds(call, st.sampled_from(["look_up", "cancel"]), st.sampled_from([{"q": "unknown"}, {"q": "known"}]))


def _numbered(blocks: Sequence[JsonObject], number: int) -> tuple[JsonObject, ...]:
    return tuple(
        {**block, "id": f"call_{number}_{at}"} if block["type"] == "tool_use" else block
        for at, block in enumerate(blocks)
    )


def _rounds(inner: Sequence[Sequence[JsonObject]], last: Sequence[JsonObject]) -> st.SearchStrategy[list[Round]]:
    def made(drawn: Any) -> list[Round]:
        return [
            replace(said, blocks=_numbered(blocks, number), number=number)
            for number, (said, blocks) in enumerate(zip(drawn, [*inner, last], strict=True))
        ]

    one = st.builds(
        Round, blocks=st.just(()), read=counts, written=counts, stop=st.sampled_from([None] * 6 + ["max_tokens"])
    )
    return st.tuples(*(one for _ in [*inner, last])).map(made)


answerable = st.lists(quiet | known, min_size=1, max_size=5)
anything = st.lists(quiet | known | unknown, max_size=5)
conversations: st.SearchStrategy[list[Round]] = st.tuples(
    st.lists(answerable | answerable | anything, max_size=3), anything
).flatmap(lambda drawn: _rounds(*drawn))
