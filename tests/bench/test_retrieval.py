"""The retrieval bench counts what the model server got, and nothing else."""

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench import results, retrieval
from bench.parts import plot_marker
from bench.retrieval_dialogues import Asked, Dialogue, foreign_questions, own_questions, read_dialogues
from bench.retrieval_part import GOALS, KINDS, part, tables
from bench.retrieval_replay import Limits, proxy, staged
from bench.retrieval_scores import Evidence, Received, block_of, foreign_scores, lines_of, own_scores, search_ms
from memproxy.proxy.compose import memory_block
from memproxy.records import JsonObject, MemoryRecord, MemoryType, Scope, ScoredMemory
from tests.fakes.shared_data import dialogues

NOON = datetime(2023, 5, 8, 12, tzinfo=UTC)
ROOT = Path(__file__).parent.parent.parent


def turn(number: int, speaker: str, text: str, *, session: int = 1) -> JsonObject:
    at = f"2023-05-{7 + session:02}T13:{number:02}:00"
    return {"id": f"D{session}:{number}", "session": session, "speaker": speaker, "text": text, "created_at": at}


RAW = {
    "conversations": [
        {
            "id": "conv-1",
            "speakers": ["Ann", "Ben"],
            "records": [
                turn(1, "Ann", "I bought a red kayak in Oslo."),
                turn(2, "Ben", "Did you  paddle it on the fjord?"),
                turn(3, "Ann", "On Sunday, and a seal came along.", session=2),
            ],
            "facts": [{"id": "F1", "session": 1, "text": "Ann owns a kayak.", "source": ["D1:1", "D2:3"]}],
            "questions": [
                {"question": "What did Ann buy in Oslo?", "evidence": ["D1:1"]},
                {"question": "Which animal came along with the kayak?", "evidence": ["D2:3", "D1:1"]},
            ],
        },
        {
            "id": "conv-26",
            "speakers": ["Cleo", "Ann"],
            "records": [turn(1, "Cleo", "My violin needs new strings.")],
            "facts": [],
            "questions": [
                {"question": "What does the violin of Cleo need?", "evidence": ["D1:1"]},
                {"question": "What did Ann say of it?", "evidence": ["D1:1"]},
            ],
        },
    ]
}


@pytest.fixture
def few(tmp_path: Path) -> list[Dialogue]:
    file = tmp_path / "dialogues.json"
    file.write_text(json.dumps(RAW))
    return read_dialogues(file)


def received(asked: Asked, *lines: str, tokens: int = 10, recall_s: float = 0.002) -> Received:
    return Received(asked, lines, tokens, recall_s, degraded=False)


def test_questions_are_put_to_whom_they_are_about_and_to_others(few: list[Dialogue]) -> None:
    """A first name that two people share is told apart: no ranking can know which of them is meant."""
    assert [(asked.user, len(asked.evidence)) for asked in own_questions(few)] == [
        ("conv-1", 1),
        ("conv-1", 2),
        ("conv-26", 1),
        ("conv-26", 1),
    ]
    assert len(own_questions(few, limit=1)) == 2
    foreign = foreign_questions(few, count=9)
    assert {(asked.user, asked.text, asked.names_speaker) for asked in foreign} == {
        ("conv-1", "What does the violin of Cleo need?", False),
        ("conv-1", "What did Ann say of it?", True),
        ("conv-26", "What did Ann buy in Oslo?", True),
        ("conv-26", "Which animal came along with the kayak?", False),
    }
    assert not any(asked.evidence for asked in foreign)
    assert foreign_questions(few, count=1) == foreign_questions(few, count=1)


def test_blocks_are_read_as_they_are_written() -> None:
    """Whatever changes in the block's form must not silently count as nothing found."""
    record = MemoryRecord("m", Scope("t", "ann"), "Ann (8 May 2023): tea", MemoryType.MESSAGE, NOON)
    pin = memory_block([ScoredMemory(record, 1.0, 1.0, 1.0)], max_memories=5, max_tokens=500, seen=frozenset())
    assert pin is not None
    block = block_of(f"{pin.block}\nWhat do I drink?")
    assert block == pin.block
    assert lines_of(block) == ("Ann (8 May 2023): tea",)
    assert (block_of("What do I drink?"), lines_of("")) == ("", ())


def test_recall_counts_turns_told_by_their_words_or_by_a_fact(few: list[Dialogue]) -> None:
    """A fact counts as the turns that it was made of; another user's words count as nothing."""
    evidence = Evidence(few)
    first, second, other, _ = own_questions(few)
    said = "Ann (8 May 2023): I bought a red kayak in Oslo."
    assert evidence.recall(received(first, said)) == 1.0
    assert evidence.recall(received(second, said)) == 0.5
    assert evidence.recall(received(second, "Ann owns a kayak.")) == 1.0
    assert evidence.recall(received(other, said, "Ann owns a kayak.")) == 0.0
    assert evidence.recall(received(first)) == 0.0
    assert evidence.of("conv-1", "Ben (8 May 2023): Did you paddle it on the fjord?") == {"D1:2"}


def test_scores_tell_new_conversations_from_those_it_was_chosen_on(few: list[Dialogue]) -> None:
    """Who judges wants to know what to expect elsewhere."""
    first, second, other, last = own_questions(few)
    said = "Ann (8 May 2023): I bought a red kayak in Oslo."
    scores = own_scores(
        [received(first, said), received(second, said), received(other), received(last)], Evidence(few), few
    )
    assert (scores["recall"], scores["recall_new"], scores["recall_chosen_on"]) == (0.375, 0.75, 0.0)
    assert (scores["questions"], scores["tokens"], scores["memories"]) == (4, 10, 0.5)


def test_what_strangers_are_told_is_counted_by_kind(few: list[Dialogue]) -> None:
    foreign = foreign_questions(few, count=9)
    scores = foreign_scores([received(asked, *(["x"] * asked.names_speaker)) for asked in foreign])
    assert scores["strangers"] | {"tokens": 0} == {"questions": 2, "told_nothing": 1.0, "memories": 0.0, "tokens": 0}
    assert scores["namesakes"]["told_nothing"] == 0.0


def test_search_times_are_told_in_ms(few: list[Dialogue]) -> None:
    asked = own_questions(few)[0]
    times = search_ms([received(asked, recall_s=each / 1_000) for each in range(1, 101)])
    assert times == {"p50": pytest.approx(50.5), "p95": pytest.approx(95.0)}


async def test_turns_are_said_at_their_time_and_questions_leave_no_trace(few: list[Dialogue]) -> None:
    """What is measured is the endpoint: what was said is found in the request that the model server gets."""
    asked = own_questions(few)[0]
    async with staged() as stage:
        async with proxy(stage, Limits(), learns=True) as talked:
            said = [spoken.id for dialogue in few async for spoken in talked.say(dialogue)]
            await talked.learned()
        assert said == ["D1:1", "D1:2", "D2:3", "D1:1"]
        async with proxy(stage, Limits(memories=1)) as one:
            for _ in range(2):
                got = await one.ask(asked)
                assert got.lines == ("Ann (8 May 2023): I bought a red kayak in Oslo.",)
                assert (got.degraded, got.tokens > 20, 0 < got.recall_s < 10) == (False, True, True)
            await one.note(few[0])
            owned = Asked("conv-1", "Which kayak does Ann own?", frozenset(), names_speaker=True)
            assert (await one.ask(owned)).lines == ("Ann owns a kayak.",)
            assert len((await one.unfloored(asked, limit=3)).lines) == 3


@pytest.mark.timeout(170)
def test_a_quick_run_measures_everything_once(tmp_path: Path) -> None:
    """Whoever has the dialogues gets every figure, and the document its part."""
    dialogues()
    file = tmp_path / "retrieval.json"
    command = [sys.executable, "-m", "bench", "retrieval", "--quick", "--limit", "5", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=160, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert list(figures["kinds"]) == list(KINDS)
    for kind in figures["kinds"].values():
        assert kind["memories"]["10"]["recall"] > 0.2
        assert kind["memories"]["10"]["memories"] <= 10
        assert kind["tokens"]["800"]["tokens"] <= 800
        assert kind["memories"]["10"]["degraded"] == 0
    assert part(figures).plots


def test_without_the_dialogues_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are no part of the project, and nobody should look for a failure."""
    assert retrieval.main(["--dialogues", str(tmp_path / "none.json")]) == results.NOT_HERE
    assert "left out" in capsys.readouterr().out


def scores(recall: float) -> Mapping[str, float]:
    means = {"recall": recall, "recall_chosen_on": recall - 0.01, "recall_new": recall + 0.01}
    return means | {"tokens": 400.0, "memories": 9.5, "degraded": 0, "questions": 100}


def figures() -> JsonObject:
    foreign = {"questions": 50, "told_nothing": 0.92, "memories": 0.4, "tokens": 20.0}
    kind = {
        "memories": {"5": scores(0.7), "10": scores(0.781), "20": scores(0.83)},
        "tokens": {"400": scores(0.75), "800": scores(0.8), "1600": scores(0.9)},
        "search_ms": {"p50": 1.5, "p95": 4.0},
        "foreign": {"strangers": foreign, "namesakes": foreign},
        "unfloored": scores(0.784),
    }
    few = {"found": 26, "wanted": 33, "beside": 1, "junk": 1, "unrelated": 31}
    return {"dialogues": 5, "turns": 2960, "facts": 1283, "kinds": dict.fromkeys(KINDS, kind), "few": few}


def test_the_part_tells_every_figure_with_its_goal() -> None:
    """Tables, plots, and where it falls short."""
    told = part(figures())
    assert "| what was said, 10 memories | 0.781 | 0.78 | 0.771 | 0.791 | 9.5 | 400 |" in told.text
    assert "2,960 turns" in told.text
    assert "92.0%" in told.text
    assert all(plot_marker(plot.name) in told.text for plot in told.plots)
    assert {goal.y for plot in told.plots for goal in plot.goals} == set(GOALS.values())
    for _, columns, rows in tables(figures()):
        assert {len(row) for row in rows} == {len(columns)}
