"""The prompt cache is measured on what the model server really got, and the figures mean what they say."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.prompt_cache import OFF, ON, SLIDING, SYSTEM
from bench.prompt_cache_designs import newest_question, slid, with_block_in_system
from bench.prompt_cache_part import part
from bench.prompt_cache_replay import Manner, staged
from bench.prompt_cache_shares import MINIMUM, STEP, Share, prompt_of, share_of, summary_of, tokens_of
from bench.prompt_cache_talks import Step, Talk
from memproxy.wire.chat_completions import complete_pairs
from tests.fakes.shared_data import FOLDER, trajectories

ROOT = Path(__file__).parent.parent.parent


def said(role: str, words: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": words, **more}


def calling(number: int, name: str = "get_order") -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps({"order": f"A-{number}"})}
    return said("assistant", None, tool_calls=[{"id": f"c{number}", "type": "function", "function": function}])


# Shares


def test_the_share_is_that_of_the_common_beginning() -> None:
    """A prompt that only grows is all there but its end; one that changes at its beginning is lost."""
    one = prompt_of({"messages": [said("system", "Be brief."), said("user", "word " * 100)]})
    grown = [*one, *prompt_of({"messages": [said("assistant", "Yes."), said("user", "And?")]})]
    share = share_of(one, grown)
    assert (share.tokens, share.same) == (tokens_of(grown), tokens_of(one))
    assert share_of(grown, one).same == tokens_of(one)
    changed = [b'{"role":"system","content":"Other."}', *one[1:]]
    assert share_of(one, changed).same < 20
    assert share_of([], one).same == 0


def test_a_message_that_changes_at_its_end_counts_up_to_there() -> None:
    """What is appended to the instructions costs what follows, not the instructions."""
    before, after = [b'{"content":"' + b"word " * 50 + end for end in (b'"}', b'more"}')]
    share = share_of([before], [after])
    assert 45 <= share.same <= share.tokens
    broken = ['{"content":"é'.encode(), '{"content":"è'.encode()]
    assert share_of(broken[:1], broken[1:]).same > 0, "a letter that is cut in two is not counted"


@pytest.mark.parametrize(
    ("same", "cached"), [(0, 0), (MINIMUM - 1, 0), (MINIMUM, MINIMUM), (MINIMUM + STEP + 5, MINIMUM + STEP)]
)
def test_the_cache_begins_late_and_goes_in_steps(same: int, cached: int) -> None:
    """As the providers publish it: nothing below 1,024 tokens, then in steps of 128."""
    assert Share(5_000, same).cached == cached


def test_the_summary_weighs_by_tokens_and_by_requests() -> None:
    """A long prompt costs more than a short one; both ways of counting are told."""
    told = summary_of([Share(3_000, 3_000), Share(1_000, 0)])
    assert (told.requests, told.tokens, told.same, told.mean_same) == (2, 4_000, 0.75, 0.5)
    assert summary_of([]).tokens == 0


# The usual designs


def test_the_usual_designs_are_what_they_are_called() -> None:
    """What memproxy is compared with must not be a straw man."""
    messages = [said("system", "Rules."), said("user", "old"), said("assistant", "yes"), said("user", "new")]
    assert with_block_in_system(messages, "B")[0] == said("system", "Rules.\n\nB")
    assert with_block_in_system(messages[1:], "B") == [said("system", "B"), *messages[1:]]
    assert with_block_in_system(messages, "") == messages
    assert newest_question([*messages, calling(1)]) == "new"
    assert slid(messages, 100_000) == messages
    assert slid(messages, 10) == [messages[0], messages[-1]], "the newest message goes in any case"


def test_a_sliding_window_parts_no_call_from_its_results() -> None:
    """Servers would refuse the rest."""
    for trajectory in trajectories()[:6]:
        messages = trajectory["messages"]
        for end in range(3, len(messages), 5):
            if messages[end - 1]["role"] == "assistant" or messages[end]["role"] == "tool":
                continue
            kept = slid(messages[:end], 6_000)
            assert complete_pairs(kept) == kept
            assert kept[-1] == messages[end - 1] or kept == messages[:1]


# Replays


TALK = Talk(
    "talk",
    "trajectories",
    (said("system", "You help with orders. " * 5),),
    (
        Step((said("user", "Where is order A-1?"),), calling(1)),
        Step((said("tool", "It is in Oslo.", tool_call_id="c1"),), said("assistant", "In Oslo.")),
        Step((said("user", "And where is A-1 now?"),), calling(1)),
        Step((said("tool", "It is in Oslo.", tool_call_id="c1"),), said("assistant", "Still in Oslo.")),
        Step((said("user", "Thanks"),), said("assistant", "You are welcome.")),
    ),
    earlier=("I always have orders sent to Oslo.", "My order A-0 was late."),
)


@pytest.mark.parametrize("sends_newest", [False, True])
async def test_a_replay_tells_what_the_model_server_got(sends_newest: bool) -> None:
    """Every request is there with what the client had by then; memories were injected, and stay where they were."""
    async with staged([]) as stage:
        await stage.remember(TALK, "ann")
        replay = await stage.replay(TALK, Manner(sends_newest=sends_newest), user="ann")
        plain = await stage.replay(TALK, Manner("off"), user="ann")
    assert len(replay.sent) == len(TALK.steps)
    assert [len(history) for history in replay.told] == [1, 3, 5, 7, 9]
    assert replay.degraded == 0
    prompts = [prompt_of(body) for body in replay.sent]
    assert b"I always have orders sent to Oslo" in prompts[0][1]
    assert [prompt[: len(before)] == before for before, prompt in itertools.pairwise(prompts)] == [True] * 4
    assert [body["messages"] for body in plain.sent] == [[*TALK.instructions, *history] for history in plain.told]


async def test_calls_that_are_answered_inside_are_rounds_of_their_own() -> None:
    """A repeated call never reaches the client; the model server's prompts still only grow."""
    async with staged([]) as stage:
        replay = await stage.replay(TALK, Manner(has_tools=True), user="ann")
    assert replay.answered_inside == 1
    assert len(replay.sent) == len(TALK.steps)
    assert [len(history) for history in replay.told] == [1, 3, 5, 5, 7], "the client hears the last of two answers"
    prompts = [prompt_of(body) for body in replay.sent]
    assert [prompt[: len(before)] == before for before, prompt in itertools.pairwise(prompts)] == [True] * 4


# The command


@pytest.mark.timeout(180)
def test_a_quick_run_measures_every_case(tmp_path: Path) -> None:
    """Whoever runs it gets all designs, and figures that the document can be rendered from."""
    if not FOLDER.exists():
        pytest.skip("the conversations are not beside this checkout")
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench", "prompt-cache", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    rows = figures["rows"]
    assert {row["design"] for row in rows} == {ON, SYSTEM, SLIDING}
    assert {row["kind"] for row in rows} == {"trajectories", "dialogues"}
    assert all(row["requests"] > 0 and row["degraded"] == 0 for row in rows)
    own, others = (
        [row for row in rows if (row["design"] == ON) is is_own and row["kind"] == "trajectories"]
        for is_own in (True, False)
    )
    unbounded = [row for row in own if row["window"] > 100_000]
    assert all(row["cached"] >= row[OFF]["cached"] - figures["goal"] for row in unbounded)
    assert max(row["cached"] for row in others) < min(row["cached"] for row in own)
    told = part(figures)
    assert "The goal for trajectories" in told.text
    assert {plot.name for plot in told.plots} == {"prompt-cache-designs", "prompt-cache-windows"}
