"""Divide a model's window between reply, tools and conversation, and choose where a conversation is cut. Pure.

Cutting is seldom and far: only when the conversation exceeds what is available, and then down to a share of it, so that
the prompt keeps its beginning for many requests and the provider's prompt cache keeps hitting.
"""

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_REPLY = 4_096
"""Tokens kept free for the answer when the client sets no limit."""

MARGIN = 0.02
"""Share of the window kept free: counts are estimates for models with other vocabularies."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one request may hold, in tokens."""

    window: int
    reply: int
    tools: int

    @property
    def available(self) -> int:
        """Tokens for instructions, conversation and memories; never negative."""
        return max(0, int(self.window * (1 - MARGIN)) - self.reply - self.tools)


@dataclass(frozen=True, slots=True)
class Weight:
    """One message of the conversation, as the budget sees it."""

    position: int | None
    """In the session's log; None for a message that is not in it."""
    tokens: int
    begins_turn: bool


def divide(window: int, *, reply_tokens: int | None, tools_tokens: int) -> Budget:
    """The budget of a request to a model with this window."""
    reply = min(reply_tokens or DEFAULT_REPLY, window // 2)
    return Budget(window=window, reply=reply, tools=min(tools_tokens, window // 2))


def choose_cut(weights: Sequence[Weight], *, cut: int, fixed: int, available: int, keep_share: float) -> int:
    """The position in the log before which messages are left out.

    `cut` is where the conversation is cut already, `fixed` are the tokens that go in any case. The cut moves only when
    what is left exceeds `available`, then to the first turn from which on at most `keep_share` of it is used. The
    newest turn is never cut.
    """
    left = [weight for weight in weights if weight.position is None or weight.position >= cut]
    used = fixed + sum(weight.tokens for weight in left)
    if used <= available:
        return cut
    goal = available * keep_share
    chosen = cut
    for weight in left:
        if weight.begins_turn and weight.position is not None:
            chosen = weight.position
            if used <= goal:
                break
        if weight.position is not None:
            used -= weight.tokens
    return chosen
