"""Memory by code: the application decides what is kept, what is looked up, and what the model is shown.

This is agent-memory-client, the client of agent-memory-server; memproxy speaks the same API.

    export MEMPROXY_URL=http://127.0.0.1:8080
    python examples/code_driven.py
"""

import asyncio
import os
from typing import Any

from agent_memory_client import MemoryAPIClient, MemoryClientConfig
from agent_memory_client.filters import MemoryType, Topics, UserId
from agent_memory_client.models import ClientMemoryRecord, MemoryTypeEnum, WorkingMemory
from openai import AsyncOpenAI

MEMPROXY_URL = os.environ.get("MEMPROXY_URL", "http://127.0.0.1:8080")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")
USER, SESSION = "erin", "desk-7"

FACTS = (
    ("Erin travels with a dog and needs hotels that allow it.", ["travel", "pets"]),
    ("Erin prefers trains to planes.", ["travel"]),
    ("Erin's invoices go to the address in Ghent.", ["billing"]),
)


async def keep_facts(memory: MemoryAPIClient) -> None:
    """Keep what the application knows: as it is given, without any model."""
    records = [
        ClientMemoryRecord(
            id=f"erin-{number}", text=text, memory_type=MemoryTypeEnum.SEMANTIC, topics=topics, user_id=USER
        )
        for number, (text, topics) in enumerate(FACTS)
    ]
    await memory.create_long_term_memory(records)


async def look_up(memory: MemoryAPIClient, question: str) -> list[str]:
    """Search with filters that the application sets."""
    found = await memory.search_long_term_memory(
        text=question,
        user_id=UserId(eq=USER),
        topics=Topics(any=["travel"]),
        memory_type=MemoryType(eq="semantic"),
        limit=2,
    )
    return [f"{one.text} (distance {one.dist:.2f})" for one in found.memories]


async def correct(memory: MemoryAPIClient) -> str:
    """Change one memory and read it back."""
    await memory.edit_long_term_memory("erin-2", {"text": "Erin's invoices go to the address in Bruges."})
    return (await memory.get_long_term_memory("erin-2")).text


async def remember_step(memory: MemoryAPIClient) -> dict[str, Any]:
    """Keep the state of a conversation beside its messages."""
    await memory.put_working_memory(SESSION, WorkingMemory(session_id=SESSION, user_id=USER, data={"step": "dates"}))
    await memory.update_working_memory_data(SESSION, {"nights": 3}, user_id=USER)
    return dict((await memory.get_working_memory(SESSION, user_id=USER)).data or {})


async def ask(memory: MemoryAPIClient, question: str) -> str:
    """Have the messages for the model put together, then ask it."""
    prompt = await memory.memory_prompt(
        query=question,
        session_id=SESSION,
        user_id=USER,
        long_term_search={"text": question, "user_id": {"eq": USER}, "limit": 2},
    )
    messages: list[Any] = [
        {"role": message["role"], "content": message["content"]["text"]} for message in prompt["messages"]
    ]
    async with AsyncOpenAI(
        base_url=f"{MEMPROXY_URL}/v1",
        default_headers={"X-Memproxy-Memory": "off"},  # all memory is in the messages
    ) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=messages)
    return answer.choices[0].message.content or ""


async def main() -> None:
    """One use of each."""
    async with MemoryAPIClient(MemoryClientConfig(base_url=MEMPROXY_URL)) as memory:
        memory._client.headers["Authorization"] = f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"
        await keep_facts(memory)
        question = "Which hotel should I book, and how do I get there?"
        print(f"Found for {question!r}:")
        for line in await look_up(memory, question):
            print(f"  {line}")
        print(f"Corrected: {await correct(memory)}")
        print(f"State of the conversation: {await remember_step(memory)}")
        print(f"Answer: {await ask(memory, question)}")
        gone = await memory.delete_long_term_memories(["erin-0", "erin-1", "erin-2"])
        await memory.delete_working_memory(SESSION, user_id=USER)
        print(f"Cleaned up: {gone.status}")


if __name__ == "__main__":
    asyncio.run(main())
