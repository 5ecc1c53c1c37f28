"""The demo's own judgement: it fails when anything that had to be remembered is missing."""

import io

from rich.console import Console

from memproxy.demo import play
from memproxy.demo.scenes import SCENES, Line, Scene


async def test_a_missing_fact_is_told_and_counts_as_failure() -> None:
    """A demo that can't fail shows nothing."""
    console = Console(file=io.StringIO(), width=120)
    assert play.verdict(console, ["the model was not shown 'x'"]) == 1
    assert play.verdict(console, []) == 0


async def test_the_scenes_are_played_and_checked() -> None:
    """All scenes as the command plays them."""
    console = Console(file=io.StringIO(), width=120)
    assert await play.play(console) == []


def test_every_scene_after_the_first_line_needs_memory() -> None:
    """The account shows memory at work, not a model that would have known anyway."""
    lines = [line for scene in SCENES for line in scene.lines]
    assert all(line.must_receive for line in lines[1:])
    assert isinstance(SCENES[0], Scene)
    assert isinstance(lines[0], Line)
