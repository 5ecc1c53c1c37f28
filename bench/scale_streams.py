"""The curve over how many streams are open at a time.

Always as many begin a second; what differs is how long they last, and so how many are open. So the load is the same at
every point, and what a stream costs should be, too. The floor relay is put to the same.
"""

import asyncio
from typing import Any

from bench import scale_points
from bench.accounts import usage_of
from bench.client import Answer, Connection, LoadError
from bench.measure import percentile
from bench.paced_model import paced_model
from bench.processes import Server
from bench.scale_points import USERS, Asked, Point, Recording, Stand, in_turns
from bench.scale_requests import SYSTEM, Dialogue, request

OPEN = (1, 10, 100, 1_000)
QUICK_OPEN = (1, 10)
ROUNDS, QUICK_ROUNDS = 2, 1
BEGIN_PER_S = 80
"""Streams that begin in a second: a third of what one process can do, so that nothing queues."""
EVENTS = 10
LEAST_S, QUICK_LEAST_S = 2.5, 0.5
"""How long a point is measured at least, which the beginning of the last stream ends."""
GRACE_S = 60.0
FLOOR, MEMPROXY = "floor", "memproxy"
TITLES = {MEMPROXY: "memproxy", FLOOR: "floor relay"}


async def curve(stand: Stand) -> dict[str, Any]:
    """Measure memproxy and the floor relay with few and with many streams open."""
    counts, rounds = (QUICK_OPEN, QUICK_ROUNDS) if stand.is_quick else (OPEN, ROUNDS)
    points: dict[str, dict[float, list[Point]]] = {name: {} for name in TITLES}
    for number, (count, name) in in_turns([(count, name) for count in counts for name in TITLES], rounds):
        stand.told(f"{count:,} streams at a time, {TITLES[name]}")
        asked = _asked(count, name, number=number, least_s=QUICK_LEAST_S if stand.is_quick else LEAST_S)
        is_proxy = name == MEMPROXY
        server, recording = (stand.proxy, stand.recording) if is_proxy else (stand.relay, None)
        points[name].setdefault(count, []).append(await _measured(server, asked, recording=recording))
    size = len(_asked(1, MEMPROXY, number=0, least_s=0)[0].request.partition(b"\r\n\r\n")[2])
    return {
        "title": "Streams",
        "x_label": "streams open at a time",
        "series": {
            name: scale_points.series(title, points[name], size_of=lambda _: size) for name, title in TITLES.items()
        },
    }


def _asked(count: int, name: str, *, number: int, least_s: float) -> list[Asked]:
    """As many requests as begin until `count` are open, and for at least so long."""
    model = paced_model(EVENTS, interval_s=count / BEGIN_PER_S / EVENTS)
    dialogue = Dialogue(f"streams-{count}-{name}-{number}")
    remembers = name == MEMPROXY
    return [
        Asked(
            request(
                [SYSTEM, dialogue.question()],
                model=model,
                user=USERS[each % len(USERS)] if remembers else "",
                is_stream=True,
            ),
            remembers=remembers,
        )
        for each in range(max(count, round(least_s * BEGIN_PER_S)))
    ]


async def _measured(server: Server, asked: list[Asked], *, recording: Recording | None) -> Point:
    """The time of a stream is the time to its first event: how long it lasts is the upstream's doing."""
    answers: list[Answer] = []

    async def stream(each: Asked, number: int) -> None:
        await asyncio.sleep(number / BEGIN_PER_S)
        connection = await Connection.connected(server.port)
        try:
            answer = await connection.ask(each.request)
        finally:
            connection.close()
        each.check(answer)
        if not answer.body.endswith(b"data: [DONE]\n\n"):
            raise LoadError("a stream has no end")
        answers.append(answer)

    before = usage_of(server.pid)
    try:
        async with asyncio.timeout(2 * len(asked) / BEGIN_PER_S + GRACE_S), asyncio.TaskGroup() as group:
            for number, each in enumerate(asked):
                _ = group.create_task(stream(each, number))
    except* LoadError as failures:
        server.check_alive()
        raise failures.exceptions[0] from None
    if recording:
        await recording.settled(len(asked))
    after = usage_of(server.pid)
    own_ms, store_ms = after.own_cpu_s - before.own_cpu_s, after.store_cpu_s - before.store_cpu_s
    point = scale_points.point_of(answers, 1000 * own_ms, 1000 * store_ms)
    firsts = [1000 * answer.first_byte_s for answer in answers]
    return Point(
        cpu_ms=point.cpu_ms,
        store_cpu_ms=point.store_cpu_ms,
        p50_ms=percentile(firsts, 0.50),
        p95_ms=percentile(firsts, 0.95),
        memories=point.memories,
        degraded=point.degraded,
    )
