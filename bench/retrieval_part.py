"""The document's part about what is found."""

from collections.abc import Iterator, Mapping, Sequence

from bench.parts import Goal, Part, Plot, Series, markdown_table, plot_marker
from memproxy.records import JsonObject

KINDS: Mapping[str, str] = {
    "said": "what was said",
    "noted": "and facts noted of it",
}
"""What is remembered: the turns alone, then the dataset's facts, too."""

GOALS: Mapping[tuple[str, str, str], float] = {
    ("said", "memories", "10"): 0.78,
    ("said", "memories", "20"): 0.83,
    ("noted", "tokens", "400"): 0.78,
    ("noted", "tokens", "800"): 0.83,
    ("noted", "tokens", "1600"): 0.87,
}
"""By kind, what is limited and to how much: the recall to be reached."""

SEARCH_GOAL_MS = 3.0

MEMORIES_PLOT, TOKENS_PLOT, FLOOR_PLOT = "retrieval-memories", "retrieval-tokens", "retrieval-floor"

METHOD = """\
{dialogues} long two-person dialogues (LoCoMo, {turns:,} turns in dated sittings) are said through the HTTP endpoint,
one chat request a turn, at the time they were once said, and learned by memproxy's own worker without any model. Then
{questions:,} questions are asked at the endpoint. **Recall** is the share of a question's evidence turns that stood in
the block that the model server got, averaged over the questions: not what a search found, but what the model could have
read. Tokens are those of the whole block, frame and all. The second kind has the dataset's {facts:,} facts stored
beside, as a model would have extracted them; a fact counts as the turns that it was made of.

The ranking's figures were chosen on three of these dialogues; the others, in the column "new", served to try them.
"""

FLOOR = """
### What is held back

The floor decides whether a question is about anything that is known. Two kinds of questions about other people's
dialogues are put to each user: those that name neither of the two speakers ("strangers"), and those whose first name
fits one of them by chance ("namesakes"), which are hard to tell from a question of the user's own. At most {at}
memories are told.
"""

MEANS = """
### What it means

- Words with the two turns before them find most of it, and static word vectors the rest. There is no model in the path
  of a request, so paraphrase ("what does she do for a living?" for "I got tenure") is where evidence is missed; an
  embedding service can be configured.
- Facts are short and turns are whole: together they tell more within the same tokens than turns alone. That counts a
  fact as all of its turns, though it may say less than they do, such as no date.
- The questions share words with their evidence, more than people's own questions do.
"""


def part(results: JsonObject) -> Part:
    """Recall by limit, what the floor holds back and costs, and how long a search takes."""
    by_memories, by_tokens, *others = [
        f"{title}:\n\n{markdown_table(columns, rows)}" for title, columns, rows in tables(results)
    ]
    method = METHOD.format(questions=_questions(results), **{name: results[name] for name in _COUNTS})
    floor = [FLOOR.format(at=10), *others]
    text = [method, by_memories, plot_marker(MEMORIES_PLOT), by_tokens, plot_marker(TOKENS_PLOT), *floor]
    return Part("Retrieval", "\n\n".join([*text, plot_marker(FLOOR_PLOT), MEANS]), tuple(_plots(results)))


def tables(results: JsonObject) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """Title, columns and rows of each table."""
    recall = ("", "recall", "goal", "chosen on", "new", "memories", "tokens")
    yield "Evidence recall by memories told at most", recall, list(_recall_rows(results, "memories"))
    yield "Evidence recall by tokens of the block at most", recall, list(_recall_rows(results, "tokens"))
    foreign = ("questions about others", "asked", "told nothing", "memories told", "tokens")
    yield "What the floor holds back", foreign, list(_foreign_rows(results))
    yield "What the floor costs, and the search", ("", "value", "goal"), list(_cost_rows(results))


def _recall_rows(results: JsonObject, limited: str) -> Iterator[Sequence[str]]:
    for kind, title in KINDS.items():
        for limit, scores in results["kinds"][kind][limited].items():
            goal = GOALS.get((kind, limited, limit))
            yield (
                f"{title}, {int(limit):,} {limited}",
                f"{scores['recall']:.3f}",
                "" if goal is None else f"{goal:.2f}",
                f"{scores['recall_chosen_on']:.3f}",
                f"{scores['recall_new']:.3f}",
                f"{scores['memories']:.1f}",
                f"{scores['tokens']:.0f}",
            )


def _foreign_rows(results: JsonObject) -> Iterator[Sequence[str]]:
    for kind, title in KINDS.items():
        for name, scores in results["kinds"][kind]["foreign"].items():
            yield (
                f"{title}: {name}",
                f"{scores['questions']:,}",
                f"{scores['told_nothing']:.1%}",
                f"{scores['memories']:.2f}",
                f"{scores['tokens']:.0f}",
            )


def _cost_rows(results: JsonObject) -> Iterator[Sequence[str]]:
    for kind, title in KINDS.items():
        figures = results["kinds"][kind]
        without, floored = figures["unfloored"]["recall"], figures["memories"]["10"]["recall"]
        yield f"{title}: recall at 10 without the floor", f"{without:.3f}", f"at most {floored + 0.005:.3f}"
        yield f"{title}: search, p50 ms", f"{figures['search_ms']['p50']:.2f}", f"{SEARCH_GOAL_MS:g}"
        yield f"{title}: search, p95 ms", f"{figures['search_ms']['p95']:.2f}", ""
    few = results["few"]
    yield "people with 1 to 9 memories: relevant ones told", f"{few['found']} of {few['wanted']}", ""
    yield "others told beside them", str(few["beside"]), ""
    yield f"told to {few['unrelated']} unrelated messages", str(few["junk"]), ""


def _plots(results: JsonObject) -> Iterator[Plot]:
    for name, limited in ((MEMORIES_PLOT, "memories"), (TOKENS_PLOT, "tokens")):
        yield Plot(
            name=name,
            title=f"Evidence recall by {limited}",
            x_label=f"{limited} told at most",
            y_label="recall",
            series=[_series(results, kind, limited) for kind in KINDS],
            goals=[
                Goal(goal, f"goal at {limit} ({KINDS[kind]})")
                for (kind, of, limit), goal in GOALS.items()
                if of == limited
            ],
            is_from_zero=False,
        )
    names = ("strangers", "namesakes")
    yield Plot(
        name=FLOOR_PLOT,
        title="Questions about others that are told nothing",
        x_label="",
        y_label="%",
        series=[
            Series(title, (), [100 * results["kinds"][kind]["foreign"][name]["told_nothing"] for name in names])
            for kind, title in KINDS.items()
        ],
        is_bars=True,
        categories=names,
    )


def _series(results: JsonObject, kind: str, limited: str) -> Series:
    scores = results["kinds"][kind][limited]
    return Series(KINDS[kind], [float(limit) for limit in scores], [each["recall"] for each in scores.values()])


def _questions(results: JsonObject) -> int:
    asked: int = next(iter(results["kinds"]["said"]["memories"].values()))["questions"]
    return asked


_COUNTS = ("dialogues", "turns", "facts")
