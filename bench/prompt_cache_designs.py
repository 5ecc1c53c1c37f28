"""The two usual ways to do without memproxy, as prompts: memories in the system prompt, and a sliding window. Pure."""

from collections.abc import Sequence

import msgspec

from bench.prompt_cache_shares import tokens_of
from memproxy.proxy.budget import divide
from memproxy.records import JsonObject


def with_block_in_system(messages: Sequence[JsonObject], block: str) -> list[JsonObject]:
    """The messages with what was recalled for the newest question behind the instructions."""
    if not block:
        return list(messages)
    first = messages[0] if messages and messages[0]["role"] == "system" else None
    if first is None:
        return [{"role": "system", "content": block}, *messages]
    return [{**first, "content": f"{first['content']}\n\n{block}"}, *messages[1:]]


def slid(messages: Sequence[JsonObject], window: int) -> list[JsonObject]:
    """The instructions and as many of the newest messages as fit; no result without its call."""
    available = divide(window, reply_tokens=None, tools_tokens=0).available
    lead = [message for message in messages[:1] if message["role"] == "system"]
    rest, room = list(messages[len(lead) :]), available - _tokens(lead)
    kept: list[JsonObject] = []
    for message in reversed(rest):
        room -= _tokens([message])
        if room < 0 and kept:
            break
        kept.insert(0, message)
    while len(kept) > 1 and kept[0]["role"] == "tool" and len(kept) < len(rest):
        kept.pop(0)
    return [*lead, *kept]


def _tokens(messages: Sequence[JsonObject]) -> int:
    return tokens_of([msgspec.json.encode(message) for message in messages])


def newest_question(messages: Sequence[JsonObject]) -> str:
    """What the user said last."""
    return next((str(message["content"]) for message in reversed(messages) if message["role"] == "user"), "")
