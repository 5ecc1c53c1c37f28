"""Token counts of the scripted model: crude, deterministic, and growing with the prompt.

A token is four bytes of text, rounded up for each text; a message costs four more, as with real models. Nothing here
agrees with a real tokeniser, and nothing should rely on it.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import msgspec

MESSAGE_OVERHEAD = 4
_KEPT_PREFIXES = 10_000


def text_tokens(text: str) -> int:
    """The tokens of one text: its UTF-8 bytes by four, rounded up."""
    return -(-len(text.encode()) // 4)


def value_tokens(value: Any) -> int:
    """The tokens of all strings in a JSON value, names of fields left out."""
    if isinstance(value, str):
        return text_tokens(value)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return 0
    return sum(map(value_tokens, value))


class PromptCache:
    """Counts the tokens of prompts, and how many of them stand in a prefix that an earlier prompt had too.

    This is what makes a changed prefix visible in a test, as it would be on a bill. A prefix ends after the tools and
    after any message, and counts from its first repetition; real providers count in steps of 128 tokens from 1024 on.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def count(self, body: dict[str, Any]) -> tuple[int, int]:
        """All tokens of the prompt of a checked request, and the cached ones among them; remembers the prompt.

        `body` has the fields of chat completions.
        """
        total = cached = 0
        is_cached = True
        digests = []
        for digest, tokens in _prefixes(body):
            is_cached = is_cached and digest in self._seen
            total += tokens
            cached += tokens if is_cached else 0
            digests.append(digest)
        for digest in digests:
            self._seen[digest] = None
            self._seen.move_to_end(digest)
        while len(self._seen) > _KEPT_PREFIXES:
            self._seen.popitem(last=False)
        return total, cached


def _prefixes(body: dict[str, Any]) -> Iterator[tuple[bytes, int]]:
    """The digest of each prefix of the prompt, with the tokens of its last part."""
    running = hashlib.blake2b(msgspec.json.encode([body["model"], body.get("tools")]), digest_size=16)
    yield running.digest(), value_tokens(body.get("tools"))
    for message in body["messages"]:
        running.update(msgspec.json.encode(message) + b"\n")
        yield running.digest(), MESSAGE_OVERHEAD + value_tokens(message)
