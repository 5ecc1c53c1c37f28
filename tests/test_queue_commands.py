"""What operators see of the queue, and what they can do about what was given up."""

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis
from rich.console import Console

from memproxy.errors import SettingsError
from memproxy.queue_commands import as_json, drop, read_state, retry, show_state
from memproxy.records import Outcome, Scope, StoredMessage, Turn
from memproxy.settings import Settings, settings_without_environment
from memproxy.storage.queue import Stage, TurnQueue

SPOKEN = datetime(2023, 5, 8, tzinfo=UTC)
ALL = list(Stage)


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return settings_without_environment({"redis_url": redis_url})


def turn(name: str, *, session: str = "chat-1", user: str = "ann") -> Turn:
    message = StoredMessage({"role": "user", "content": "my PIN is 1234"}, digest="00", tokens=1, at=SPOKEN)
    return Turn(name, Scope("tenant", user), session, SPOKEN, Outcome.COMPLETED, (message,))


async def given_up(redis: Redis, turns: Sequence[Turn], *, reason: str = "the model refused") -> None:
    queue = TurnQueue(redis, stage=Stage.LEARN)
    for each in turns:
        await queue.add(each)
    for claimed in await queue.claim("w", queue.partitions, count=1_600, block_s=0.05):
        await queue.dead_letter("w", claimed, reason)


async def shown(settings: Settings, *, limit: int = 50) -> str:
    console = Console(file=io.StringIO(), width=250)
    show_state(console, await read_state(settings, ALL, limit=limit))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    return text


async def test_an_empty_queue_is_said_in_three_lines(redis: Redis, settings: Settings) -> None:
    """Who looks because nothing is learned sees at once that nothing waits."""
    lines = (await shown(settings)).strip().splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "turns", "learn", "summary"]


async def test_it_shows_what_waits_who_works_and_what_was_given_up_and_why(redis: Redis, settings: Settings) -> None:
    """The reason and the turn are what an operator needs; the words are nobody's business."""
    await given_up(redis, [turn("mpr-1", session="[red]chat\x1b[2J")])
    queue = TurnQueue(redis)
    await queue.add(turn("mpr-2"))
    await queue.add(turn("mpr-3"))
    await queue.leases_of("worker-7", ttl_s=60).take(queue.partitions[:3])
    text = await shown(settings)
    assert "mpr-1" in text
    assert "the model refused" in text
    assert "[red]chat?[2J" in text
    assert "worker-7" in text
    assert "1234" not in text
    assert "\x1b" not in text


async def test_the_same_as_json(redis: Redis, settings: Settings) -> None:
    """Scripts and dashboards read it."""
    await given_up(redis, [turn("mpr-1")])
    await TurnQueue(redis).add(turn("mpr-2"))
    state: dict[str, Any] = json.loads(as_json(await read_state(settings, ALL, limit=50)))
    stages = {stage["stage"]: stage for stage in state["stages"]}
    assert (stages["turns"]["waiting"], stages["learn"]["dead"]) == (1, 1)
    [letter] = state["dead"]
    assert (letter["turn"], letter["session"], letter["user"]) == ("mpr-1", "chat-1", "ann")
    assert letter["reason"] == "the model refused"
    assert letter["id"].startswith("learn:p")
    assert "1234" not in json.dumps(state)


async def test_a_long_list_says_how_much_it_leaves_out(redis: Redis, settings: Settings) -> None:
    """Nobody takes fifty for all."""
    await given_up(redis, [turn(f"mpr-{number}") for number in range(7)])
    text = await shown(settings, limit=3)
    assert text.count("the model refused") == 3
    assert "and 4 older ones" in text


async def test_letters_are_tried_again_by_their_name_or_their_turns(redis: Redis, settings: Settings) -> None:
    """Either id that the list shows will do."""
    await given_up(redis, [turn(f"mpr-{number}") for number in range(4)])
    state = await read_state(settings, ALL, limit=50)
    name = next(letter.name for letter in state.dead if letter.turn == "mpr-0")
    assert await retry(settings, [name, "mpr-1"], stages=ALL) == 2
    learn = await TurnQueue(redis, stage=Stage.LEARN).depth()
    assert (learn.waiting, learn.dead) == (2, 2)


async def test_all_of_a_stage_are_tried_again_or_dropped(redis: Redis, settings: Settings) -> None:
    """After an outage nobody wants to copy ids."""
    await given_up(redis, [turn(f"mpr-{number}", user=f"user-{number}") for number in range(30)])
    assert await retry(settings, [], stages=[Stage.INDEX]) == 0
    assert await retry(settings, [], stages=ALL) == 30
    await given_up(redis, [turn("mpr-late")])
    assert await drop(settings, [], stages=[Stage.LEARN]) == 31
    assert (await read_state(settings, ALL, limit=50)).dead == ()


async def test_what_is_dropped_is_gone(redis: Redis, settings: Settings) -> None:
    """Words that nothing is to be learned from are not kept."""
    await given_up(redis, [turn("mpr-0"), turn("mpr-1")])
    assert await drop(settings, ["mpr-0"], stages=ALL) == 1
    assert [letter.turn for letter in (await read_state(settings, ALL, limit=50)).dead] == ["mpr-1"]


async def test_a_name_that_is_not_there_changes_nothing(redis: Redis, settings: Settings) -> None:
    """A mistyped id is told, before half of the work is done."""
    await given_up(redis, [turn("mpr-0")])
    with pytest.raises(SettingsError, match="mpr-9"):
        await retry(settings, ["mpr-0", "mpr-9"], stages=ALL)
    assert (await TurnQueue(redis, stage=Stage.LEARN).depth()).dead == 1
