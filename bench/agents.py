"""The load of an agent with a tool: a turn is a question, and as many requests as it takes to get an answer.

The model looks the same thing up for each question. Without memproxy the agent runs the tool each time and asks again;
memproxy answers all but a conversation's first look-up itself, and the agent sees one request and one answer. The
scripted model is asked as often in both cases: what is saved are the tool's time and the way through the client.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
from typing_extensions import override

from bench.client import Answer, Connection, LoadError
from bench.conversations import Conversation, Conversations, json_message
from bench.load import Load, whole_words
from bench.scenarios import Scenario, Target

TOOL_S = 0.020
"""What the tool takes: a look-up in a database that is not on this machine."""

MAX_ROUNDS = 4
"""Of one turn, which needs two at most; a model that asks for ever is a mistake of ours."""

_TOOL = {
    "type": "function",
    "function": {
        "name": "search_orders",
        "description": "Search the customer's orders by a word.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}
_ORDERS = [
    {"order": f"LX-{number}", "item": "laptop", "status": "shipped", "arrives": "Thursday"}
    for number in range(48213, 48217)
]
_FOUND = msgspec.json.encode(_ORDERS).decode()


class AgentConversation(Conversation):
    """A conversation whose client runs the tools that the model asks for."""

    @override
    def next_request(self) -> bytes:
        request = self._request(json_message("user", self._question()))
        self.turn += 1
        return request

    def hear(self, answer: Answer) -> Sequence[str]:
        """Take the answer into the history; the ids of the calls that it asks for."""
        message: dict[str, Any] = msgspec.json.decode(answer.body)["choices"][0]["message"]
        self._add(msgspec.json.encode(message))
        return [call["id"] for call in message.get("tool_calls") or ()]

    def results(self, calls: Sequence[str]) -> bytes:
        """The next request, with what the tool gave for these calls."""
        *earlier, last = [
            msgspec.json.encode({"role": "tool", "tool_call_id": call, "content": _FOUND}) for call in calls
        ]
        for result in earlier:
            self._add(result)
        return self._request(last)


class AgentConversations(Conversations):
    """Different conversations of an agent without end."""

    conversation_type = AgentConversation

    def __init__(self, scenario: Scenario, target: Target, *, answer: str, users: Sequence[str], seed: str) -> None:
        super().__init__(scenario, target, answer=answer, users=users, seed=seed, tools=[_TOOL])


class AgentLoad(Load):
    """The clients of one slice, each of which is an agent."""

    @override
    async def _turn(self, connection: Connection, conversation: Conversation) -> Answer:
        """The answer in words; its times are those of the whole turn."""
        if not isinstance(conversation, AgentConversation):
            raise TypeError("an agent leads conversations of its own kind")
        began = time.perf_counter()
        answer = await connection.ask(conversation.next_request())
        for _ in range(MAX_ROUNDS):
            self._check(conversation, answer)
            calls = conversation.hear(answer)
            if not calls:
                return replace(answer, latency_s=time.perf_counter() - began)
            self.tally.tools_run += len(calls)
            await asyncio.sleep(TOOL_S)
            answer = await connection.ask(conversation.results(calls))
        raise LoadError("asks for tools without end")

    @override
    def _is_right(self, answer: Answer) -> bool:
        """A call, or the model's words: what comes through memproxy may be two answers joined into one."""
        return answer.body.find(b'"tool_calls":[{') >= 0 or whole_words(answer.body) == whole_words(self._expected)
