"""What the floor does where there are few memories: `small_stores.json`, straight at the engine."""

import json
from datetime import UTC, datetime
from pathlib import Path

from memproxy.identity import SINGLE_TENANT
from memproxy.memory.long_term import LongTermMemory
from memproxy.records import JsonObject, MemoryRecord, MemoryType, Scope

SMALL_STORES = Path(__file__).parent / "small_stores.json"
TOLD = 10
"""Memories told at most."""


async def measure_few(memory: LongTermMemory) -> JsonObject:
    """How many of the relevant memories are told, and how many others; people have one to nine memories."""
    found = wanted = beside = junk = unrelated = 0
    for person in json.loads(SMALL_STORES.read_text("utf-8"))["people"]:
        scope = Scope(SINGLE_TENANT, f"few {person['name']}")
        await memory.remember(
            [
                MemoryRecord(str(number), scope, text, MemoryType.SEMANTIC, datetime(2025, 6, 1, tzinfo=UTC))
                for number, text in enumerate(person["memories"])
            ]
        )
        for message, relevant in person["messages"]:
            told = {one.record.id for one in await memory.search(scope, message, limit=TOLD)}
            hits = told & {str(number) for number in relevant}
            found, wanted = found + len(hits), wanted + len(relevant)
            beside, junk = beside + bool(relevant) * len(told - hits), junk + (not relevant) * len(told)
            unrelated += not relevant
    return {"found": found, "wanted": wanted, "beside": beside, "junk": junk, "unrelated": unrelated}
