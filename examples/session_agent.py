"""A support agent that keeps no history and looks the same order up again and again.

It is an ordinary loop over the OpenAI SDK. All it has to do with memproxy is its base URL, which names the user and the
conversation:

    export OPENAI_BASE_URL=http://127.0.0.1:8080/u/alice/s/support-1/v1
    python examples/session_agent.py

memproxy puts the conversation in front of each question, and answers a look-up that was made before.
"""

import json
import os
from typing import Any

from openai import OpenAI

ORDERS = [{"order": "LX-48213", "item": "laptop", "status": "shipped", "arrives": "Thursday"}]

QUESTIONS = (
    "I ordered a laptop last week. Has it been sent?",
    "When will it arrive?",
    "Can I still change the address?",
)

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "search_orders",
            "description": "Search the customer's orders by a word.",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
        },
    }
]


def search_orders(query: str) -> list[dict[str, str]]:
    """The agent's own tool; imagine a slow database behind it."""
    return [order for order in ORDERS if query in order["item"]]


class Agent:
    """Answers questions with the help of its tool."""

    def __init__(self, client: OpenAI, model: str) -> None:
        self.client = client
        self.model = model
        self.executed = 0
        self.answered_for_me = 0

    def answer(self, question: str) -> str:
        """Ask the model, run the tools that it wants, ask again."""
        messages: list[Any] = [{"role": "user", "content": question}]  # no history: memproxy has it
        while True:
            response = self.client.chat.completions.with_raw_response.create(
                model=self.model, messages=messages, tools=TOOLS
            )
            self.answered_for_me += int(response.headers.get("x-memproxy-tool-answers", 0))
            message = response.parse().choices[0].message
            if not message.tool_calls:
                return message.content or ""
            messages.append(message.model_dump(exclude_none=True))
            messages += [self.run(call) for call in message.tool_calls]

    def run(self, call: Any) -> Any:
        """One call of the tool, as the message that the model gets."""
        self.executed += 1
        found = search_orders(**json.loads(call.function.arguments))
        return {"role": "tool", "tool_call_id": call.id, "content": json.dumps(found)}


def main() -> None:
    """Ask three questions in one conversation."""
    agent = Agent(OpenAI(), os.environ.get("MODEL", "gpt-4o-mini"))
    for question in QUESTIONS:
        print(f"user:  {question}")
        print(f"agent: {agent.answer(question)}\n")
    print(f"The agent ran its tool {agent.executed} times.")
    print(f"memproxy answered {agent.answered_for_me} calls from what it had seen.")


if __name__ == "__main__":
    main()
