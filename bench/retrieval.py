"""Measure what long-term memory finds, through a real store and without any model: `python -m bench.retrieval`.

Three measurements:

1. *Found.* Each conversation is a user, each turn a memory with the two turns before it as context. Every question is
   asked; recall@k is the share of its evidence turns among the first k. As the proxy asks, and as code does.
2. *The floor.* The same with the floor: what survives, and how much is told to a user who is asked about somebody
   else's life ("strangers"), in whole conversations and in random pieces of ten turns.
3. *Few memories.* `small_stores.json`: people with one to nine memories, and messages that some or none of these are
   about.

The floor's figures were chosen on these same conversations and messages: 2 and 3 show its trade, not what to expect
elsewhere. The conversations are not part of the project; without them, only the third is measured.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace as with_scope

from memproxy.embedding import LocalEmbedder
from memproxy.memory.long_term import LongTermMemory
from memproxy.memory.search import Query, SearchMode
from memproxy.records import MemoryRecord, MemoryType, Scope
from memproxy.storage.connection import open_redis
from memproxy.storage.embedded import EmbeddedStore
from memproxy.storage.long_term import LongTermStore
from memproxy.storage.memory_filter import Filter, of_scope
from memproxy.storage.query_engine import require_query_engine

HERE = Path(__file__).parent
DIALOGUES = HERE.parent.parent / "shared" / "data" / "dialogues.json"
SMALL_STORES = HERE / "small_stores.json"
PIECES = 12
"""Random pieces of each conversation; with ten turns each."""
PIECE_TURNS = 10
TOLD = 10
"""Memories told at most, where the floor is measured."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question and the ids of the turns that answer it."""

    text: str
    evidence: frozenset[str]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One user's memories, and questions about them."""

    scope: Scope
    records: tuple[MemoryRecord, ...]
    questions: tuple[Question, ...]


def read_conversations(path: Path) -> list[Conversation]:
    """The conversations of a file in the form of `dialogues.json`."""
    return [_conversation(raw) for raw in json.loads(path.read_text("utf-8"))["conversations"]]


def _conversation(raw: dict[str, Any]) -> Conversation:
    scope = Scope("bench", raw["id"])
    questions = tuple(Question(asked["question"], frozenset(asked["evidence"])) for asked in raw["questions"])
    return Conversation(scope, tuple(_turns(scope, raw["records"])), questions)


def _turns(scope: Scope, turns: Sequence[dict[str, Any]]) -> Iterator[MemoryRecord]:
    sitting: list[str] = []
    for at, turn in enumerate(turns):
        if at and turns[at - 1]["session"] != turn["session"]:
            sitting = []
        yield MemoryRecord(
            id=turn["id"],
            scope=scope,
            text=turn["memory"],
            type=MemoryType.MESSAGE,
            created_at=datetime.fromisoformat(turn["created_at"]).replace(tzinfo=UTC),
            session=str(turn["session"]),
            speaker=turn["speaker"],
            context=" ".join(sitting[-2:]),
        )
        sitting.append(turn["memory"])


def pieces_of(conversation: Conversation, rng: random.Random) -> Iterator[Conversation]:
    """Users who only had ten turns of the conversation, in a row or here and there, with the questions these answer."""
    records = conversation.records
    for number in range(PIECES):
        start = rng.randrange(len(records) - PIECE_TURNS)
        chosen = records[start : start + PIECE_TURNS] if number % 2 else tuple(rng.sample(records, PIECE_TURNS))
        scope = replace(conversation.scope, user=f"{conversation.scope.user} piece {number}")
        ids = {record.id for record in chosen}
        questions = tuple(
            replace(asked, evidence=asked.evidence & ids) for asked in conversation.questions if asked.evidence & ids
        )
        yield Conversation(scope, tuple(with_scope(record, scope=scope) for record in chosen), questions)


Ask = Callable[[Conversation, str], Awaitable[list[str]]]
"""Gives the ids of what is found for a user's question, best first."""


def ways_to_ask(memory: LongTermMemory) -> dict[str, Ask]:
    """As the proxy asks, and as code does in each mode."""

    def as_proxy(*, floor: bool) -> Ask:
        async def ask(user: Conversation, question: str) -> list[str]:
            found = await memory.search(user.scope, question, limit=20, relevant_only=floor)
            return [scored.record.id for scored in found]

        return ask

    def as_code(mode: SearchMode | None) -> Ask:
        async def ask(user: Conversation, question: str) -> list[str]:
            query = Query(question, mode, where=Filter(of_scope(user.scope)), limit=20)
            return [match.record.id for match in (await memory.find(user.scope.tenant, query)).memories]

        return ask

    modes = {f"code, {mode or 'no mode'}": as_code(mode) for mode in (None, *SearchMode)}
    return {"without floor": as_proxy(floor=False), "with floor": as_proxy(floor=True), **modes}


async def measure_found(ask: Ask, users: Sequence[Conversation], *, name: str) -> None:
    """Print recall, reciprocal rank and time over all questions."""
    recalls: dict[int, list[float]] = {5: [], 10: [], 20: []}
    ranks, times = [], []
    for user in users:
        for asked in user.questions:
            begun = time.perf_counter()
            ids = await ask(user, asked.text)
            times.append(time.perf_counter() - begun)
            for k, values in recalls.items():
                values.append(len(asked.evidence & set(ids[:k])) / len(asked.evidence))
            ranks.append(next((1 / (at + 1) for at, memory_id in enumerate(ids) if memory_id in asked.evidence), 0.0))
    shown = "  ".join(f"R@{k} {statistics.fmean(values):.3f}" for k, values in recalls.items())
    p50 = statistics.median(times) * 1000
    print(f"{name:14}  {shown}  MRR {statistics.fmean(ranks):.3f}  p50 {p50:.2f} ms  ({len(times)} questions)")


async def measure_floor(
    memory: LongTermMemory, users: Sequence[Conversation], *, what: str, rng: random.Random
) -> None:
    """Print what the floor leaves of what was found, and what it lets through of strangers' questions."""
    survived, own, strange = [], [], []
    for user in users:
        for asked in user.questions:
            unfloored = await memory.search(user.scope, asked.text, limit=TOLD, relevant_only=False)
            told = {scored.record.id for scored in await memory.search(user.scope, asked.text, limit=TOLD)}
            own.append(len(told))
            if asked.evidence & {scored.record.id for scored in unfloored}:
                survived.append(bool(asked.evidence & told))
        for asked in rng.sample(_questions_of_others(user, users), 60):
            told_stranger = await memory.search(user.scope, asked.text, limit=TOLD)
            strange += [len(told_stranger)]
    silent = statistics.fmean(not told for told in strange)
    print(
        f"{what:14}  of questions with evidence in the top {TOLD}, {statistics.fmean(survived):.1%} keep some;"
        f" told: {statistics.fmean(own):.2f} to one's own question, {statistics.fmean(strange):.2f} to a stranger's"
        f" ({silent:.0%} of these nothing)"
    )


def _questions_of_others(user: Conversation, users: Sequence[Conversation]) -> list[Question]:
    name = str(user.scope.user).split(" ", maxsplit=1)[0]
    others = (other for other in users if str(other.scope.user).split(" ", maxsplit=1)[0] != name)
    return [asked for other in others for asked in other.questions]


async def measure_small_stores(memory: LongTermMemory) -> None:
    """Print how the floor does where there are few memories."""
    found = wanted = beside = junk = unrelated = 0
    for person in json.loads(SMALL_STORES.read_text("utf-8"))["people"]:
        scope = Scope("bench", f"small {person['name']}")
        for message, relevant in person["messages"]:
            told = {scored.record.id for scored in await memory.search(scope, message, limit=TOLD)}
            hits = told & {str(number) for number in relevant}
            found, wanted = found + len(hits), wanted + len(relevant)
            beside, junk = beside + bool(relevant) * len(told - hits), junk + (not relevant) * len(told)
            unrelated += not relevant
    print(
        f"few memories    found {found} of {wanted} relevant, {beside} others told beside them;"
        f" {junk} told to {unrelated} messages that nothing is relevant to"
    )


async def remember_small_stores(memory: LongTermMemory) -> None:
    """Store the memories of `small_stores.json`."""
    said_at = datetime(2025, 6, 1, tzinfo=UTC)
    for person in json.loads(SMALL_STORES.read_text("utf-8"))["people"]:
        scope = Scope("bench", f"small {person['name']}")
        texts = enumerate(person["memories"])
        await memory.remember(
            [MemoryRecord(str(number), scope, text, MemoryType.SEMANTIC, said_at) for number, text in texts]
        )


@asynccontextmanager
async def opened_memory(redis_url: str | None) -> Any:
    """Long-term memory in the store of this address, or in a fresh one of our own."""
    with tempfile.TemporaryDirectory() as folder:
        if redis_url is None:
            async with EmbeddedStore(Path(folder)) as store, opened_memory(store.url) as memory:
                yield memory
            return
        async with open_redis(redis_url, connect_timeout_s=5.0, max_connections=10) as redis:
            embedder = LocalEmbedder()
            await require_query_engine(redis)
            store_of_memories = LongTermStore(redis, model=embedder.name, dims=embedder.dims)
            await store_of_memories.ensure_index()
            yield LongTermMemory(store_of_memories, embedder)


async def measure(users: Sequence[Conversation], redis_url: str | None) -> None:
    """All measurements that the data at hand allows."""
    rng = random.Random(1)
    async with opened_memory(redis_url) as memory:
        await remember_small_stores(memory)
        if users:
            pieces = [piece for user in users for piece in pieces_of(user, rng)]
            for user in (*users, *pieces):
                await memory.remember(user.records)
            for name, ask in ways_to_ask(memory).items():
                await measure_found(ask, users, name=name)
            await measure_floor(memory, users, what="conversations", rng=rng)
            await measure_floor(memory, pieces, what=f"{PIECE_TURNS} turns each", rng=rng)
        await measure_small_stores(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what long-term memory finds.")
    parser.add_argument("--dialogues", type=Path, default=DIALOGUES, help="conversations with questions and evidence")
    parser.add_argument("--redis-url", help="an empty store with the query engine; default: a fresh one of our own")
    arguments = parser.parse_args()
    users = []
    if arguments.dialogues.exists():
        users = read_conversations(arguments.dialogues)
    else:
        print(f"Skipped the first two: there are no conversations at {arguments.dialogues}.")
    asyncio.run(measure(users, arguments.redis_url))


if __name__ == "__main__":
    main()
