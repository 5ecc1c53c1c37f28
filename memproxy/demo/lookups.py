"""The third scene: three questions about one order, asked by an agent that has a tool.

The agent is written as any agent is: a loop that runs the tools that the model asks for and sends everything again. It
is the same code with and without memproxy; only the base URL differs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI

from memproxy.demo.script import ModelRequest, Reply, ToolCallReply, text_of

ORDERS = {"LX-48213": {"order": "LX-48213", "item": "laptop", "status": "shipped", "arrives": "Thursday"}}

QUESTIONS = (
    "I ordered a laptop last week. Has it been sent?",
    "When will my laptop arrive?",
    "Can I still change the address for the laptop?",
)

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search_orders",
        "description": "Search the customer's orders by a word.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}


@dataclass(slots=True)
class Account:
    """What one run of the agent did."""

    executed: list[str] = field(default_factory=list)
    """The tool calls that the agent ran."""
    requests: int = 0
    """Requests that the agent sent."""
    tokens: int = 0
    """Tokens of the model, as the agent was told."""
    answers: list[str] = field(default_factory=list)


async def run_agent(client: AsyncOpenAI, questions: Sequence[str]) -> Account:
    """The agent's loop over all questions."""
    account, messages = Account(), [{"role": "system", "content": "You are a support agent. Look orders up."}]
    for question in questions:
        messages.append({"role": "user", "content": question})
        while True:
            answer = await client.chat.completions.create(
                model="scripted",
                messages=messages,  # type: ignore[arg-type]  # plain dicts are messages
                tools=[TOOL],  # type: ignore[list-item]  # a plain dict is a tool
            )
            account.requests += 1
            account.tokens += answer.usage.total_tokens if answer.usage else 0
            message = answer.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                account.answers.append(message.content or "")
                break
            for call in message.tool_calls:
                arguments = call.function.arguments if call.type == "function" else ""
                account.executed.append(f"search_orders({arguments})")
                result = json.dumps(_search_orders(**json.loads(arguments)))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return account


def _search_orders(query: str) -> list[dict[str, str]]:
    return [order for order in ORDERS.values() if query in order["item"]]


def support(request: ModelRequest) -> Reply:
    """The model: it looks the order up before each answer, and says what the look-up gave."""
    last = request.messages[-1]
    if last.get("role") != "tool":
        return Reply(tool_calls=(ToolCallReply("search_orders", {"query": "laptop"}),))
    order = json.loads(text_of(last))[0]
    asked = request.last_user_text.rpartition("</memproxy-memory>")[2]
    if "arrive" in asked:
        return Reply(text=f"Order {order['order']} arrives on {order['arrives']}.")
    if "address" in asked:
        return Reply(text=f"Order {order['order']} is {order['status']}; the address can no longer be changed.")
    return Reply(text=f"Yes, order {order['order']} is {order['status']}.")
