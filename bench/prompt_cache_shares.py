"""How much of a prompt a provider's prompt cache can give back, after the request before it. Pure."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from memproxy.records import JsonObject
from memproxy.tokens import MESSAGE_OVERHEAD, count_tokens

MINIMUM = 1_024
STEP = 128
"""Prompts from 1,024 tokens on are cached, in steps of 128. Source: OpenAI's guide on prompt caching."""

Prompt = Sequence[bytes]
"""The messages of a request, each as JSON: what a provider's cache compares begins at the first of them."""


@dataclass(frozen=True, slots=True)
class Share:
    """What the cache gives back of one prompt."""

    tokens: int
    same: int
    """Tokens that stand at its beginning as they did in the request before."""

    @property
    def cached(self) -> int:
        """Those that the provider's cache holds."""
        return self.same // STEP * STEP if self.same >= MINIMUM else 0


def prompt_of(body: JsonObject) -> list[bytes]:
    """The prompt in a request to chat completions."""
    return [msgspec.json.encode(message) for message in body["messages"]]


def tokens_of(prompt: Prompt) -> int:
    """Tokens of all its messages."""
    return sum(map(_tokens, prompt))


@lru_cache(maxsize=100_000)
def _tokens(message: bytes) -> int:
    return count_tokens(message.decode()) + MESSAGE_OVERHEAD


def share_of(before: Prompt, prompt: Prompt) -> Share:
    """What of a prompt is the beginning of the one before, byte for byte."""
    same = 0
    for mine, theirs in zip(prompt, before, strict=False):
        if mine != theirs:
            same += _tokens(_common(mine, theirs))
            break
        same += _tokens(mine)
    tokens = tokens_of(prompt)
    return Share(tokens, min(same, tokens))


def _common(one: bytes, other: bytes) -> bytes:
    length = next((at for at, (mine, theirs) in enumerate(zip(one, other, strict=False)) if mine != theirs), None)
    whole = one[: min(len(one), len(other)) if length is None else length]
    return whole.decode("utf-8", "ignore").encode()


def shares_of(prompts: Sequence[Prompt]) -> list[Share]:
    """The shares of a session's requests, from the second on."""
    return [share_of(before, prompt) for before, prompt in itertools.pairwise(prompts)]


@dataclass(frozen=True, slots=True)
class Summary:
    """All requests of many sessions together."""

    requests: int
    tokens: int
    same: float
    """Of all tokens, the share that stood there before."""
    cached: float
    """Of all tokens, the share that the provider's cache gives back."""
    mean_same: float
    """The mean over requests of each one's share."""
    mean_cached: float


def summary_of(shares: Sequence[Share]) -> Summary:
    """The summary over requests; all zero where there are none."""
    tokens = sum(share.tokens for share in shares)
    if not tokens:
        return Summary(0, 0, 0.0, 0.0, 0.0, 0.0)
    return Summary(
        len(shares),
        tokens,
        sum(share.same for share in shares) / tokens,
        sum(share.cached for share in shares) / tokens,
        statistics.fmean(share.same / share.tokens for share in shares),
        statistics.fmean(share.cached / share.tokens for share in shares),
    )
