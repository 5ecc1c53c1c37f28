"""The third scene: three questions about one order, asked by an agent that has a tool.

The agent is written as any agent is: a loop that runs the tools that the model asks for and sends everything again. It
is the same code with and without memproxy; only the base URL differs. It speaks each of the three formats.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from openai import AsyncOpenAI
from typing_extensions import override

from memproxy.demo.script import ModelRequest, Reply, ToolCallReply, text_of

Json = dict[str, Any]

ORDERS = {"LX-48213": {"order": "LX-48213", "item": "laptop", "status": "shipped", "arrives": "Thursday"}}

QUESTIONS = (
    "I ordered a laptop last week. Has it been sent?",
    "When will my laptop arrive?",
    "Can I still change the address for the laptop?",
)

INSTRUCTIONS = "You are a support agent. Look orders up."
NAME, ABOUT = "search_orders", "Search the customer's orders by a word."
SCHEMA: Json = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}


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


@dataclass(frozen=True, slots=True)
class Said:
    """What an agent reads of one answer, whatever its format."""

    words: str
    calls: list[tuple[str, str]]
    """Id and arguments, as JSON."""
    tokens: int
    sent_again: list[Json]
    """The answer as the next request holds it."""


class Format(Protocol):
    """One way of speaking to a model."""

    title: str
    path: str

    def request(self, history: list[Json]) -> Json:
        """The body of a request."""
        ...

    def read(self, answer: Json) -> Said:
        """What an answer says."""
        ...

    def results(self, given: list[tuple[str, str]]) -> list[Json]:
        """What the next request holds of the results of calls: id and content."""
        ...


class ChatCompletions(Format):
    """OpenAI's chat completions."""

    title, path = "chat completions", "/chat/completions"

    @override
    def request(self, history: list[Json]) -> Json:
        tool = {"type": "function", "function": {"name": NAME, "description": ABOUT, "parameters": SCHEMA}}
        return {"messages": [{"role": "system", "content": INSTRUCTIONS}, *history], "tools": [tool]}

    @override
    def read(self, answer: Json) -> Said:
        message = answer["choices"][0]["message"]
        calls = [(call["id"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()]
        return Said(message.get("content") or "", calls, answer["usage"]["total_tokens"], [message])

    @override
    def results(self, given: list[tuple[str, str]]) -> list[Json]:
        return [{"role": "tool", "tool_call_id": call_id, "content": content} for call_id, content in given]


class Responses(Format):
    """OpenAI's responses."""

    title, path = "responses", "/responses"

    @override
    def request(self, history: list[Json]) -> Json:
        tool = {"type": "function", "name": NAME, "description": ABOUT, "parameters": SCHEMA, "strict": False}
        return {"instructions": INSTRUCTIONS, "input": history, "tools": [tool]}

    @override
    def read(self, answer: Json) -> Said:
        output = answer["output"]
        words = "".join(part["text"] for item in output if item["type"] == "message" for part in item["content"])
        calls = [(item["call_id"], item["arguments"]) for item in output if item["type"] == "function_call"]
        return Said(words, calls, answer["usage"]["total_tokens"], output)

    @override
    def results(self, given: list[tuple[str, str]]) -> list[Json]:
        return [{"type": "function_call_output", "call_id": call_id, "output": content} for call_id, content in given]


class Messages(Format):
    """Anthropic's messages."""

    title, path = "messages", "/messages"

    @override
    def request(self, history: list[Json]) -> Json:
        tool = {"name": NAME, "description": ABOUT, "input_schema": SCHEMA}
        return {"max_tokens": 1_000, "system": INSTRUCTIONS, "messages": history, "tools": [tool]}

    @override
    def read(self, answer: Json) -> Said:
        blocks, usage = answer["content"], answer["usage"]
        words = "".join(block["text"] for block in blocks if block["type"] == "text")
        calls = [(block["id"], json.dumps(block["input"])) for block in blocks if block["type"] == "tool_use"]
        tokens = usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["output_tokens"]
        return Said(words, calls, tokens, [{"role": "assistant", "content": blocks}])

    @override
    def results(self, given: list[tuple[str, str]]) -> list[Json]:
        blocks = [{"type": "tool_result", "tool_use_id": call_id, "content": content} for call_id, content in given]
        return [{"role": "user", "content": blocks}]


def formats() -> tuple[Format, ...]:
    """All three."""
    return ChatCompletions(), Responses(), Messages()


async def run_agent(client: AsyncOpenAI, questions: Sequence[str], form: Format) -> Account:
    """The agent's loop over all questions."""
    account, history = Account(), list[Json]()
    for question in questions:
        history.append({"role": "user", "content": question})
        while True:
            body = {"model": "scripted", **form.request(history)}
            said = form.read(await client.post(form.path, body=body, cast_to=dict[str, Any]))
            account.requests += 1
            account.tokens += said.tokens
            history += said.sent_again
            if not said.calls:
                account.answers.append(said.words)
                break
            given = []
            for call_id, arguments in said.calls:
                account.executed.append(f"{NAME}({arguments})")
                given.append((call_id, json.dumps(_search_orders(**json.loads(arguments)))))
            history += form.results(given)
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
