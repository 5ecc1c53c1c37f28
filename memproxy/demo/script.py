"""What a scripted model is asked and what it is told to answer.

A script is a plain function from `ModelRequest` to `Reply`. `answer_from_request` is the script used when none is
given, `in_order` makes one from a list of replies.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, repeat
from typing import Any

import msgspec
import zstandard


@dataclass(frozen=True)
class ModelRequest:
    """One HTTP request as it arrived.

    No slots: `body` is decoded when it is first read, so that answers that do not need it stay cheap.
    """

    method: str
    path: str
    """As it was sent, percent signs and all, without the query."""
    query: str
    headers: tuple[tuple[str, str], ...]
    """Name and value in the order of arrival; names in lower case."""
    raw_body: bytes
    arrived_at: float
    """Seconds of `time.monotonic`, once the whole body was there."""
    told: tuple[dict[str, Any], ...] | None = None
    """All that the model is shown, in the form of chat completions, where the request has another form."""

    @cached_property
    def body(self) -> dict[str, Any]:
        """The body as JSON object; empty if it is none."""
        try:
            body = msgspec.json.decode(self._unpacked())
        except (msgspec.DecodeError, zlib.error, zstandard.ZstdError):
            return {}
        return body if isinstance(body, dict) else {}

    def _unpacked(self) -> bytes:
        match self.header("content-encoding"):
            case "gzip" | "deflate":
                return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(self.raw_body)
            case "zstd":
                return zstandard.ZstdDecompressor().decompressobj().decompress(self.raw_body)
            case _:
                return self.raw_body

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All that the model is shown, in the form of chat completions."""
        if self.told is not None:
            return list(self.told)
        messages: list[dict[str, Any]] = self.body.get("messages", [])
        return messages

    @property
    def is_stream(self) -> bool:
        """A frame of a WebSocket always asks for one."""
        return self.body.get("stream") is True or self.body.get("type") == "response.create"

    @property
    def last_user_text(self) -> str:
        """The text of the newest user message; empty without one."""
        return next((text_of(each) for each in reversed(self.messages) if each.get("role") == "user"), "")

    def header(self, name: str) -> str | None:
        """The value of the first header of that name, in any case."""
        return next((value for key, value in self.headers if key == name.lower()), None)


@dataclass(frozen=True, slots=True)
class ToolCallReply:
    """One tool call that the model makes."""

    name: str
    arguments: str | Mapping[str, Any] = "{}"
    """JSON text, sent exactly so, or an object to be encoded."""
    id: str | None = None
    """A new random id by default, as real ones are."""

    @property
    def arguments_json(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else msgspec.json.encode(self.arguments).decode()


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. Whether it goes out as JSON or as a stream is what the request asked for."""

    text: str | None = None
    tool_calls: tuple[ToolCallReply, ...] = ()
    reasoning: str = ""
    """What the model thinks first, in formats that show it."""
    finish_reason: str | None = None
    """By default `tool_calls` or `stop`, as fits."""
    status: int = 200
    """From 400 on the answer is an error, in JSON also where a stream was asked."""
    error: str | Mapping[str, Any] | None = None
    """The message of the error, or the whole error object."""
    delay_s: float = 0.0
    """Wait before the headers, in seconds."""
    event_delay_s: float = 0.0
    """Wait after each event of a stream, in seconds."""
    raw_stream: tuple[bytes, ...] | None = None
    """A recorded stream, sent piece by piece exactly so, each piece counted as an event."""
    raw_body: bytes | None = None
    """A recorded body, sent exactly so."""
    cut_after: int | None = None
    """Close the connection without an end after that many events of a stream, or bytes of a JSON answer."""
    hang: bool = False
    """Never answer; together with `cut_after`, fall silent there in place of closing. Ends when the client leaves."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to the usual response headers, or in their place."""


Script = Callable[[ModelRequest], Reply]


_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, the text parts of a list joined by newlines; empty without text."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if part.get("type") in _TEXT_TYPES)


def answer_from_request(request: ModelRequest) -> Reply:
    """Repeats the newest message: what the user said, or what the tools found.

    It calls a tool only when made to (`tool_choice` is `required` or names one), with no arguments.
    """
    newest = request.messages[-1]
    if newest["role"] == "tool":
        return Reply(f"The tool says: {text_of(newest)}")
    choice = request.body.get("tool_choice")
    if isinstance(choice, dict) and "name" in (called := choice.get("function", choice)):
        return Reply(tool_calls=(ToolCallReply(called["name"]),))
    if choice == "required" and request.body.get("tools"):
        tool = request.body["tools"][0]
        return Reply(tool_calls=(ToolCallReply(tool.get("function", tool)["name"]),))
    return Reply(f"You said: {request.last_user_text}")


def in_order(*replies: Reply) -> Script:
    """A script that gives one reply after the other and stays at the last one."""
    left = chain(replies, repeat(replies[-1]))
    return lambda _: next(left)


def words_of(text: str) -> list[str]:
    """The words of a text, each with the blanks before it: joined they are the text."""
    return re.findall(r"\s*\S+|\s+", text)
