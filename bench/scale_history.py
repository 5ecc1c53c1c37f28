"""The curve over the length of the history: what a request costs whose conversation has so many messages.

Each request continues a conversation that was opened, and recorded, before the clock was started. Four kinds are put to
the test in turns: a client that resends everything; one that names its session and sends its newest message alone; the
same bytes as a few large messages, so that what the number of messages costs can be told from what their bytes cost;
and the floor relay, which gets the same bytes and looks at none of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench import scale_points
from bench.paced_model import ANSWER_WORDS, WORD, paced_model
from bench.scale_points import USERS, Asked, Point, Stand, in_turns
from bench.scale_requests import SYSTEM, Dialogue, message, request

LENGTHS = (1, 4, 10, 30, 100, 300, 1_000, 3_000)
QUICK_LENGTHS = (1, 4, 30)
ROUNDS, QUICK_ROUNDS = 3, 1
REQUESTS, QUICK_REQUESTS = 40, 4
LONG = 300
"""From so many messages on fewer conversations will do: each request costs more."""

MODEL = paced_model(10, interval_s=0)
ANSWER = message("assistant", " ".join([WORD] * ANSWER_WORDS))


@dataclass(frozen=True, slots=True)
class Kind:
    """How a client speaks, and to whom."""

    name: str
    title: str
    remembers: bool = True
    is_named: bool = False
    is_large: bool = False
    """Few messages with the bytes of many."""


KINDS = (
    Kind("resent", "all resent"),
    Kind("large", "as 4 large messages", is_large=True),
    Kind("newest", "newest only"),
    Kind("floor", "floor relay", remembers=False),
)
NAMED = "newest"


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is said before the clock is started, and what is measured."""

    opening: bytes | None
    request: bytes
    sends_on: int
    """Bytes of the request that must be sent on: the whole history, whoever brings it."""


def conversation(kind: Kind, length: int, dialogue: Dialogue, *, user: str, session: str) -> Conversation:
    """A conversation whose measured request has `length` messages, the instructions among them."""
    question = dialogue.question()
    named = session if kind.name == NAMED else ""

    def told(messages: list[bytes]) -> bytes:
        return request(messages, model=MODEL, user=user, session=named)

    if length == 1:
        return Conversation(None, told([question]), 0)
    said = dialogue.history(length - 3)
    if kind.is_large:
        said = dialogue.history(1, size=sum(map(len, said)))
    opening = [SYSTEM, *said]
    asked = told([question]) if named else told([*opening, ANSWER, question])
    return Conversation(told(opening), asked, sum(map(len, said)))


async def curve(stand: Stand) -> dict[str, Any]:
    """Measure all kinds at all lengths."""
    lengths, rounds = (QUICK_LENGTHS, QUICK_ROUNDS) if stand.is_quick else (LENGTHS, ROUNDS)
    points: dict[str, dict[float, list[Point]]] = {kind.name: {} for kind in KINDS}
    for number, (length, kind) in in_turns([(length, kind) for length in lengths for kind in KINDS], rounds):
        stand.told(f"history of {length:,} messages, {kind.title}")
        points[kind.name].setdefault(length, []).append(await _point(stand, kind, length, number=number))
    return {
        "title": "History",
        "x_label": "messages in the conversation",
        "series": {
            kind.name: scale_points.series(kind.title, points[kind.name], size_of=_sizes(kind)) for kind in KINDS
        },
    }


async def _point(stand: Stand, kind: Kind, length: int, *, number: int) -> Point:
    seed = f"{kind.name}-{length}-{number}"
    dialogue = Dialogue(seed)
    told = [
        conversation(kind, length, dialogue, user=USERS[at % len(USERS)], session=f"{seed}-{at}")
        for at in range(_count(length, is_quick=stand.is_quick))
    ]
    asked = [Asked(each.request, remembers=kind.remembers, sends_on=each.sends_on) for each in told]
    if not kind.remembers:
        return await scale_points.measured(stand.relay, asked)
    openings = [Asked(each.opening, remembers=True) for each in told if each.opening]
    await scale_points.ask(stand.proxy, openings)
    await stand.recording.settled(len(openings))
    return await scale_points.measured(stand.proxy, asked, recording=stand.recording)


def _count(length: int, *, is_quick: bool) -> int:
    if is_quick:
        return QUICK_REQUESTS
    return REQUESTS if length <= LONG else max(8, REQUESTS * LONG // length)


def _sizes(kind: Kind) -> Callable[[float], int]:
    """How many bytes a request of this kind has on its way to the model."""
    as_sent = KINDS[0] if kind.name == NAMED else kind

    def size_of(length: float) -> int:
        made = conversation(as_sent, int(length), Dialogue("size"), user="user", session="any")
        return len(made.request.partition(b"\r\n\r\n")[2])

    return size_of


def by_kind(curve: Mapping[str, Any], kind: str) -> dict[float, Mapping[str, Any]]:
    """A kept curve's points by x."""
    return {point["x"]: point for point in curve["series"][kind]["points"]}
