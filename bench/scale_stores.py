"""The curves over what the store holds: memories of one user, and users.

Each request opens a conversation of its own, so each is looked up, searched for and recorded. Users with few and with
many memories share one store and take turns; each number of users has a store and a memproxy of its own, all of which
run at the same time and take turns, too.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from bench import scale_points
from bench.paced_model import paced_model
from bench.scale_points import SETTINGS, Asked, Point, Recording, Stand, in_turns
from bench.scale_requests import SYSTEM, Dialogue, request
from bench.scale_servers import memproxy

MEMORIES: Mapping[int, int] = {0: 16, 10: 16, 100: 16, 1_000: 8, 5_000: 4, 10_000: 2, 50_000: 1}
"""How many users have so many memories."""
QUICK_MEMORIES: Mapping[int, int] = {0: 2, 10: 2, 1_000: 1}

USERS = (1, 10, 100, 1_000, 10_000, 100_000)
QUICK_USERS = (1, 100)
MEMORIES_EACH = 2

ROUNDS, QUICK_ROUNDS = 4, 1
REQUESTS, QUICK_REQUESTS = 120, 8
MODEL = paced_model(10, interval_s=0)


def known(*, is_quick: bool) -> dict[int, Sequence[str]]:
    """Users by how many memories they have."""
    counts = QUICK_MEMORIES if is_quick else MEMORIES
    return {count: [f"user-{count}-{number}" for number in range(many)] for count, many in counts.items()}


async def memories(stand: Stand) -> dict[str, Any]:
    """Measure users with few and with many memories."""
    users = known(is_quick=stand.is_quick)
    points: dict[float, list[Point]] = {}
    for number, count in in_turns(list(users), QUICK_ROUNDS if stand.is_quick else ROUNDS):
        stand.told(f"{count:,} memories a user")
        asked = _openings(f"memories-{count}-{number}", users[count], is_quick=stand.is_quick)
        point = await scale_points.measured(stand.proxy, asked, recording=stand.recording)
        points.setdefault(count, []).append(point)
    return _curve("Memories", "memories of the user", points)


async def users(stand: Stand) -> dict[str, Any]:
    """Measure stores with few and with many users."""
    counts = QUICK_USERS if stand.is_quick else USERS
    points: dict[float, list[Point]] = {}
    async with AsyncExitStack() as stack:
        running = {}
        for count in counts:
            stand.told(f"storing {count:,} users")
            few = {MEMORIES_EACH: [f"user-{number}" for number in range(count)]}
            starting = memproxy(f"users-{count}", stand.folder, stand.behind, users=few, settings=SETTINGS)
            server = (await stack.enter_async_context(starting)).server
            running[count] = (server, Recording(server))
            await scale_points.warmed_up(server, running[count][1])
        for number, count in in_turns(list(counts), QUICK_ROUNDS if stand.is_quick else ROUNDS):
            stand.told(f"{count:,} users")
            server, recording = running[count]
            names = [f"user-{each}" for each in random.Random(number).choices(range(count), k=REQUESTS)]
            asked = _openings(f"users-{count}-{number}", names, is_quick=stand.is_quick)
            points.setdefault(count, []).append(await scale_points.measured(server, asked, recording=recording))
    return _curve("Users", "users in the store", points)


def _openings(seed: str, users: Sequence[str], *, is_quick: bool) -> list[Asked]:
    dialogue = Dialogue(seed)
    turns = itertools.islice(itertools.cycle(users), QUICK_REQUESTS if is_quick else REQUESTS)
    return [Asked(request([SYSTEM, dialogue.question()], model=MODEL, user=user), remembers=True) for user in turns]


def _curve(title: str, x_label: str, points: Mapping[float, Sequence[Point]]) -> dict[str, Any]:
    size = len(_openings("size", ["user"], is_quick=True)[0].request.partition(b"\r\n\r\n")[2])
    line = scale_points.series("opens a conversation", points, size_of=lambda _: size)
    return {"title": title, "x_label": x_label, "series": {"opens": line}}
