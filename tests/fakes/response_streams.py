"""What a model says in one round of the Responses API, the ways in which servers stream it, and a strict reader."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from memproxy.records import JsonObject
from tests.fakes.dialects import ARGUMENTS, added, counts, pieces_of

QUIET = frozenset({"message", "web_search_call", "reasoning", "compaction"})


@dataclass(frozen=True, slots=True)
class Round:
    """One response."""

    items: tuple[JsonObject, ...]
    usage: JsonObject | None = None
    status: str = "completed"
    store: bool = True
    number: int = 0

    @property
    def id(self) -> str:
        return f"resp_{self.number}"

    @property
    def calls(self) -> list[JsonObject]:
        return [item for item in self.items if item["type"] == "function_call"]

    def response(self, *, status: str | None = None, has_output: bool = True) -> JsonObject:
        begun = status == "in_progress"
        return {
            "id": self.id,
            "object": "response",
            "created_at": 1_700_000_000 + self.number,
            "status": status or self.status,
            "error": None,
            "store": self.store,
            "output": list(self.items) if has_output and not begun else [],
            "usage": None if begun else self.usage,
        }


@dataclass(frozen=True, slots=True)
class Style:
    """How a server streams."""

    names: bool = True
    numbers: bool = True
    has_output: bool = True
    """The last event repeats the items."""
    step: int = 3
    line_end: bytes = b"\n"
    comments: bool = False
    done: bool = False
    """`[DONE]` at the end, as some compatible servers have it."""


def message(text: str, number: int = 0) -> JsonObject:
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }


def reasoning(text: str, number: int = 0, *, is_encrypted: bool = False) -> JsonObject:
    item = {"id": f"rs_{number}", "type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}
    return {**item, "encrypted_content": "gAAA"} if is_encrypted else item


def call(name: str, arguments: str, call_id: str = "", *, kind: str = "function_call") -> JsonObject:
    given = "input" if kind == "custom_tool_call" else "arguments"
    return {"id": f"fc_{call_id}", "type": kind, "call_id": call_id, "name": name, given: arguments}


def search(number: int = 0) -> JsonObject:
    return {"id": f"ws_{number}", "type": "web_search_call", "status": "completed", "action": {"type": "search"}}


def whole(said: Round) -> bytes:
    return json.dumps(said.response(), indent=1).encode()


def render(said: Round, style: Style) -> bytes:
    return b"".join(events(said, style))


def events(said: Round, style: Style) -> list[bytes]:
    """The stream event by event, comments as events of their own."""
    told: list[JsonObject] = [
        {"type": f"response.{name}", "response": said.response(status="in_progress")}
        for name in ("created", "in_progress")
    ]
    for index, item in enumerate(said.items):
        told += [{"output_index": index, **event} for event in _item_events(item, style)]
    told.append({"type": f"response.{said.status}", "response": said.response(has_output=style.has_output)})
    out = []
    for number, event in enumerate(told):
        whole_event = {**event, "sequence_number": number} if style.numbers else event
        name = b"event: " + event["type"].encode() + style.line_end if style.names else b""
        data = b"data: " + json.dumps(whole_event, ensure_ascii=False).encode() + style.line_end * 2
        out += [b": wait" + style.line_end * 2] * style.comments + [name + data]
    return [*out, *([b"data: [DONE]" + style.line_end * 2] if style.done else [])]


def _item_events(item: JsonObject, style: Style) -> list[JsonObject]:
    at = {"item_id": item["id"]}
    told: list[JsonObject] = []
    match item["type"]:
        case "message":
            begun = {**item, "content": [], "status": "in_progress"}
            text = item["content"][0]["text"]
            part = {**at, "content_index": 0}
            told.append({"type": "response.content_part.added", **part, "part": {"type": "output_text", "text": ""}})
            told += [
                {"type": "response.output_text.delta", **part, "delta": piece} for piece in pieces_of(text, style.step)
            ]
            told.append({"type": "response.output_text.done", **part, "text": text})
            told.append({"type": "response.content_part.done", **part, "part": item["content"][0]})
        case "function_call":
            begun = {**item, "arguments": ""}
            told += [
                {"type": "response.function_call_arguments.delta", **at, "delta": piece}
                for piece in pieces_of(item["arguments"], style.step)
            ]
            told.append({"type": "response.function_call_arguments.done", **at, "arguments": item["arguments"]})
        case "reasoning":
            begun = {**item, "summary": []}
            text = item["summary"][0]["text"]
            told += [
                {"type": "response.reasoning_summary_text.delta", **at, "summary_index": 0, "delta": piece}
                for piece in pieces_of(text, style.step)
            ]
        case _:
            begun = item
    added_event = {"type": "response.output_item.added", "item": begun}
    return [added_event, *told, {"type": "response.output_item.done", "item": item}]


@dataclass(slots=True)
class View:
    """What a client has in the end."""

    id: str = ""
    items: list[JsonObject] = field(default_factory=list)
    words: str = ""
    """By deltas."""
    status: str = ""
    usage: JsonObject | None = None


class StrictReader:
    """Reads a stream as the pickiest of clients: what one of them stumbles over fails here."""

    def __init__(self, style: Style) -> None:
        self.style = style
        self.view = View()
        self.ids: set[tuple[str, int]] = set()
        self.open: dict[int, str] = {}
        self.is_done = False

    def read(self, stream: bytes) -> View:
        blocks = stream.replace(b"\r\n", b"\n").split(b"\n\n")
        assert blocks.pop() == b"", "the last event is not complete"
        told = [block for block in blocks if not block.startswith(b":")]
        if self.style.done:
            assert told.pop() == b"data: [DONE]"
        for number, block in enumerate(told):
            name, _, data = block.rpartition(b"data: ")
            event = json.loads(data)
            assert name == (b"event: " + event["type"].encode() + b"\n" if self.style.names else b"")
            assert event.get("sequence_number") == (number if self.style.numbers else None), "numbers with gaps"
            self.event(event, number)
        assert self.is_done, "no end"
        assert not self.open, "items that never end"
        assert len(self.ids) == 1, f"ids that change: {self.ids}"
        return self.view

    def event(self, event: JsonObject, number: int) -> None:
        kind, index = event["type"], event.get("output_index", -1)
        assert not self.is_done, "events after the end"
        assert (kind == "response.created") is (number == 0), "it begins once"
        if "response" in event:
            self.response(kind, event["response"])
        elif kind == "response.output_item.added":
            assert index == len(self.view.items) + len(self.open), "a gap between indexes"
            self.open[index] = event["item"]["id"]
        elif kind == "response.output_item.done":
            assert self.open.pop(index) == event["item"]["id"]
            self.view.items.append(event["item"])
        else:
            assert self.open[index] == event["item_id"]
            self.view.words += event["delta"] if kind == "response.output_text.delta" else ""

    def response(self, kind: str, response: JsonObject) -> None:
        self.ids.add((response["id"], response["created_at"]))
        self.view.id = response["id"]
        if kind in {"response.created", "response.in_progress"}:
            assert not self.view.items
            return
        self.is_done = True
        self.view.status, self.view.usage = response["status"], response["usage"]
        if self.style.has_output:
            assert response["output"] == self.view.items


def spoken(items: Sequence[JsonObject]) -> list[JsonObject]:
    """What a client sees of a round whose calls were answered."""
    first = next((at for at, item in enumerate(items) if item["type"] == "function_call"), len(items))
    last = max((at for at in range(first) if items[at]["type"] != "reasoning"), default=-1)
    return [
        item
        for at, item in enumerate(items)
        if item["type"] != "function_call" and (at <= last or (at > first and item["type"] != "reasoning"))
    ]


def is_answered(said: Round) -> bool:
    """Whether sources that know every `look_*` but the unknown answer this round."""
    return (
        bool(said.calls)
        and said.status == "completed"
        and all(item["type"] in QUIET or item["type"] == "function_call" for item in said.items)
        and all(one["name"].startswith("look") and one["arguments"] != ARGUMENTS[-1] for one in said.calls)
    )


def expected_view(rounds: Sequence[Round], *, last: int, style: Style | None) -> tuple[View, int]:
    """What a client has after the plain loop, and how many rounds were answered.

    The id is that of the first round of which the client has seen anything; a comment shows its opening.
    """
    inside = next(number for number, said in enumerate(rounds) if number >= last or not is_answered(said))
    shown = [item for said in rounds[:inside] for item in spoken(said.items)]
    shows_opening = style is not None and style.comments
    first = next((said for said in rounds[:inside] if shows_opening or spoken(said.items)), rounds[inside])
    usages = [said.usage for said in rounds[: inside + 1] if said.usage is not None]
    items = [*shown, *rounds[inside].items]
    return View(
        id=rounds[inside].id if style is None else first.id,
        items=items,
        words="".join(item["content"][0]["text"] for item in items if item["type"] == "message"),
        status=rounds[inside].status,
        usage=added(usages) if rounds[inside].usage is not None else None,
    ), inside


styles = st.builds(
    Style,
    names=st.booleans(),
    numbers=st.booleans(),
    has_output=st.booleans(),
    step=st.sampled_from([0, 1, 3]),
    line_end=st.sampled_from([b"\n", b"\r\n"]),
    comments=st.booleans(),
    done=st.booleans(),
)

texts = st.text("ab é👩\u2028", max_size=9)
usages = st.none() | st.builds(
    lambda given, made, cached: {
        "input_tokens": given,
        "output_tokens": made,
        "total_tokens": given + made,
        "input_tokens_details": {"cached_tokens": cached},
    },
    counts,
    counts,
    counts,
)
quiet = st.one_of(st.builds(message, texts), st.builds(reasoning, texts, is_encrypted=st.booleans()), st.builds(search))
known = st.builds(call, st.sampled_from(["look_up", "look_far"]), st.sampled_from(ARGUMENTS[:-1]))
unknown = st.one_of(
    st.builds(call, st.sampled_from(["look_up", "cancel"]), st.sampled_from(ARGUMENTS)),
    st.builds(call, st.just("look_up"), st.just("x"), kind=st.just("custom_tool_call")),
    st.builds(lambda: {"id": "mcpr_", "type": "mcp_approval_request", "name": "look_up", "arguments": "{}"}),
)


def _numbered(items: Sequence[JsonObject], number: int) -> tuple[JsonObject, ...]:
    """Every item with ids of its own."""
    made = []
    for at, item in enumerate(items):
        changed: dict[str, Any] = {**item, "id": f"{item['id'].partition('_')[0]}_{number}_{at}"}
        if "call_id" in item:
            changed["call_id"] = f"call_{number}_{at}"
        made.append(changed)
    return tuple(made)


def _rounds(inner: Sequence[Sequence[JsonObject]], last: Sequence[JsonObject]) -> st.SearchStrategy[list[Round]]:
    return st.tuples(
        *(
            st.builds(
                Round,
                items=st.just(_numbered(items, number)),
                usage=usages,
                status=st.sampled_from(["completed"] * 6 + ["incomplete"]),
                number=st.just(number),
            )
            for number, items in enumerate([*inner, last])
        )
    ).map(list)


answerable = st.lists(quiet | known, min_size=1, max_size=5)
anything = st.lists(quiet | known | unknown, max_size=5)
conversations: st.SearchStrategy[list[Round]] = st.tuples(
    st.lists(answerable | answerable | anything, max_size=3), anything
).flatmap(lambda drawn: _rounds(*drawn))
