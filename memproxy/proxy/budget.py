"""Divide a model's window between reply, tools and conversation, and choose where a conversation is cut. Pure.

Cutting is seldom and far: only when the conversation exceeds what is available, and then down to a share of it, so that
the prompt keeps its beginning for many requests and the provider's prompt cache keeps hitting.
"""

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_REPLY = 4_096
"""Tokens kept free for the answer when the client sets no limit."""

DEFAULT_REPLY_PART = 4
"""Of a small window, such a part at the most is kept free for that."""

TURN_WORTH = 0.5
"""A cut falls before a turn rather than inside one if that keeps at least this share of what could be kept."""

LEAST_ROOM_PART = 4
"""The conversation gets such a part of what is available, however long the instructions are: a few messages and what
stands for the others are worth more than the reply's full reserve."""

NOTE_PART, NOTE_TOKENS = 4, 800
"""The note gets such a part of the conversation's room, up to so many tokens."""

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
    begins_turn: bool = False
    """It is the user's."""
    is_seam: bool = False
    """It follows the results of calls: a cut before it parts no call from its results."""


def divide(window: int, *, reply_tokens: int | None, tools_tokens: int) -> Budget:
    """The budget of a request to a model with this window."""
    reply = min(reply_tokens, window // 2) if reply_tokens else min(DEFAULT_REPLY, window // DEFAULT_REPLY_PART)
    return Budget(window=window, reply=reply, tools=min(tools_tokens, window // 2))


def note_room(available: int, *, fixed: int) -> int:
    """Tokens that the account of what was cut may take."""
    return min(NOTE_TOKENS, max(available - fixed, available // LEAST_ROOM_PART) // NOTE_PART)


def choose_cut(
    weights: Sequence[Weight], *, cut: int, fixed: int, available: int, keep_share: float, note: int = 0
) -> int:
    """The position in the log before which messages are left out.

    `cut` is where the conversation is cut already and `note` what its note takes, `fixed` are the tokens that go in any
    case. The cut moves only when all together exceeds `available`. Then it falls where at most `keep_share` of what is
    left for the conversation is used: before a turn, or inside a long one, between results and the next call. What
    follows the newest results is never cut.
    """
    room = max(available - fixed, available // LEAST_ROOM_PART)
    seams = _seams(weights, cut)
    if not seams or note + sum(weight.tokens for weight in kept(weights, cut)) <= room:
        return cut
    goal = keep_share * (room - note_room(available, fixed=fixed))
    fitting = [seam for seam in seams if seam.tokens <= goal] or seams[-1:]
    turn = next((seam for seam in fitting if seam.begins_turn), None)
    if turn is not None and turn.tokens >= TURN_WORTH * fitting[0].tokens:
        return turn.position
    return fitting[0].position


@dataclass(frozen=True, slots=True)
class _Seam:
    """A place where a cut may fall."""

    position: int
    tokens: int
    """Of all that would be kept."""
    begins_turn: bool


def _seams(weights: Sequence[Weight], cut: int) -> list[_Seam]:
    """Where a cut may fall behind the one that there is, the one that keeps most first."""
    left = sum(weight.tokens for weight in weights)
    seams, user = [], 0
    for weight in weights:
        if weight.position is None:
            continue
        if weight.begins_turn:
            user = 0
        if weight.position > cut and (weight.begins_turn or weight.is_seam):
            seams.append(_Seam(weight.position, left + user, weight.begins_turn))
        if weight.begins_turn:
            user = weight.tokens
        left -= weight.tokens
    return seams


def kept(weights: Sequence[Weight], cut: int) -> list[Weight]:
    """What is sent of a conversation that is cut there: what follows, and the words of the user whose turn is cut."""
    user = opening(weights, cut)
    return [each for each in weights if each.position is None or each.position >= cut or each.position == user]


def opening(weights: Sequence[Weight], cut: int) -> int | None:
    """The position of the user's message that what is kept begins with; None where nobody has spoken.

    It stands before the cut where that falls inside its turn.
    """
    user = None
    for weight in weights:
        if weight.position is None:
            continue
        if weight.begins_turn and weight.position <= cut:
            user = weight.position
        if weight.position >= cut:
            break
    return user
