"""The requests of the load: conversations that a client leads, as bytes ready to be sent.

Everything that repeats is encoded once; a request is joined from it in microseconds, so that the load generator is not
what is measured. No two conversations begin alike: memproxy would take the second for the first, and would find its
words in a cache.
"""

import hashlib
import itertools
import random
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import msgspec

from bench.people import INSTRUCTIONS, Speaker
from bench.scenarios import Scenario, Target
from memproxy.records import JsonObject

CLIENT_HEADERS: Mapping[str, str] = {
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
    "content-type": "application/json",
    "authorization": "Bearer sk-bench-0123456789abcdef0123456789abcdef",
    "user-agent": "OpenAI/Python 3.54.0",
    "x-stainless-arch": "x64",
    "x-stainless-async": "false",
    "x-stainless-lang": "python",
    "x-stainless-os": "Linux",
    "x-stainless-package-version": "3.54.0",
    "x-stainless-retry-count": "0",
    "x-stainless-runtime": "CPython",
    "x-stainless-runtime-version": "3.11.9",
}
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
        request = self._request(json_message("user", self._question()))
        self.turn += 1
        self._add(self._answer)
        return request

    def _question(self) -> str:
        return self._speaker.question(self._number * 100 + self.turn)

    def _request(self, message: bytes) -> bytes:
        """Everything so far and this message."""
        self._add(message)
        body = self._begin + self._messages + b"]}"
        return self._head + b"content-length: %d\r\n\r\n" % len(body) + body

    def _add(self, message: bytes) -> None:
        self._messages += b"," + message


class Conversations:
    """Different conversations of one kind without end. `seed` must differ between all that one server is asked."""

    conversation_type = Conversation

    def __init__(
        self,
        scenario: Scenario,
        target: Target,
        *,
        answer: str,
        users: Sequence[str],
        seed: str,
        tools: Sequence[JsonObject] = (),
    ) -> None:
        self._target = target
        self._users = users
        self._seed = seed
        self._speaker = Speaker(random.Random(seed), hashlib.blake2b(seed.encode(), digest_size=3).hexdigest().upper())
        self._numbers = itertools.count()
        self._answer = json_message("assistant", answer)
        self._instructions = json_message("system", INSTRUCTIONS)
        self._history = _history(scenario.history_bytes, Speaker(random.Random(0), "OLD"))
        stream = b',"stream":true' if scenario.is_stream else b""
        offered = b',"tools":' + msgspec.json.encode(tools) if tools else b""
        self._begin = b'{"model":"%s"%s%s,"temperature":0.2,"messages":[' % (scenario.model.encode(), stream, offered)

    def new(self) -> Conversation:
        """The next user's next conversation."""
        number = next(self._numbers)
        before = self._instructions
        if self._history:
            before += b"," + json_message("user", self._speaker.question(number)) + self._history
        return self.conversation_type(
            self._head(self._users[number % len(self._users)], number),
            before,
            answer=self._answer,
            speaker=self._speaker,
            number=number + 1_000_000,
            begin=self._begin,
        )

    def _head(self, user: str, number: int) -> bytes:
        headers = {"host": "127.0.0.1", "x-memproxy-user": user, **CLIENT_HEADERS, **self._target.headers}
        if self._target.is_named:
            headers["x-memproxy-session"] = quote(f"{self._seed}-{number}")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self._target.path} HTTP/1.1\r\n{lines}".encode()


def json_message(role: str, words: str) -> bytes:
    """A message of plain words."""
    return msgspec.json.encode({"role": role, "content": words})


def _history(size: int, speaker: Speaker) -> bytes:
    """Messages by turns of the assistant and the user, the assistant's first and last, about `size` bytes in all."""
    pieces = b""
    for number in itertools.count():
        role = "user" if number % 2 else "assistant"
        if len(pieces) >= size and role == "assistant":
            return pieces and pieces + b"," + json_message(role, speaker.question(number))
        words = " ".join(speaker.question(number * _HISTORY_SENTENCES + at) for at in range(_HISTORY_SENTENCES))
        pieces += b"," + json_message(role, words)
    raise AssertionError("endless")
