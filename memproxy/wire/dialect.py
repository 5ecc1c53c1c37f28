"""What the proxy needs of a format, and the values that all formats share.

A *dialect* is a format in which agents and model servers speak. Everything that knows how a message, an answer or an
event of a stream looks is below `wire/`; the proxy decides and acts through the protocols here. A message stays the
plain JSON object that its dialect calls so (a message, an item), and is written back by the dialect that read it.

One path, one object, one row in `proxy/routes.DIALECTS`: that is all a further format takes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from memproxy.errors import RequestError
from memproxy.records import JsonObject, ToolAnswer, ToolCall
from memproxy.wire.joined import Joined

IsOurs = Callable[[str], bool]
"""Whether a tool of this name is one that the client must never see."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it was read: the original bytes and what they say."""

    dialect: "Dialect"
    body: bytes
    fields: JsonObject
    messages: tuple[JsonObject, ...]
    lead: int = 0
    """How many leading messages are the agent's instructions."""
    instructions: tuple[JsonObject, ...] = ()
    """The agent's instructions as messages: a field of their own, and the leading messages."""
    reply_tokens: int | None = None
    """The most tokens that the client lets the answer have, if it says so."""
    continues: str = ""
    """The id of the earlier answer behind which the provider itself puts this request."""
    is_chained: bool = False
    """The history lies at the provider, who puts it before the messages."""
    is_compacted: bool = False
    """The history is in the messages in a form of its own: nothing goes before it, and nothing of it is left out."""

    @property
    def model(self) -> str:
        model = self.fields.get("model")
        return model if isinstance(model, str) else ""

    @property
    def is_stream(self) -> bool:
        return self.fields.get("stream") is True

    @property
    def conversation(self) -> tuple[JsonObject, ...]:
        """The messages behind the instructions."""
        return self.messages[self.lead :]

    @property
    def tools(self) -> list[Any]:
        tools = self.fields.get("tools")
        return tools if isinstance(tools, list) else []


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model server answered, as far as it was read."""

    messages: tuple[JsonObject, ...]
    """The answer as a next request would hold it; empty when there was none."""
    finished: bool
    """The model server said that the answer is complete."""
    usage: JsonObject | None = None
    error: bool = False
    """The model server reported an error."""
    id: str = ""
    """What a next request may refer to in place of its history; empty where a format knows no such thing."""

    @property
    def prompt_tokens(self) -> int | None:
        """What the model read, as far as its server tells."""
        usage = self.usage or {}
        counts = (usage.get(name) for name in ("prompt_tokens", "input_tokens"))
        return next((count for count in counts if isinstance(count, int)), None)


NO_ANSWER = Answer((), finished=False)


class Reading(Protocol):
    """One round's answer while it is read, and how its events look to a client that saw the rounds before.

    What comes is told to `read`; `holds` and the other properties say what it means. `rewritten` is asked for each
    event after it was read.
    """

    @property
    def has_error(self) -> bool:
        """The model server reported an error."""
        ...

    @property
    def messages(self) -> tuple[JsonObject, ...]:
        """The model's own messages, as far as they were read."""
        ...

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls of functions in them."""
        ...

    @property
    def is_finished(self) -> bool:
        """The answer has an end of its own."""
        ...

    @property
    def holds(self) -> bool:
        """What was read last, and what follows, may have to be hidden from the client."""
        ...

    @property
    def is_clients(self) -> bool:
        """Something was read that can't be answered or joined here: the round is the client's."""
        ...

    @property
    def ends_in_calls(self) -> bool:
        """The round has ended in whole calls of functions, and nothing else was asked for."""
        ...

    @property
    def id(self) -> str:
        """The provider's id of this answer, in formats where a next request may refer to it."""
        ...

    def read(self, value: JsonObject) -> None:
        """Take in an object of the stream."""
        ...

    def read_whole(self, value: JsonObject) -> None:
        """Take in an answer that is not streamed."""
        ...

    def says(self, value: JsonObject) -> bool:
        """Anything but opening the answer: an event that only opens it can wait for the next."""
        ...

    def rewritten(self, raw: bytes, value: JsonObject) -> bytes | None:
        """The event as the client may see it after earlier rounds; None for one that it must not see."""
        ...

    def shown(self) -> None:
        """The client gets all that was rewritten so far."""
        ...

    def after(self, opening: Sequence[bytes], held: Sequence[bytes], *, has_begun: bool) -> Joined:
        """What the client has seen once this round was answered inside; `opening` and `held` were not shown."""
        ...


class Straining(Protocol):
    """Takes calls of tools that the client must not see out of an answer."""

    def feed(self, raw: bytes) -> list[bytes]:
        """What the client gets of one event: the event itself, another one, or nothing."""
        ...


class Dialect(Protocol):
    """One format."""

    @property
    def name(self) -> str:
        """What sessions remember it by."""
        ...

    @property
    def has_silent_messages(self) -> bool:
        """Some messages may be left out by clients that send a history again."""
        ...

    @property
    def has_references(self) -> bool:
        """A message may stand for another one by its id."""
        ...

    # Requests.

    def read(self, body: bytes) -> Request | None:
        """The request in `body`, or None where it is not one: the model server then says what is wrong with it."""
        ...

    def raw_messages(self, request: Request) -> list[bytes]:
        """Each message's own bytes."""
        ...

    def with_messages(
        self, request: Request, messages: Sequence[bytes], *, instructions: Sequence[JsonObject] = ()
    ) -> bytes:
        """The request's bytes with other messages, and with instructions where it has none; all other fields keep
        theirs."""
        ...

    def with_tools(self, body: bytes, tools: Sequence[JsonObject]) -> bytes:
        """A request's bytes with more tools behind its own; the tools are given as chat completions take them."""
        ...

    def with_round(self, body: bytes, messages: Sequence[JsonObject], *, after: str = "") -> bytes:
        """The request that goes on behind these messages, which were its answer and the results of its calls.

        `after` is the answer's id where the provider is to be referred to it.
        """
        ...

    def continued(self, request: Request, answer_id: str, messages: Sequence[JsonObject]) -> bytes:
        """The request's bytes with another id in place of what it continues, and messages before its own."""
        ...

    def is_ordinary(self, request: Request) -> bool:
        """Whether rounds inside can be joined into the answer that this request asks for; the unusual passes."""
        ...

    # Messages.

    def role_of(self, message: Mapping[str, Any]) -> str:
        """Whose message it is: `user`, `assistant`, `tool`, or another word for neither."""
        ...

    def is_silent(self, message: Mapping[str, Any]) -> bool:
        """Clients may leave it out of a history that they send again: it does not tell conversations apart."""
        ...

    def reference_of(self, message: Mapping[str, Any]) -> str:
        """The id of an answer's message that this one stands for; empty where it stands for itself."""
        ...

    def digest(self, message: Mapping[str, Any]) -> bytes:
        """16 bytes that are equal for messages which mean the same on the wire."""
        ...

    def text_of(self, message: Mapping[str, Any]) -> str:
        """The words of a message; nothing else."""
        ...

    def with_text(self, message: JsonObject, text: str) -> JsonObject:
        """The message with other words."""
        ...

    def countable_text(self, message: Mapping[str, Any]) -> str:
        """All text of a message that costs tokens."""
        ...

    def encode(self, message: JsonObject) -> bytes:
        """A message as it is sent: the same object always gives the same bytes."""
        ...

    def with_blocks(self, raw: bytes, blocks: Sequence[str]) -> bytes:
        """A user message's bytes with text blocks put before its words; all else keeps its bytes."""
        ...

    def replayable(self, message: JsonObject) -> JsonObject:
        """A message of an answer as it may be sent again at once: without fields that servers only send."""
        ...

    def restorable(self, message: JsonObject) -> JsonObject | None:
        """A stored message as it may be sent again later; None for one that is better left out."""
        ...

    def complete_pairs(self, messages: Sequence[JsonObject], following: Sequence[JsonObject] = ()) -> list[JsonObject]:
        """These messages without calls that have no results and results that have no call: servers reject both.

        `following` are the messages that will stand behind them. What is kept unchanged is the same object.
        """
        ...

    def without_calls(self, message: JsonObject) -> JsonObject | None:
        """What a broken-off answer's message is worth: its calls may be cut in the middle. None for nothing."""
        ...

    def results(self, answers: Sequence[ToolAnswer]) -> list[JsonObject]:
        """The messages that carry these results to the model."""
        ...

    def as_chat(self, messages: Sequence[JsonObject]) -> list[tuple[int, JsonObject]]:
        """The messages in the form of chat completions, with the index of the first that each stands for.

        For reading only: who said something, which tools were called, what they gave.
        """
        ...

    # Answers.

    def read_answer(self, chunks: Sequence[bytes], *, content_type: str, content_encoding: str) -> Answer:
        """The answer in a response's recorded bytes; `NO_ANSWER` where it can't be read. Never raises."""
        ...

    def reading(self, joined: Joined, may_answer: Callable[[str], bool]) -> Reading:
        """The reader of one round."""
        ...

    def joined_object(self, body: bytes, joined: Joined) -> bytes:
        """A whole (not streamed) answer after earlier rounds: what they showed before its own, usage added."""
        ...

    def straining(self, is_ours: IsOurs) -> Straining:
        """The strainer of one stream."""
        ...

    def strained_object(self, body: bytes, is_ours: IsOurs) -> bytes:
        """A whole (not streamed) answer without calls of ours; the same bytes when it has none."""
        ...

    def error_body(self, error: RequestError) -> JsonObject:
        """An error of memproxy's as this format's clients read it."""
        ...
