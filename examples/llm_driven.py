"""Memory by the model: it is given tools, and decides itself what to keep and what to look up.

Two ways. In the first, memproxy offers its tools and carries them out; the agent asks with one header more and never
sees a call. In the second, the agent offers the tools of agent-memory-client and carries them out with that client.

    export MEMPROXY_URL=http://127.0.0.1:8080
    python examples/llm_driven.py
"""

import asyncio
import json
import os
from typing import Any

from agent_memory_client import MemoryAPIClient, MemoryClientConfig
from openai import AsyncOpenAI

MEMPROXY_URL = os.environ.get("MEMPROXY_URL", "http://127.0.0.1:8080")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")
USER = "frank"

SYSTEM = "You have memory tools. Keep what will matter later, and look things up before you answer."
TELL = "Please remember that my passport runs out in May 2027."
ASK = "When does my passport run out?"


async def with_memproxys_tools() -> None:
    """The calls are answered inside memproxy: one request, one answer."""
    client = AsyncOpenAI(
        base_url=f"{MEMPROXY_URL}/u/{USER}/v1",
        # "read": memproxy learns nothing by itself here, so that it is the model that remembers.
        default_headers={"X-Memproxy-Tools": "on", "X-Memproxy-Memory": "read"},
    )
    async with client:
        for line in (TELL, ASK):
            response = await client.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": line}],
            )
            message = response.parse().choices[0].message
            print(f"  user:      {line}")
            print(f"  assistant: {message.content}")
            print(f"             ({response.headers.get('x-memproxy-tool-answers', '0')} calls answered by memproxy)")


async def with_the_clients_tools(memory: MemoryAPIClient) -> None:
    """The agent's own loop: offer the client's schemas, carry out what the model calls."""
    tools: Any = MemoryAPIClient.get_all_memory_tool_schemas().to_list()
    client = AsyncOpenAI(base_url=f"{MEMPROXY_URL}/v1", default_headers={"X-Memproxy-Memory": "off"})
    async with client:
        for line in (TELL, ASK):
            print(f"  user:      {line}")
            messages: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": line}]
            while True:
                answer = await client.chat.completions.create(model=MODEL, messages=messages, tools=tools)
                message = answer.choices[0].message
                if not message.tool_calls:
                    break
                messages.append(message.model_dump(exclude_none=True))
                for call in message.tool_calls:
                    done = await memory.resolve_tool_call(call.model_dump(), session_id="chat", user_id=USER)
                    print(f"             {done['function_name']}: {done['formatted_response']}")
                    result = json.dumps(done["result"], default=str)  # the formatted line leaves the memories out
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
            print(f"  assistant: {message.content}")


async def main() -> None:
    """The same conversation both ways."""
    print("memproxy's tools")
    await with_memproxys_tools()
    print("the client's tools")
    config = MemoryClientConfig(base_url=MEMPROXY_URL, default_namespace="client-tools")
    async with MemoryAPIClient(config) as memory:
        memory._client.headers["Authorization"] = f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"
        await with_the_clients_tools(memory)


if __name__ == "__main__":
    asyncio.run(main())
