"""Requests of any history, as bytes: of a client that resends everything, and of one that sends its newest message.

Messages are encoded once and joined. `Dialogue` says what was never said before, so that no conversation is taken for
another and nothing is found in a cache.
"""

import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import msgspec

from bench.conversations import CLIENT_HEADERS
from bench.people import INSTRUCTIONS, Speaker
from bench.scenarios import CHAT

SYSTEM = msgspec.json.encode({"role": "system", "content": INSTRUCTIONS})


def message(role: str, words: str) -> bytes:
    """One message as JSON."""
    return msgspec.json.encode({"role": role, "content": words})


def request(
    messages: Sequence[bytes], *, model: str, user: str = "", session: str = "", is_stream: bool = False
) -> bytes:
    """A whole HTTP request to chat completions; without a user and a session it names none."""
    begin = b'{"model":"%s"%s,"messages":[' % (model.encode(), b',"stream":true' if is_stream else b"")
    body = begin + b",".join(messages) + b"]}"
    named = {"x-memproxy-user": user, "x-memproxy-session": session}
    headers = {name: quote(value) for name, value in named.items() if value} | dict(CLIENT_HEADERS)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\n{lines}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass(slots=True)
class Dialogue:
    """Says things that were never said before. `seed` must differ between all that one server is asked."""

    seed: str
    _speaker: Speaker = field(init=False)
    _numbers: "itertools.count[int]" = field(init=False, default_factory=itertools.count)

    def __post_init__(self) -> None:
        prefix = hashlib.blake2b(self.seed.encode(), digest_size=4).hexdigest().upper()
        self._speaker = Speaker(random.Random(self.seed), prefix)

    def question(self) -> bytes:
        """What the user asks, about 250 bytes: the newest message of every request."""
        return message("user", self._speaker.question(next(self._numbers)))

    def history(self, messages: int, *, size: int = 0) -> list[bytes]:
        """Messages of user and assistant by turns, the user's first: short ones, or together at least `size` bytes."""
        said = []
        for number in range(messages):
            words = self._speaker.statement(next(self._numbers))
            while len(words) < size // messages - 40:
                words += " " + self._speaker.statement(next(self._numbers))
            said.append(message("assistant" if number % 2 else "user", words))
        return said
