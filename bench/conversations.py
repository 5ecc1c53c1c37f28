"""The requests of the load: conversations that a client leads, as bytes ready to be sent.

Everything that repeats is encoded once; a request is joined from it in microseconds, so that the load generator is not
what is measured. No two conversations begin alike: memproxy would take the second for the first, and would find its
words in a cache.
"""

import hashlib
import itertools
import random
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from bench.people import INSTRUCTIONS, Speaker
from bench.scenarios import Scenario, Target

CLIENT_HEADERS = (
    "accept: application/json\r\naccept-encoding: gzip, deflate\r\nconnection: keep-alive\r\n"
    "content-type: application/json\r\nauthorization: Bearer sk-bench-0123456789abcdef0123456789abcdef\r\n"
    "user-agent: OpenAI/Python 3.54.0\r\nx-stainless-arch: x64\r\nx-stainless-async: false\r\n"
    "x-stainless-lang: python\r\nx-stainless-os: Linux\r\nx-stainless-package-version: 3.54.0\r\n"
    "x-stainless-retry-count: 0\r\nx-stainless-runtime: CPython\r\nx-stainless-runtime-version: 3.11.9\r\n"
)
"""As OpenAI's Python client sends them: headers are a good part of what a relay has to do."""

_HISTORY_SENTENCES = 3
"""Sentences of an earlier message; about 600 bytes."""


class Conversation:
    """One conversation: each request is the one before, its answer, and a new message."""

    def __init__(
        self, head: bytes, before: bytes, *, answer: bytes, speaker: Speaker, number: int, begin: bytes
    ) -> None:
        self.turn = 0
        """Requests made so far."""
        self.session = b""
        """As the first answer named it."""
        self._head = head
        self._messages = before
        self._answer = answer
        self._speaker = speaker
        self._number = number
        self._begin = begin

    def next_request(self) -> bytes:
        """The next request, head and body."""
        words = self._speaker.question(self._number * 100 + self.turn)
        self._messages += b"," + _message("user", words)
        body = self._begin + self._messages + b"]}"
        self._messages += b"," + self._answer
        self.turn += 1
        return self._head + b"content-length: %d\r\n\r\n" % len(body) + body


class Conversations:
    """Different conversations of one kind without end. `seed` must differ between all that one server is asked."""

    def __init__(self, scenario: Scenario, target: Target, *, answer: str, users: Sequence[str], seed: str) -> None:
        self._target = target
        self._users = users
        self._seed = seed
        self._speaker = Speaker(random.Random(seed), hashlib.blake2b(seed.encode(), digest_size=3).hexdigest().upper())
        self._numbers = itertools.count()
        self._answer = _message("assistant", answer)
        self._instructions = _message("system", INSTRUCTIONS)
        self._history = _history(scenario.history_bytes, Speaker(random.Random(0), "OLD"))
        stream = b',"stream":true' if scenario.is_stream else b""
        self._begin = b'{"model":"%s"%s,"temperature":0.2,"messages":[' % (scenario.model.encode(), stream)

    def new(self) -> Conversation:
        """The next user's next conversation."""
        number = next(self._numbers)
        before = self._instructions
        if self._history:
            before += b"," + _message("user", self._speaker.question(number)) + self._history
        return Conversation(
            self._head(self._users[number % len(self._users)], number),
            before,
            answer=self._answer,
            speaker=self._speaker,
            number=number + 1_000_000,
            begin=self._begin,
        )

    def _head(self, user: str, number: int) -> bytes:
        headers = {"host": "127.0.0.1", "x-memproxy-user": user, **self._target.headers}
        if self._target.is_named:
            headers["x-memproxy-session"] = quote(f"{self._seed}-{number}")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self._target.path} HTTP/1.1\r\n{lines}{CLIENT_HEADERS}".encode()


def _message(role: str, words: str) -> bytes:
    return msgspec.json.encode({"role": role, "content": words})


def _history(size: int, speaker: Speaker) -> bytes:
    """Messages by turns of the assistant and the user, the assistant's first and last, about `size` bytes in all."""
    pieces = b""
    for number in itertools.count():
        role = "user" if number % 2 else "assistant"
        if len(pieces) >= size and role == "assistant":
            return pieces and pieces + b"," + _message(role, speaker.question(number))
        words = " ".join(speaker.question(number * _HISTORY_SENTENCES + at) for at in range(_HISTORY_SENTENCES))
        pieces += b"," + _message(role, words)
    raise AssertionError("endless")
