"""Hold tool calls of a round back, in whatever format, until it is known whether they are answered here. Pure.

A round's events flow on as they came until its first tool call. From there they are held, but only while every call so
far could be answered inside. Then either the round is *released* (all that was held goes out, and the rest flows) or
*answered* (its calls go nowhere, and the next round takes its place). Words that were held together with calls are said
before the next round's.

What an event means, and how it looks behind earlier rounds, the format's `Reading` tells. A round that is the first and
is not answered passes byte for byte.
"""

from memproxy.errors import UpstreamBrokenError
from memproxy.records import JsonObject, ToolCall
from memproxy.wire.dialect import Reading
from memproxy.wire.joined import Joined, object_of
from memproxy.wire.sse import RawEvents, SseTooLargeError, parse_stream

MAX_READ_BYTES = 16 * 1024 * 1024
"""A round beyond this is not held, and passes on as it comes."""


class Round:
    """One round's answer. Feed it; what comes back is to be written to the client."""

    def __init__(self, reading: Reading, joined: Joined, *, reads_on: bool = False) -> None:
        """`reads_on`: the first round is read to its end and given event by event also after its release."""
        self._reading = reading
        self._joined = joined
        self._reads_on = reads_on or joined.rounds > 0
        self._events = RawEvents(MAX_READ_BYTES)
        self._size = 0
        self._opening: list[bytes] = list(joined.unsaid)
        """Events before the first that says anything: they wait for it."""
        self._held: list[bytes] = []
        """Events that may have to be hidden, as they are to be written."""
        self.is_released = False
        self.has_begun = False
        """The client gets something of this round: from here on, it is this round's answer."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """A piece of the stream, cut anywhere.

        Raises:
            UpstreamBrokenError: a later round begins with an error; the client got nothing of it.
        """
        if self.is_released and not self._reads_on:
            return [chunk]
        pieces = [piece for raw in self._events.feed(chunk) for piece in self._feed_event(raw)]
        if self.is_released and not self._reads_on:
            pieces += self._events.close()
        return pieces

    def close(self) -> list[bytes]:
        """The stream has ended; its last event may lack its blank line. Raises as `feed` does."""
        return [piece for raw in self._events.close() for piece in self._feed_event(raw)]

    def release(self) -> list[bytes]:
        """The round can't be answered: all that was held, and from now on what comes."""
        self.is_released = True
        return self._flushed()

    def break_off(self) -> list[bytes]:
        """The stream broke: all that was held, and of the first round the beginning of its next event."""
        return [*self.release(), *(() if self._joined.rounds else self._events.close())]

    def read_whole(self, body: bytes) -> None:
        """Take in an answer that is not streamed. Raises UpstreamBrokenError for one that can't follow other rounds."""
        self._reading.read_whole(object_of(body) or {})
        self.is_released = self.is_released or self._reading.is_clients
        self._refuse_error()

    @property
    def messages(self) -> tuple[JsonObject, ...]:
        """The model's own messages, as far as they were read."""
        return self._reading.messages

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Its calls of functions."""
        return self._reading.calls

    @property
    def id(self) -> str:
        """The provider's id of this answer, where a next request may refer to it."""
        return self._reading.id

    @property
    def is_finished(self) -> bool:
        return self._reading.is_finished

    @property
    def is_answerable(self) -> bool:
        """The round ended in nothing but whole calls that may be answered."""
        calls = self.calls
        return (
            not self.is_released
            and self._reading.ends_in_calls
            and all(call.id for call in calls)
            and len({call.id for call in calls}) == len(calls)
        )

    @property
    def held_back(self) -> tuple[bytes, ...]:
        """All that waits: what the client gets of the round if the next one fails."""
        return (*self._opening, *self._held)

    def after(self) -> Joined:
        """What the client has seen once this round was answered inside."""
        return self._reading.after(self._opening, self._held, has_begun=self.has_begun)

    def _feed_event(self, raw: bytes) -> list[bytes]:
        data = _data_of(raw)
        if data is None and self._joined.rounds:
            return [raw]  # a comment keeps the connection alive, and changes nothing
        value = object_of(data) if data else None
        self._bound(len(raw))
        if value is not None:
            self._read(value)
        elif data not in {None, b"", b"[DONE]"}:
            self.is_released = True  # nobody knows what it says
        written = raw if value is None else self._reading.rewritten(raw, value)
        if written is None:
            return []
        if self._reading.holds and not self.is_released:
            self._held.append(written)
            return []
        if self._may_wait(value):
            self._opening.append(written)
            return []
        return self._flushed(written)

    def _bound(self, size: int) -> None:
        self._size += size
        if self._size > MAX_READ_BYTES:
            self.is_released = True

    def _read(self, value: JsonObject) -> None:
        self._reading.read(value)
        self._refuse_error()
        self.is_released = self.is_released or self._reading.is_clients

    def _refuse_error(self) -> None:
        if self._reading.has_error and self._joined.rounds and not self.has_begun:
            raise UpstreamBrokenError("The model server answered with an error.")

    def _may_wait(self, value: JsonObject | None) -> bool:
        """The event only opens the answer, or stands where nothing of a later round was said yet."""
        if self.has_begun or self.is_released:
            return False
        return bool(self._joined.rounds) if value is None else not self._reading.says(value)

    def _flushed(self, *more: bytes) -> list[bytes]:
        out = [*self._opening, *self._held, *more]
        self._opening, self._held = [], []
        if out:
            self.has_begun = True
            self._reading.shown()
        return out


def _data_of(raw: bytes) -> bytes | None:
    """The data of an event, or what there is of one that is too large; None for a comment."""
    try:
        events = parse_stream([raw], MAX_READ_BYTES)
    except SseTooLargeError:
        return raw
    return events[0].data if events else None
