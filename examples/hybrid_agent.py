"""All at once: the application keeps facts, the model keeps facts, and memproxy learns from what is said.

An assistant of a hotel. The booking system writes what it knows by code; the model notes what the guest asks it to; the
rest is learned in the background. On the next stay all three are in front of the question.

    export MEMPROXY_URL=http://127.0.0.1:8080
    python examples/hybrid_agent.py
"""

import asyncio
import os

from agent_memory_client import MemoryAPIClient, MemoryClientConfig
from agent_memory_client.filters import UserId
from agent_memory_client.models import ClientMemoryRecord, MemoryTypeEnum
from openai import AsyncOpenAI

MEMPROXY_URL = os.environ.get("MEMPROXY_URL", "http://127.0.0.1:8080")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")
GUEST = "grace"

SYSTEM = "You are a hotel's assistant. You have memory tools; keep what the guest asks you to keep."
FIRST_STAY = (
    "Good evening! I couldn't sleep last night, the street is so loud.",
    "Please remember that I want the quiet side next time.",
)
NEXT_STAY = "I'm back! Which room will you give me, so that I can sleep? And is breakfast included?"


async def write_booking(memory: MemoryAPIClient) -> None:
    """By code: what the booking system knows is kept as it is given."""
    text = "Grace has booked half board: breakfast is included."
    await memory.create_long_term_memory(
        [ClientMemoryRecord(id="booking-7", text=text, memory_type=MemoryTypeEnum.SEMANTIC, user_id=GUEST)]
    )


async def talk(session: str, *lines: str) -> None:
    """By the model and in the background: one base URL, one header."""
    client = AsyncOpenAI(
        base_url=f"{MEMPROXY_URL}/u/{GUEST}/s/{session}/v1", default_headers={"X-Memproxy-Tools": "on"}
    )
    async with client:
        for line in lines:
            response = await client.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": line}],
            )
            print(f"  guest:     {line}")
            print(f"  assistant: {response.parse().choices[0].message.content}")
            calls = response.headers.get("x-memproxy-tool-answers", "0")
            memories = response.headers.get("x-memproxy-memories", "0")
            print(f"             ({memories} memories in front, {calls} memory tools used)")


async def wait_until_learned(memory: MemoryAPIClient) -> None:
    """What was said is there a moment later; a script that goes on at once has to wait for it."""
    for _ in range(100):
        found = await memory.search_long_term_memory(text="loud street", user_id=UserId(eq=GUEST), limit=1)
        if any("loud" in one.text for one in found.memories):
            return
        await asyncio.sleep(0.1)
    raise SystemExit("memproxy has learned nothing; does it run with a worker?")


async def show(memory: MemoryAPIClient) -> None:
    """Everything that is known of the guest by now, wherever it came from."""
    known = await memory.search_long_term_memory(text="", user_id=UserId(eq=GUEST), limit=20)
    for one in sorted(known.memories, key=lambda each: each.created_at):
        print(f"  {one.memory_type.value:9} {one.text}")


async def main() -> None:
    """Two stays."""
    async with MemoryAPIClient(MemoryClientConfig(base_url=MEMPROXY_URL)) as memory:
        memory._client.headers["Authorization"] = f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"
        await write_booking(memory)
        print("The first stay")
        await talk("stay-1", *FIRST_STAY)
        await wait_until_learned(memory)
        print("What is known")
        await show(memory)
        print("The next stay")
        await talk("stay-2", NEXT_STAY)


if __name__ == "__main__":
    asyncio.run(main())
