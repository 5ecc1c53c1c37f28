"""Memory in the background: a model reads what was said and notes what will be worth knowing.

How it notes is a strategy, chosen for each conversation: single facts, a running summary, preferences alone, or what
your own prompt asks for. memproxy has to run with a model for it:

    memproxy serve --extraction-model gpt-4o-mini
    export MEMPROXY_URL=http://127.0.0.1:8080
    python examples/background_extraction.py
"""

import asyncio
import os
from datetime import UTC, datetime

from agent_memory_client import MemoryAPIClient, MemoryClientConfig
from agent_memory_client.filters import MemoryType, UserId
from agent_memory_client.models import MemoryMessage, MemoryRecordResult, MemoryStrategyConfig, WorkingMemory

MEMPROXY_URL = os.environ.get("MEMPROXY_URL", "http://127.0.0.1:8080")
PATIENCE_S = float(os.environ.get("PATIENCE_S", "60"))

CONVERSATION = (
    ("user", "I moved to Lyon last week, and I'm looking for a climbing gym."),
    ("assistant", "There are two good ones near the Part-Dieu station. Do you prefer mornings or evenings?"),
    ("user", "Evenings, and I'd rather not pay by card."),
)

PROMPT = """You note what would help a travel agent.
Read the conversation below and give only facts about places.

{message}"""

STRATEGIES = (
    MemoryStrategyConfig(strategy="discrete"),
    MemoryStrategyConfig(strategy="summary", config={"max_summary_length": 60}),
    MemoryStrategyConfig(strategy="preferences"),
    MemoryStrategyConfig(strategy="custom", config={"custom_prompt": PROMPT}),
)


def user_of(strategy: MemoryStrategyConfig) -> str:
    """A user for each strategy, so that the four don't mix."""
    return f"heidi-{strategy.strategy}"


async def store_conversation(memory: MemoryAPIClient, strategy: MemoryStrategyConfig) -> None:
    """Put the conversation into the session's working memory, and say how it is to be read."""
    now = datetime.now(UTC)
    messages = [MemoryMessage(role=role, content=content, created_at=now) for role, content in CONVERSATION]
    session = WorkingMemory(
        session_id=f"lyon-{strategy.strategy}",
        messages=messages,
        user_id=user_of(strategy),
        long_term_memory_strategy=strategy,
    )
    await memory.put_working_memory(session.session_id, session)


async def learned(memory: MemoryAPIClient, user: str) -> list[MemoryRecordResult]:
    """What the model noted, as soon as there is something."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await memory.search_long_term_memory(
                text="",
                user_id=UserId(eq=user),
                memory_type=MemoryType(in_=["semantic", "episodic"]),
                limit=20,
            )
            if found.memories:
                return list(found.memories)
            await asyncio.sleep(0.2)


async def main() -> None:
    """The same conversation, read in four ways."""
    async with MemoryAPIClient(MemoryClientConfig(base_url=MEMPROXY_URL)) as memory:
        memory._client.headers["Authorization"] = f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"
        for strategy in STRATEGIES:
            await store_conversation(memory, strategy)
        for strategy in STRATEGIES:
            print(strategy.strategy)
            for one in await learned(memory, user_of(strategy)):
                when = f" ({one.event_date:%Y-%m-%d})" if one.event_date else ""
                print(f"  {one.memory_type.value:9} {one.text}{when}")
                print(f"            topics: {', '.join(one.topics or [])}")


if __name__ == "__main__":
    asyncio.run(main())
